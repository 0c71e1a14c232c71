"""Bytes of temporary arrays: the formula against the compiler."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from dss_jax.models import lora
from dss_jax.models.partitioning import Partitioner
from dss_jax.planning import memory, saved_arrays

ONE = Partitioner(devices=tuple(jax.devices()[:1]))


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

  @pytest.mark.parametrize("scan", [False, True])
  def test_what_two_projections_read_is_kept_once(self, scan):
    """Each reads it as rows of its own."""

    def layer(x, kernels):
      one, two = (x.reshape(-1, 8) @ kernel for kernel in kernels)
      return (one * two).reshape(x.shape), None

    def left_for_backward_pass(x, kernels):
      def layers(kernels):
        return jax.lax.scan(layer, x, kernels) if scan else layer(x, kernels)

      return jax.vjp(layers, kernels)[1]

    stack = (5,) if scan else ()
    kernels = [jax.ShapeDtypeStruct((*stack, 8, 8), np.float32)] * 2
    x = jax.ShapeDtypeStruct((3, 4, 8), np.float32)
    traced = jax.make_jaxpr(left_for_backward_pass)(x, kernels)
    kept = [leaf.shape for leaf in saved_arrays._distinct(traced.jaxpr)]
    # The input, and both products.
    assert kept.count((*stack, 12, 8)) == 3
    assert len(traced.jaxpr.outvars) > len(kept)

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
    params = memory.whole_bytes(whole_run.state.params)
    tables = 2 * 224 * 32 * 4
    fetching = Partitioner(fully_sharded=True, fully_sharded_min_size=0)
    fetched = run("tiny", partitioner=fetching).formula()
    # With their gradients.
    assert fetched.parameters_outside == pytest.approx(2 * tables, rel=0.02)
    assert fetched.parts(1)["parameters"] == pytest.approx(
      params - tables, rel=0.02
    )
    # Of one row, the tables and their gradients are more than a layer.
    logits = 4 * 16 * 224
    assert fetched.parts(1)["working"] == fetched.parameters_outside + logits
    # Whose one table is fetched again for the logits, and has a gradient there.
    tied = run("tiny", partitioner=fetching, logits_via_embedding=True)
    assert tied.formula().table_for_chunks == tables
    # All of its parameters are too small to be split.
    unsplit = run("tiny", partitioner=Partitioner(fully_sharded=True))
    assert unsplit.formula().parts(1)["parameters"] == 0

  @pytest.mark.slow
  def test_what_does_not_divide_stays_whole(self, run):
    """But for heads, which groups of devices share."""
    uneven = {"num_heads": 6, "mlp_dim": 98, "vocab_size": 222}
    config = run("tiny", partitioner=Partitioner(4), **uneven).formula().config
    assert (config.num_heads, config.mlp_dim, config.vocab_size) == (3, 98, 222)

  @pytest.mark.slow
  def test_adapters_have_no_gradients_of_the_tables(self, run):
    fetching = Partitioner(fully_sharded=True, fully_sharded_min_size=0)
    whole, adapted = (
      run("tiny", partitioner=fetching, adapters=adapters).formula()
      for adapters in (None, lora.LoraOptions())
    )
    assert 2 * adapted.parameters_outside == whole.parameters_outside

  def test_a_scan_of_one_layer_is_none(self, run):
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    by_one, in_scan = (
      run("tiny", partitioner=ONE, scan_layers=scan, **layers).formula()
      for scan in (False, True)
    )
    assert by_one.bytes(4) == in_scan.bytes(4)


SCAN = {"scan_layers": True}
MINIMAL = {"scan_layers": True, "remat_policy": "minimal"}
FULL = {"scan_layers": True, "remat_policy": "full"}
TIED = {"logits_via_embedding": True}
ADAPTERS = {"adapters": lora.LoraOptions()}
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
  ("taxonli", (16, 128, 128), "one", MINIMAL),
]
MORE_CASES = [
  ("taxonli", (16, 128, 128), "one", {}),
  # Three heads on two devices.
  ("taxonli", (64, 72, 32), "model-2", SCAN),
  ("bench", (32, 128, 64), "one", {}),
  ("bench", (32, 128, 64), "one", {"num_microbatches": 4}),
  ("bench", (32, 128, 64), "one", MINIMAL),
  ("bench", (32, 128, 64), "one", FULL),
  ("bench", (64, 128, 64), "model-4", SCAN),
  # Four heads on eight devices.
  ("bench", (64, 128, 64), "model-8", {}),
  ("bench", (64, 128, 64), "model-8", SCAN),
  (
    "bench",
    (64, 128, 64),
    "model-2-fully-sharded",
    FULL | {"num_microbatches": 2},
  ),
  ("bench", (64, 128, 64), "one", ADAPTERS),
  ("bench", (64, 128, 64), "model-2", FULL | ADAPTERS),
  ("small", (16, 256, 96), "one", FULL | {"num_microbatches": 4}),
  ("base", (256, 192, 120), "data-8", SCAN),
  ("base", (256, 192, 120), "data-8-fully-sharded", FULL),
  ("base", (16, 192, 120), "data-8-fully-sharded", FULL | TIED),
  ("base", (64, 192, 120), "data-8-fully-sharded", SCAN),
  ("base", (64, 192, 120), "model-2-fully-sharded", MINIMAL),
  ("base", (64, 192, 120), "one", FULL | ADAPTERS),
]


def _name(case):
  size, shape, mesh, settings = case
  values = (
    "adapters" if name == "adapters" else f"{value}"
    for name, value in settings.items()
  )
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
