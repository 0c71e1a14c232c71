"""Bytes on a device, against real arrays."""

import jax
import numpy as np
import pytest

from dss_jax.models.partitioning import Partitioner
from dss_jax.planning.abstract_run import bytes_per_device
from dss_jax.training import optimizers, train_state

ONE = Partitioner(devices=tuple(jax.devices()[:1]))


class TestExact:
  @pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
      ({"num_partitions": 2}, optimizers.AdamW()),
      (
        {
          "num_partitions": 2,
          "fully_sharded": True,
          "fully_sharded_min_size": 64,
        },
        optimizers.Adafactor(min_dim_size_to_factor=8),
      ),
    ],
  )
  def test_a_real_state_takes_what_was_planned(self, run, settings, optimizer):
    """Counted on every device's own buffers."""
    partitioner = Partitioner(**settings)
    planned = run("tiny", partitioner=partitioner, optimizer=optimizer)
    # Its values do not matter here; drawing them would take compiling.
    state = jax.tree.map(
      lambda leaf: jax.device_put(
        np.zeros(leaf.shape, leaf.dtype), leaf.sharding
      ),
      planned.state,
    )
    for part in ("params", "opt_state"):
      on_device = dict.fromkeys(jax.devices(), 0)
      for leaf in jax.tree.leaves(getattr(state, part)):
        for shard in leaf.addressable_shards:
          on_device[shard.device] += shard.data.nbytes
      want = bytes_per_device(getattr(planned.state, part))
      assert set(on_device.values()) == {want}
    whole = sum(
      leaf.size * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(planned.state.params)
    )
    stored = bytes_per_device(planned.state.params)
    assert whole / stored > (7 if partitioner.fully_sharded else 1.9)

  def test_a_batch(self, run):
    planned = run("tiny", (32, 24, 16), partitioner=Partitioner(2))
    placed = planned.config.partitioner.put_batch(
      {name: np.zeros(s.shape, s.dtype) for name, s in planned.batch().items()}
    )
    first = jax.devices()[0]
    want = sum(
      shard.data.nbytes
      for value in placed.values()
      for shard in value.addressable_shards
      if shard.device == first
    )
    assert bytes_per_device(planned.batch()) == want
    assert want == 32 // 4 * 4 * (3 * 24 + 8 * 16)
    assert bytes_per_device(planned.batch(64)) == 2 * want

  @pytest.mark.slow
  def test_the_state_that_training_makes(self, run):
    """As above, made as training makes it."""
    planned = run(
      "tiny", partitioner=Partitioner(fully_sharded=True), scan_layers=True
    )
    config = planned.config
    state, _ = train_state.init_state(
      config.model, planned.tx, config.partitioner, jax.random.key(0)
    )
    same = jax.tree.map(
      lambda real, plan: (
        (real.shape, real.dtype, real.sharding)
        == (plan.shape, plan.dtype, plan.sharding)
      ),
      state,
      planned.state,
    )
    assert all(jax.tree.leaves(same))
