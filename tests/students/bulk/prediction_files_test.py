"""Output that can be gone on with, whenever it was stopped."""

import csv
import json
import os
import random

import pytest

from dss_jax.base.errors import StorageError, UserError
from dss_jax.students.bulk import prediction_files, prediction_records
from dss_jax.students.bulk.input_records import InputRecord
from dss_jax.students.bulk.prediction_files import FileOutput, check_path
from dss_jax.students.predict_options import PredictOptions
from dss_jax.students.predictions import Alternative, PredictInput, Prediction

MADE_OF = {"student": "abc", "options": {"num_best": 1, "outputs": ["label"]}}


class _Killed(BaseException):
  pass


def _window(number: int) -> bytes:
  records = [{"id": f"{number}-{k}", "x": "\u2028" * k} for k in range(3)]
  return b"".join(map(prediction_records.json_line, records))


def _predict(path, windows=6, **options):
  """Writes what is missing, as `bulk` does."""
  with FileOutput(str(path), MADE_OF, **options) as output:
    state = output.progress
    for number in range(state.rows // 3, windows):
      output.append(_window(number))
      state.rows += 3
      output.save(force=number % 2 == 0)
    output.finish()
  return output


def _whole() -> bytes:
  return b"".join(map(_window, range(6)))


def test_a_file_appears_when_all_is_done(tmp_path):
  path = tmp_path / "out.jsonl"
  with FileOutput(str(path), MADE_OF) as output:
    output.append(b"{}\n")
    output.save(force=True)
  assert not path.exists()
  assert (tmp_path / "out.jsonl.partial").read_bytes() == b"{}\n"
  with FileOutput(str(path), MADE_OF) as output:
    assert (output.progress.bytes, output.is_done) == (3, False)
    output.finish()
  assert path.read_bytes() == b"{}\n"
  assert sorted(each.name for each in tmp_path.iterdir()) == [
    "out.jsonl",
    "out.jsonl.infer.json",
  ]
  with FileOutput(str(path), MADE_OF) as output:
    assert output.is_done
    output.finish()
  assert not (tmp_path / "out.jsonl.partial").exists()


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_stopped_anywhere_it_ends_the_same(tmp_path, monkeypatch, suffix):
  whole = tmp_path / f"whole.{suffix}"
  _predict(whole)
  path = tmp_path / f"out.{suffix}"
  draw = random.Random(7)
  real = {name: getattr(os, name) for name in ("fsync", "replace")}
  stopped = 0

  def dies(name):
    def call(*args):
      nonlocal stopped
      moment = draw.random()
      if moment < 0.2:
        stopped += 1
        raise _Killed
      real[name](*args)
      if moment > 0.8:
        stopped += 1
        raise _Killed

    return call

  for name in real:
    monkeypatch.setattr(os, name, dies(name))
  for _ in range(500):
    try:
      _predict(path)
      break
    except _Killed:
      partial = path.with_name(f"{path.name}.partial")
      if partial.exists() and draw.random() < 0.5:  # half a line
        with open(partial, "ab") as file:
          file.write(_window(9)[: draw.randrange(1, 30)])
  assert stopped > 3
  assert path.read_bytes() == whole.read_bytes()
  if suffix == "jsonl":
    assert path.read_bytes() == _whole()
  left = [each.name for each in tmp_path.iterdir() if "partial" in each.name]
  assert left == []


def test_what_was_begun_otherwise_is_left_alone(tmp_path):
  path = tmp_path / "out.jsonl"
  path.write_text("mine")
  with pytest.raises(UserError, match="exists already: set overwrite"):
    _predict(path)
  assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl"]
  _predict(path, overwrite=True)
  assert path.read_bytes() == _whole()
  other = {**MADE_OF, "options": {"num_best": 2, "outputs": ["label"]}}
  message = r"made with options\.num_best 1, not 2: set overwrite"
  with pytest.raises(UserError, match=message), FileOutput(str(path), other):
    pass
  assert path.read_bytes() == _whole()
  path.unlink()  # taken away, to be made again
  _predict(path)
  assert path.read_bytes() == _whole()


def test_a_damaged_state_is_said(tmp_path):
  path = tmp_path / "out.jsonl"
  _predict(path)
  state = tmp_path / "out.jsonl.infer.json"
  text = state.read_text()
  strange = text.replace('"rows": 18', '"rows": "18"')
  assert strange != text
  for damaged in ("", "{", "[]", '{"format": 1}', '{"format": 99}', strange):
    state.write_text(damaged)
    with pytest.raises(UserError, match="set overwrite"):
      _predict(path)
  state.write_text(text.replace('"complete": true', '"complete": false'))
  path.unlink()
  with pytest.raises(UserError, match="is shorter than it was"):
    _predict(path)


def test_two_writers_of_one_file_are_kept_apart(tmp_path):
  path = str(tmp_path / "out.jsonl")
  second = FileOutput(path, MADE_OF)
  with (
    FileOutput(path, MADE_OF),
    pytest.raises(UserError, match="another process is writing"),
    second,
  ):
    pass


def test_paths_that_cannot_be_written(tmp_path):
  with pytest.raises(
    UserError, match=r"suffix '\.txt'; it must be one of \.jsonl"
  ):
    check_path("out.txt")
  (tmp_path / "x.jsonl").mkdir()
  with pytest.raises(UserError, match="is a folder"):
    check_path(str(tmp_path / "x.jsonl"))
  with pytest.raises(UserError, match=r"cannot write .*No such file"):
    _predict(tmp_path / "none" / "out.jsonl")
  assert prediction_files.is_stream("-")
  assert prediction_files.is_stream("/dev/null")
  assert not prediction_files.is_stream(str(tmp_path / "out.jsonl"))


def test_the_input_is_never_written_over(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text("{}")
  (tmp_path / "link.jsonl").symlink_to(path)
  partial = tmp_path / "out.jsonl.partial"
  partial.write_text("{}")
  for output, source in (
    (path, path),
    (path, tmp_path / "link.jsonl"),
    (tmp_path / "out.jsonl", partial),
  ):
    with pytest.raises(UserError, match="would replace the input"):
      check_path(str(output), str(source))
  check_path(str(path), str(partial))
  check_path(str(path), "-")


def test_a_full_disk_is_reported_in_one_line(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(StorageError, match=r"cannot write .*No space left"):
    _predict(tmp_path / "out.jsonl")
  monkeypatch.undo()
  _predict(tmp_path / "out.jsonl")
  assert (tmp_path / "out.jsonl").read_bytes() == _whole()


# --------------------------------------------------------------------- records


def _record(extra=None, layout=None, gold=None, **fields):
  source = InputRecord("q", PredictInput("in"), gold=gold, extra=extra or {})
  answer = Prediction(**fields)
  layout = layout or prediction_records.Layout()
  return prediction_records.prediction_record(source, answer, layout)


def test_a_record_has_what_there_is_to_say():
  assert _record(label="a", label_score=-0.123456789) == {
    "id": "q",
    "input": "in",
    "label": "a",
    "label_score": -0.12346,
  }
  assert _record(error="no") == {"id": "q", "input": "in", "error": "no"}
  alternatives = (Alternative(-1.0, "a"), Alternative(float("-inf"), "b"))
  record = _record(
    layout=prediction_records.Layout(with_input=False),
    label="a",
    label_score=-1.0,
    truncated=True,
    alternatives=alternatives,
    gold=" a",
  )
  assert record == {
    "id": "q",
    "label": "a",
    "label_score": -1.0,
    "alternatives": [
      {"score": -1.0, "label": "a"},
      {"score": None, "label": "b"},
    ],
    "gold_label": " a",
    "correct": True,
    "truncated": True,
  }
  assert list(record) == [
    name for name in prediction_records.COLUMNS if name in record
  ]


def test_keys_of_the_input_never_hide_an_answer():
  extra = {"label_score": 9, "original_label_score": 8, "x": None}
  record = _record(extra=extra, label="a", label_score=-1.0)
  assert record["label_score"] == -1.0
  assert record["original_label_score"] == 9
  assert record["original_original_label_score"] == 8
  assert record["x"] is None


def test_a_key_that_no_file_can_hold_costs_itself_only():
  record = _record(extra={"x": float("nan")}, label="a", label_score=-1.0)
  found = json.loads(prediction_records.json_line(record))
  assert found["label"] == "a"
  assert "cannot be written" in found["error"]
  record = _record(extra={"x": "\ud800"}, label="a", label_score=-1.0)
  assert json.loads(prediction_records.json_line(record))["label"] == "a"


# ---------------------------------------------------------------------- tables

RECORDS = [
  {"id": "1", "x": 1, "label": "a", "label_scores": {"a": 0.5}, "n": 1 << 70},
  {"id": "2", "label": 'b,"\r\n', "label_score": -1.5, "y": "t", "n": 1},
  {"id": "3", "error": "no", "x": "one", "y": None, "correct": True},
]
ORDER = ["id", "label", "label_score", "label_scores", "correct", "error"]


def _table(path):
  with FileOutput(str(path), MADE_OF) as output:
    output.append(b"".join(map(prediction_records.json_line, RECORDS)))
    output.finish()


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables_of_text(tmp_path, suffix):
  path = tmp_path / f"out.{suffix}"
  _table(path)
  with open(path, newline="", encoding="utf-8") as file:
    delimiter = {"csv": ",", "tsv": "\t"}[suffix]
    header, *rows = csv.reader(file, delimiter=delimiter)
  assert header == [*ORDER, "x", "n", "y"]
  assert rows[0] == ["1", "a", "", '{"a": 0.5}', "", "", "1", str(1 << 70), ""]
  assert rows[1][1] == 'b,"\r\n'
  assert rows[2] == ["3", "", "", "", "true", "no", "one", "", ""]


def test_parquet_columns_have_types_where_they_lose_nothing(tmp_path):
  pq = pytest.importorskip("pyarrow.parquet")
  path = tmp_path / "out.parquet"
  _table(path)
  table = pq.read_table(path)
  assert table.column_names == [*ORDER, "x", "n", "y"]
  types = {field.name: str(field.type) for field in table.schema}
  assert types["label_score"] == "double"
  assert types["correct"] == "bool"
  assert types["x"] == types["n"] == types["label_scores"] == "string"
  assert table["x"].to_pylist() == ["1", None, "one"]
  assert table["label"].to_pylist() == ["a", 'b,"\r\n', None]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_no_rows_make_an_empty_file(tmp_path, suffix):
  path = tmp_path / f"out.{suffix}"
  _predict(path, windows=0)
  assert path.exists()
  again = _predict(path, windows=0)
  assert again.is_done


def test_options_of_an_answer_are_json():
  # What a file is made of is compared as JSON has it.
  options = PredictOptions(labels=("a", "b"))
  assert json.loads(json.dumps(options.labels)) == ["a", "b"]
