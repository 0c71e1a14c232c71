"""Sums over the rows of a batch, of which each device computes its own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from dss_jax.models.partitioning.logical_axes import (
  DATA_AXIS,
  MODEL_AXIS,
  REPLICA_AXIS,
)

Array = jax.Array


def on_each_device(
  fn: Callable[..., tuple[Any, Any]],
  params: Any,
  arrays: Sequence[Array],
  sums: Any,
) -> tuple[Any, Any]:
  """Lets each device of `replica` and `data` compute its own rows.

  Args:
    fn: `(params, *arrays) -> (sums, parts)`.
    params: pytree, the same on all devices.
    arrays: [rows, ...] each.
    sums: arrays of the shapes that `fn`'s sums have, or their shapes.

  Returns:
    `(sums, parts)`: the sums over all devices, the parts of all rows.
  """
  axes = _row_axes()
  if not axes:
    return fn(params, *arrays)
  summed = jax.tree.map(lambda array: _sum_spec(array.shape), sums)

  def on_device(params, *arrays):
    sums, parts = fn(params, *arrays)
    return jax.tree.map(functools.partial(_added, axes), sums, summed), parts

  rows = PartitionSpec(axes)
  return jax.shard_map(
    on_device,
    in_specs=(PartitionSpec(), *(rows for _ in arrays)),
    out_specs=(summed, rows),
    axis_names=set(axes),
    check_vma=False,
  )(params, *arrays)


def take(table: Array, rows: Array) -> Array:
  """[rows, ...] of a table [vocab, embed]; NaN for those that it does not have.

  As `jnp.take`. Where the mesh has several copies of the table, each device
  sums a part of its gradient, which XLA would sum whole.
  """
  if any(_sum_spec(table.shape)):
    return _take(table.shape[0], table, rows)
  # Here and not above, so that this module can be used without Flax.
  from dss_jax.models.partitioning import constraints

  # For the gradient, which XLA may else compute in parts by sending all rows.
  table = constraints.constrain(table, "vocab", "embed")
  return jnp.take(table, rows, axis=0, mode="fill")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take(size: int, table: Array, rows: Array) -> Array:
  del size
  return jnp.take(table, rows, axis=0, mode="fill")


def _take_fwd(size, table, rows):
  return _take(size, table, rows), rows


def _take_bwd(size, rows, gradient):
  shape = (size, gradient.shape[-1])

  def added(_, rows, gradient):
    return jnp.zeros(shape, gradient.dtype).at[rows].add(gradient), ()

  table, _ = on_each_device(
    added, (), (rows, gradient), jax.ShapeDtypeStruct(shape, gradient.dtype)
  )
  return table, None


_take.defvjp(_take_fwd, _take_bwd)


def _row_axes() -> tuple[str, ...]:
  """Axes of the mesh that is set over which rows are split."""
  mesh = jax.sharding.get_abstract_mesh()
  return tuple(
    axis for axis in (REPLICA_AXIS, DATA_AXIS) if mesh.shape.get(axis, 1) > 1
  )


def _sum_spec(shape: Sequence[int]) -> PartitionSpec:
  """How a sum is split: over `data`, where several copies add up their parts.

  By its largest dimension, the vocabulary, as tables are stored in parts. Where
  `model` may have split that one, and where there are no copies, not at all.
  """
  whole = PartitionSpec()
  mesh = jax.sharding.get_abstract_mesh()
  if len(_row_axes()) < 2 or mesh.shape.get(MODEL_AXIS, 1) > 1:
    return whole
  parts = mesh.shape[DATA_AXIS]
  dims = [dim for dim, size in enumerate(shape) if size % parts == 0]
  if not dims:
    return whole
  largest = max(dims, key=lambda dim: shape[dim])
  return PartitionSpec(*[None] * largest, DATA_AXIS)


def _added(axes: tuple[str, ...], x: Array, spec: PartitionSpec) -> Array:
  """The sum over the devices of `axes`, or the part of it that `spec` says."""
  if not any(spec):
    return jax.lax.psum(x, axes)
  part = jax.lax.psum_scatter(
    x, DATA_AXIS, scatter_dimension=len(spec) - 1, tiled=True
  )
  return jax.lax.psum(part, REPLICA_AXIS)
