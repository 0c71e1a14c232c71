"""Records in and out of files: JSON lines, CSV, TSV, Parquet, ArrayRecord.

Reading never loses a line in silence: each line is a record or a `Problem`
with its file, line number and reason. Writing is atomic: the file is there
whole, or it is as it was. Both go record by record, in memory that does not
grow with the file (but for some 40 bytes a record, to find ids used twice);
only tables of text, whose columns depend on all records, are written in one
piece.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from dss_jax.base import atomic_files
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import (
  array_records,
  csv_files,
  json_lines,
  parquet,
)
from dss_jax.datasets.records.field_mapping import FieldMapping
from dss_jax.datasets.records.record import Record
from dss_jax.datasets.records.seen import SeenTexts

PathLike = str | os.PathLike[str]
Write = Callable[[Record], None]

# A file with more bad lines than this is the wrong file, or the wrong mapping.
MAX_PROBLEMS = 10_000

_SUFFIXES = {
  ".jsonl": "json",
  ".json": "json",
  ".csv": "csv",
  ".tsv": "tsv",
  ".parquet": "parquet",
  ".array_record": "array_record",
  ".arrayrecord": "array_record",
}


@dataclasses.dataclass(frozen=True)
class Problem:
  """A line that could not be used.

  Attributes:
    file: the path as it was given.
    line: the line, counted from 1; the entry or item for Parquet and JSON arrays.
    reason: one line saying what is wrong.
  """

  file: str
  line: int
  reason: str

  def __str__(self) -> str:
    return f"{self.file}:{self.line}: {self.reason}"


def iter_records(
  path: PathLike,
  *,
  field_mapping: Mapping[str, str | Sequence[str]] | FieldMapping | None = None,
  max_problems: int = MAX_PROBLEMS,
) -> Iterator[Record | Problem]:
  """Reads a file of records one by one, by its suffix.

  An entry without an `id` gets one from its line number. The second entry with an
  id is a problem, not a record: ids key splits and predictions.

  Args:
    path: .jsonl or .json (one object a line, or one array), .csv, .tsv,
      .parquet or .array_record.
    field_mapping: record field -> key of the file; see `field_mapping.py`.
    max_problems: give up beyond this many bad lines.

  Yields:
    In file order, the record or the problem of each line that is not blank.

  Raises:
    UserError: if the file cannot be read at all, or has too many problems.
  """
  mapping = FieldMapping.parse(field_mapping)
  first_line = SeenTexts(numbered=True)
  first_problem = None
  num_problems = 0
  for line, entry in iter_entries(path, mapping):
    try:
      if isinstance(entry, UserError):
        raise entry
      record = mapping.record(entry, default_id=f"line-{line}")
      earlier = first_line.add(record.id, line)
      if earlier is not None:
        raise UserError(
          f"id {record.id[:64]!r} appears twice, first in line {earlier}"
        )
    except UserError as error:
      problem = Problem(os.fspath(path), line, str(error))
      first_problem = first_problem or problem
      num_problems += 1
      if num_problems > max_problems:
        raise UserError(
          f"{path}: more than {max_problems} lines cannot be used; the first:"
          f" {first_problem} (wrong file, or wrong field_mapping?)",
          fields="field_mapping",
        ) from None
      yield problem
      continue
    yield record


def read_records(
  path: PathLike,
  *,
  field_mapping: Mapping[str, str | Sequence[str]] | FieldMapping | None = None,
  max_problems: int = MAX_PROBLEMS,
) -> tuple[list[Record], list[Problem]]:
  """Reads a file of records whole; arguments and errors as `iter_records`.

  Returns:
    The records in file order, and the problems in file order. Every line that
    is not blank is in exactly one of the two.
  """
  records: list[Record] = []
  problems: list[Problem] = []
  for item in iter_records(
    path, field_mapping=field_mapping, max_problems=max_problems
  ):
    if isinstance(item, Record):
      records.append(item)
    else:
      problems.append(item)
  return records, problems


def iter_entries(
  path: PathLike, mapping: FieldMapping | None = None
) -> Iterator[tuple[int, Mapping[str, Any] | UserError]]:
  """The rows of a file before they become records, with their line numbers.

  An entry that is not even a mapping comes as the UserError that says why.
  """
  mapping = mapping or FieldMapping()
  kind = _kind(path)
  if not pathlib.Path(path).exists():
    raise UserError(
      f"no such file: {path}",
      fields="input",
    )
  try:
    if kind == "json":
      yield from json_lines.read_entries(path)
    elif kind == "parquet":
      yield from parquet.read_entries(path, mapping)
    elif kind == "array_record":
      yield from array_records.read_entries(path)
    else:
      yield from csv_files.read_entries(path, mapping, _DELIMITERS[kind])
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def write_records(path: PathLike, records: Iterable[Record]) -> int:
  """Writes records to a file, by its suffix, atomically.

  Args:
    path: as for `open_writer`.
    records: with unique ids; taken one by one.

  Returns:
    The number of records written.

  Raises:
    UserError: for an unknown suffix, a duplicate id, or a folder that cannot
      be written to; the file is then as it was before.
  """
  with open_writer(path) as write:
    count = 0
    for count, record in enumerate(records, start=1):  # noqa: B007
      write(record)
  return count


@contextlib.contextmanager
def open_writer(path: PathLike) -> Iterator[Write]:
  """A function that writes one record; the file is there after the block.

  JSON lines, Parquet and ArrayRecord keep everything. CSV and TSV have no
  types: an empty cell reads back as null, and unknown keys as text.

  Args:
    path: .jsonl or .json (both: one object a line), .csv, .tsv, .parquet or
      .array_record (one JSON object a record).

  Raises:
    UserError: from the block, as `write_records`; the file is then as it was.
  """
  kind = _kind(path)
  seen = SeenTexts()
  with _OPENERS[kind](path) as write_unchecked:

    def write(record: Record):
      if seen.add(record.id) is not None:
        raise UserError(f"{path}: id {record.id[:64]!r} appears twice")
      write_unchecked(record)

    yield write


@contextlib.contextmanager
def _json_writer(path: PathLike) -> Iterator[Write]:
  with atomic_file(path) as file:
    yield lambda record: json_lines.write(file, [record])


@contextlib.contextmanager
def _parquet_writer(path: PathLike) -> Iterator[Write]:
  with atomic_file(path) as file, parquet.open_writer(file) as write:
    yield write


@contextlib.contextmanager
def _array_record_writer(path: PathLike) -> Iterator[Write]:
  with (
    atomic_path(path) as temporary,
    array_records.open_writer(temporary) as write,
  ):
    yield write


@contextlib.contextmanager
def _table_writer(path: PathLike, delimiter: str) -> Iterator[Write]:
  records: list[Record] = []
  with atomic_file(path) as file:
    yield records.append
    csv_files.write(file, records, delimiter)


_OPENERS: Mapping[
  str, Callable[[PathLike], contextlib.AbstractContextManager[Write]]
] = {
  "json": _json_writer,
  "parquet": _parquet_writer,
  "array_record": _array_record_writer,
  "csv": functools.partial(_table_writer, delimiter=","),
  "tsv": functools.partial(_table_writer, delimiter="\t"),
}


@contextlib.contextmanager
def atomic_file(path: PathLike) -> Iterator[BinaryIO]:
  """A binary file that appears under `path` only when it is complete.

  Raises:
    UserError: if the folder is missing or not writable.
  """
  with atomic_path(path) as temporary, temporary.open("r+b") as file:
    yield file


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[pathlib.Path]:
  """An empty file to be written to, which then takes the place of `path`.

  For libraries that want a path; others take `atomic_file`.

  Raises:
    UserError: if the folder is missing or not writable.
  """
  with atomic_files.atomic_path(path, _refused) as temporary:
    yield temporary


@contextlib.contextmanager
def _refused(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {error.strerror or error}", fields="output"
    ) from None


_DELIMITERS = {"csv": ",", "tsv": "\t"}
SUFFIXES = tuple(_SUFFIXES)


def _kind(path: PathLike) -> str:
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in _SUFFIXES:
    raise UserError(
      f"{path}: unknown suffix {suffix!r}; allowed:"
      f" {', '.join(_SUFFIXES)} (rename the file)"
    )
  return _SUFFIXES[suffix]
