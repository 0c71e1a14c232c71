"""Predictions as tables: CSV, TSV and Parquet, from JSON lines.

A table's columns depend on all rows, so the lines are read twice. Neither
pass holds more than a few thousand rows.
"""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from dss_jax.datasets.records import atomic_file
from dss_jax.students.bulk.prediction_lines import COLUMNS

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*_DELIMITERS, ".parquet")

_ROWS_PER_GROUP = 4096


def convert(lines: pathlib.Path, path: pathlib.Path) -> None:
  """Writes a table of JSON objects, one a line; atomically.

  Args:
    lines: the objects.
    path: the table; its suffix says of which kind.
  """
  columns = _columns(lines)
  with atomic_file(path) as file:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
      _write_parquet(file, lines, columns)
    else:
      _write_text(file, lines, list(columns), _DELIMITERS[suffix])


def _rows(lines: pathlib.Path) -> Iterator[dict[str, Any]]:
  with open(lines, encoding="utf-8") as file:
    for line in file:
      yield json.loads(line)


def _columns(lines: pathlib.Path) -> dict[str, set[type]]:
  """The columns, ours first, and the types of what is in them."""
  found: dict[str, set[type]] = {}
  for row in _rows(lines):
    for key, value in row.items():
      kinds = found.setdefault(key, set())
      if value is not None:
        kinds.add(type(value))
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
          kinds.add(dict)  # in no column of integers
  ordered = [name for name in COLUMNS if name in found or name == "id"]
  ordered += [name for name in found if name not in COLUMNS]
  return {name: found.get(name, {str}) for name in ordered}


def _as_text(value: Any) -> str | None:
  if value is None or isinstance(value, str):
    return value
  return json.dumps(value, ensure_ascii=False)


def _write_text(
  file: BinaryIO, lines: pathlib.Path, columns: Sequence[str], delimiter: str
) -> None:
  text = io.TextIOWrapper(file, encoding="utf-8", newline="")
  # RFC 4180's line end; with it a lone \r in a cell is quoted as well.
  writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
  writer.writerow(columns)
  for row in _rows(lines):
    writer.writerow([_as_text(row.get(name)) or "" for name in columns])
  text.flush()
  text.detach()


def _write_parquet(
  file: BinaryIO, lines: pathlib.Path, columns: dict[str, set[type]]
) -> None:
  """Columns of one simple type where all values have it, else JSON text."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
  typed = {
    name: types[next(iter(kinds))]
    for name, kinds in columns.items()
    if len(kinds) == 1 and kinds <= types.keys()
  }
  schema = pa.schema([(name, typed.get(name, pa.string())) for name in columns])

  def write(rows: list[dict[str, Any]]) -> None:
    arrays = []
    for field in schema:
      cells = [row.get(field.name) for row in rows]
      if field.name not in typed:
        cells = [_as_text(cell) for cell in cells]
      arrays.append(pa.array(cells, field.type))
    writer.write_table(pa.table(arrays, schema=schema))

  with pq.ParquetWriter(file, schema) as writer:
    group: list[dict[str, Any]] = []
    for row in _rows(lines):
      group.append(row)
      if len(group) == _ROWS_PER_GROUP:
        write(group)
        group = []
    if group:
      write(group)
