"""CSV and TSV: one row a record, the rationale in flat columns or as JSON."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records.field_mapping import FLAT_FIELDS, FieldMapping
from dss_jax.datasets.records.json_lines import MAX_LINE_BYTES, Entry
from dss_jax.datasets.records.record import Record

# A header wider than this is no table of records.
MAX_COLUMNS = 4096


def read_entries(
  path: str | os.PathLike[str], mapping: FieldMapping, delimiter: str
) -> Iterator[Entry]:
  """The rows of a table as text by column; empty cells are left out.

  Raises:
    UserError: if there is no usable header or a mapped column is missing.
  """
  with open(path, "rb") as file:
    yield from entries_of(file, path, mapping, delimiter)


def entries_of(
  file: BinaryIO,
  path: str | os.PathLike[str],
  mapping: FieldMapping,
  delimiter: str,
) -> Iterator[Entry]:
  """`read_entries` of an open file, which may be a pipe; `path` names it."""
  with _field_size_limit(MAX_LINE_BYTES):
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _header(reader, path)
    if lines.problem:
      raise UserError(f"{path}: {lines.problem}")
    mapping.check_columns(header, os.fspath(path))
    while True:
      try:
        cells = next(reader)
      except StopIteration:
        break
      except csv.Error as error:
        lines.problem = None
        yield reader.line_num, UserError(f"not a table row: {error}")
        continue
      if not cells:
        continue  # a blank line
      if lines.problem:
        yield reader.line_num, lines.problem
        lines.problem = None
        continue
      yield reader.line_num, _row(header, cells)


def write(file: BinaryIO, records: Sequence[Record], delimiter: str):
  """Writes a header and one row a record.

  With at most one plain rationale each, it goes to the flat columns a person
  can read in a spreadsheet; otherwise `rationales` holds the list as JSON.
  """
  flat = all(
    len(record.rationales) <= 1
    and not any(rationale.extra for rationale in record.rationales)
    for record in records
  )
  extra = list(dict.fromkeys(key for record in records for key in record.extra))
  columns = ["id", "input", "label", *(FLAT_FIELDS if flat else ["rationales"])]
  if any(record.meta for record in records):
    columns.append("meta")
  columns += extra
  text = io.TextIOWrapper(file, encoding="utf-8", newline="")
  # RFC 4180's line end; with it a lone \r in a cell is quoted as well.
  writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
  writer.writerow(columns)
  for record in records:
    cells = record.to_dict()
    rationales = cells.pop("rationales")
    if not flat:
      cells["rationales"] = rationales
    elif rationales:
      cells["rationale"] = rationales[0]["text"]
      for name in ("label", "source", "weight", "status"):
        cells[f"rationale_{name}"] = rationales[0][name]
    writer.writerow([_cell(cells.get(column)) for column in columns])
  text.flush()
  text.detach()


class _Lines:
  """The physical lines of a file as text, bounded, for the csv module.

  Bytes that are not UTF-8 become surrogates, so that the cell they are in can
  be reported and the rows around it can be used.
  """

  def __init__(self, file: BinaryIO):
    self._file = file
    self._first = True
    self.problem: UserError | None = None

  def __iter__(self) -> _Lines:
    return self

  def __next__(self) -> str:
    line = self._file.readline(MAX_LINE_BYTES + 1)
    if not line:
      raise StopIteration
    if len(line) > MAX_LINE_BYTES:
      self.problem = UserError(
        f"line has more than {MAX_LINE_BYTES} bytes, which is the bound"
      )
      while line and not line.endswith(b"\n"):
        line = self._file.readline(MAX_LINE_BYTES)
      return "too long\n"  # stands for the line; its row is reported instead
    encoding = "utf-8-sig" if self._first else "utf-8"
    self._first = False
    return line.decode(encoding, errors="surrogateescape")


def _header(reader: Iterator[list[str]], path: Any) -> list[str]:
  try:
    header = next(reader, None)
  except csv.Error as error:
    raise UserError(f"{path}: not a table: {error}") from None
  if not header:
    raise UserError(f"{path}: no header line with column names")
  if len(header) > MAX_COLUMNS:
    raise UserError(f"{path}: more than {MAX_COLUMNS} columns")
  for column in header:
    if not column or not _is_utf8(column) or "\0" in column:
      raise UserError(f"{path}: the header has an empty or unreadable name")
    if header.count(column) > 1:
      raise UserError(f"{path}: column {column!r} appears twice in the header")
  return header


def _row(
  header: Sequence[str], cells: Sequence[str]
) -> Mapping[str, Any] | UserError:
  if len(cells) != len(header):
    return UserError(
      f"the number of cells is {len(cells)}, the header has {len(header)}"
    )
  for column, cell in zip(header, cells):
    if not _is_utf8(cell):
      return UserError(f"column {column!r} is not valid UTF-8")
  return {column: cell for column, cell in zip(header, cells) if cell}


def _is_utf8(text: str) -> bool:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True


def _cell(value: Any) -> str:
  if value is None:
    return ""
  return value if isinstance(value, str) else strict_json.dumps(value)


@contextlib.contextmanager
def _field_size_limit(limit: int) -> Iterator[None]:
  """The csv module's bound on a cell is global: set it only while reading."""
  previous = csv.field_size_limit(limit)
  try:
    yield
  finally:
    csv.field_size_limit(previous)
