"""Files in Flax's msgpack format: trees whose arrays are read by parts.

T5X's legacy checkpoints and Hugging Face's `flax_model.msgpack` are such files.
Flax's own reader copies every array into memory at once. Here `msgpack` reads
what is small, from a narrow window of the mapped file, and arrays are stepped
over: only their places are noted. Nothing is built but dicts, lists, text,
numbers and arrays.
"""

from __future__ import annotations

import math
import mmap
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np

from dss_jax.base.errors import one_line
from dss_jax.pretrained.files import bounds, lazy_arrays
from dss_jax.pretrained.files.bounds import MalformedError
from dss_jax.pretrained.files.lazy_arrays import Index, LazyArray

# No name, number or list of sizes that Flax or T5X writes is longer.
_WINDOW_BYTES = 4096
_EXT_NDARRAY, _EXT_SCALAR = 1, 3  # Flax's extension types
_CHUNKED = "__msgpack_chunked_array__"  # how Flax writes arrays above 1 GiB
# First byte of an extension -> (bytes of its length, or the length itself).
_EXT_LENGTH_BYTES = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_EXT_LENGTHS = {0xD4 + i: 1 << i for i in range(5)}
_BINARY_HEADER_BYTES = {0xC4: 2, 0xC5: 3, 0xC6: 5}


def read_tree(path: pathlib.Path) -> Any:
  """The tree in a file, with a `LazyArray` for each array.

  Raises:
    MalformedError: for bytes that Flax does not write.
  """
  if path.stat().st_size == 0:
    raise MalformedError("the file is empty")
  with path.open("rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  with mapped:
    walk = _Walk(mapped, path)
    tree = walk.value(bounds.MAX_TREE_DEPTH)
    if walk.position != len(mapped):
      raise MalformedError("there are bytes after its end")
  return tree


def open_huggingface(path: pathlib.Path) -> dict[str, LazyArray]:
  """The arrays of a `flax_model.msgpack` under PyTorch's names and layouts.

  Raises:
    UserError: for a file that is damaged or of something else.
  """
  with bounds.reading(path, "Flax file"):
    flat = flatten(read_tree(path))
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


def flatten(tree: Any, prefix: str = "") -> dict[str, LazyArray]:
  """The arrays of a tree by their paths, `a/b/c`; None is left out.

  Raises:
    MalformedError: for anything else in the tree.
  """
  flat = {}
  if isinstance(tree, LazyArray):
    return {prefix.removesuffix("/"): tree}
  if not isinstance(tree, Mapping):
    raise MalformedError(f"{one_line(prefix) or 'it'} is no array")
  for key, child in tree.items():
    if child is not None:
      flat |= flatten(child, f"{prefix}{key}/")
  return flat


class _Walk:
  """One walk over a file's bytes, from `position` on."""

  def __init__(self, data: mmap.mmap, path: pathlib.Path):
    self.data = data
    self.path = path
    self.position = 0
    self.nodes = 0

  def value(self, depth: int) -> Any:
    """The value that begins here."""
    self.nodes += 1
    if depth < 0:
      raise MalformedError("its tree is too deep")
    if self.nodes > bounds.MAX_TREE_NODES:
      raise MalformedError("its tree is too large")
    if self.position >= len(self.data):
      raise MalformedError("it ends too early")
    first = self.data[self.position]
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
      return self._map(depth)
    if first in _EXT_LENGTHS or first in _EXT_LENGTH_BYTES:
      return self._array(first)
    return self._small(msgpack.Unpacker.unpack)

  def _small(
    self, unpack: Callable[[msgpack.Unpacker], Any], end: int | None = None
  ) -> Any:
    """What `unpack` makes of the next bytes, which are few."""
    end = len(self.data) if end is None else end
    window = self.data[self.position : min(end, self.position + _WINDOW_BYTES)]
    unpacker = msgpack.Unpacker(
      max_buffer_size=_WINDOW_BYTES,  # and no list is longer
      max_map_len=bounds.MAX_TREE_NODES,
      ext_hook=_no_array_here,
    )
    unpacker.feed(window)
    try:
      value = unpack(unpacker)
    except msgpack.OutOfData as error:
      reason = "ends too early"
      if len(window) == _WINDOW_BYTES:
        reason = f"has a value of more than {_WINDOW_BYTES} bytes"
      raise MalformedError(f"it {reason}") from error
    except UnicodeDecodeError as error:
      raise MalformedError("a name in it is not UTF-8") from error
    except MalformedError:
      raise
    except (ValueError, msgpack.UnpackException) as error:
      reason = one_line(error) or type(error).__name__
      raise MalformedError(f"it is no msgpack: {reason}") from error
    self.position += unpacker.tell()
    return value

  def _map(self, depth: int) -> Any:
    tree = {}
    for _ in range(self._small(msgpack.Unpacker.read_map_header)):
      key = self.value(0)
      if not isinstance(key, str) or key in tree:
        raise MalformedError(f"{one_line(repr(key), longest=60)} is no key")
      tree[key] = self.value(depth - 1)
    return _whole_array(tree) if _CHUNKED in tree else tree

  def _array(self, first: int) -> LazyArray:
    """The array of an extension, which holds [shape, type, bytes]."""
    self.position += 1
    length = _EXT_LENGTHS.get(first)
    if length is None:
      width = _EXT_LENGTH_BYTES[first]
      field = self.data[self.position : self.position + width]
      length = int.from_bytes(field, "big")
      self.position += width
    end = self.position + 1 + length
    if end > len(self.data):
      raise MalformedError("it ends too early")
    code = self.data[self.position]
    if code not in (_EXT_NDARRAY, _EXT_SCALAR):
      raise MalformedError(f"msgpack extension {code} is unknown")
    self.position += 1
    if self._small(msgpack.Unpacker.read_array_header, end) != 3:
      raise MalformedError("an array in it is not described")
    name = "an array in it"
    shape = self._small(msgpack.Unpacker.unpack, end)
    shape = bounds.checked_shape(shape, name)
    dtype = self._small(msgpack.Unpacker.unpack, end)
    dtype = bounds.checked_dtype(dtype, name)
    size = math.prod(shape) * dtype.itemsize
    # The numbers are the rest, after the header of a binary value.
    longest = max(_BINARY_HEADER_BYTES.values())
    if not 0 < end - size - self.position <= longest:
      raise MalformedError(f"{name} has another size than its shape")
    header = self.data[self.position : end - size]
    if (
      _BINARY_HEADER_BYTES.get(header[0]) != len(header)
      or int.from_bytes(header[1:], "big") != size
    ):
      raise MalformedError(f"{name} has another size than its shape")
    self.position = end
    return lazy_arrays.from_file(self.path, end - size, shape, dtype)


def _no_array_here(code: int, data: bytes) -> Any:
  raise MalformedError(f"msgpack extension {code} is unknown in a list")


def _whole_array(tree: Mapping[str, Any]) -> LazyArray:
  """An array that Flax cut into flat pieces."""
  shape, pieces = (_numbered(tree.get(name)) for name in ("shape", "chunks"))
  shape = bounds.checked_shape(shape, "an array cut into pieces")
  if (
    not pieces
    or not all(isinstance(piece, LazyArray) for piece in pieces)
    or sum(piece.size for piece in pieces) != math.prod(shape)
    or len({piece.dtype for piece in pieces}) != 1
  ):
    raise MalformedError("an array cut into pieces is not whole")

  def read(index: Index) -> np.ndarray:
    flat = np.concatenate([piece.whole().reshape(-1) for piece in pieces])
    return flat.reshape(shape)[index]

  return LazyArray(shape, pieces[0].dtype, read)


def _numbered(tree: Any) -> list[Any]:
  """The values of {"0": ..., "1": ...} in order."""
  if not isinstance(tree, Mapping):
    return []
  return [tree.get(str(i)) for i in range(len(tree))]
