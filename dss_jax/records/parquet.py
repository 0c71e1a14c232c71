"""Parquet: typed columns; what a column type cannot hold is kept as JSON."""

from __future__ import annotations

import datetime
import decimal
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from dss_jax.errors import UserError
from dss_jax.records import strict_json
from dss_jax.records.field_mapping import MAPPABLE_FIELDS, FieldMapping
from dss_jax.records.json_lines import Row
from dss_jax.records.record import RATIONALE_FIELDS, Record

# Marks, in the column's own metadata, a text column that holds JSON.
_ENCODING = b"dss_jax.encoding"
_ROWS_PER_BATCH = 1024


def read_rows(
  path: str | os.PathLike[str], mapping: FieldMapping
) -> Iterator[Row]:
  """The rows of a Parquet file; nulls are left out.

  Raises:
    UserError: if it is no Parquet file or a mapped column is missing.
  """
  import pyarrow as pa
  import pyarrow.parquet as pq

  try:
    with pq.ParquetFile(path) as file:
      columns = file.schema_arrow.names
      if len(set(columns)) != len(columns):
        raise UserError(f"{path}: two columns have the same name")
      mapping.check_columns(columns, os.fspath(path))
      as_json = {
        field.name
        for field in file.schema_arrow
        if (field.metadata or {}).get(_ENCODING) == b"json"
      }
      fields = {
        key for field in MAPPABLE_FIELDS for key in mapping.source_keys(field)
      }
      number = 0
      for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH):
        for row in batch.to_pylist():
          number += 1
          yield number, _decoded(row, as_json, fields)
  except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
    if isinstance(error, FileNotFoundError | PermissionError):
      raise
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path}: not a readable Parquet file: {reason}") from None


def write(file: BinaryIO, records: Sequence[Record]):
  """Writes `rationales` as a list of structs, `meta` as JSON, the rest typed."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  text = pa.string()
  plain = not any(r.extra for record in records for r in record.rationales)
  columns: list[tuple[pa.Field, list[Any]]] = [
    (pa.field("id", text, nullable=False), [r.id for r in records]),
    (pa.field("input", text, nullable=False), [r.input for r in records]),
    (pa.field("label", text), [r.label for r in records]),
  ]
  rationales = [
    [rationale.to_dict() for rationale in record.rationales]
    for record in records
  ]
  if plain:
    struct = pa.struct(
      [
        (name, pa.float64() if name == "weight" else text)
        for name in RATIONALE_FIELDS
      ]
    )
    columns.append((pa.field("rationales", pa.list_(struct)), rationales))
  else:
    columns.append(_json_column("rationales", rationales))
  if any(record.meta for record in records):
    metas = [dict(record.meta) or _ABSENT for record in records]
    columns.append(_json_column("meta", metas))
  for key in dict.fromkeys(key for record in records for key in record.extra):
    values = [record.extra.get(key, _ABSENT) for record in records]
    columns.append(_extra_column(key, values))
  table = pa.table(
    [pa.array(values, type=field.type) for field, values in columns],
    schema=pa.schema([field for field, _ in columns]),
  )
  pq.write_table(table, file)


# A record without the key, as against one where its value is null.
_ABSENT = object()


def _extra_column(key: str, values: list[Any]) -> tuple[Any, list[Any]]:
  """A column of one simple type where that loses nothing, else JSON text."""
  import pyarrow as pa

  kinds = {type(value) for value in values if value is not _ABSENT}
  if kinds == {str}:
    column_type = pa.string()
  elif kinds == {bool}:
    column_type = pa.bool_()
  elif kinds == {float}:
    column_type = pa.float64()
  elif kinds == {int} and all(
    value is _ABSENT or abs(value) < 1 << 63 for value in values
  ):
    column_type = pa.int64()
  else:
    return _json_column(key, values)
  cells = [None if value is _ABSENT else value for value in values]
  return pa.field(key, column_type), cells


def _json_column(key: str, values: list[Any]) -> tuple[Any, list[Any]]:
  import pyarrow as pa

  field = pa.field(key, pa.string(), metadata={_ENCODING: b"json"})
  cells = [
    None if value is _ABSENT else strict_json.dumps(value) for value in values
  ]
  return field, cells


def _decoded(
  row: Mapping[str, Any], as_json: set[str], fields: set[str]
) -> Mapping[str, Any] | UserError:
  """A row as JSON-like values; the record's own fields are left to its checks."""
  decoded = {}
  for key, value in row.items():
    if value is None:
      continue
    try:
      if key in as_json:
        value = strict_json.loads(value)
      elif key not in fields:
        value = _plain(value)
        if value is None:
          continue
    except UserError as error:
      return UserError(f"column {key!r}: {error}")
    decoded[key] = value
  return decoded


def _plain(value: Any) -> Any:
  """A column's value as JSON has it: times and decimals as text, NaN (how
  pandas writes a missing number) as null."""
  if isinstance(value, dict):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, float) and math.isnan(value):
    return None
  if isinstance(value, float) and math.isinf(value):
    raise UserError("infinity is no JSON value")
  if value is None or isinstance(value, str | bool | int | float):
    return value
  if isinstance(value, datetime.date | datetime.time):
    return value.isoformat()
  if isinstance(value, datetime.timedelta | decimal.Decimal):
    return str(value)
  raise UserError(f"values of type {type(value).__name__} cannot be kept")
