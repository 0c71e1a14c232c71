"""Collectives of compiled steps on eight devices, against the formula."""

import math

import pytest

from dss_jax.models import lora
from dss_jax.models.partitioning import Partitioner, standard_logical_axis_rules
from dss_jax.planning import collectives, run_plan
from dss_jax.planning.expected_traffic import PlacedParam

# Losses, norms, counts of tokens; of a split vocabulary, a sum for each
# position. (Adafactor would sum its rows and columns as well.)
SCALARS = 8192  # bytes
FULLY = {"fully_sharded": True, "fully_sharded_min_size": 0}
SCAN = {"scan_layers": True}


def traffic_of(planned):
  program = planned.compile()
  return collectives.read(program.as_text() or "", 8)


def check(planned):
  """Compares a step with the formula; returns what was read."""
  expected = run_plan.expected_of(planned)
  assert expected is not None
  traffic = traffic_of(planned)
  assert traffic.uncounted_loops == 0
  partitioner = planned.config.partitioner
  sizes = {"gradients": 0, "activations": 0}
  for kind in ("all-reduce", "reduce-scatter"):
    for each in traffic.of_kind(kind):
      over_model = each.group_size == partitioner.model_size
      sizes["activations" if over_model else "gradients"] += each.bytes_per_step
  assert abs(sizes["gradients"] - expected.gradients) < SCALARS
  assert 0 <= sizes["activations"] - expected.activations < SCALARS
  assert traffic.bytes_per_step("all-gather") == expected.parameters
  # Nothing else.
  for kind in ("all-to-all", "collective-permute"):
    assert traffic.bytes_per_step(kind) == 0
  return traffic


def test_data_parallel_gradients_once_for_each_micro_batch(run):
  """And nothing is gathered: neither the batch nor a parameter."""
  planned = run("tiny", num_microbatches=2)
  traffic = check(planned)
  assert not traffic.of_kind("all-gather")
  params = sum(param.bytes for param in planned.placed_params())
  big = [each for each in traffic.collectives if each.bytes > 1000]
  assert {each.times for each in big} == {2}
  # Position biases as scores, not tables.
  tables = 2 * 4 * 32 * 4
  by_hand = params + 4 * 4 * (24**2 + 16**2) - tables
  expected = run_plan.expected_of(planned)
  assert expected is not None
  assert expected.gradients == 2 * by_hand


def test_fully_sharded_fetches_one_layer_at_a_time(run):
  planned = run("tiny", partitioner=Partitioner(**FULLY), **SCAN)
  traffic = check(planned)
  layers = {2, 3}  # encoder's and decoder's
  for each in traffic.of_kind("all-gather"):
    ((dtype, dims),) = each.shapes
    assert dtype == "f32"  # a batch is integers
    if each.times in layers:
      assert 1 in dims  # one layer of a stack
      assert math.prod(dims) <= 32 * 96  # its largest kernel
    else:
      assert each.times == 1
      assert each.bytes <= 224 * 32 * 4  # a table outside the layers


@pytest.mark.slow
@pytest.mark.parametrize(
  ("settings", "changes"),
  [
    ({"num_partitions": 2, **FULLY}, {"num_microbatches": 2, **SCAN}),
    *(
      pytest.param(*case, marks=pytest.mark.thorough)
      for case in (
        ({}, {"logits_via_embedding": True}),
        ({}, {"relpos_bias_per_layer": True, **SCAN}),
        ({}, {"dtype": "bfloat16"}),
        (FULLY, {"num_microbatches": 2}),
        ({**FULLY, "fully_sharded_devices": 4}, SCAN),
        (
          {**FULLY, "fully_sharded_devices": 4},
          {"adapters": lora.LoraOptions(rank=8), **SCAN},
        ),
        (FULLY, {"num_microbatches": 2, **SCAN}),
        (FULLY, {"remat_policy": "full", **SCAN}),
        ({"num_partitions": 4}, {"num_microbatches": 2, **SCAN}),
        ({"num_partitions": 2}, {"remat_policy": "full", **SCAN}),
      )
    ),
  ],
  ids=str,
)
def test_products(settings, changes, run):
  check(run("tiny", partitioner=Partitioner(**settings), **changes))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, FULLY], ids=str)
def test_logits_in_chunks(settings, run):
  """So many rows that a device computes their logits in several parts.

  Their projection is fetched, and its gradient summed, as often as without.
  """
  check(
    run(
      "tiny",
      (2**20, 24, 16),
      partitioner=Partitioner(**settings),
      num_microbatches=2,
      **SCAN,
    )
  )


def test_meshes_without_a_formula(run):
  """Heads that do not divide, rules of one's own, copies of whole tables."""
  assert run_plan.expected_of(run("tiny", partitioner=Partitioner(8))) is None
  rules = standard_logical_axis_rules(2, 2)
  partitioner = Partitioner(2, logical_axis_rules=rules)
  assert run_plan.expected_of(run("tiny", partitioner=partitioner)) is None
  for devices, known in ((8, True), (4, False), (1, True)):
    partitioner = Partitioner(fully_sharded_devices=devices)
    expected = run_plan.expected_of(run("tiny", partitioner=partitioner))
    assert (expected is not None) == known


@pytest.mark.parametrize(
  ("path", "in_layer"),
  [
    ("encoder/layers_0/mlp/wi_0/kernel", True),
    ("decoder/decoder/mlp/wi_0/kernel", True),
    ("encoder/encoder_norm/scale", False),
    ("decoder/logits_dense/kernel", False),
    ("encoder/relpos_bias/rel_embedding", False),
    ("token_embedder/embedding", False),
  ],
)
def test_which_parameters_are_in_layers(path, in_layer):
  assert PlacedParam(path, 1, True, True).in_layer == in_layer
