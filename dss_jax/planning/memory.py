"""Exact bytes of arrays, from their shapes and shardings."""

from __future__ import annotations

import math
from typing import Any

import jax

PyTree = Any


def bytes_per_device(shapes: PyTree) -> int:
  """Bytes that each device stores of arrays.

  Args:
    shapes: pytree of arrays, or of `jax.ShapeDtypeStruct`s with shardings.
  """
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(shapes)
  )


def whole_bytes(shapes: PyTree) -> int:
  """Bytes of arrays that nobody splits."""
  return sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(shapes)
  )
