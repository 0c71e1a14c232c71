"""ArrayRecord: one record's JSON object per entry, for random access (grain)."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import json_lines, text_files
from dss_jax.datasets.records.record import Record

# Entries read at a time.
_ENTRIES_PER_BATCH = 256
# Entries of a compressed group. Riegeli's larger groups make reading in file
# order a little faster and reading at random much slower.
_WRITER_OPTIONS = "group_size:16"


def read_entries(path: str | os.PathLike[str]) -> Iterator[json_lines.Entry]:
  """The objects of an ArrayRecord file, numbered from 1.

  Raises:
    UserError: if it is no such file, or array_record is not installed.
  """
  module = _module()
  if not os.path.isfile(path):
    raise UserError(f"cannot read {path}: not a file")
  number = 0
  try:
    # Without read-ahead: its threads hold megabytes each.
    reader = module.ArrayRecordReader(
      os.fspath(path), "readahead_buffer_size:0,max_parallelism:0"
    )
    with contextlib.closing(reader):
      count = reader.num_records()
      while number < count:
        last = min(number + _ENTRIES_PER_BATCH, count)
        for entry in reader.read(number, last):
          number += 1
          yield number, _parsed(entry)
  except (RuntimeError, ValueError, IndexError) as error:
    if isinstance(error, UserError):
      raise
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path}: not a readable ArrayRecord file: {reason}") from (
      None
    )


def _parsed(entry: bytes) -> Mapping[str, Any] | UserError:
  if len(entry) > text_files.MAX_LINE_BYTES:
    return UserError(
      f"entry has {len(entry)} bytes, at most {text_files.MAX_LINE_BYTES} are"
      " allowed"
    )
  try:
    return json_lines.as_mapping(
      strict_json.loads(entry.decode("utf-8"), finite=False)
    )
  except UnicodeDecodeError as error:
    return UserError(f"not valid UTF-8 (byte {error.start})")
  except UserError as error:
    return error


@contextlib.contextmanager
def open_writer(
  path: str | os.PathLike[str],
) -> Iterator[Callable[[Record], None]]:
  """A function that writes one record to the file at `path`, from its start."""
  writer = _module().ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
  try:
    yield lambda record: writer.write(json_lines.dumps(record))
  finally:
    writer.close()


def _module() -> Any:
  try:
    module = importlib.import_module("array_record.python.array_record_module")
  except ImportError as error:
    raise UserError(
      f"the package array_record cannot be imported ({error}); pip install"
      " array_record, or use .jsonl or .parquet"
    ) from None
  return module
