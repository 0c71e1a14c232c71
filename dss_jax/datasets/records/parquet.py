"""Parquet: typed columns; what a column type cannot hold is kept as JSON."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records.column_names import column_names
from dss_jax.datasets.records.field_mapping import FieldMapping
from dss_jax.datasets.records.json_lines import Entry
from dss_jax.datasets.records.record import RATIONALE_FIELDS, Rationale, Record

# Marks, in the column's own metadata, a text column that holds JSON.
_ENCODING = b"dss_jax.encoding"
# Few: a long text that a column's dictionary holds once is made anew for each
# row, so that a file of some KB could fill the memory.
_ROWS_PER_BATCH = 64
# Records of a row group; as many are held in memory.
ROWS_PER_GROUP = 4096
# Holds the unknown keys of a record that have no column of their own.
_REST = "dss_jax.other_keys"
# Holds a rationale's further keys.
_EXTRA = "extra"


def read_entries(
  path: str | os.PathLike[str], mapping: FieldMapping
) -> Iterator[Entry]:
  """The rows of a Parquet file; nulls are left out.

  Raises:
    UserError: if it is no Parquet file or a mapped column is missing.
  """
  import pyarrow.parquet as pq

  where = os.fspath(path)
  with _readable(path), pq.ParquetFile(path) as file:
    schema = file.schema_arrow
    kept = _kept_columns(schema, mapping, where)
    names = column_names(
      [schema.field(position).name for position in kept],
      mapping,
      where,
      unfit=[n for n, p in enumerate(kept) if schema.field(p).type.num_fields],
    )
    encodings = [
      (schema.field(position).metadata or {}).get(_ENCODING)
      for position in kept
    ]
    number = 0
    for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH):
      columns = [batch.column(position).to_pylist() for position in kept]
      for cells in zip(*columns, strict=True):
        number += 1
        yield number, _decoded(names, encodings, cells, mapping.used_keys)


def _kept_columns(schema: Any, mapping: FieldMapping, where: str) -> list[int]:
  """The positions of the columns that are read: not those of bytes.

  Bytes are the text of a field, where one is made of them; elsewhere they are
  images or sounds, which no record holds.
  """
  left_out = [
    position
    for position, field in enumerate(schema)
    if _holds_bytes(field.type) and field.name not in mapping.used_keys
  ]
  if left_out:
    logging.getLogger(__name__).warning(
      "%s: the columns %s hold bytes, and are left out",
      where,
      ", ".join(repr(schema.field(position).name) for position in left_out),
    )
  return [n for n in range(len(schema)) if n not in left_out]


def _holds_bytes(column_type: Any) -> bool:
  import pyarrow as pa

  types = pa.types
  if (
    types.is_binary(column_type)
    or types.is_large_binary(column_type)
    or types.is_fixed_size_binary(column_type)
    or types.is_binary_view(column_type)
  ):
    return True
  return any(
    _holds_bytes(column_type.field(n).type)
    for n in range(column_type.num_fields)
  )


def num_rows(path: str | os.PathLike[str]) -> int:
  """How many rows a Parquet file has, without reading them.

  Raises:
    UserError: if it is no Parquet file.
  """
  import pyarrow.parquet as pq

  with _readable(path), pq.ParquetFile(path) as file:
    return file.metadata.num_rows


@contextlib.contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns what Arrow makes of a damaged file into one line."""
  import pyarrow as pa

  try:
    yield
  except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
    if isinstance(error, FileNotFoundError | PermissionError):
      raise
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path}: not a readable Parquet file: {reason}") from None


@contextlib.contextmanager
def open_writer(file: BinaryIO) -> Iterator[Callable[[Record], None]]:
  """A function that writes one record.

  `rationales` are a list of structs, `meta` is JSON, unknown keys get typed
  columns as far as the first ROWS_PER_GROUP records show one type. Where more
  records follow, what does not fit those columns goes to one of JSON.
  """
  writer = _Writer(file)
  try:
    yield writer.add
    writer.flush(is_last=True)
  finally:
    writer.close()


class _Writer:
  """Row groups, all under the columns that the first one asks for."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self._records: list[Record] = []
    self._columns: list[_Column] = []
    self._writer: Any = None

  def add(self, record: Record):
    if len(self._records) == ROWS_PER_GROUP:
      self.flush(is_last=False)
    self._records.append(record)

  def close(self):
    if self._writer is not None:
      self._writer.close()

  def flush(self, is_last: bool):
    """Writes a row group of what has come by."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records, self._records = self._records, []
    if self._writer is None:
      self._columns = _columns_of(records, is_all=is_last)
      schema = pa.schema([column.field for column in self._columns])
      self._writer = pq.ParquetWriter(self._file, schema)
    group = [_Unwritten(record, dict(record.extra)) for record in records]
    arrays = []
    for column in self._columns:
      cells = [column.take(unwritten) for unwritten in group]
      try:
        arrays.append(pa.array(cells, type=column.field.type))
      except (pa.ArrowException, UnicodeEncodeError) as error:
        raise UserError(
          f"column {column.field.name!r} cannot be written: {error}"
        ) from None
    if group:
      self._writer.write_table(pa.table(arrays, schema=self._writer.schema))


class _Unwritten(NamedTuple):
  """A record, and those of its unknown keys that no column has taken yet."""

  record: Record
  rest: dict[str, Any]


class _Column(NamedTuple):
  """A column: its field, and the cell that it takes from a record."""

  field: Any
  take: Callable[[_Unwritten], Any]


def _columns_of(records: Sequence[Record], is_all: bool) -> list[_Column]:
  """The columns for `records` and, unless they are all, for any after them."""
  import pyarrow as pa

  text = pa.string()
  columns = [
    _Column(
      pa.field("id", text, nullable=False),
      lambda unwritten: unwritten.record.id,
    ),
    _Column(
      pa.field("input", text, nullable=False),
      lambda unwritten: unwritten.record.input,
    ),
    _Column(pa.field("label", text), lambda unwritten: unwritten.record.label),
  ]
  plain = not any(r.extra for record in records for r in record.rationales)
  columns.append(_rationales_column(plain and is_all))
  if not is_all or any(record.meta for record in records):
    columns.append(
      _json_column(
        "meta",
        lambda unwritten: (
          dict(unwritten.record.meta) if unwritten.record.meta else _ABSENT
        ),
      )
    )
  for key in dict.fromkeys(key for record in records for key in record.extra):
    columns.append(_extra_column(key, records))
  if not is_all:
    field = pa.field(_REST, text, metadata={_ENCODING: b"json_keys"})
    columns.append(
      _Column(
        field,
        lambda unwritten: (
          strict_json.dumps(unwritten.rest) if unwritten.rest else None
        ),
      )
    )
  return columns


def _rationales_column(plain: bool) -> _Column:
  """A list of structs; unless all are plain, with further keys as JSON."""
  import pyarrow as pa

  fields = [
    (name, pa.float64() if name == "weight" else pa.string())
    for name in RATIONALE_FIELDS
  ]
  if not plain:
    fields.append((_EXTRA, pa.string()))

  def struct(rationale: Rationale) -> dict[str, Any]:
    cells = {name: getattr(rationale, name) for name in RATIONALE_FIELDS}
    if rationale.extra:
      cells[_EXTRA] = strict_json.dumps(dict(rationale.extra))
    return cells

  metadata = None if plain else {_ENCODING: b"json_extra"}
  field = pa.field("rationales", pa.list_(pa.struct(fields)), metadata=metadata)
  return _Column(
    field, lambda unwritten: [struct(r) for r in unwritten.record.rationales]
  )


# A record without the key, as against one where its value is null.
_ABSENT = object()


def _extra_column(key: str, records: Sequence[Record]) -> _Column:
  """A column of one simple type where that loses nothing, else JSON text."""
  import pyarrow as pa

  values = [record.extra[key] for record in records if key in record.extra]
  kinds = {type(value) for value in values}
  is_small = kinds == {int} and all(map(_is_int64, values))
  types = {str: pa.string(), bool: pa.bool_(), float: pa.float64()}
  kind = next(iter(kinds)) if len(kinds) == 1 else None
  if is_small:
    column_type = pa.int64()
  elif kind in types:
    column_type = types[kind]
  else:
    return _json_column(key, lambda unwritten: unwritten.rest.pop(key, _ABSENT))

  def take(unwritten: _Unwritten) -> Any:
    value = unwritten.rest.get(key)
    fits = type(value) is kind and (not is_small or _is_int64(value))
    return (
      unwritten.rest.pop(key) if fits else None
    )  # else it stays with the rest

  return _Column(pa.field(key, column_type), take)


def _is_int64(value: Any) -> bool:
  return abs(value) < 1 << 63


def _json_column(key: str, take: Callable[[_Unwritten], Any]) -> _Column:
  import pyarrow as pa

  def cell(unwritten: _Unwritten) -> str | None:
    value = take(unwritten)
    return None if value is _ABSENT else strict_json.dumps(value)

  field = pa.field(key, pa.string(), metadata={_ENCODING: b"json"})
  return _Column(field, cell)


def _decoded(
  names: Sequence[str],
  encodings: Sequence[bytes | None],
  cells: Sequence[Any],
  used: Collection[str],
) -> Mapping[str, Any] | UserError:
  """A table row as JSON-like values; a record checks them itself."""
  decoded: dict[str, Any] = {}
  for name, encoding, value in zip(names, encodings, cells, strict=True):
    if value is None:
      continue
    try:
      if encoding == b"json":
        value = strict_json.loads(value)
      elif encoding == b"json_keys":
        decoded |= _loaded_mapping(value)
        continue
      elif encoding == b"json_extra":
        value = [_with_extra(rationale) for rationale in value]
      elif isinstance(value, bytes) and name in used:
        value = value.decode("utf-8")
    except UnicodeDecodeError:
      return UserError(f"column {name!r} holds bytes that are not UTF-8")
    except UserError as error:
      return UserError(f"column {name!r}: {error}")
    decoded[name] = value
  return decoded


def _with_extra(rationale: Any) -> Any:
  """A rationale's struct with the keys that its JSON holds."""
  if not isinstance(rationale, dict) or _EXTRA not in rationale:
    return rationale
  rationale = dict(rationale)
  extra = rationale.pop(_EXTRA)
  return rationale if extra is None else rationale | _loaded_mapping(extra)


def _loaded_mapping(text: Any) -> dict[str, Any]:
  value = strict_json.loads(text) if isinstance(text, str) else None
  if not isinstance(value, dict):
    raise UserError("not a JSON object")
  return value
