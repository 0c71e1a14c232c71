"""Bytes on a device: against real arrays, and against the compiler."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from dss_jax import optimizers, train_state
from dss_jax.errors import UserError
from dss_jax.partitioning import Partitioner
from dss_jax.planning import memory, sizes

ONE = Partitioner(devices=tuple(jax.devices()[:1]))
MiB = 2**20


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
      want = memory.bytes_per_device(getattr(planned.state, part))
      assert set(on_device.values()) == {want}
    whole = memory.whole_bytes(planned.state.params)
    stored = memory.bytes_per_device(planned.state.params)
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
    assert memory.bytes_per_device(planned.batch()) == want
    assert want == 32 // 4 * 4 * (3 * 24 + 8 * 16)
    assert memory.bytes_per_device(planned.batch(64)) == 2 * want

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


class TestFormula:
  def test_terms(self, run):
    """Worked by hand where that can be done; doubled with the rows."""
    formula = run("tiny", partitioner=ONE).formula()
    few, many = formula.parts(4), formula.parts(8)
    constant = formula.saved.constant
    assert many["saved"] - constant == 2 * (few["saved"] - constant)
    assert many["gradients"] == few["gradients"] == formula.gradients
    assert few["parameters"] == 0  # as they are stored
    # Scores and probabilities of 8 attentions at the least.
    scores = 4 * 4 * (2 * 24**2 + 3 * 16**2 + 3 * 16 * 24)
    assert formula.saved.per_row > 2 * scores

  def test_rematerialisation_saves_less(self, run):
    per_row = {
      policy: run(
        "tiny", partitioner=ONE, remat_policy=policy, scan_layers=True
      )
      .formula()
      .saved.per_row
      for policy in ("none", "minimal", "full")
    }
    assert per_row["full"] < per_row["minimal"] < 0.6 * per_row["none"]

  def test_a_scan_keeps_once_what_several_projections_read(self, run):
    """Inputs of queries, keys and values, and of a gated feed-forward layer."""
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    by_one, in_scan = (
      run("tiny", partitioner=ONE, scan_layers=scan, **layers)
      .formula()
      .saved.per_row
      for scan in (False, True)
    )
    again = 3 * 24 * 32 * 4 + 3 * 16 * 32 * 4
    assert by_one - in_scan == pytest.approx(again, rel=0.1)

  def test_the_plain_losses_have_all_logits_at_once(self, run):
    """Many more than the fused ones, of which the vocabulary decides."""
    fused = run(
      "bench",
      (32, 8, 64),
      partitioner=ONE,
      num_encoder_layers=1,
      num_decoder_layers=1,
    )
    plain = dataclasses.replace(
      fused,
      config=dataclasses.replace(fused.config, vocabulary_loss="plain"),
    )
    logits = 4 * 32 * 64 * 32128
    assert plain.formula().parts(32)["working"] == 2 * logits
    assert fused.formula().parts(32)["working"] < logits / 2

  @pytest.mark.slow
  def test_a_mesh_splits_layers_and_fetches_parameters(self, run):
    whole_run = run("tiny", partitioner=ONE)
    whole = whole_run.formula()
    split = run("tiny", partitioner=Partitioner(4)).formula()
    assert split.config.num_heads == 1
    assert split.config.mlp_dim == 24
    assert split.saved.per_row < 0.7 * whole.saved.per_row
    # 3 heads on 2 devices: one computes 2 of them.
    uneven = run("taxonli", partitioner=Partitioner(2)).formula()
    assert uneven.config.num_heads == 2

    params = memory.whole_bytes(whole_run.state.params)
    tables = 2 * 224 * 32 * 4
    fetching = Partitioner(fully_sharded=True, fully_sharded_min_size=0)
    fetched = run("tiny", partitioner=fetching).formula()
    assert fetched.outside == pytest.approx(tables, rel=0.02)
    assert fetched.parts(1)["parameters"] == pytest.approx(
      params - tables, rel=0.02
    )
    # Of one row, the tables and their gradients are more than a layer.
    logits = 4 * 16 * 224
    assert fetched.parts(1)["working"] == 2 * fetched.outside + logits
    # All of its parameters are too small to be split.
    unsplit = run("tiny", partitioner=Partitioner(fully_sharded=True))
    assert unsplit.formula().parts(1)["parameters"] == 0


SCAN = {"scan_layers": True}
MINIMAL = {"scan_layers": True, "remat_policy": "minimal"}
FULL = {"scan_layers": True, "remat_policy": "full"}
MESHES = {
  "one": ONE,
  "data-8": Partitioner(),
  "data-8-fully-sharded": Partitioner(fully_sharded=True),
  "model-2": Partitioner(2),
  "model-2-fully-sharded": Partitioner(2, fully_sharded=True),
  "model-4": Partitioner(4),
  "model-8": Partitioner(8),
}

# (size, (rows, encoder, decoder), mesh, settings)
FEW_CASES = [
  ("taxonli", (16, 128, 128), "one", {}),
  ("taxonli", (16, 128, 128), "one", MINIMAL),
]
MORE_CASES = [
  # Three heads on two devices.
  ("taxonli", (64, 72, 32), "model-2", SCAN),
  ("bench", (32, 128, 64), "one", {}),
  ("bench", (32, 128, 64), "one", {"num_microbatches": 4}),
  ("bench", (32, 128, 64), "one", MINIMAL),
  ("bench", (32, 128, 64), "one", FULL),
  ("bench", (64, 128, 64), "model-4", SCAN),
  ("bench", (64, 128, 64), "model-8", SCAN),
  (
    "bench",
    (64, 128, 64),
    "model-2-fully-sharded",
    FULL | {"num_microbatches": 2},
  ),
  ("small", (16, 256, 96), "one", FULL | {"num_microbatches": 4}),
  ("base", (256, 192, 120), "data-8", SCAN),
  ("base", (256, 192, 120), "data-8-fully-sharded", FULL),
  ("base", (64, 192, 120), "data-8-fully-sharded", SCAN),
  ("base", (64, 192, 120), "model-2-fully-sharded", MINIMAL),
]


def _name(case):
  size, shape, mesh, settings = case
  values = (f"{value}" for value in settings.values())
  return "-".join([size, "x".join(map(str, shape)), mesh, *values])


@pytest.mark.slow
@pytest.mark.parametrize(
  "case",
  [
    *FEW_CASES,
    *(pytest.param(case, marks=pytest.mark.thorough) for case in MORE_CASES),
  ],
  ids=_name,
)
def test_the_formula_is_within_30_percent_of_the_compiler(
  case, run, temporaries
):
  size, shape, mesh, settings = case
  partitioner = MESHES[mesh]
  compiled = temporaries(size, shape, partitioner=partitioner, **settings)
  formula = run(size, shape, partitioner=partitioner, **settings).formula()
  parts = partitioner.data_size * settings.get("num_microbatches", 1)
  assert 0.7 < formula.bytes(shape[0] // parts) / compiled < 1.3


@pytest.mark.thorough
def test_micro_batches_and_rematerialisation_trade_memory(temporaries):
  """As docs/mesh.md says: both take less, most of all together."""
  of = functools.partial(temporaries, "bench", (32, 128, 64), partitioner=ONE)
  plain = of()
  assert of(num_microbatches=4) < 0.45 * plain
  minimal = of(scan_layers=True, remat_policy="minimal")
  full = of(scan_layers=True, remat_policy="full")
  assert full < 0.9 * minimal
  assert minimal < 0.75 * plain
  both = of(scan_layers=True, remat_policy="full", num_microbatches=4)
  assert both < 0.35 * plain


class TestSizes:
  @pytest.mark.parametrize(
    ("text", "size"),
    [
      ("80GiB", 80 * 2**30),
      ("80 gb", 80 * 10**9),
      ("1.5G", 3 * 2**29),
      ("4096", 4096),
      ("512MiB", 512 * MiB),
      ("7b", 7),
    ],
  )
  def test_units(self, text, size):
    assert sizes.parse(text, "--plan_memory") == size

  @pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1XB", "0", "1e40TB"])
  def test_others_are_refused(self, text):
    with pytest.raises(UserError, match=r"--plan_memory is .*such as 80GiB"):
      sizes.parse(text, "--plan_memory")

  def test_shown(self):
    assert sizes.shown(1023) == "1023 B"
    assert sizes.shown(1536) == "1.5 KiB"
    assert sizes.shown(80 * 2**30) == "80.0 GiB"
    assert sizes.shown(3 * 2**50) == "3,072.0 TiB"
