"""The order of devices on a mesh."""

import dataclasses

import numpy as np
import pytest

from dss_jax.models.partitioning import Partitioner, partitioner, placement


@dataclasses.dataclass(frozen=True)
class Device:
  """As much of a GPU as decides its place."""

  id: int
  slice_index: int
  platform: str = "gpu"
  device_kind: str = "NVIDIA H100"


def hosts(*sizes):
  """GPUs of hosts with so many each."""
  slices = [host for host, size in enumerate(sizes) for _ in range(size)]
  return [Device(*each) for each in enumerate(slices)]


@pytest.mark.parametrize(
  ("shape", "first"),
  [
    ((2, 4, 1), [0, 1, 2, 3]),  # copies on a host each
    ((4, 2, 1), [0, 1]),
    ((1, 8, 1), [0, 1, 2, 3, 4, 5, 6, 7]),
    ((1, 4, 2), [0, 2, 4, 6]),  # layers split within hosts
    ((1, 1, 8), [0]),
    ((2, 2, 2), [0, 2]),
  ],
)
def test_hosts_are_taken_one_after_another(shape, first):
  devices = placement.mesh_devices(hosts(4, 4), shape)
  assert devices.shape == shape
  order = [device.id for device in devices.flat]
  assert order == list(range(8))
  assert [device.id for device in devices[0, :, 0]] == first


def test_hosts_are_found_in_any_order_of_devices():
  devices = placement.mesh_devices(hosts(2, 2, 2)[::-1], (3, 2, 1))
  slices = np.vectorize(lambda device: device.slice_index)(devices)
  assert slices[..., 0].tolist() == [[0, 0], [1, 1], [2, 2]]


def test_hosts_of_different_sizes_count_as_one():
  devices = hosts(4, 2)
  assert placement.num_slices(devices) == 1
  assert placement.mesh_devices(devices, (2, 3, 1)).shape == (2, 3, 1)


@pytest.mark.parametrize(
  ("settings", "shape"),
  [
    ({}, (4, 1, 1)),
    ({"fully_sharded": True}, (1, 4, 1)),
    ({"fully_sharded": True, "fully_sharded_devices": 1}, (4, 1, 1)),
  ],
)
def test_hosts_of_one_device_split_what_is_fully_sharded(
  settings, shape, monkeypatch
):
  monkeypatch.setattr(partitioner, "Mesh", lambda devices, *_, **__: devices)
  devices = hosts(1, 1, 1, 1)
  assert Partitioner(**settings, devices=devices).mesh.shape == shape


@pytest.mark.parametrize(
  ("settings", "shape"),
  [
    ({}, (2, 4, 1)),
    ({"num_partitions": 2}, (2, 2, 2)),
    ({"num_partitions": 8}, (1, 1, 8)),
    ({"fully_sharded_devices": 8}, (1, 8, 1)),
    ({"fully_sharded_devices": 2}, (4, 2, 1)),
  ],
)
def test_a_copy_stays_on_a_host_unless_told_otherwise(
  settings, shape, monkeypatch
):
  # JAX's own wants devices that it can hold arrays on.
  monkeypatch.setattr(partitioner, "Mesh", lambda devices, *_, **__: devices)
  assert Partitioner(**settings, devices=hosts(4, 4)).mesh.shape == shape
