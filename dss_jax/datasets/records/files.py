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
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

from dss_jax.base import atomic_files
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import (
  array_records,
  csv_files,
  json_lines,
  parquet,
  text_files,
)
from dss_jax.datasets.records.field_mapping import (
  FieldMapping,
  with_field_names,
)
from dss_jax.datasets.records.record import Record
from dss_jax.datasets.records.seen import SeenTexts

PathLike = str | os.PathLike[str]
Write = Callable[[Record], None]

# A file with more bad lines than this is the wrong file, or the wrong mapping.
MAX_PROBLEMS = 10_000

_SUFFIXES = {
  ".jsonl": "json",
  ".ndjson": "json",
  ".json": "json",
  ".csv": "csv",
  ".tsv": "tsv",
  ".parquet": "parquet",
  ".array_record": "array_record",
  ".arrayrecord": "array_record",
}


class MissingFileError(UserError):
  """There is no file of that name."""


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
    path: of one of READ_SUFFIXES: .jsonl, .ndjson or .json (one object a line,
      or one JSON value with all of them), .csv, .tsv, .parquet or
      .array_record; text may be packed (.jsonl.gz, .csv.zst).
    field_mapping: record field -> key of the file; see `field_mapping.py`.
    max_problems: give up beyond this many bad lines.

  Yields:
    In file order, the record or the problem of each line that is not blank.

  Raises:
    UserError: if the file cannot be read at all, or has too many problems; at
      its end, if no entry has a key that a field is mapped to.
  """
  mapping = FieldMapping.parse(field_mapping)
  first_line = SeenTexts(numbered=True)
  first_problem = None
  num_problems = 0
  # Tables have checked their columns, whose cells may all be empty.
  has_columns = kind_of(path) in ("csv", "tsv", "parquet")
  missing = set() if has_columns else set(mapping.keys)
  for line, entry in iter_entries(path, mapping):
    try:
      if isinstance(entry, UserError):
        raise entry
      missing -= mapping.fields_in(entry) if missing else missing
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
  if missing and len(first_line):
    field = min(missing)
    keys = " or ".join(map(repr, mapping.source_keys(field)))
    raise UserError(
      f"{path}: no entry has the key {keys} (mapped to {field})",
      fields="field_mapping",
    )


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
) -> Iterator[json_lines.Entry]:
  """The entries of a file before they become records, with their line numbers.

  An entry that is not even a mapping comes as the UserError that says why. Keys
  that are a field's name but for case, space and plural have that name, unless
  `mapping` is None: the entries are then no records yet.
  """
  kind = kind_of(path)
  if not pathlib.Path(path).exists():
    raise MissingFileError(f"no such file: {path}", fields="input")
  try:
    if kind == "parquet":
      yield from parquet.read_entries(path, mapping or FieldMapping())
    elif kind == "array_record":
      yield from _named(array_records.read_entries(path), mapping, path)
    else:
      with text_files.opened(path) as file:
        yield from text_entries(file, path, kind, mapping)
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def text_entries(
  file: io.BufferedReader,
  path: PathLike,
  kind: str,
  mapping: FieldMapping | None,
) -> Iterator[json_lines.Entry]:
  """`iter_entries` of an open file of UTF-8, which may be a pipe.

  Args:
    file: from `text_files`.
    path: names it in errors.
    kind: "json", "csv" or "tsv".
    mapping: which keys hold which fields.
  """
  used = mapping or FieldMapping()
  if kind in _DELIMITERS:
    return csv_files.entries_of(file, path, used, _DELIMITERS[kind])
  return _named(json_lines.entries_of(file, path, used), mapping, path)


def _named(
  entries: Iterable[json_lines.Entry],
  mapping: FieldMapping | None,
  path: PathLike,
) -> Iterator[json_lines.Entry]:
  """Entries of objects, which have no header, under the names of fields."""
  for number, entry in entries:
    if mapping is not None and not isinstance(entry, UserError):
      try:
        entry = with_field_names(entry, mapping, os.fspath(path))
      except UserError as error:
        entry = error
    yield number, entry


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
  kind = _written_kind(path)
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
_TEXT_KINDS = ("json", "csv", "tsv")
# What is written, and what is read.
SUFFIXES = tuple(_SUFFIXES)
READ_SUFFIXES = SUFFIXES + tuple(
  suffix + packed
  for packed in text_files.PACKED
  for suffix, kind in _SUFFIXES.items()
  if kind in _TEXT_KINDS
)


def kind_of(path: PathLike) -> str:
  """The kind of a file that is read, by its suffix.

  Raises:
    UserError: for a suffix that is none of READ_SUFFIXES.
  """
  path = pathlib.Path(path)
  if text_files.is_packed(path):
    kind = _SUFFIXES.get(path.with_suffix("").suffix.lower())
    if kind in _TEXT_KINDS:
      return kind
  elif kind := _SUFFIXES.get(path.suffix.lower()):
    return kind
  packed = ", ".join(text_files.PACKED)
  raise UserError(
    f"{path}: unknown suffix {path.suffix!r}; allowed: {', '.join(SUFFIXES)},"
    f" and those of text with {packed} behind: convert the file, or rename it"
    " if it is one of these already",
    fields="input",
  )


def _written_kind(path: PathLike) -> str:
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in _SUFFIXES:
    raise UserError(
      f"{path}: unknown suffix {suffix!r}; allowed: {', '.join(SUFFIXES)}",
      fields="output",
    )
  return _SUFFIXES[suffix]
