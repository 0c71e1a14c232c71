"""Records one by one: any size of file in the same memory."""

import gc
import itertools
import tracemalloc

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.datasets import records
from dss_jax.datasets.records import (
  Problem,
  Rationale,
  Record,
  SeenTexts,
  iter_records,
  open_writer,
  parquet,
  read_records,
  write_records,
)

SUFFIXES = (".jsonl", ".parquet", ".array_record")


def _record(number: int) -> Record:
  return Record(
    f"r{number}",
    f"input {number} " + 20 * "word ",
    "yes" if number % 3 else None,
    (Rationale(f"because of {number}", "yes", "me", extra={"tokens": number}),),
    meta={"n": number} if number % 2 else {},
    extra={"page": number},
  )


def test_reading_is_lazy(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('{"input": "a"}\nbroken\n{"input": "b"}\n')
  items = iter_records(path)
  assert next(items) == Record("line-1", "a")
  problem = next(items)
  assert isinstance(problem, Problem)
  assert problem.line == 2
  assert next(items) == Record("line-3", "b")
  assert next(items, None) is None


def test_equal_ids_are_found_with_the_line_of_the_first(tmp_path):
  path = tmp_path / "a.jsonl"
  lines = [f'{{"id": "{i % 3000}", "input": "a"}}' for i in range(3002)]
  path.write_text("\n".join(lines))
  found, problems = read_records(path)
  assert len(found) == 3000
  assert [str(p).split(": ", 1)[1] for p in problems] == [
    "id '0' appears twice, first in line 1",
    "id '1' appears twice, first in line 2",
  ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_several_row_groups_keep_everything(
  tmp_path, suffix, monkeypatch
):
  monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 3)
  odd = [
    Record("x1", "i", extra={"page": "now text", "new": [1, None]}),
    Record("x2", "i", extra={"page": 2**70}),
    Record("x3", "i", extra={"page": None, "dss_jax": True}),
    Record("x4", "i", rationales=(Rationale("r", extra={"extra": {"a": 1}}),)),
    Record("x5", "i", meta={"late": 0.5}),
  ]
  expected = [*map(_record, range(7)), *odd, Record("plain", "i")]
  path = tmp_path / f"records{suffix}"
  with open_writer(path) as write:
    for record in expected:
      write(record)
  assert read_records(path) == (expected, [])


_VALUES = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-(2**65), 2**65),
  st.floats(allow_nan=False, allow_infinity=False),
  st.text(st.characters(blacklist_categories=["Cs"]), max_size=5),
  st.lists(st.integers(0, 3), max_size=2),
)
_EXTRAS = st.dictionaries(st.sampled_from(["a", "b", "c"]), _VALUES, max_size=3)


@hypothesis.settings(
  max_examples=40,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(extras=st.lists(st.tuples(_EXTRAS, _EXTRAS), max_size=9))
def test_columns_hold_whatever_comes_later(tmp_path, monkeypatch, extras):
  monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 2)
  expected = [
    Record(f"r{i}", "i", rationales=(Rationale("r", extra=b),), extra=a)
    for i, (a, b) in enumerate(extras)
  ]
  path = tmp_path / "records.parquet"
  write_records(path, expected)
  assert read_records(path) == (expected, [])


def test_other_tools_read_provenance_next_to_the_text(tmp_path):
  import pyarrow.parquet as pq

  path = tmp_path / "records.parquet"
  write_records(path, [_record(1)])
  (row,) = pq.read_table(path).to_pylist()
  assert row["rationales"][0]["text"] == "because of 1"
  assert row["rationales"][0]["extra"] == '{"tokens": 1}'
  assert row["page"] == 1


@pytest.mark.parametrize(
  "suffix",
  [
    ".jsonl",
    pytest.param(".parquet", marks=pytest.mark.thorough),
    pytest.param(".array_record", marks=pytest.mark.thorough),
  ],
)
@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path, suffix, monkeypatch):
  monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 256)
  monkeypatch.setattr(parquet, "_ROWS_PER_BATCH", 256)
  path = tmp_path / f"records{suffix}"

  def peak(count: int) -> int:
    gc.collect()
    tracemalloc.start()
    write_records(path, map(_record, range(count)))
    assert sum(isinstance(r, Record) for r in iter_records(path)) == count
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak_bytes

  peak(512)  # imports
  # 1,500 records more, of some 400 bytes each, would be 600,000 bytes.
  assert peak(2500) - peak(1000) < 200_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_writer_leaves_no_file(tmp_path, suffix):
  path = tmp_path / f"records{suffix}"

  def interrupted():
    yield _record(0)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write_records(path, interrupted())
  assert list(tmp_path.iterdir()) == []


def test_text_that_only_passes_through_may_still_be_unwritable(tmp_path):
  bad = Record("a", "i", meta={"k": "half \ud800"})
  for suffix in SUFFIXES:
    with pytest.raises(UserError, match=r"cannot be written|surrogate"):
      write_records(tmp_path / f"a{suffix}", [bad])


def test_a_broken_array_record_file(tmp_path):
  path = tmp_path / "a.array_record"
  write_records(path, map(_record, range(50)))
  content = path.read_bytes()
  for cut in (10, len(content) // 2, len(content) - 1):
    path.write_bytes(content[:cut])
    with pytest.raises(UserError, match="not a readable ArrayRecord file"):
      list(iter_records(path))


def test_suffixes_are_named():
  assert set(SUFFIXES) <= set(records.SUFFIXES)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(st.text("ab", max_size=3), max_size=20))
def test_seen_texts_is_a_set_with_numbers(texts):
  seen, expected = SeenTexts(numbered=True), {}
  for number, text in enumerate(texts):
    assert seen.add(text, number) == expected.get(text)
    expected.setdefault(text, number)
  assert len(seen) == len(expected)
  assert all(text in seen for text in expected)
  assert {text: seen.get(text) for text in expected} == expected
  assert "no such text" not in seen
  assert seen.get("no such text") is None


def test_seen_texts_grows():
  seen = SeenTexts(numbered=True)
  plain = SeenTexts()
  for number in range(20_000):
    assert plain.add(str(number), number) is None
    assert seen.add(str(number), number) is None
  assert all(
    seen.add(str(number)) == number
    for number in itertools.islice(range(20_000), 0, None, 7)
  )
  assert len(seen) == len(plain) == 20_000
  assert plain.add("19999") == plain.get("7") == 0
