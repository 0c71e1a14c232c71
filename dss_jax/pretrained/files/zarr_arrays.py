"""Arrays of zarr version 2, read by parts through TensorStore.

T5X's legacy checkpoints and older ones of Orbax have a folder for each array,
newer ones of Orbax have all arrays in an OCDBT store. TensorStore trusts what
it reads: it would allocate what a header declares, unpack a chunk to any size
and follow links. So headers, chunks and links are checked first.
"""

from __future__ import annotations

import itertools
import math
import pathlib
from typing import Any

import numpy as np

from dss_jax.base.errors import one_line
from dss_jax.pretrained.files import bounds
from dss_jax.pretrained.files.bounds import DTYPES, Budget, MalformedError
from dss_jax.pretrained.files.lazy_arrays import Index, LazyArray

_HEADER = ".zarray"
_COMPRESSORS = ("gzip", "zlib", "zstd", "blosc")
# Chunks that were unpacked are kept, for devices that store parts of one.
_CACHE_BYTES = 2**28


class ZarrStore:
  """The arrays below a folder, which is opened as one store."""

  def __init__(self, folder: pathlib.Path, budget: Budget):
    """Lists what is there.

    Args:
      folder: with `manifest.ocdbt`, or with a folder for each array.
      budget: counts the arrays that are opened.

    Raises:
      MalformedError: for links that lead out of the folder.
    """
    import tensorstore as ts

    self._folder = folder
    self._budget = budget
    # Key -> bytes, where the file system knows.
    self._keys: dict[str, int | None] = {**bounds.files_within(folder)}
    spec: dict[str, Any] = {"driver": "file", "path": f"{folder.resolve()}/"}
    is_ocdbt = "manifest.ocdbt" in self._keys
    if is_ocdbt:
      spec = {"driver": "ocdbt", "base": spec}
    self._context = ts.Context(
      {"cache_pool": {"total_bytes_limit": _CACHE_BYTES}}
    )
    self._store = ts.KvStore.open(spec, context=self._context).result()
    if is_ocdbt:
      listed = self._store.list().result()
      self._keys = {key.decode("utf-8"): None for key in listed}

  def names(self) -> list[str]:
    """The names of all arrays, such as `target.decoder.decoder_norm.scale`."""
    end = f"/{_HEADER}"
    return sorted(k.removesuffix(end) for k in self._keys if k.endswith(end))

  def open(self, name: str) -> LazyArray:
    """Opens an array; its chunks are all there, and are read by parts.

    Raises:
      MalformedError: for an array that is broken or not there.
    """
    import tensorstore as ts

    header = self._read_header(name)
    dtype = _dtype(header["dtype"], name)
    shape = self._budget.take(name, header["shape"], dtype)
    chunk = self._budget.take_chunk(name, header["chunks"], shape, dtype)
    chunk_bytes = math.prod(chunk) * dtype.itemsize
    separator = header.get("dimension_separator", ".")
    if separator not in (".", "/"):
      raise MalformedError(f"{name} has dimension separator {separator!r}")
    compressor = header["compressor"] and header["compressor"]["id"]

    def chunk_keys(index: Index) -> list[str]:
      touched = [
        range(part.start // size, -(-part.stop // size))
        for part, size in zip(index, chunk, strict=True)
      ]
      if math.prod(map(len, touched)) > len(self._keys):
        raise MalformedError(f"{name} lacks most of its chunks")
      return [
        f"{name}/{separator.join(map(str, where)) or '0'}"
        for where in itertools.product(*touched)
      ]

    for key in chunk_keys(tuple(slice(0, size) for size in shape)):
      if key not in self._keys:
        _, _, chunk_name = key.partition("/")
        raise MalformedError(f"{name} lacks its chunk {chunk_name!r}")
    array: Any = ts.open(
      {"driver": "zarr"},
      kvstore=self._store / f"{name}/",
      context=self._context,
      open=True,
      read=True,
    ).result()
    checked = set()

    def read(index: Index) -> np.ndarray:
      with bounds.reading(self._folder, "checkpoint"):
        for key in chunk_keys(index):
          if key not in checked:
            self._check_chunk(key, compressor, chunk_bytes)
            checked.add(key)
        return np.asarray(array[index].read().result())

    return LazyArray(shape, dtype, read)

  def _read(self, key: str, max_bytes: int) -> bytes:
    size = self._keys[key]
    if size is None or size <= max_bytes:
      data = self._store.read(key).result().value
      size = len(data)
      if size <= max_bytes:
        return data
    raise MalformedError(f"{key!r} is larger than declared")

  def _read_header(self, name: str) -> dict[str, Any]:
    key = f"{name}/{_HEADER}"
    if not bounds.PLAIN_NAME.fullmatch(name) or key not in self._keys:
      raise MalformedError(f"it has no plain array {one_line(repr(name))}")
    header = bounds.parse_json(self._read(key, bounds.MAX_CONFIG_BYTES))
    compressor = header.get("compressor", 0)
    supported = compressor is None or (
      isinstance(compressor, dict) and compressor.get("id") in _COMPRESSORS
    )
    if (
      not supported
      or header.get("zarr_format") != 2
      or header.get("filters")
      or not isinstance(header.get("shape"), list)
      or not isinstance(header.get("chunks"), list)
    ):
      raise MalformedError(f"{key} is not zarr 2 with a known compressor")
    return header

  def _check_chunk(self, key: str, compressor: str | None, size: int) -> None:
    """Refuses a chunk that would not unpack to `size` bytes."""
    if compressor is None and self._keys[key] == size:
      return
    # Incompressible data grows by well under 1 % and a small header.
    data = self._read(key, size + size // 64 + 4096)
    try:
      unpacked = _unpacked_bytes(data, compressor, size)
    except (OSError, ValueError) as error:
      raise MalformedError(f"chunk {key!r}: {one_line(error)}") from error
    if unpacked != size:
      raise MalformedError(f"chunk {key!r} is not {size} bytes long")


def _unpacked_bytes(data: bytes, compressor: str | None, most: int) -> int:
  """Bytes in a chunk; the count stops, in little memory, above `most`."""
  if compressor is None:
    return len(data)
  if compressor == "blosc":  # which unpacks what its header says, or fails
    return int.from_bytes(data[4:8], "little")
  import pyarrow as pa

  codec = "gzip" if compressor == "zlib" else compressor
  count = 0
  with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
    while count <= most and (piece := stream.read(2**20)):
      count += len(piece)
  return count


def _dtype(code: Any, name: str) -> np.dtype:
  """`<f4`, as zarr writes it, or `bfloat16`, as TensorStore does."""
  names = {dtype.str: dtype.name for dtype in DTYPES.values()}
  names["bfloat16"] = "bfloat16"
  if isinstance(code, str):
    code = names.get(code, code)
  return bounds.checked_dtype(code, name)
