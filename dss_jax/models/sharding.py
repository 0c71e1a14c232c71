"""Logical axes of activations and parameters on the mesh that is set."""

from __future__ import annotations

import math

import flax.linen as nn
import jax

Array = jax.Array


def constrain(x: Array, *logical_axes: str | None) -> Array:
  """Constrains the sharding of `x` by the logical names of its axes.

  Does nothing without logical axis rules or without a mesh set by
  `jax.set_mesh`. A mesh axis that does not divide a dimension is left out for
  that dimension (3 heads over 2 devices stay whole) instead of failing.
  """
  spec = partition_spec(x.shape, *logical_axes)
  if spec is None:
    return x
  return jax.lax.with_sharding_constraint(x, spec)


def partition_spec(
  shape: tuple[int, ...], *logical_axes: str | None
) -> jax.sharding.PartitionSpec | None:
  """Where `constrain` puts an array of this shape; None if it does nothing."""
  rules = nn.get_logical_axis_rules()
  mesh = jax.sharding.get_abstract_mesh()
  if not rules or mesh.empty:
    return None
  spec = nn.logical_to_mesh_axes(logical_axes, rules)
  assert spec is not None
  return jax.sharding.PartitionSpec(
    *(
      None if entry is None or size % _num_shards(mesh, entry) else entry
      for size, entry in zip(shape, spec, strict=True)
    )
  )


def _num_shards(mesh: jax.sharding.AbstractMesh, entry) -> int:
  names = entry if isinstance(entry, tuple) else (entry,)
  return math.prod(mesh.shape[name] for name in names)
