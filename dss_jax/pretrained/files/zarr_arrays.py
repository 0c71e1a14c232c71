"""Arrays of zarr version 2, read by parts.

T5X's legacy checkpoints and older ones of Orbax have a folder for each array,
newer ones of Orbax have all arrays in an OCDBT store, whose keys and values
TensorStore reads. It would unpack a chunk to any size and follow links, so
links are checked first, and chunks are unpacked here, up to the size that was
declared.
"""

from __future__ import annotations

import collections
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
# Those that T5X and Orbax write, by their names in Arrow.
_COMPRESSORS = {"gzip": "gzip", "zlib": "gzip", "zstd": "zstd"}
# Chunks that were unpacked are kept, for devices that store parts of one.
_CACHE_BYTES = 2**28
# What keeping a chunk takes besides its numbers; about.
_BYTES_A_CHUNK = 512


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
    self._unpacked: collections.OrderedDict[str, np.ndarray]
    self._unpacked = collections.OrderedDict()
    self._kept_bytes = 0
    self._store = ts.KvStore.open(spec).result()
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
    header = self._read_header(name)
    dtype = _dtype(header["dtype"], name)
    shape = self._budget.take(name, header["shape"], dtype)
    chunk = self._budget.take_chunk(name, header["chunks"], shape, dtype)
    separator = header.get("dimension_separator", ".")
    if separator not in (".", "/"):
      raise MalformedError(f"{name} has dimension separator {separator!r}")
    compressor = header["compressor"] and header["compressor"]["id"]

    def key_of(where: tuple[int, ...]) -> str:
      return f"{name}/{separator.join(map(str, where)) or '0'}"

    grid = [-(-size // length) for size, length in zip(shape, chunk)]
    if math.prod(grid) > len(self._keys):
      raise MalformedError(f"{name} lacks most of its chunks")
    for where in itertools.product(*map(range, grid)):
      if key_of(where) not in self._keys:
        _, _, chunk_name = key_of(where).partition("/")
        raise MalformedError(f"{name} lacks its chunk {chunk_name!r}")

    def read(index: Index) -> np.ndarray:
      result = np.empty([part.stop - part.start for part in index], dtype)
      touched = [
        range(part.start // length, -(-part.stop // length))
        for part, length in zip(index, chunk, strict=True)
      ]
      for where in itertools.product(*touched):
        with bounds.reading(self._folder, "checkpoint"):
          block = self._chunk(key_of(where), compressor, chunk, dtype)
        block = block.reshape(chunk, order=header["order"])
        source, target = [], []  # the same numbers, in the chunk and the result
        for part, i, length in zip(index, where, chunk, strict=True):
          first = max(part.start, i * length)
          last = min(part.stop, (i + 1) * length)
          source.append(slice(first - i * length, last - i * length))
          target.append(slice(first - part.start, last - part.start))
        result[tuple(target)] = block[tuple(source)]
      return result

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
    if (
      not (compressor is None or isinstance(compressor, dict))
      or header.get("zarr_format") != 2
      or header.get("filters")
      or header.get("order") not in ("C", "F")
      or not isinstance(header.get("shape"), list)
      or not isinstance(header.get("chunks"), list)
    ):
      raise MalformedError(f"{key} is not zarr 2 without filters")
    if compressor is not None and compressor.get("id") not in list(
      _COMPRESSORS
    ):
      raise MalformedError(
        f"the chunks of {name} are packed by"
        f" {one_line(repr(compressor.get('id')))}; they must be by"
        f" {', '.join(_COMPRESSORS)} or not at all"
      )
    return header

  def _chunk(
    self,
    key: str,
    compressor: str | None,
    shape: tuple[int, ...],
    dtype: np.dtype,
  ) -> np.ndarray:
    """The numbers of a chunk, in a row; it must have just its size."""
    if key not in self._unpacked:
      size = math.prod(shape) * dtype.itemsize
      # Incompressible data grows by well under 1 % and a small header.
      data = self._read(key, size + size // 64 + 4096)
      try:
        unpacked = _unpacked(data, compressor, size)
      except (OSError, ValueError) as error:
        raise MalformedError(f"chunk {key!r}: {one_line(error)}") from error
      if len(unpacked) != size:
        raise MalformedError(f"chunk {key!r} is not {size} bytes long")
      self._keep(key, np.frombuffer(unpacked, dtype))
    return self._unpacked[key]

  def _keep(self, key: str, chunk: np.ndarray) -> None:
    """Keeps a chunk; the oldest ones make room."""
    self._kept_bytes += chunk.nbytes + _BYTES_A_CHUNK
    while self._unpacked and self._kept_bytes > _CACHE_BYTES:
      _, oldest = self._unpacked.popitem(last=False)
      self._kept_bytes -= oldest.nbytes + _BYTES_A_CHUNK
    self._unpacked[key] = chunk


def _unpacked(
  data: bytes, compressor: str | None, most: int
) -> bytes | bytearray:
  """The bytes in a chunk; unpacking stops above `most`."""
  if compressor is None:
    return data
  import pyarrow as pa

  source = pa.BufferReader(data)
  unpacked = bytearray()
  with pa.CompressedInputStream(source, _COMPRESSORS[compressor]) as stream:
    while len(unpacked) <= most and (piece := stream.read(2**20)):
      unpacked += piece
  return unpacked


def _dtype(code: Any, name: str) -> np.dtype:
  """`<f4`, as zarr writes it, or `bfloat16`, as TensorStore does."""
  names = {dtype.str: dtype.name for dtype in DTYPES.values()}
  names["bfloat16"] = "bfloat16"
  if isinstance(code, str):
    code = names.get(code, code)
  return bounds.checked_dtype(code, name)
