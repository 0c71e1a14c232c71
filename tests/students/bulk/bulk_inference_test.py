"""Whole files and pipes, asked of a predictor that repeats its input."""

import dataclasses
import json
import os
import threading
import tracemalloc

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import FieldMapping
from dss_jax.students.bulk import bulk_inference
from dss_jax.students.predict_options import PredictOptions
from dss_jax.students.predictions import Prediction


class Echo:
  """A predictor whose label is the input."""

  def __init__(self, student):
    self.student = student
    self.options = PredictOptions()
    self.batch_sizes = [8]
    self.max_input = 48
    self.lengths = [48]
    self.needs_rationale = False
    self.num_tokens = self.num_unknown = 0
    self.num_labels = None

  def fit_lengths(self, items):
    return self.lengths

  def text_report(self):
    return []

  def predict(self, items, *, seed):
    return [Prediction(each.input, -1.0) for each in items]


@pytest.fixture(scope="module")
def echo(dss_student) -> Echo:
  return Echo(dataclasses.replace(dss_student, params={}))


def _infer(echo, source, output, kind="jsonl", overwrite=False):
  return bulk_inference.infer(
    echo,
    bulk_inference.Source(str(source), kind, FieldMapping()),
    bulk_inference.Target(str(output), overwrite),
  )


def _lines(first, last) -> str:
  return "".join(f'{{"input": "q {n}"}}\n' for n in range(first, last))


def test_what_is_complete_belongs_to_this_input(echo, tmp_path, capsys):
  source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  source.write_text(_lines(0, 9))
  assert _infer(echo, source, output) == 0
  before = output.read_bytes()
  assert _infer(echo, source, output) == 0
  assert "9 predictions" in capsys.readouterr().err.splitlines()[-1]
  for rows, message in (
    (_lines(1, 10), "has changed since"),
    (_lines(0, 8), "has changed since"),
    (_lines(0, 10), "has more records than the 9 that were answered"),
  ):
    source.write_text(rows)
    with pytest.raises(UserError, match=f"{message}.*set overwrite"):
      _infer(echo, source, output)
  assert output.read_bytes() == before
  assert _infer(echo, source, output, overwrite=True) == 0
  assert len(output.read_text().splitlines()) == 10


def test_nothing_but_errors_is_said_each_time(echo, tmp_path):
  source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  source.write_text('{"question": "a"}\n')
  for _ in range(2):
    with pytest.raises(UserError, match=r"none of the 1 records .* asked"):
      _infer(echo, source, output)


def test_a_named_pipe_is_read_once(echo, tmp_path):
  source, output = tmp_path / "in", tmp_path / "out.jsonl"
  os.mkfifo(source)
  rows = _lines(0, 20_000)
  writer = threading.Thread(target=source.write_text, args=[rows])
  writer.start()
  assert _infer(echo, source, output) == 0
  writer.join()
  lines = output.read_text().splitlines()
  found = [json.loads(line)["label"] for line in lines]
  assert found == [f"q {n}" for n in range(20_000)]


def test_a_damaged_table_is_reported_in_one_line(echo, tmp_path):
  source = tmp_path / "in.parquet"
  for content in (b"", b"PAR1", b"junk" * 9):
    source.write_bytes(content)
    with pytest.raises(UserError, match="not a readable Parquet file"):
      _infer(echo, source, tmp_path / "out.jsonl", kind=".parquet")


@pytest.mark.parametrize(("end", "count"), [("", 3), ("\n", 3), ("\n\n", 4)])
def test_records_are_counted_as_lines(tmp_path, end, count):
  path = tmp_path / "records.jsonl"
  path.write_text("{}\n\n{}" + end)
  assert bulk_inference.Source(str(path), "jsonl", FieldMapping()).num_records() == count  # fmt: skip


def test_counting_takes_no_memory_for_a_line_without_end(tmp_path):
  path = tmp_path / "records.jsonl"
  with open(path, "wb") as file:
    file.truncate(2**26)  # zeros, which the disk does not keep
  tracemalloc.start()
  try:
    source = bulk_inference.Source(str(path), "jsonl", FieldMapping())
    assert source.num_records() == 1
    assert tracemalloc.get_traced_memory()[1] < 2**23
  finally:
    tracemalloc.stop()
