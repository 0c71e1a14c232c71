"""Devices in the order of a mesh; moving whole arrays onto them, and back."""

import collections
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.extend.backend
import numpy as np
from jax.experimental import mesh_utils


def num_slices(devices: Iterable[Any]) -> int:
  """Groups of devices whose links among each other are faster than others.

  TPU slices; of GPUs mostly hosts. Groups of different sizes count as one.
  """
  sizes = collections.Counter(
    getattr(device, "slice_index", 0) for device in devices
  )
  return len(sizes) if len(set(sizes.values())) == 1 else 1


def mesh_devices(devices: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
  """Devices in the shape of a mesh, close together along its last axes.

  Args:
    devices: as many as the mesh has.
    shape: of the mesh. Where there are several slices, its first axes lead from
      one to the other.

  Returns:
    `shape` of `jax.Device`.
  """
  left, between = num_slices(devices), []
  for size in shape:
    between.append(math.gcd(size, left))
    left //= between[-1]
  within = [size // n for size, n in zip(shape, between, strict=True)]
  # Axes may share a side of a TPU slice: v5p:4x4x4 split as 1 x 32 x 2.
  if math.prod(between) == 1:
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  return mesh_utils.create_hybrid_device_mesh(
    within, between, devices, allow_split_physical_axes=True
  )


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
