"""Moving whole arrays onto the devices of all hosts, and back."""

from typing import Any

import jax
import jax.extend.backend
import numpy as np


def place(tree: Any, shardings: Any) -> Any:
  """Puts arrays where they belong, on any number of hosts.

  Each host sends only the parts its devices store, which `jax.device_put` does
  not do for arrays that are on a device of one host already.

  Args:
    tree: pytree of NumPy or JAX arrays, equal on all hosts.
    shardings: same structure, or one sharding for all.

  Returns:
    The arrays; for devices that are only described, to compile for them, their
    shapes with shardings.
  """
  if isinstance(shardings, jax.sharding.Sharding):
    shardings = jax.tree.map(lambda _: shardings, tree)

  def put(value, sharding):
    if is_described(next(iter(sharding.device_set))):
      return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
    if isinstance(value, jax.Array) and value.sharding == sharding:
      return value
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
      return jax.jit(lambda x: x, out_shardings=sharding)(value)
    value = np.asarray(value)
    return jax.make_array_from_callback(
      value.shape, sharding, lambda index: value[index]
    )

  return jax.tree.map(put, tree, shardings)


def is_described(device: Any) -> bool:
  """Whether a device is only described, to compile for, and holds no arrays."""
  return device.client not in jax.extend.backend.backends().values()


def to_host(array: jax.Array) -> np.ndarray:
  """The whole of a global array, on every host."""
  if array.is_fully_addressable:
    return np.asarray(array)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(array, tiled=True))
