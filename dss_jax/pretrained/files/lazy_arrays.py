"""Arrays of a checkpoint that are read by parts, when a part is asked for.

A file is opened and checked first. Its numbers are read only as they go onto
devices, array by array and, with several devices or hosts, slice by slice. So
a host holds the model once at most, and only its own part of a sharded one.

An index is a tuple of slices with explicit bounds, one for each dimension.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dss_jax.base.errors import UserError, one_line
from dss_jax.models.layer_stacking import LAYERS_AXIS

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """An array that is read by parts.

  Attributes:
    shape: the whole array's.
    dtype: the type that is stored.
    read: index -> the numbers there, in `dtype`; raises UserError where the
      file is damaged.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[Index], np.ndarray]

  @property
  def size(self) -> int:
    """How many numbers there are."""
    return math.prod(self.shape)

  def whole(self) -> np.ndarray:
    """All of it."""
    return self.read(tuple(slice(0, size) for size in self.shape))

  def place(self, sharding: jax.sharding.Sharding, dtype: str) -> jax.Array:
    """Puts the array on its devices; each host reads what its own store.

    A part that several devices store is read once.
    """
    parts: dict[tuple, np.ndarray] = {}

    def part(index: Any) -> np.ndarray:
      index = bounded(index, self.shape)
      key = tuple((where.start, where.stop) for where in index)
      if key not in parts:
        # A copy, so that nothing refers to a mapped file.
        parts[key] = np.array(self.read(index), dtype, order="C")
      return parts[key]

    array = jax.make_array_from_callback(self.shape, sharding, part)
    # The next array is read only when the host has released this one.
    return jax.block_until_ready(array)


def bounded(index: Sequence[slice], shape: Sequence[int]) -> Index:
  """The index with all its bounds written out."""
  bounds = (where.indices(size) for where, size in zip(index, shape))
  return tuple(slice(start, stop) for start, stop, _ in bounds)


def from_file(
  path: pathlib.Path, offset: int, shape: tuple[int, ...], dtype: np.dtype
) -> LazyArray:
  """An array that lies in a file, in C order, from an offset on.

  Each part maps the file anew, so that the pages it read are given back at
  once.
  """

  def read(index: Index) -> np.ndarray:
    if 0 in shape:
      return np.zeros(shape, dtype)[index]
    try:
      return np.memmap(path, dtype, "r", offset, shape)[index]
    except (OSError, ValueError) as error:
      raise UserError(
        f"{str(path)!r} is no longer what it was when it was opened"
        f" ({one_line(error)}): download it again"
      ) from error

  return LazyArray(shape, dtype, read)


def transposed(array: LazyArray) -> LazyArray:
  """[a, b] -> [b, a]."""
  return LazyArray(
    array.shape[::-1], array.dtype, lambda index: array.read(index[::-1]).T
  )


def scaled(array: LazyArray, factor: float) -> LazyArray:
  """The array times a factor, in float32."""
  return LazyArray(
    array.shape,
    np.dtype(np.float32),
    lambda index: array.read(index).astype(np.float32) * np.float32(factor),
  )


def finite(array: LazyArray, what: str) -> LazyArray:
  """The array; reading raises UserError where a number is not finite."""

  def read(index: Index) -> np.ndarray:
    part = array.read(index)
    if not np.isfinite(part).all():
      raise UserError(
        f"{what} holds values that are not finite numbers: give another"
        " checkpoint"
      )
    return part

  return LazyArray(array.shape, array.dtype, read)


def in_memory(array: np.ndarray) -> LazyArray:
  """An array that was read already."""
  return LazyArray(array.shape, array.dtype, lambda index: array[index])


def averaged(array: LazyArray, axis: int) -> LazyArray:
  """The averages over a dimension, in float32."""
  shape = array.shape[:axis] + array.shape[axis + 1 :]

  def read(index: Index) -> np.ndarray:
    every = slice(0, array.shape[axis])
    part = array.read((*index[:axis], every, *index[axis:]))
    return part.mean(axis, dtype=np.float32)

  return LazyArray(shape, np.dtype(np.float32), read)


def layer_of(array: LazyArray, i: int, axis: int = LAYERS_AXIS) -> LazyArray:
  """Layer i of an array that has a stack's layers on an axis."""
  shape = array.shape[:axis] + array.shape[axis + 1 :]

  def read(index: Index) -> np.ndarray:
    where = (*index[:axis], slice(i, i + 1), *index[axis:])
    return array.read(where).squeeze(axis)

  return LazyArray(shape, array.dtype, read)


def stacked(arrays: Sequence[LazyArray], axis: int = LAYERS_AXIS) -> LazyArray:
  """The layers' arrays as one, the layers along `axis`."""
  first = arrays[0]
  shape = (*first.shape[:axis], len(arrays), *first.shape[axis:])

  def read(index: Index) -> np.ndarray:
    which = index[axis]
    rest = index[:axis] + index[axis + 1 :]
    return np.stack([array.read(rest) for array in arrays[which]], axis)

  return LazyArray(shape, first.dtype, read)


def joined(array: LazyArray, axis: int) -> LazyArray:
  """Dimensions `axis` and `axis + 1` (heads and head_dim) made one."""
  outer, inner = array.shape[axis : axis + 2]
  shape = (*array.shape[:axis], outer * inner, *array.shape[axis + 2 :])

  def read(index: Index) -> np.ndarray:
    where = index[axis]
    first, last = where.start // inner, -(-where.stop // inner)
    part = array.read(
      (
        *index[:axis],
        slice(first, last),
        slice(0, inner),
        *index[axis + 1 :],
      )
    )
    flat = part.reshape(*part.shape[:axis], -1, *part.shape[axis + 2 :])
    wanted = slice(where.start - first * inner, where.stop - first * inner)
    return flat[(slice(None),) * axis + (wanted,)]

  return LazyArray(shape, array.dtype, read)


def equal(one: LazyArray, other: LazyArray, block: int = 4096) -> bool:
  """Whether two matrices are the same; `block` of their lines are read at once."""
  if one.shape != other.shape or len(one.shape) != 2:
    return False
  for start in range(0, one.shape[0], block):
    stop = min(start + block, one.shape[0])
    index = (slice(start, stop), slice(0, one.shape[1]))
    # By bytes, so that a NaN equals itself.
    a, b = (np.asarray(x.read(index), np.float32) for x in (one, other))
    if a.tobytes() != b.tobytes():
      return False
  return True
