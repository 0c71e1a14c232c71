"""Sums over rows that devices compute for themselves, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dss_jax.models.partitioning import Partitioner, row_sums

VOCAB, EMB = 24, 8
# Repeated, none of the vocabulary, and beyond it on both sides.
IDS = np.array([[0, 5, 5, 23], [1, 0, 24, 7], [99, 5, -1, 2], [3, 3, 3, -30]])
MESHES = [
  {},
  {"fully_sharded_devices": 4},
  {"fully_sharded_devices": 2, "fully_sharded": True},
  {"fully_sharded_devices": 1},
  {"fully_sharded_devices": 2, "num_partitions": 2},
]


def table_and_ids():
  table = jax.random.normal(jax.random.key(0), (VOCAB, EMB))
  return table, np.concatenate([IDS, IDS[::-1]])


@pytest.mark.parametrize("settings", MESHES, ids=str)
def test_rows_of_a_table_and_its_gradient(settings):
  table, ids = table_and_ids()
  factors = jax.random.normal(jax.random.key(1), (*ids.shape, EMB))

  def total(take):
    return lambda table: jnp.nansum(take(table, ids) * factors)

  plain = total(lambda table, ids: jnp.take(table, ids, axis=0, mode="fill"))
  want = jax.value_and_grad(plain)(table)
  with Partitioner(**settings).activate():
    got = jax.jit(jax.value_and_grad(total(row_sums.take)))(table)
    rows = jax.jit(row_sums.take)(table, ids)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  beyond = (ids >= VOCAB) | (ids < -VOCAB)
  np.testing.assert_array_equal(np.isnan(rows).all(-1), beyond)


@pytest.mark.parametrize("settings", MESHES, ids=str)
def test_each_device_computes_its_rows(settings):
  partitioner = Partitioner(**settings)
  x = np.arange(16.0).reshape(8, 2)

  def fn(scale, x):
    rows = jnp.full((len(x),), len(x))  # that this device has
    return (jnp.sum(scale * x), jnp.sum(x[:, :, None] * x[:, None], 0)), rows

  with partitioner.activate():
    sums = (
      jax.ShapeDtypeStruct((), x.dtype),
      jax.ShapeDtypeStruct((2, 2), "f"),
    )
    (total, products), rows = jax.jit(
      lambda x: row_sums.on_each_device(fn, 2.0, (x,), sums)
    )(x)
  assert float(total) == 2 * x.sum()
  np.testing.assert_allclose(products, x.T @ x)
  assert rows.tolist() == [8 // partitioner.batch_shards] * 8


def test_copies_share_a_sum_by_its_largest_dimension_that_divides():
  with Partitioner(fully_sharded_devices=4).activate():
    assert row_sums._sum_spec((8, 64)) == P(None, "data")
    assert row_sums._sum_spec((64, 8)) == P("data")
    assert row_sums._sum_spec((8, 63)) == P("data")
    assert row_sums._sum_spec((7, 63)) == P()
    assert row_sums._sum_spec(()) == P()
  for partitioner in (Partitioner(), Partitioner(2, fully_sharded_devices=2)):
    with partitioner.activate():
      assert row_sums._sum_spec((8, 64)) == P()
