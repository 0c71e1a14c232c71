"""Files of the safetensors format, read by parts.

Eight bytes with the header's length, a JSON header that gives each array's
type, shape and place, then the arrays. See
https://github.com/huggingface/safetensors#format

The `safetensors` library checks that the header accounts for every byte of the
file, which also finds every file that was cut short. It has no bfloat16 for
NumPy, so the numbers themselves are mapped here.
"""

from __future__ import annotations

import pathlib
from typing import Any

import safetensors

from dss_jax.pretrained.files import bounds, lazy_arrays
from dss_jax.pretrained.files.bounds import DTYPES, MalformedError
from dss_jax.pretrained.files.lazy_arrays import LazyArray

_DTYPES = {
  "F64": DTYPES["float64"],
  "F32": DTYPES["float32"],
  "F16": DTYPES["float16"],
  "BF16": DTYPES["bfloat16"],
  "I64": DTYPES["int64"],
  "I32": DTYPES["int32"],
  "I16": DTYPES["int16"],
  "I8": DTYPES["int8"],
  "U8": DTYPES["uint8"],
  "BOOL": DTYPES["bool"],
}


def open_safetensors(path: pathlib.Path) -> dict[str, LazyArray]:
  """The arrays of a file, by name; none of them is read yet.

  Raises:
    UserError: for a file that is not of this format, damaged or cut short.
  """
  with bounds.reading(path, "safetensors file"):
    header, start = _read_header(path)
    # Only a file that passes has places that are within it.
    with safetensors.safe_open(path, framework="np"):
      pass
    arrays = {}
    for name, entry in header.items():
      if name == "__metadata__":
        continue
      if entry["dtype"] not in _DTYPES:
        raise MalformedError(f"{name!r} has type {entry['dtype']!r}")
      shape = bounds.checked_shape(entry["shape"], repr(name))
      offset = start + entry["data_offsets"][0]
      dtype = _DTYPES[entry["dtype"]]
      arrays[name] = lazy_arrays.from_file(path, offset, shape, dtype)
  return arrays


def _read_header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
  """The header, and where the arrays begin."""
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    most = min(bounds.MAX_HEADER_BYTES, path.stat().st_size - 8)
    if not 2 <= length <= most:
      raise MalformedError(f"its header would have {length} bytes")
    header = bounds.parse_json(file.read(length))
  if len(header) > bounds.MAX_ARRAYS:
    raise MalformedError(f"it has {len(header)} arrays")
  return header, 8 + length
