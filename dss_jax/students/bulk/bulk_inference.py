"""Asks a student about a whole file or a pipe: `dss-jax infer`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from dss_jax import __version__, datasets, vocabularies
from dss_jax.base import progress as progress_lib
from dss_jax.base.errors import UserError, one_line
from dss_jax.datasets import metrics
from dss_jax.datasets.records import FieldMapping, parquet, text_files
from dss_jax.models import partitioning
from dss_jax.students.bulk import (
  input_records,
  prediction_files,
  prediction_records,
  request_times,
)
from dss_jax.students.bulk.input_records import Windows
from dss_jax.students.bulk.prediction_files import FileOutput, StreamOutput
from dss_jax.students.predictor import PredictInput, Prediction, Predictor
from dss_jax.students.student import Student

# Formats whose first line holds no record.
_WITH_HEADER = ("csv", ".csv", "tsv", ".tsv")


# So many gold labels are remembered with whether they can be written.
_REMEMBERED_LABELS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Source:
  """The input.

  Attributes:
    path: a file, a named pipe, or `input_records.STDIN`.
    kind: the format, from `input_records.format_of`.
    mapping: which keys hold which fields.
    limit: the most records to read; None for all.
    window: records that are sorted by length, answered and written together.
  """

  path: str
  kind: str
  mapping: FieldMapping
  limit: int | None = None
  window: int = 4096

  @property
  def is_pipe(self) -> bool:
    """Whether records can be read only once, and may take long to arrive."""
    path = pathlib.Path(self.path)
    return self.path == input_records.STDIN or not path.is_file()

  def open(self, predictor: Predictor) -> Windows:
    records = input_records.read(
      self.path,
      self.kind,
      self.mapping,
      with_rationale=predictor.needs_rationale,
    )
    return Windows(records, self.window, limit=self.limit, eager=self.is_pipe)

  def num_records(self) -> int | None:
    """How many records there are, blank lines included; None if unknown.

    Nobody knows it of a pipe, or of a packed file.
    """
    if self.is_pipe or text_files.is_packed(self.path):
      return None
    if self.kind.endswith("parquet"):
      count = parquet.num_rows(self.path)
    else:
      count = _num_lines(self.path) - (self.kind in _WITH_HEADER)
    return count if self.limit is None else min(count, self.limit)


def _num_lines(path: str) -> int:
  """Counts the lines of a file in blocks: a line may be of any length."""
  count, last = 0, b"\n"
  with open(path, "rb") as file:
    while block := file.read(1 << 20):
      count += block.count(b"\n")
      last = block
  return count + (not last.endswith(b"\n"))


@dataclasses.dataclass(frozen=True)
class Target:
  """The output.

  Attributes:
    path: a file, or `prediction_files.STDOUT`.
    overwrite: start anew, even if the file exists.
    with_input: whether predictions repeat the input.
    time_requests: how many inputs are asked once more, each alone, to note how
      long that takes.
  """

  path: str
  overwrite: bool = False
  with_input: bool = True
  time_requests: int = 0


def infer(predictor: Predictor, source: Source, target: Target) -> int:
  """Answers all records, in order, and continues where an earlier run stopped.

  Returns:
    The exit status, 0.

  Raises:
    UserError: for an input that cannot be read or without a record that can be
      asked, or an output that exists or was made otherwise.
  """
  if target.time_requests and (
    source.is_pipe or prediction_files.is_stream(target.path)
  ):
    raise UserError(
      "time_requests is for files: inputs of a pipe cannot be read again, and"
      " what was measured lies next to the output",
      fields=("time_requests", "input", "output"),
    )
  layout = prediction_records.Layout(
    target.with_input, _metric(predictor.student)
  )
  with _output(predictor, source, target, layout) as output:
    with source.open(predictor) as windows:
      _skip_answered(windows, output, source)
      speed = None
      if not output.is_done:
        speed = _answer_all(predictor, source, windows, output, layout)
    _time_requests(predictor, source, output, target.time_requests)
    output.finish()
    totals = output.progress.totals
  scored_as = layout.metric
  if predictor.num_labels:
    # Evaluations of a run decode freely, and may find another share.
    scored_as = f"choosing among {predictor.num_labels} labels, {scored_as}"
  _print_summary(target.path, totals, scored_as, speed)
  if totals.get("errors") and totals["errors"] == totals["rows"]:
    raise UserError(
      f"none of the {totals['rows']} records of {source.path} could be asked;"
      f" the first: {totals['first_error']}",
      fields=("field_mapping", "input_format"),
    )
  return 0


def _answer_all(
  predictor: Predictor,
  source: Source,
  windows: Windows,
  output: FileOutput | StreamOutput,
  layout: prediction_records.Layout,
) -> str:
  """Returns the speed, as text."""
  state = output.progress
  if state.lengths:
    predictor.lengths = list(state.lengths)
  for line in predictor.text_report():
    _print(line)
  vocabulary = predictor.student.vocabulary
  can_write = functools.lru_cache(maxsize=_REMEMBERED_LABELS)(
    lambda label: vocabularies.can_write(vocabulary, label)
  )
  first, started, earlier_s = state.rows, time.monotonic(), state.seconds
  speed = ""
  with _shown_progress(source, output) as show:
    for window in windows:
      items = [record.item for record in window if record.item is not None]
      if not state.lengths and not source.is_pipe:
        state.lengths = list(predictor.fit_lengths(items))
        # A run that is killed now continues with the same lengths.
        output.save(force=True)
      # Each window samples with a seed of its own.
      seed = (predictor.options.seed + state.rows) % (1 << 31)
      answers = iter(_counted(predictor, items, seed, state.totals))
      lines = []
      for record in window:
        answer = Prediction(error=record.error)
        if record.item is not None:
          answer = next(answers)
        prediction = prediction_records.prediction_record(
          record, answer, layout
        )
        _count(state.totals, prediction)
        if record.gold is not None and not can_write(record.gold):
          _add(state.totals, "never_right")
        lines.append(prediction_records.json_line(prediction))
      output.append(b"".join(lines))
      state.rows += len(window)
      state.input_digest = windows.digest
      state.seconds = earlier_s + time.monotonic() - started
      state.peak_memory_bytes = max(state.peak_memory_bytes, _peak_memory())
      output.save()
      rate = (state.rows - first) / max(time.monotonic() - started, 1e-9)
      speed = f"{rate:,.0f}" if rate >= 10.0 else f"{rate:.2g}"
      speed += " records/s"
      show(state.rows, speed)
  return speed


def _time_requests(
  predictor: Predictor,
  source: Source,
  output: FileOutput | StreamOutput,
  number: int,
) -> None:
  """Measures requests that come alone, unless an earlier start has."""
  state = output.progress
  if not number or state.request_times.get("asked") == number:
    return
  predictor.lengths = list(state.lengths or predictor.lengths)
  with source.open(predictor) as windows:
    found = (record.item for window in windows for record in window)
    items = list(itertools.islice(filter(None, found), number))
  times = request_times.measure(predictor, items)
  if not times:
    return
  state.request_times = {"asked": number, **times}
  output.save(force=True)
  _print(
    f"one request alone: {1000 * times['median_s']:.3g} ms (median of"
    f" {times['requests']}), 95 % within {1000 * times['p95_s']:.3g} ms"
  )


def _peak_memory() -> int:
  """The most bytes of memory that this process has had."""
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most if sys.platform == "darwin" else most * 1024


def _counted(
  predictor: Predictor,
  items: Sequence[PredictInput],
  seed: int,
  totals: dict[str, Any],
) -> list[Prediction]:
  """The answers; the tokens that were read are added to `totals`."""
  before = predictor.num_tokens, predictor.num_unknown
  answers = predictor.predict(items, seed=seed)
  _add(totals, "tokens", predictor.num_tokens - before[0])
  _add(totals, "unknown", predictor.num_unknown - before[1])
  return answers


def _skip_answered(
  windows: Windows, output: FileOutput | StreamOutput, source: Source
) -> None:
  """Passes over the records that were answered before.

  Raises:
    UserError: if they have changed, or if a complete output lacks some.
  """
  state = output.progress
  if state.rows and (
    windows.skip(state.rows) < state.rows
    or windows.digest != state.input_digest
  ):
    problem = f"has changed since its first {state.rows} records were answered"
  elif output.is_done and windows.skip(1):
    problem = f"has more records than the {state.rows} that were answered"
  else:
    if state.rows and not output.is_done:
      _print(f"{state.rows} records were answered before; continuing")
    return
  raise UserError(
    f"the input {source.path} {problem}; set overwrite to start anew",
    fields=("input", "overwrite"),
  )


def _add(totals: dict[str, Any], name: str, count: int = 1) -> None:
  totals[name] = totals.get(name, 0) + count


def _count(totals: dict[str, Any], prediction: Mapping[str, Any]) -> None:
  add = functools.partial(_add, totals)
  add("rows")
  if "error" in prediction:
    add("errors")
    error = f"{prediction['id']}: {prediction['error']}"
    totals.setdefault("first_error", one_line(error))
  if "truncated" in prediction:
    add("truncated")
  if "correct" in prediction:
    add("scored")
    add("correct", prediction["correct"])


# ------------------------------------------------ what predictions depend on


def _output(
  predictor: Predictor,
  source: Source,
  target: Target,
  layout: prediction_records.Layout,
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
    "device": jax.devices()[0].device_kind,
  }
  return FileOutput(
    target.path, made_of, about=about, overwrite=target.overwrite
  )


def student_digest(student: Student) -> str:
  """SHA-256 of everything in a student that its answers depend on."""
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
  """The metric that decides whether a label is right: that of training."""
  metric = student.description.get("metric")
  dataset = student.description.get("dataset")
  if metric is None and dataset in datasets.names():  # an older export
    metric = metrics.judging_metric(datasets.get(dataset).metrics)
  return metric if metric in metrics.PER_EXAMPLE_METRICS else "accuracy"


# ------------------------------------------------------------ what is printed


def _print(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _print_summary(
  path: str, totals: Mapping[str, Any], scored_as: str, speed: str | None
) -> None:
  parts = [f"{totals.get('rows', 0)} predictions -> {path}"]
  for name, text in (
    ("errors", "with an error"),
    ("truncated", "cut to what the student reads"),
    ("never_right", "with a label that the student cannot write, thus wrong"),
  ):
    if totals.get(name):
      parts.append(f"{totals[name]} {text}")
  if totals.get("unknown"):
    share = 100 * totals["unknown"] / totals["tokens"]
    parts.append(f"{share:.2g} % of the tokens read unknown to the vocabulary")
  if totals.get("scored"):
    share = totals["correct"] / totals["scored"]
    parts.append(f"{scored_as} {share:.4f} (n={totals['scored']})")
  if speed is None:
    parts.append("complete already")
  elif speed:
    parts.append(speed)
  if totals.get("errors"):
    parts.append(f"first error: {totals['first_error']}")
  _print("; ".join(parts))


@contextlib.contextmanager
def _shown_progress(
  source: Source, output: FileOutput | StreamOutput
) -> Iterator[Callable[[int, str], None]]:
  """A function that shows progress; it shows nothing from pipe to pipe."""
  if source.is_pipe and isinstance(output, StreamOutput):
    yield lambda records, text: None
    return
  bar = progress_lib.Progress(
    source.num_records(), output.progress.rows, description="infer"
  )
  try:
    yield bar.update
  finally:
    bar.close()
