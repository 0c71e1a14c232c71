"""Arrays of zarr version 2, gzip or uncompressed, read by parts.

A part is read from the chunks that it touches. Nothing outside of the
checkpoint's folder is read, not even through symbolic links, and no more than
the header declares.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax.pretrained.files.bounds import Budget, broken
from dss_jax.pretrained.files.flax_msgpack import DTYPES
from dss_jax.pretrained.files.lazy_arrays import Index, LazyArray

# As long as the name of a folder may be; dots in it are levels of a tree.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,250}")
_MAX_HEADER_BYTES = 2**20


def open_zarr(folder: pathlib.Path, name: str, budget: Budget) -> LazyArray:
  """The zarr array `folder/name`.

  Args:
    folder: of the checkpoint.
    name: of the array's folder in it.
    budget: which the array and one chunk of it are booked on.

  Raises:
    UserError: for an array that is broken or lies elsewhere.
  """
  array_folder = folder / name
  if not PLAIN_NAME.fullmatch(name) or not array_folder.is_dir():
    raise broken(folder, f"it has no array {name!r}")
  if array_folder.resolve().parent != folder.resolve():
    raise broken(folder, f"{name!r} leads out of it")
  header = _read_header(array_folder, folder)
  shape, chunks = header["shape"], header["chunks"]
  dtype = _dtype(header["dtype"], folder)
  budget.take(name, shape, dtype)
  if len(chunks) != len(shape) or not all(
    type(n) is int and n > 0 for n in chunks
  ):
    raise broken(folder, f"{name} has chunks {chunks!r}")
  budget.take_chunk(name, chunks, shape, dtype)
  files = _chunk_files(array_folder, header, folder)
  compressed = header["compressor"] is not None

  def read(index: Index) -> np.ndarray:
    part = np.empty([w.stop - w.start for w in index], dtype)
    touched = [
      range(w.start // chunk, -(-w.stop // chunk))
      for w, chunk in zip(index, chunks, strict=True)
    ]
    for where in itertools.product(*touched):
      block = _read_block(
        files[where], folder, dtype, tuple(chunks), header["order"], compressed
      )
      into, of_block = [], []
      for w, i, chunk in zip(index, where, chunks, strict=True):
        start, stop = max(w.start, i * chunk), min(w.stop, (i + 1) * chunk)
        into.append(slice(start - w.start, stop - w.start))
        of_block.append(slice(start - i * chunk, stop - i * chunk))
      part[tuple(into)] = block[tuple(of_block)]
    return part

  return LazyArray(tuple(shape), dtype, read)


def _chunk_files(
  array_folder: pathlib.Path, header: Mapping[str, Any], folder: pathlib.Path
) -> dict[tuple[int, ...], pathlib.Path]:
  """The file of each chunk; all must be there."""
  grid = [
    -(-size // chunk)
    for size, chunk in zip(header["shape"], header["chunks"], strict=True)
  ]
  separator = header.get("dimension_separator", ".")
  if separator not in (".", "/"):
    raise broken(
      folder, f"{array_folder.name} has dimension separator {separator!r}"
    )
  home = array_folder.resolve()
  files = {}
  # However many chunks are declared: it stops at the first that is not there.
  for index in np.ndindex(*grid):
    file = array_folder / (separator.join(map(str, index)) or "0")
    if not file.is_file() or home not in file.resolve().parents:
      raise broken(folder, f"{array_folder.name} lacks its chunk {file.name!r}")
    files[index] = file
  return files


def _read_header(
  array_folder: pathlib.Path, folder: pathlib.Path
) -> Mapping[str, Any]:
  file = array_folder / ".zarray"
  if not file.is_file() or file.stat().st_size > _MAX_HEADER_BYTES:
    raise broken(folder, f"{array_folder.name} has no readable .zarray")
  try:
    header = json.loads(file.read_bytes())
  except (ValueError, RecursionError) as error:
    raise broken(folder, f"{array_folder.name}/.zarray: {error}") from error
  compressor = header.get("compressor") if isinstance(header, dict) else 0
  supported = compressor is None or (
    isinstance(compressor, dict) and compressor.get("id") in ("gzip", "zlib")
  )
  if (
    not supported
    or header.get("zarr_format") != 2
    or header.get("filters")
    or header.get("order") not in ("C", "F")
    or not isinstance(header.get("shape"), list)
    or not isinstance(header.get("chunks"), list)
  ):
    raise broken(
      folder, f"{array_folder.name}/.zarray is not zarr 2 with gzip or none"
    )
  return header


def _dtype(name: Any, folder: pathlib.Path) -> np.dtype:
  """`<f4`, as zarr writes it, or `bfloat16`, as TensorStore does."""
  if name == "bfloat16":
    return DTYPES["bfloat16"]
  codes = {dtype.str: dtype for dtype in DTYPES.values()}
  if not isinstance(name, str) or name not in codes:
    raise broken(folder, f"zarr dtype {name!r} is not supported")
  return codes[name]


# The last one is kept, for devices that store parts of one chunk.
@functools.lru_cache(maxsize=1)
def _read_block(
  file: pathlib.Path,
  folder: pathlib.Path,
  dtype: np.dtype,
  chunks: tuple[int, ...],
  order: Any,
  compressed: bool,
) -> np.ndarray:
  size = math.prod(chunks) * dtype.itemsize
  data = _read_chunk(file, size, folder, compressed)
  return np.frombuffer(data, dtype).reshape(chunks, order=order)


def _read_chunk(
  file: pathlib.Path, size: int, folder: pathlib.Path, compressed: bool
) -> bytes:
  """The chunk's `size` bytes; an error if there are more or fewer."""
  # Incompressible data grows by well under 1 % and a small header.
  if file.stat().st_size > size + size // 64 + 4096:
    raise broken(folder, f"chunk {file.name!r} is larger than declared")
  data = file.read_bytes()
  if compressed:
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
      data = decompressor.decompress(data, size + 1)
    except zlib.error as error:
      raise broken(folder, f"chunk {file.name!r}: {error}") from error
  if len(data) != size:
    raise broken(folder, f"chunk {file.name!r} is not {size} bytes long")
  return data
