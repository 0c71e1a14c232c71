"""Logical axes of activations and parameters on the mesh that is set."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax

Array = jax.Array


def logical_axis_rules(
  rules: Sequence[tuple[str, str | tuple[str, ...] | None]],
) -> contextlib.AbstractContextManager:
  """Within it, the model constrains its arrays by these rules.

  Takes effect on functions traced under `jax.set_mesh(mesh)`, with the mesh's
  axes of type Auto; without rules or mesh the model constrains nothing.

  Args:
    rules: (logical axis, mesh axis or axes or None), earlier ones first.
  """
  return nn.logical_axis_rules(tuple(rules))


def constrain(x: Array, *logical_axes: str | None) -> Array:
  """Constrains the sharding of `x` by the logical names of its axes.

  Does nothing without logical axis rules or without a mesh set by
  `jax.set_mesh`. A mesh axis that does not divide a dimension is left out for
  that dimension (3 heads over 2 devices stay whole) instead of failing, and so
  is one that `jax.shard_map` has split already.
  """
  spec = partition_spec(x.shape, *logical_axes)
  if spec is None:
    return x
  return jax.lax.with_sharding_constraint(x, spec)


def fetch(parameter: Array, *logical_axes: str | None) -> Array:
  """As `constrain`, for a parameter that may be stored in parts.

  Its gradient is not constrained, so that each device may sum the part that it
  stores. The transpose of a plain constraint would ask for all of it.
  """
  return _fetch(logical_axes, parameter)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fetch(logical_axes: tuple[str | None, ...], parameter: Array) -> Array:
  return constrain(parameter, *logical_axes)


_fetch.defvjp(
  lambda logical_axes, parameter: (_fetch(logical_axes, parameter), None),
  lambda logical_axes, _, gradient: (gradient,),
)


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

  def usable(entry, size: int) -> bool:
    names = entry if isinstance(entry, tuple) else (entry,)
    split_already = set(names) & set(mesh.manual_axes)
    return (
      not split_already
      and size % math.prod(mesh.shape[name] for name in names) == 0
    )

  return jax.sharding.PartitionSpec(
    *(
      entry if entry is not None and usable(entry, size) else None
      for size, entry in zip(shape, spec, strict=True)
    )
  )


def platform() -> str:
  """The platform that a function is traced for, as JAX names it.

  That of the mesh's devices, which need not be on this machine, or else that
  of the default device.
  """
  mesh_device = jax.sharding.get_abstract_mesh().abstract_device
  if mesh_device is not None and mesh_device.platform is not None:
    return mesh_device.platform
  device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
  if device is None:
    return jax.default_backend()
  return device if isinstance(device, str) else device.platform
