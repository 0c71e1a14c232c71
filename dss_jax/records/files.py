"""Records in and out of files: JSON lines, CSV, TSV and Parquet.

Reading never loses a line in silence: each line is a record or a `Problem`
with its file, line number and reason. Writing is atomic: the file is there
whole, or it is as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from dss_jax.errors import UserError
from dss_jax.records import json_lines, parquet, tables
from dss_jax.records.field_mapping import FieldMapping
from dss_jax.records.record import Record

PathLike = str | os.PathLike[str]

# A file with more bad lines than this is the wrong file, or the wrong mapping.
MAX_PROBLEMS = 10_000

_SUFFIXES = {
  ".jsonl": "json",
  ".json": "json",
  ".csv": "csv",
  ".tsv": "tsv",
  ".parquet": "parquet",
}


@dataclasses.dataclass(frozen=True)
class Problem:
  """A line that could not be used.

  Attributes:
    file: the path as it was given.
    line: the line, counted from 1; the row or item for Parquet and JSON arrays.
    reason: one line saying what is wrong.
  """

  file: str
  line: int
  reason: str

  def __str__(self) -> str:
    return f"{self.file}:{self.line}: {self.reason}"


def read_records(
  path: PathLike,
  *,
  field_mapping: Mapping[str, str | Sequence[str]] | FieldMapping | None = None,
  max_problems: int = MAX_PROBLEMS,
) -> tuple[list[Record], list[Problem]]:
  """Reads a file of records, by its suffix.

  A row without an `id` gets one from its line number. The second row with an
  id is a problem, not a record: ids key splits and predictions.

  Args:
    path: .jsonl or .json (one object a line, or one array), .csv, .tsv or
      .parquet.
    field_mapping: record field -> key of the file; see `field_mapping.py`.
    max_problems: give up beyond this many bad lines.

  Returns:
    The records in file order, and the problems in file order. Every line that
    is not blank is in exactly one of the two.

  Raises:
    UserError: if the file cannot be read at all, or has too many problems.
  """
  mapping = FieldMapping.parse(field_mapping)
  records: list[Record] = []
  problems: list[Problem] = []
  first_line: dict[str, int] = {}
  for line, row in iter_rows(path, mapping):
    try:
      if isinstance(row, UserError):
        raise row
      record = mapping.record(row, default_id=f"line-{line}")
      if record.id in first_line:
        raise UserError(
          f"id {record.id[:64]!r} appears twice, first in line"
          f" {first_line[record.id]}"
        )
    except UserError as error:
      problems.append(Problem(os.fspath(path), line, str(error)))
      if len(problems) > max_problems:
        raise UserError(
          f"{path}: more than {max_problems} lines cannot be used; the first:"
          f" {problems[0]} (wrong file, or wrong --field_mapping?)"
        ) from None
      continue
    first_line[record.id] = line
    records.append(record)
  return records, problems


def iter_rows(
  path: PathLike, mapping: FieldMapping | None = None
) -> Iterator[tuple[int, Mapping[str, Any] | UserError]]:
  """The rows of a file before they become records, with their line numbers.

  A row that is not even a mapping comes as the UserError that says why.
  """
  mapping = mapping or FieldMapping()
  kind = _kind(path)
  if not pathlib.Path(path).exists():
    raise UserError(
      f"no such file: {path} (--input, or the paths that a dataset is read from)"
    )
  try:
    if kind == "json":
      yield from json_lines.read_rows(path)
    elif kind == "parquet":
      yield from parquet.read_rows(path, mapping)
    else:
      yield from tables.read_rows(path, mapping, _DELIMITERS[kind])
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def write_records(path: PathLike, records: Iterable[Record]) -> int:
  """Writes records to a file, by its suffix, atomically.

  JSON lines and Parquet keep everything. CSV and TSV have no types: an empty
  cell reads back as null, and unknown keys read back as text.

  Args:
    path: .jsonl or .json (both: one object a line), .csv, .tsv or .parquet.
    records: with unique ids.

  Returns:
    The number of records written.

  Raises:
    UserError: for an unknown suffix, a duplicate id, or a folder that cannot
      be written to; the file is then as it was before.
  """
  kind = _kind(path)
  records = list(records)
  seen: set[str] = set()
  for record in records:
    if record.id in seen:
      raise UserError(f"{path}: id {record.id[:64]!r} appears twice")
    seen.add(record.id)
  with atomic_file(path) as file:
    if kind == "json":
      json_lines.write(file, records)
    elif kind == "parquet":
      parquet.write(file, records)
    else:
      tables.write(file, records, _DELIMITERS[kind])
  return len(records)


@contextlib.contextmanager
def atomic_file(path: PathLike) -> Iterator[BinaryIO]:
  """A binary file that appears under `path` only when it is complete.

  Raises:
    UserError: if the folder is missing or not writable.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name[:64]}.{uuid.uuid4().hex}.tmp")
  try:
    file = temporary.open("xb")
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {error.strerror or error} (--output)"
    ) from None
  try:
    with file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    try:
      os.replace(temporary, path)
    except OSError as error:
      raise UserError(
        f"cannot write {path}: {error.strerror or error} (--output)"
      ) from None
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


_DELIMITERS = {"csv": ",", "tsv": "\t"}


def _kind(path: PathLike) -> str:
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in _SUFFIXES:
    raise UserError(
      f"{path}: unknown suffix {suffix!r}; allowed:"
      f" {', '.join(_SUFFIXES)} (rename the file)"
    )
  return _SUFFIXES[suffix]
