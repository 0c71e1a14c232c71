"""JSON lines, and the ways in which one JSON value holds all records."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records.field_mapping import FieldMapping
from dss_jax.datasets.records.record import Record
from dss_jax.datasets.records.text_files import read_lines

# Bytes of a file that is one JSON value; it is parsed in one piece.
MAX_VALUE_BYTES = 1 << 30

Entry = tuple[int, Mapping[str, Any] | UserError]


def entries_of(
  file: io.BufferedReader, path: str | os.PathLike[str], mapping: FieldMapping
) -> Iterator[Entry]:
  """The objects of a file: one a line, or all of them in one JSON value.

  That is an array of objects, or an object that holds one list of objects, such
  as {"version": 1, "data": [...]}.

  Args:
    file: of UTF-8 (see `text_files`); may be a pipe.
    path: names it in errors.
    mapping: tells a record from an object that holds records.

  Raises:
    UserError: for a JSON value that holds no such list.
  """
  head = file.peek(64).lstrip()
  first_line, line_end, _ = head.partition(b"\n")
  if head.startswith(b"[") or (line_end and _goes_on(first_line)):
    content = bytearray()
    while len(content) <= MAX_VALUE_BYTES and (block := file.read(1 << 20)):
      content += block
    if len(content) > MAX_VALUE_BYTES:
      raise UserError(
        f"{path}: one JSON value of more than {MAX_VALUE_BYTES} bytes; write"
        " one object a line instead"
      )
    try:
      value = strict_json.loads(content.decode("utf-8"), finite=False)
    except UnicodeDecodeError as error:
      raise UserError(f"{path}: not valid UTF-8 (byte {error.start})") from None
    except UserError as error:
      if _has_lines(io.BytesIO(content)):
        yield from _line_entries(io.BytesIO(content))
        return
      raise UserError(
        f"{path}: {error}; a file is one JSON value, or one object a line"
      ) from None
    yield from enumerate(map(_checked, _list_in(value, path, mapping)), start=1)
    return
  entries = _line_entries(file)
  first = next(entries, None)
  if first is not None and _lists_in(first[1], mapping):
    second = next(entries, None)
    if second is None:
      values = _list_in(first[1], path, mapping)
      yield from enumerate(map(_checked, values), start=1)
      return
    yield first
    yield second
  elif first is not None:
    yield first
  yield from entries


def _goes_on(line: bytes) -> bool:
  """Whether a line begins an object that it does not end."""
  try:
    json.loads(line)
  except json.JSONDecodeError as error:
    return line.startswith(b"{") and error.pos >= len(error.doc.rstrip())
  except (ValueError, RecursionError):
    return False
  return False


def _has_lines(file: BinaryIO) -> bool:
  """Whether the second line of a text is an object by itself."""
  lines = (line for line in file if line.strip())
  next(lines, None)
  try:
    return isinstance(json.loads(next(lines, b"")), dict)
  except (ValueError, RecursionError):
    return False


def _line_entries(file: BinaryIO) -> Iterator[Entry]:
  for number, line in read_lines(file):
    if isinstance(line, UserError):
      yield number, line
    elif line.strip():
      try:
        yield number, as_mapping(strict_json.loads(line, finite=False))
      except UserError as error:
        yield number, error


def _lists_in(value: Any, mapping: FieldMapping) -> dict[str, Sequence[Any]]:
  """The lists of objects in an object that is not a record itself."""
  if not isinstance(value, Mapping) or mapping.has_input(value):
    return {}
  return {
    key: inner
    for key, inner in value.items()
    if key not in mapping.used_keys
    and isinstance(inner, list)
    and inner
    and isinstance(inner[0], Mapping)
  }


def _list_in(
  value: Any, path: str | os.PathLike[str], mapping: FieldMapping
) -> Sequence[Any]:
  """The records of a value that holds all of them.

  Raises:
    UserError: naming what the value is instead.
  """
  if isinstance(value, list):
    return value
  is_record = mapping.has_input(value)
  if is_record and isinstance(mapping.value("input", value), str):
    return [value]
  lists = _lists_in(value, mapping)
  fitting = {k: v for k, v in lists.items() if mapping.has_input(v[0])}
  lists = fitting if len(fitting) == 1 else lists
  if len(lists) == 1:
    return next(iter(lists.values()))
  if len(lists) > 1:
    raise UserError(
      f"{path}: one object with {len(lists)} lists of records"
      f" ({', '.join(map(repr, lists))}): write each to a file of its own"
    )
  keys = ", ".join(repr(str(key)[:32]) for key in list(value)[:8])
  raise UserError(
    f"{path}: one object with the keys {keys} and no list of records in it:"
    " write one object a record, one a line (in pandas: to_json(path,"
    " orient='records', lines=True))"
  )


def write(file: BinaryIO, records: Iterable[Record]):
  """Writes one object a line."""
  for record in records:
    file.write(dumps(record) + b"\n")


def dumps(record: Record) -> bytes:
  """A record as the bytes of one JSON object."""
  try:
    return strict_json.dumps(record.to_dict()).encode("utf-8")
  except UserError as error:
    raise UserError(f"record {record.id[:64]!r} {error}") from None
  except UnicodeEncodeError:  # in meta or a key that only passes through
    raise UserError(
      f"record {record.id[:64]!r} cannot be written as JSON: half of a"
      " surrogate pair"
    ) from None


def _checked(value: Any) -> Mapping[str, Any] | UserError:
  try:
    return as_mapping(value)
  except UserError as error:
    return error


def as_mapping(value: Any) -> Mapping[str, Any]:
  """The value itself; a UserError says why it is no object."""
  if not isinstance(value, Mapping):
    kind = "null" if value is None else type(value).__name__
    raise UserError(f"not a JSON object but {kind}")
  return value
