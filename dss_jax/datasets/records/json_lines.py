"""JSON lines, and the JSON arrays some releases use instead."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records.record import Record

# Bytes of one line. Well above any record the field bounds allow to be useful,
# far below what hurts.
MAX_LINE_BYTES = 16 << 20

# Bytes of a file that is one JSON array; it is parsed in one piece.
MAX_ARRAY_BYTES = 1 << 30

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Entry = tuple[int, Mapping[str, Any] | UserError]


def read_entries(path: str | os.PathLike[str]) -> Iterator[Entry]:
  """The objects of a JSON-lines file, or of a file with one JSON array."""
  with open(path, "rb") as file:
    yield from entries_of(file, path)


def entries_of(
  file: io.BufferedReader, path: str | os.PathLike[str]
) -> Iterator[Entry]:
  """`read_entries` of an open file, which may be a pipe; `path` names it."""
  start = file.peek(64).removeprefix(_BYTE_ORDER_MARK).lstrip()
  if start.startswith(b"["):
    yield from _array_entries(file, path)
    return
  for number, line in read_lines(file):
    if isinstance(line, UserError):
      yield number, line
      continue
    if not line.strip():
      continue
    try:
      yield number, as_mapping(strict_json.loads(line))
    except UserError as error:
      yield number, error


def read_lines(file: BinaryIO) -> Iterator[tuple[int, str | UserError]]:
  """The lines of a file as text, without their ends and a byte order mark.

  A line that is too long or not UTF-8 comes as the error that says so; memory
  stays bounded by MAX_LINE_BYTES whatever the file holds.
  """
  number = 0
  while line := file.readline(MAX_LINE_BYTES + 1):
    number += 1
    if len(line) > MAX_LINE_BYTES:
      size = len(line)
      while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE_BYTES)
        size += len(line)
      yield (
        number,
        UserError(
          f"line has {size} bytes, at most {MAX_LINE_BYTES} are allowed"
        ),
      )
      continue
    if number == 1:
      line = line.removeprefix(_BYTE_ORDER_MARK)
    try:
      yield number, line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
      yield number, UserError(f"not valid UTF-8 (byte {error.start})")


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


def _array_entries(
  file: BinaryIO, path: str | os.PathLike[str]
) -> Iterator[Entry]:
  content = file.read(MAX_ARRAY_BYTES + 1)
  if len(content) > MAX_ARRAY_BYTES:
    raise UserError(
      f"{path}: a JSON array of more than {MAX_ARRAY_BYTES} bytes; write one"
      " object a line instead"
    )
  try:
    values = strict_json.loads(
      content.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    )
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: not valid UTF-8 (byte {error.start})") from None
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  for number, value in enumerate(values, start=1):
    try:
      yield number, as_mapping(value)
    except UserError as error:
      yield number, error


def as_mapping(value: Any) -> Mapping[str, Any]:
  """The value itself; a UserError says why it is no object."""
  if not isinstance(value, Mapping):
    kind = "null" if value is None else type(value).__name__
    raise UserError(f"not a JSON object but {kind}")
  return value
