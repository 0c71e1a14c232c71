"""Files in Flax's msgpack format: trees whose arrays are read by parts.

T5X's legacy checkpoints and Hugging Face's `flax_model.msgpack` are such files.
The usual reader copies every array into memory at once; here the structure is
walked and only the places of the arrays are noted. A file is untrusted: all
lengths are checked against the bytes that are there, nesting and the number of
nodes are bounded, and no object is built but dicts, text, numbers and arrays.
"""

from __future__ import annotations

import math
import mmap
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from dss_jax.base.errors import UserError, one_line
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import Index, LazyArray

MAX_DEPTH = 64
MAX_NODES = 1_000_000
DTYPES = {
  "float32": np.dtype(np.float32),
  "float16": np.dtype(np.float16),
  "float64": np.dtype(np.float64),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
  "int32": np.dtype(np.int32),
  "int64": np.dtype(np.int64),
  "uint32": np.dtype(np.uint32),
  "bool": np.dtype(np.bool_),
}
_EXT_NDARRAY = 1  # Flax's extension types
_EXT_SCALAR = 3
# What Flax makes of arrays above 1 GiB.
_CHUNKED = "__msgpack_chunked_array__"

# First byte -> (bytes of the length that follows, kind).
_SIZED = {
  **{0xC4 + i: (1 << i, "bin") for i in range(3)},
  **{0xC7 + i: (1 << i, "ext") for i in range(3)},
  **{0xD9 + i: (1 << i, "str") for i in range(3)},
  **{0xDC + i: (2 << i, "array") for i in range(2)},
  **{0xDE + i: (2 << i, "map") for i in range(2)},
}
_NUMBERS = {
  0xCA: ">f",
  0xCB: ">d",
  0xCC: ">B",
  0xCD: ">H",
  0xCE: ">I",
  0xCF: ">Q",
  0xD0: ">b",
  0xD1: ">h",
  0xD2: ">i",
  0xD3: ">q",
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class MalformedError(ValueError):
  """The bytes are not what Flax writes; the message says why."""


def read_tree(path: pathlib.Path) -> Any:
  """The tree in a file, with a `LazyArray` for each array.

  Raises:
    MalformedError: for bytes that Flax does not write.
  """
  with path.open("rb") as file:
    if path.stat().st_size == 0:
      raise MalformedError("the file is empty")
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  return _Walk(mapped, path).whole()


def open_huggingface(path: pathlib.Path) -> dict[str, LazyArray]:
  """The arrays of a `flax_model.msgpack` under PyTorch's names and layouts.

  Raises:
    UserError: for a file that is damaged or of something else.
  """
  try:
    flat = _flatten(read_tree(path))
  except MalformedError as error:
    raise UserError(
      f"{str(path)!r} is damaged or no Flax file: {one_line(error)};"
      " download it again"
    ) from error
  arrays = {}
  for name, array in flat.items():
    *parents, last = name.split("/")
    # Flax's modules call their only array by what it is.
    if last == "kernel" and len(array.shape) == 2:
      array = lazy_arrays.transposed(array)
    if last in ("kernel", "embedding", "weight"):
      last = "weight"
    arrays[".".join((*parents, last))] = array
  return arrays


def _flatten(tree: Any, prefix: str = "") -> dict[str, LazyArray]:
  if not isinstance(tree, Mapping):
    raise MalformedError(f"{prefix or 'it'} is no tree of arrays")
  flat = {}
  for key, child in tree.items():
    name = f"{prefix}{key}"
    if isinstance(child, LazyArray):
      flat[name] = child
    else:
      flat |= _flatten(child, f"{name}/")
  return flat


class _Walk:
  """One walk over a file's bytes."""

  def __init__(self, data: mmap.mmap | bytes, path: pathlib.Path | None):
    self.data = data
    self.path = path
    self.position = 0
    self.nodes = 0

  def whole(self) -> Any:
    value = self._value(MAX_DEPTH)
    if self.position != len(self.data):
      raise MalformedError("there are bytes after its end")
    return value

  def _take(self, count: int) -> bytes:
    """The next bytes."""
    return self.data[self._skip(count) : self.position]

  def _skip(self, count: int) -> int:
    """Goes past the next bytes; where they began."""
    start = self.position
    if count > len(self.data) - start:
      raise MalformedError("it ends too early")
    self.position += count
    return start

  def _value(self, depth: int) -> Any:
    self.nodes += 1
    if depth < 0:
      raise MalformedError("its tree is too deep")
    if self.nodes > MAX_NODES:
      raise MalformedError("its tree is too large")
    first = self._take(1)[0]
    if first <= 0x7F or first >= 0xE0:
      return first if first <= 0x7F else first - 256
    if first in _CONSTANTS:
      return _CONSTANTS[first]
    if first in _NUMBERS:
      code = _NUMBERS[first]
      return struct.unpack(code, self._take(struct.calcsize(code)))[0]
    kind, length = self._kind_and_length(first)
    if kind == "str":
      try:
        return self._take(length).decode("utf-8")
      except UnicodeDecodeError as error:
        raise MalformedError("a name in it is not UTF-8") from error
    if kind == "bin":
      return self._take(length)
    if kind == "array":
      return [self._value(depth - 1) for _ in range(self._items(length))]
    if kind == "map":
      return self._map(self._items(length), depth)
    return self._extension(length)

  def _kind_and_length(self, first: int) -> tuple[str, int]:
    if first in _SIZED:
      width, kind = _SIZED[first]
      return kind, int.from_bytes(self._take(width), "big")
    if 0xD4 <= first <= 0xD8:
      return "ext", 1 << (first - 0xD4)
    for low, high, kind in (
      (0x80, 0x8F, "map"),
      (0x90, 0x9F, "array"),
      (0xA0, 0xBF, "str"),
    ):
      if low <= first <= high:
        return kind, first - low
    raise MalformedError(f"byte {first:#x} begins nothing")

  def _items(self, count: int) -> int:
    """A number of items, each of which takes a byte at least."""
    if count > len(self.data) - self.position:
      raise MalformedError("it ends too early")
    return count

  def _map(self, count: int, depth: int) -> Any:
    tree = {}
    for _ in range(count):
      key = self._value(0)
      if not isinstance(key, str) or key in tree:
        raise MalformedError(f"{one_line(repr(key), longest=60)} is no key")
      tree[key] = self._value(depth - 1)
    return _whole_array(tree) if _CHUNKED in tree else tree

  def _extension(self, length: int) -> LazyArray:
    code = self._take(1)[0]
    if code not in (_EXT_NDARRAY, _EXT_SCALAR):
      raise MalformedError(f"msgpack extension {code} is unknown")
    start = self._skip(length)
    inner = _Inner(self.data, start, start + length)
    shape, dtype, offset = inner.array()
    assert self.path is not None
    return lazy_arrays.from_file(self.path, offset, shape, dtype)


class _Inner(_Walk):
  """The inside of an array's extension: [shape, type, bytes]."""

  def __init__(self, data: mmap.mmap | bytes, start: int, end: int):
    super().__init__(data, None)
    self.position, self.end = start, end

  def _skip(self, count: int) -> int:
    if count > self.end - self.position:
      raise MalformedError("an array in it ends too early")
    return super()._skip(count)

  def array(self) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and place of the numbers."""
    kind, length = self._kind_and_length(self._take(1)[0])
    if (kind, length) != ("array", 3):
      raise MalformedError("an array in it is not described")
    shape, name = self._value(1), self._value(0)
    if not isinstance(shape, list) or len(shape) > 16:
      raise MalformedError("an array in it has no shape")
    if not all(type(n) is int and 0 <= n < 2**63 for n in shape):
      raise MalformedError(f"an array in it has shape {one_line(shape)}")
    if not isinstance(name, str) or name not in DTYPES:
      raise MalformedError(
        f"an array in it has dtype {one_line(repr(name), longest=60)}"
      )
    dtype = DTYPES[name]
    kind, length = self._kind_and_length(self._take(1)[0])
    if kind != "bin" or length != math.prod(shape) * dtype.itemsize:
      raise MalformedError("an array in it has another size than its shape")
    return tuple(shape), dtype, self._skip(length)


def _whole_array(tree: Mapping[str, Any]) -> LazyArray:
  """An array that Flax cut into flat pieces."""
  shape, pieces = (_numbered(tree.get(name)) for name in ("shape", "chunks"))
  if (
    not all(type(n) is int and 0 < n < 2**63 for n in shape)
    or not pieces
    or not all(isinstance(p, LazyArray) for p in pieces)
    or sum(p.size for p in pieces) != math.prod(shape)
    or len({p.dtype for p in pieces}) != 1
  ):
    raise MalformedError("an array cut into pieces is not whole")

  def read(index: Index) -> np.ndarray:
    flat = np.concatenate([piece.whole().reshape(-1) for piece in pieces])
    return flat.reshape(shape)[index]

  return LazyArray(tuple(shape), pieces[0].dtype, read)


def _numbered(tree: Any) -> list[Any]:
  """The values of {"0": ..., "1": ...} in order."""
  if not isinstance(tree, Mapping):
    return []
  return [tree.get(str(i)) for i in range(len(tree))]
