"""Files of the safetensors format, read by parts.

Eight bytes with the header's length, a JSON header that gives each array's
type, shape and place, then the arrays. See
https://github.com/huggingface/safetensors#format

A file is untrusted: the header must account for every byte of the file, no
more and no less, before anything is read by it. That also finds every file
that was cut short.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError, one_line
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LazyArray

# The format's own limit.
MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 16
_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}


def open_safetensors(path: pathlib.Path) -> dict[str, LazyArray]:
  """The arrays of a file, by name; none of them is read yet.

  Raises:
    UserError: for a file that is not of this format, damaged or cut short.
  """
  size = path.stat().st_size
  header, start = _read_header(path, size)
  arrays = {}
  spans = []
  for name, entry in header.items():
    if name == "__metadata__":
      continue
    dtype, shape, (begin, end) = _parse_entry(path, name, entry)
    if end - begin != math.prod(shape) * dtype.itemsize:
      raise _damaged(path, f"{name!r} has another size than its shape")
    spans.append((begin, end))
    arrays[name] = lazy_arrays.from_file(path, start + begin, shape, dtype)
  position = 0
  for begin, end in sorted(spans):
    if begin != position:
      raise _damaged(path, "its arrays overlap or leave gaps")
    position = end
  if start + position != size:
    raise _damaged(
      path, f"it has {size} bytes where its header names {start + position}"
    )
  return arrays


def _read_header(path: pathlib.Path, size: int) -> tuple[dict[str, Any], int]:
  """The header, and where the arrays begin."""
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
      raise _damaged(path, "it has no header")
    data = file.read(length)
  try:
    header = strict_json.loads(data.decode("utf-8"))
  except ValueError as error:
    raise _damaged(path, f"its header is {error}") from error
  if not isinstance(header, dict):
    raise _damaged(path, "its header is not a JSON object")
  return header, 8 + length


def _parse_entry(
  path: pathlib.Path, name: str, entry: Any
) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
  """Type, shape and place of one array."""
  if not isinstance(entry, dict):
    raise _damaged(path, f"{name!r} is not described")
  dtype = entry.get("dtype")
  if not isinstance(dtype, str) or dtype not in _DTYPES:
    raise _damaged(path, f"{name!r} has type {dtype!r}, unknown here")
  shape, place = map(_counts, (entry.get("shape"), entry.get("data_offsets")))
  if shape is None or len(shape) > _MAX_DIMENSIONS:
    raise _damaged(path, f"{name!r} has shape {entry.get('shape')!r}")
  if place is None or len(place) != 2:
    raise _damaged(path, f"{name!r} lies at {entry.get('data_offsets')!r}")
  return _DTYPES[dtype], shape, (place[0], place[1])


def _counts(value: Any) -> tuple[int, ...] | None:
  """A list of sizes or places; None for anything else."""
  if not isinstance(value, list):
    return None
  counts = all(type(n) is int and 0 <= n < 2**63 for n in value)
  return tuple(value) if counts else None


def _damaged(path: pathlib.Path, reason: str) -> UserError:
  return UserError(
    f"{str(path)!r} is damaged or no safetensors file: {one_line(reason)};"
    " download it again"
  )
