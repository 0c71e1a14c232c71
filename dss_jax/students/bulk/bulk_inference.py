"""Asking a student about a whole file or a pipe: what `dss-jax infer` does."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dss_jax import __version__, datasets
from dss_jax.base import progress as progress_lib
from dss_jax.base.errors import UserError, one_line
from dss_jax.datasets import metrics
from dss_jax.datasets.records import FieldMapping, parquet
from dss_jax.models import partitioning
from dss_jax.students.bulk import prediction_files, prediction_lines, questions
from dss_jax.students.bulk.prediction_files import FileOutput, StreamOutput
from dss_jax.students.bulk.questions import Windows
from dss_jax.students.predictor import Prediction, Predictor
from dss_jax.students.student import Student


@dataclasses.dataclass(frozen=True)
class Source:
  """What is read.

  Attributes:
    path: a file, a named pipe, or `questions.STDIN`.
    kind: see `questions.kind_of`.
    mapping: which keys hold what.
    limit: rows to read at most; None for all.
    window: rows that are sorted by length, answered and written together.
  """

  path: str
  kind: str
  mapping: FieldMapping
  limit: int | None = None
  window: int = 4096

  @property
  def is_pipe(self) -> bool:
    """Whether rows can be read once only, and may be long in coming."""
    path = pathlib.Path(self.path)
    return self.path == questions.STDIN or not path.is_file()

  def open(self, predictor: Predictor) -> Windows:
    rows = questions.read(
      self.path,
      self.kind,
      self.mapping,
      with_rationale=predictor.needs_rationale,
    )
    return Windows(rows, self.window, limit=self.limit, eager=self.is_pipe)


@dataclasses.dataclass(frozen=True)
class Target:
  """What is written.

  Attributes:
    path: a file, or `prediction_files.STDOUT`.
    overwrite: begin anew, whatever is there.
    with_input: whether rows repeat the input.
  """

  path: str
  overwrite: bool = False
  with_input: bool = True


def infer(predictor: Predictor, source: Source, target: Target) -> int:
  """Answers all rows, in order, going on where it was stopped before.

  Returns:
    The exit status: 2 if no row at all could be asked, else 0.

  Raises:
    UserError: for an input that cannot be read, or an output that is there or
      was begun otherwise.
  """
  layout = prediction_lines.Layout(
    target.with_input, _metric(predictor.student)
  )
  with _output(predictor, source, target, layout) as output:
    with source.open(predictor) as windows:
      _skip_answered(windows, output, source)
      seconds = None
      if not output.is_there:
        seconds = _answer_all(predictor, source, windows, output, layout)
    output.finish()
    totals = output.progress.totals
  _say_summary(target.path, totals, seconds)
  if totals.get("errors") and totals["errors"] == totals["rows"]:
    raise UserError(
      f"none of the {totals['rows']} rows of {source.path} could be asked; the"
      f" first: {totals['first_error']} (--field_mapping, --input_format)"
    )
  return 0


def _answer_all(
  predictor: Predictor,
  source: Source,
  windows: Windows,
  output: FileOutput | StreamOutput,
  layout: prediction_lines.Layout,
) -> tuple[int, float]:
  """Returns how many rows were answered in this start, in how many seconds."""
  state = output.progress
  if state.lengths:
    predictor.lengths = list(state.lengths)
  first, started = state.rows, time.monotonic()
  with _shown(source, output) as show:
    for window in windows:
      items = [each.item for each in window if each.item is not None]
      if not state.lengths and not source.is_pipe:
        state.lengths = list(predictor.fit_lengths(items))
        output.save(force=True)  # nothing else, if it were stopped now
      answers = iter(
        predictor.predict(items, seed=_seed(predictor, state.rows))
      )
      lines = []
      for question in window:
        answer = (
          Prediction(error=question.error)
          if question.item is None
          else next(answers)
        )
        row = prediction_lines.row_of(question, answer, layout)
        _count(state.totals, row)
        lines.append(prediction_lines.line_of(row))
      output.append(b"".join(lines))
      state.rows += len(window)
      state.input_digest = windows.digest
      output.save()
      spent = (state.rows - first, time.monotonic() - started)
      show(state.rows, _rate(*spent))
  return state.rows - first, time.monotonic() - started


def _seed(predictor: Predictor, row: int) -> int:
  """Of a window that begins with a row: another for each."""
  return (predictor.options.seed + row) % (1 << 31)


def _skip_answered(
  windows: Windows, output: FileOutput | StreamOutput, source: Source
) -> None:
  """Passes over the rows that were answered before.

  Raises:
    UserError: they are not what they were, or not all there are of an output
      that is complete.
  """
  state = output.progress
  if state.rows and (
    windows.skip(state.rows) < state.rows
    or windows.digest != state.input_digest
  ):
    raise UserError(
      f"--input: {source.path} is not what it was when its first"
      f" {state.rows} rows were answered; give --overwrite to begin anew"
    )
  if output.is_there and windows.skip(1):
    raise UserError(
      f"--input: {source.path} has more rows than the {state.rows} that were"
      " answered; give --overwrite to begin anew"
    )
  if state.rows and not output.is_there:
    _say(f"{state.rows} rows were answered before; going on from there")


def _count(totals: dict[str, Any], row: Mapping[str, Any]) -> None:
  totals["rows"] = totals.get("rows", 0) + 1
  if "error" in row:
    totals["errors"] = totals.get("errors", 0) + 1
    totals.setdefault("first_error", one_line(f"{row['id']}: {row['error']}"))
  if "truncated" in row:
    totals["truncated"] = totals.get("truncated", 0) + 1
  if "correct" in row:
    totals["scored"] = totals.get("scored", 0) + 1
    totals["correct"] = totals.get("correct", 0) + row["correct"]


# ----------------------------------------------------------- what it is made of


def _output(
  predictor: Predictor,
  source: Source,
  target: Target,
  layout: prediction_lines.Layout,
) -> FileOutput | StreamOutput:
  if prediction_files.is_stream(target.path):
    return StreamOutput(target.path)
  student = predictor.student
  made_of = {
    "student": student_digest(student),
    "options": dataclasses.asdict(predictor.options),
    "batch_sizes": list(predictor.batch_sizes),
    "max_input": predictor.max_input,
    "window": source.window,
    "limit": source.limit,
    "input_format": source.kind,
    "field_mapping": dict(source.mapping.keys),
    "layout": dataclasses.asdict(layout),
  }
  about = {
    "dss_jax": __version__,
    "student": dict(student.description),
    "input": source.path,
  }
  return FileOutput(
    target.path, made_of, about=about, overwrite=target.overwrite
  )


def student_digest(student: Student) -> str:
  """SHA-256 of all that a student's answers depend on."""
  described = (
    student.model.config,
    student.vocabulary.name,
    student.subtasks,
    student.options,
    sorted(student.feature_lengths.items()),
    student.labels,
  )
  digest = hashlib.sha256(repr(described).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(student.params):
    value = partitioning.to_host(leaf)
    name = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}"
    digest.update(name.encode())
    digest.update(value.tobytes())
  return digest.hexdigest()


def _metric(student: Student) -> str:
  """Tells whether a label is right: the dataset's own, if it is known."""
  name = student.description.get("dataset")
  if name not in datasets.names():
    return "accuracy"
  return metrics.judging_metric(datasets.get(name).metrics) or "accuracy"


# ------------------------------------------------------------------ what is said


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _rate(rows: int, seconds: float) -> str:
  rate = rows / seconds
  return f"{rate:,.0f} rows/s" if rate >= 10.0 else f"{rate:.2g} rows/s"


def _say_summary(
  path: str, totals: Mapping[str, Any], spent: tuple[int, float] | None
) -> None:
  parts = [f"{totals.get('rows', 0)} predictions -> {path}"]
  for name, text in (
    ("errors", "with an error"),
    ("truncated", "cut to what the student reads"),
  ):
    if totals.get(name):
      parts.append(f"{totals[name]} {text}")
  if totals.get("scored"):
    share = totals["correct"] / totals["scored"]
    parts.append(f"accuracy {share:.4f} (n={totals['scored']})")
  if spent is None:
    parts.append("complete already")
  elif spent[0] and spent[1] > 0:
    parts.append(_rate(*spent))
  if totals.get("errors"):
    parts.append(f"first error: {totals['first_error']}")
  _say("; ".join(parts))


@contextlib.contextmanager
def _shown(source: Source, output: FileOutput | StreamOutput) -> Iterator[Any]:
  """A function that shows how far it is; nothing where somebody types."""
  if source.is_pipe and isinstance(output, StreamOutput):
    yield lambda rows, text: None
    return
  total = None if source.is_pipe else _num_rows(source)
  bar = progress_lib.Progress(
    total, output.progress.rows, description="infer", waiting="compiling ..."
  )
  try:
    yield bar.update
  finally:
    bar.close()


# Formats whose first line is no row.
_WITH_HEADER = ("csv", ".csv", "tsv", ".tsv")


def _num_rows(source: Source) -> int:
  """About how many rows a file has: one with blank lines has fewer."""
  rows = (
    parquet.num_rows(source.path)
    if source.kind.endswith("parquet")
    else _num_lines(source.path) - (source.kind in _WITH_HEADER)
  )
  return rows if source.limit is None else min(rows, source.limit)


def _num_lines(path: str) -> int:
  count, last = 0, b"\n"
  with open(path, "rb") as file:
    while block := file.read(1 << 20):
      count += block.count(b"\n")
      last = block
  return count + (not last.endswith(b"\n"))
