"""Arrays read by parts give the parts of the whole, and read no more."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LazyArray

RNG = np.random.default_rng(0)


def _indices(shape):
  """Every index with bounds on a small array."""
  ranges = [
    [slice(a, b) for a in range(n) for b in range(a + 1, n + 1)] for n in shape
  ]
  return itertools.product(*ranges)


def _from_numpy(array):
  return LazyArray(array.shape, array.dtype, lambda index: array[index])


def _stacked_pair():
  arrays = [RNG.normal(size=(3, 2)) for _ in range(4)]
  lazy = lazy_arrays.stacked([_from_numpy(a) for a in arrays])
  return lazy, np.stack(arrays, 1)


def _views():
  array = RNG.normal(size=(3, 4))
  lazy = _from_numpy(array)
  yield "itself", lazy, array
  yield "transposed", lazy_arrays.transposed(lazy), array.T
  factor = np.float32(0.5)
  scaled = array.astype(np.float32) * factor
  yield "scaled", lazy_arrays.scaled(lazy, 0.5), scaled
  cube = RNG.normal(size=(3, 4, 2))
  lazy_cube = _from_numpy(cube)
  yield "layer", lazy_arrays.layer_of(lazy_cube, 2), cube[:, 2]
  yield "joined 0", lazy_arrays.joined(lazy_cube, 0), cube.reshape(12, 2)
  yield "joined 1", lazy_arrays.joined(lazy_cube, 1), cube.reshape(3, 8)
  yield "stacked", *_stacked_pair()


@pytest.mark.parametrize(
  ("lazy", "expected"),
  [pytest.param(lazy, array, id=name) for name, lazy, array in _views()],
)
def test_every_part_is_a_part_of_the_whole(lazy, expected):
  assert lazy.shape == expected.shape
  np.testing.assert_array_equal(lazy.whole(), expected)
  for index in _indices(expected.shape):
    np.testing.assert_array_equal(lazy.read(index), expected[index])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 5))
def test_equality_looks_at_all_rows(rows, block):
  one = RNG.normal(size=(rows, 3))
  lazy = _from_numpy(one)
  assert lazy_arrays.equal(lazy, _from_numpy(one.copy()), block)
  other = one.copy()
  other[-1, -1] += 1
  assert not lazy_arrays.equal(lazy, _from_numpy(other), block)
  assert not lazy_arrays.equal(lazy, _from_numpy(one[:, :2]), block)


@pytest.mark.parametrize(
  ("spec", "part"),
  [
    (jax.sharding.PartitionSpec("data", "model"), (4, 3)),
    (jax.sharding.PartitionSpec(None, "model"), (16, 3)),
    (jax.sharding.PartitionSpec(), (16, 6)),
  ],
)
def test_each_part_is_read_once_and_nothing_else(spec, part):
  array = RNG.normal(size=(16, 6)).astype(np.float32)
  reads = []

  def read(index):
    reads.append(index)
    return array[index]

  mesh = jax.make_mesh(
    (4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  sharding = jax.sharding.NamedSharding(mesh, spec)
  placed = LazyArray(array.shape, array.dtype, read).place(sharding, "float32")
  assert placed.sharding == sharding
  np.testing.assert_array_equal(placed, array)
  assert {array[index].shape for index in reads} == {part}
  # All devices store it, but each part was read once only.
  assert sum(array[index].size for index in reads) == array.size
