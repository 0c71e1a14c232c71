"""An answer as a record of JSON values, and many of them as a table.

Predictions are written as JSON lines first. The columns of a table (CSV, TSV,
Parquet) depend on all lines, which are therefore read twice; neither pass holds
more than a few thousand of them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from dss_jax.datasets import metrics
from dss_jax.datasets.records import atomic_file
from dss_jax.students.bulk.input_records import InputRecord
from dss_jax.students.predictions import Prediction

# The keys of a record, in order; the input's other keys follow.
COLUMNS = (
  "id",
  "input",
  "label",
  "label_score",
  "label_scores",
  "votes",
  "rationale",
  "rationale_score",
  "alternatives",
  "gold_label",
  "correct",
  "truncated",
  "unknown_tokens",
  "error",
)
# More digits would differ between machines.
_DIGITS = 5

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = (*_DELIMITERS, ".parquet")
_RECORDS_PER_GROUP = 4096


# ------------------------------------------------------------------ one record


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a record holds.

  Attributes:
    with_input: whether it repeats the input.
    metric: decides whether a label is right.
  """

  with_input: bool = True
  metric: str = "accuracy"


def prediction_record(
  source: InputRecord, answer: Prediction, layout: Layout
) -> dict[str, Any]:
  """The record of one answer; keys without a value are left out."""
  record: dict[str, Any] = {"id": source.id}
  if layout.with_input and source.item is not None:
    record["input"] = source.item.input
  if answer.error is None:
    record |= _answer(answer)
  if source.gold is not None:
    record["gold_label"] = source.gold
    if answer.label is not None:
      record["correct"] = metrics.is_correct(
        layout.metric, source.gold, answer.label
      )
  if answer.truncated:
    record["truncated"] = True
  if answer.unknown_tokens:
    record["unknown_tokens"] = answer.unknown_tokens
  if answer.error is not None:
    record["error"] = answer.error
  for key, value in source.extra.items():
    name = key
    while name in COLUMNS or name in record:
      name = f"original_{name}"
    record[name] = value
  return record


def _answer(answer: Prediction) -> dict[str, Any]:
  record: dict[str, Any] = {}
  if answer.label is not None:
    record["label"] = answer.label
    record["label_score"] = _rounded(answer.label_score)
    if answer.label_scores is not None:
      record["label_scores"] = {
        label: _rounded(score) for label, score in answer.label_scores.items()
      }
    if answer.votes is not None:
      record["votes"] = _rounded(answer.votes)
  if answer.rationale is not None:
    record["rationale"] = answer.rationale
    record["rationale_score"] = _rounded(answer.rationale_score)
  if answer.alternatives:
    record["alternatives"] = [
      {
        name: value if isinstance(value, str) else _rounded(value)
        for name, value in dataclasses.asdict(alternative).items()
        if value is not None
      }
      for alternative in answer.alternatives
    ]
  return record


def _rounded(value: float | None) -> float | None:
  """JSON has no infinity, which is the score of an impossible text."""
  if value is None or not math.isfinite(value):
    return None
  return round(value, _DIGITS)


def json_line(record: Mapping[str, Any]) -> bytes:
  """The record as a line of JSON.

  A value from the input that no file can hold costs that value only.
  """
  try:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"
  except (ValueError, TypeError, RecursionError):
    kept = {key: value for key, value in record.items() if key in COLUMNS}
    kept.setdefault("error", "some of its keys cannot be written as JSON")
    text = json.dumps(kept, ensure_ascii=True, allow_nan=False)
    return text.encode("utf-8") + b"\n"


# --------------------------------------------------------------------- a table


def write_table(lines: pathlib.Path, path: pathlib.Path) -> None:
  """Writes a table atomically.

  Args:
    lines: a file with a JSON object in each line.
    path: the table; its suffix is one of TABLE_SUFFIXES.
  """
  columns = _columns(lines)
  suffix = path.suffix.lower()
  with atomic_file(path) as file:
    if suffix == ".parquet":
      _write_parquet(file, lines, columns)
    else:
      text = io.TextIOWrapper(file, encoding="utf-8", newline="")
      # With RFC 4180's line end a lone \r in a cell is quoted as well.
      writer = csv.writer(text, delimiter=_DELIMITERS[suffix])
      writer.writerow(columns)
      for record in _records(lines):
        writer.writerow([_as_text(record.get(name)) or "" for name in columns])
      text.flush()
      text.detach()


def _records(lines: pathlib.Path) -> Iterator[dict[str, Any]]:
  with open(lines, encoding="utf-8") as file:
    yield from map(json.loads, file)


def _columns(lines: pathlib.Path) -> dict[str, set[type]]:
  """The columns, with COLUMNS first, and the types of their values."""
  found: dict[str, set[type]] = {}
  for record in _records(lines):
    for key, value in record.items():
      types = found.setdefault(key, set())
      if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        types |= {int, str}  # no column of integers can hold it
      elif value is not None:
        types.add(type(value))
  ordered = [name for name in COLUMNS if name in found or name == "id"]
  ordered += [name for name in found if name not in COLUMNS]
  return {name: found.get(name, {str}) for name in ordered}


def _as_text(value: Any) -> str | None:
  if value is None or isinstance(value, str):
    return value
  return json.dumps(value, ensure_ascii=False)


def _write_parquet(
  file: BinaryIO, lines: pathlib.Path, columns: dict[str, set[type]]
) -> None:
  """Writes columns of one simple type if all values have it, else of text."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
  typed = {
    name: types[next(iter(kinds))]
    for name, kinds in columns.items()
    if len(kinds) == 1 and kinds <= types.keys()
  }
  schema = pa.schema([(name, typed.get(name, pa.string())) for name in columns])
  records = _records(lines)
  with pq.ParquetWriter(file, schema) as writer:
    while group := list(itertools.islice(records, _RECORDS_PER_GROUP)):
      cells = {
        name: [
          value if name in typed else _as_text(value)
          for value in (record.get(name) for record in group)
        ]
        for name in columns
      }
      writer.write_table(pa.table(cells, schema=schema))
