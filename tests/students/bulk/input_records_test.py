"""Records of all kinds, and what is wrong with those that cannot be asked."""

import gzip
import io
import os
from typing import Any

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import FieldMapping
from dss_jax.students.bulk import input_records
from dss_jax.students.bulk.input_records import Windows


def _read(path, kind=None, mapping=None, with_rationale=False) -> list[Any]:
  kind = kind or input_records.format_of(str(path), None)
  return list(
    input_records.read(
      str(path),
      kind,
      FieldMapping.parse(mapping),
      with_rationale=with_rationale,
    )
  )


def test_bad_lines_stay_in_their_places(tmp_path):
  path = tmp_path / "rows.jsonl"
  lines = [
    b'{"input": "one", "id": 7, "label": 3, "note": [1]}',
    b'{"input": ""}',
    b'{"input": "' + b"x" * (1 << 21) + b'"}',
    b'{"input": "a \\u0000"}',
    b'{"input": "a \x00"}',
    b'{"input": "\xff"}',
    b"{",
    b"[1]",
    b'{"input": 3, "id": "three"}',
    b'{"text": "a"}',
    b'{"input": "\\ud800"}',
    b'{"input": "last", "id": ["odd"]}',
    b'{"input": "last"}',
  ]
  path.write_bytes(b"\n".join(lines))
  found = _read(path)
  assert [each.item.input for each in found if each.item] == ["one", "last"]
  first, last = found[0], found[-1]
  assert (first.id, first.gold, first.extra) == ("7", "3", {"note": [1]})
  assert (last.id, last.gold) == ("line-13", None)
  errors = [each.error for each in found[1:-1]]
  for error, part in zip(
    errors,
    [
      "input is empty",
      "at most 1048576 are allowed",
      "NUL",
      "not JSON",
      "not valid UTF-8",
      "not JSON",
      "not a JSON object but list",
      "input must be text, got int",
      "no input (key 'input')",
      "surrogate",
      "id must be text",
    ],
    strict=True,
  ):
    assert part in error
  assert found[8].id == "three"


def test_what_is_not_needed_may_be_of_any_kind(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text(
    '{"input": "a", "label": 1.5, "rationales": 7, "meta": 3, "x": 1}\n'
  )
  [found] = _read(path)
  assert (found.item.input, found.gold, found.extra) == ("a", None, {"x": 1})
  [found] = _read(path, with_rationale=True)
  assert "rationales must be a list" in found.error


def test_a_rationale_is_read_where_it_is_needed(tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text('question,why\n"a\nb",since\n')
  mapping = {"input": "question", "rationale": "why"}
  [found] = _read(path, mapping=mapping, with_rationale=True)
  assert (found.item.input, found.item.rationale) == ("a\nb", "since")
  [found] = _read(path, mapping=mapping)
  assert found.item.rationale is None


def test_every_line_of_text_is_a_record(tmp_path):
  path = tmp_path / "rows.txt"
  path.write_bytes(b"one\n\n two\r\n\xff\nthree")
  found = _read(path)
  texts = [each.item and each.item.input for each in found]
  assert texts == ["one", None, " two", None, "three"]
  assert [each.id for each in found][-1] == "line-5"


def test_packed_and_recoded_input(tmp_path):
  rows = '{"input": "one"}\n{"Input": "two"}\n'
  path = tmp_path / "rows.jsonl.gz"
  path.write_bytes(gzip.compress(rows.encode("utf-16")))
  assert [each.item.input for each in _read(path)] == ["one", "two"]
  other = tmp_path / "rows.txt.gz"
  other.write_bytes(gzip.compress(b"one\ntwo\n"))
  records = input_records.read(
    str(other), "text", FieldMapping(), with_rationale=False
  )
  assert [each.item and each.item.input for each in records] == ["one", "two"]


def test_parquet_with_odd_columns(tmp_path):
  pa = pytest.importorskip("pyarrow")
  pq = pytest.importorskip("pyarrow.parquet")
  path = tmp_path / "rows.parquet"
  table = pa.table(
    {
      "input": ["one", None, "three"],
      "label": [1.5, float("nan"), None],
      "when": pa.array([1, 2, None], pa.timestamp("s")),
      "raw": pa.array([None, None, b"\xff"]),
      "nested": [[{"a": [1]}], None, []],
    }
  )
  pq.write_table(table, path)
  one, two, three = _read(path)
  assert one.item.input == "one"
  assert one.extra == {"when": "1970-01-01T00:00:01", "nested": [{"a": [1]}]}
  assert two.error == "no input (key 'input'); keys: when"
  assert three.item.input == "three"  # a column of bytes is left out
  assert "raw" not in three.extra


def test_what_cannot_be_read_at_all_is_said(tmp_path):
  with pytest.raises(UserError, match=r"suffix '\.odd'; set input_format"):
    input_records.format_of("rows.odd", None)
  with pytest.raises(UserError, match="'parquet', which is for files"):
    input_records.format_of("-", "parquet")
  path = tmp_path / "rows.parquet"
  path.write_bytes(b"PAR1")
  with pytest.raises(UserError, match="not a readable Parquet file"):
    _read(path)
  with pytest.raises(UserError, match=r"rename .* to end in"):
    _read(tmp_path / "rows.dat", "parquet")
  with pytest.raises(UserError, match="cannot read"):
    _read(tmp_path / "none.txt")


def _records(count):
  for line in range(1, count + 1):
    yield input_records.input_record(
      line, {"input": f"q {line}"}, FieldMapping(), with_rationale=False
    )


@pytest.mark.parametrize("count", [0, 1, 5, 200, 1000])
def test_windows_hold_all_records_in_order(count):
  with Windows(_records(count), 64) as windows:
    found = list(windows)
    digest = windows.digest
  assert all(len(each) == 64 for each in found[:-1])
  ids = [each.id for window in found for each in window]
  assert ids == [f"line-{i + 1}" for i in range(count)]
  # Passing over records leads to the same windows and the same digest.
  with Windows(_records(count), 64) as windows:
    assert windows.skip(128) == min(count, 128)
    rest = list(windows)
    assert windows.digest == digest
  assert rest == found[2:]


def test_a_window_of_long_records_is_short(monkeypatch):
  monkeypatch.setattr(input_records, "MAX_WINDOW_CHARS", 50)
  with Windows(_records(10), 64) as windows:
    assert [len(each) for each in windows] == [4, 4, 2]


@pytest.mark.parametrize("eager", [False, True])
def test_an_error_of_the_input_is_raised_by_the_iteration(eager):
  def broken():
    yield from _records(3)
    raise UserError("gone")

  with Windows(broken(), 2, eager=eager) as windows:
    assert len(next(iter(windows))) == 2
    with pytest.raises(UserError, match="gone"):
      list(windows)


def test_leaving_early_ends_the_thread():
  with Windows(_records(10**6), 4, eager=True) as windows:
    next(iter(windows))
  windows._thread.join(30)
  assert not windows._thread.is_alive()


def test_a_silent_pipe_is_answered(monkeypatch):
  read_end, write_end = os.pipe()
  reader = io.BufferedReader(io.FileIO(read_end, "rb"))

  monkeypatch.setattr("sys.stdin", reader)
  rows = input_records.read("-", "jsonl", FieldMapping(), with_rationale=False)
  with (
    os.fdopen(write_end, "wb", buffering=0) as pipe,
    Windows(rows, 64, eager=True) as windows,
  ):
    found: Any = iter(windows)
    for text in ("one", "two"):
      pipe.write(b'{"input": "%s"}\n' % text.encode())
      assert [each.item.input for each in next(found)] == [text]
    pipe.write(b'{"input": "three"}')
    pipe.close()
    assert [len(each) for each in found] == [1]
  reader.close()
