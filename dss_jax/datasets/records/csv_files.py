"""CSV and TSV: one row a record, the rationale in flat columns or as JSON.

A row is read as RFC 4180 says: a cell that begins with a quotation mark ends
with one, and may hold delimiters and line ends in between. Files of people have
stray quotation marks too, above all TSV, which has no quoting by its own
definition. One that opens a cell and is never closed, or closed where no row
could end, belongs to the text: it never takes the lines after it along.
"""

from __future__ import annotations

import collections
import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records.column_names import column_names
from dss_jax.datasets.records.field_mapping import FLAT_FIELDS, FieldMapping
from dss_jax.datasets.records.json_lines import Entry
from dss_jax.datasets.records.record import Record
from dss_jax.datasets.records.text_files import MAX_LINE_BYTES, read_lines

# A header wider than this is no table of records.
MAX_COLUMNS = 4096

# What else may stand between the cells of a .csv: European spreadsheets write
# semicolons.
_OTHER_DELIMITERS = (";", "\t", "|")

# The lines of a quoted cell may be rows themselves, if each has as many cells
# as the header. By chance few do: this many delimiters in the right places are
# taken for rows. TSV has neither quoting nor tabs in cells.
_CHANCE_DELIMITERS = {",": 8, ";": 8, "|": 8, "\t": 1}


def entries_of(
  file: BinaryIO,
  path: str | os.PathLike[str],
  mapping: FieldMapping,
  delimiter: str,
) -> Iterator[Entry]:
  """The rows of a table as text by column; empty cells are left out.

  Args:
    file: of UTF-8 (see `text_files`); may be a pipe.
    path: names it in errors.
    mapping: its keys must be columns.
    delimiter: a comma also stands for what the header has in its place.

  Raises:
    UserError: if there is no usable header or a mapped column is missing.
  """
  where = os.fspath(path)
  lines = _Lines(file)
  table = _Table.of(lines, delimiter, where, mapping)
  columns = column_names(table.header, mapping, where)
  for number, cells in table.rows(lines):
    if isinstance(cells, UserError):
      yield number, cells
    else:
      yield number, {name: cell for name, cell in zip(columns, cells) if cell}


class _Lines:
  """The lines of a file, with their ends; those ahead can be looked at."""

  def __init__(self, file: BinaryIO):
    self._numbered = read_lines(file, keep_ends=True)
    self._ahead: collections.deque[tuple[int, str | UserError]]
    self._ahead = collections.deque()

  def take(self) -> tuple[int, str | UserError] | None:
    """The next line and its number; None at the end."""
    if self._ahead:
      return self._ahead.popleft()
    return next(self._numbered, None)

  def take_seen(self, count: int) -> list[tuple[int, str | UserError]]:
    """Takes lines that were looked at."""
    return [self._ahead.popleft() for _ in range(count)]

  def ahead(self) -> Iterator[str]:
    """The texts of the lines to come, up to one that is none."""
    place = 0
    while True:
      if place == len(self._ahead):
        if (line := next(self._numbered, None)) is None:
          return
        self._ahead.append(line)
      text = self._ahead[place][1]
      if isinstance(text, UserError):
        return
      yield text
      place += 1


class _Table:
  """How a table is written, and its header."""

  def __init__(self, header: Sequence[str], delimiter: str, has_spaces: bool):
    """`has_spaces`: whether a space follows each delimiter."""
    self.header = header
    self._delimiter = delimiter
    self._has_spaces = has_spaces

  @classmethod
  def of(
    cls, lines: _Lines, delimiter: str, where: str, mapping: FieldMapping
  ) -> _Table:
    """Reads the header.

    Raises:
      UserError: if there is none that can be used.
    """
    line = lines.take()
    while line and isinstance(line[1], str) and not line[1].strip():
      line = lines.take()
    # Spreadsheet programs take such a line for themselves.
    named = line and re.fullmatch(r"sep=(.)\r?\n", str(line[1]))
    if named:
      delimiter, line = named.group(1), lines.take()
    if line is None or (isinstance(line[1], str) and not line[1].strip()):
      raise UserError(f"{where}: no header line with column names")
    text = line[1]
    if isinstance(text, UserError):
      raise UserError(f"{where}: the header is {text}")
    if delimiter == "," and not named:
      delimiter = _delimiter_of(text, mapping)
    header, further = cls((), delimiter, has_spaces=False)._row(text, lines)
    lines.take_seen(further)
    if header is None:
      raise UserError(f"{where}: the header is {_STRAY}")
    if len(header) > MAX_COLUMNS:
      raise UserError(f"{where}: more than {MAX_COLUMNS} columns")
    spaces = [name.startswith(" ") for name in header[1:]]
    has_spaces = bool(spaces) and all(spaces)
    if has_spaces:
      header = [name.lstrip(" ") for name in header]
    return cls(header, delimiter, has_spaces)

  def rows(
    self, lines: _Lines
  ) -> Iterator[tuple[int, Sequence[str] | UserError]]:
    """The cells of each row, or the reason why a line is none.

    A row is numbered by its last line.
    """
    while line := lines.take():
      number, text = line
      if isinstance(text, UserError):
        yield number, text
        continue
      if not text.rstrip("\r\n"):
        continue
      cells, further = self._row(text, lines)
      used = [line, *lines.take_seen(further)]
      if cells is None:
        reason = _STRAY
      elif len(cells) != len(self.header):
        # The lines of a cell are no rows, even where they look like some.
        reason = (
          f"the number of cells is {len(cells)}, the header has"
          f" {len(self.header)}"
        )
      elif further and self._may_be_rows(cells, further):
        reason = (
          f"a quotation mark opens in line {number} and closes in line"
          f" {number + further}, and each of these lines could be a row of"
          " its own: remove the mark, or write the file as JSON lines"
        )
      else:
        yield number + further, cells
        continue
      # Every line that is lost is counted.
      for lost, written in used:
        if str(written).strip("\r\n"):
          yield lost, UserError(reason)

  def _row(self, text: str, lines: _Lines) -> tuple[Sequence[str] | None, int]:
    """The cells of the row that begins with a line; None if it is no row.

    Returns:
      The cells, and how many of the lines ahead are a part of the row.
    """
    if '"' not in text:
      return self._split(text), 0
    if (parsed := self._parsed([text])) is not None:
      return parsed[0], 0
    if text.count('"') % 2:
      parsed = self._parsed([text, *self._rest_of_row(text, lines)])
      if parsed is not None:
        cells, count = parsed
        fits = len(cells) == len(self.header) or not self.header
        # In TSV, what no row of quoted cells is has marks in its text.
        if fits or self._delimiter != "\t":
          return cells, count - 1
    # A single mark is no quoting; in TSV none is.
    if self._delimiter == "\t" or text.count('"') == 1:
      cells = self._split(text)
      if len(cells) == len(self.header) or not self.header:
        return cells, 0
    return None, 0

  def _split(self, text: str) -> list[str]:
    # Some programs write \r\r\n; a cell that ends in \r is to be quoted.
    cells = text.rstrip("\r\n").split(self._delimiter)
    return [cell.lstrip(" ") for cell in cells] if self._has_spaces else cells

  def _rest_of_row(self, text: str, lines: _Lines) -> list[str]:
    """The lines up to the one that may close all quoted cells; or none."""
    further: list[str] = []
    size = len(text)
    for line in lines.ahead():
      further.append(line)
      size += len(line)
      if size > MAX_LINE_BYTES:
        return []
      if line.count('"') % 2:
        return further
    return []

  def _parsed(self, texts: Sequence[str]) -> tuple[list[str], int] | None:
    """The cells of the row that lines begin with, and how many lines it has.

    None if there is no row by the rules of quoting.
    """
    reader = csv.reader(
      texts,
      delimiter=self._delimiter,
      strict=True,
      skipinitialspace=self._has_spaces,
    )
    # The csv module's bound on a cell is global.
    previous = csv.field_size_limit(MAX_LINE_BYTES)
    try:
      return next(reader), reader.line_num
    except csv.Error:
      return None
    finally:
      csv.field_size_limit(previous)

  def _may_be_rows(self, cells: Sequence[str], further: int) -> bool:
    """Whether each line of a row has the delimiters of a row of its own."""
    between = len(self.header) - 1
    # The cells' own delimiters, and those between the cells.
    per_line = _lines_of(cells, self._delimiter)
    return (
      between * (further + 1) > 0
      and between * (further + 1) >= _CHANCE_DELIMITERS.get(self._delimiter, 8)
      and all(line.count(self._delimiter) == between for line in per_line)
    )


def _delimiter_of(header: str, mapping: FieldMapping) -> str:
  """What stands between the names: what makes the input a column, if any does."""
  unquoted = re.sub(r'"[^"]*"', "", header)
  candidates = [d for d in (",", *_OTHER_DELIMITERS) if d in unquoted]
  for delimiter in candidates:
    found, _ = _Table((), delimiter, has_spaces=False)._parsed([header]) or (
      [],
      0,
    )
    names = [name.strip() for name in found or header.split(delimiter)]
    if mapping.has_column_of_input(names):
      return delimiter
  return next(iter(candidates), ",")


def _lines_of(cells: Sequence[str], delimiter: str) -> Sequence[str]:
  """The lines that a row's cells lie in."""
  return delimiter.join(cells).split("\n")


_STRAY = (
  "not a table row: a quotation mark opens a cell that is never closed, or text"
  " follows one that closes it (within quotation marks, one is written twice)"
)


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


def _cell(value: Any) -> str:
  if value is None:
    return ""
  return value if isinstance(value, str) else strict_json.dumps(value)
