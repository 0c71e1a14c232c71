"""Budgets, against tokens counted in the batches themselves."""

import math
from typing import Any

import numpy as np
import pytest
import small_sweeps

from dss_jax.base.errors import UserError
from dss_jax.cli import sweep_command
from dss_jax.data.feeding import batches, training_data
from dss_jax.data.packing import batch_shapes
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays
from dss_jax.experiments.sweeps import budgets, cells
from dss_jax.experiments.sweeps.declaration import Sweep


def _counted(packed: batches.PackedBatches, steps: int) -> float:
  """Tokens of a step that are no padding, on average over some steps."""
  names = ("encoder_input_tokens", "decoder_target_tokens")
  return sum(
    np.count_nonzero(packed[step][name])
    for step in range(steps)
    for name in names
  ) / steps  # fmt: skip


def _subtask(name, lengths_of_records, draw):
  """Examples with (input, target) lengths, some records with several."""
  flat = [
    (record, *lengths)
    for record, several in enumerate(lengths_of_records)
    for lengths in several
  ]
  return TokenArrays.from_lists(
    name,
    [draw.integers(2, 90, n).tolist() for _, n, _ in flat],
    [draw.integers(2, 90, n).tolist() for _, _, n in flat],
    record_ids=[record for record, *_ in flat],
    weights=[1.0] * len(flat),
  )


def _example_set(*, paired: bool, rates=(1.0, 1.0)) -> ExampleSet:
  """40 records; every fourth has no rationale, every third has two."""
  draw = np.random.default_rng(0)
  lengths = draw.integers(3, 20, (40, 2, 2)).tolist()
  labels = [[(a, 2)] for (a, _), _ in lengths]
  rationales = [
    []
    if i % 4 == 0
    else [tuple(one), tuple(two)]
    if i % 3 == 0
    else [tuple(one)]
    for i, (one, two) in enumerate(lengths)
  ]
  return ExampleSet(
    subtasks=(
      _subtask("label", labels, draw),
      _subtask("rationale", rationales, draw),
    ),
    rates=rates,
    paired=paired,
    num_records=40,
    fingerprint="x",
    vocabulary="x",
    task_name="x",
    split="train",
  )


@pytest.mark.parametrize(
  ("paired", "rates"),
  [
    (False, (1.0, 1.0)),
    (False, (1.0, 3.0)),
    (False, (1.0, 0.0)),
    (True, (1, 1)),
  ],
)
def test_tokens_of_a_unit_are_those_of_the_batches(paired, rates):
  examples = _example_set(paired=paired, rates=rates)
  shape = batch_shapes.choose_batch_shape(
    examples, records_per_batch=8, max_row_length=128, length_multiple=8
  )
  packed = batches.PackedBatches(examples, shape, seed=0)
  # 300 steps are many epochs of each sub-task.
  units = 8 * (1 if paired else sum(rate > 0 for rate in rates))
  expected = _counted(packed, 300)
  assert units * budgets.tokens_per_unit(examples) == pytest.approx(
    expected, rel=0.01
  )


def _sweep(**changes: Any) -> Sweep:
  fields: dict[str, Any] = small_sweeps.FIELDS | {"steps": 60, "looks": 6}
  return Sweep(**(fields | changes))


def test_methods_see_the_tokens_of_the_reference():
  sweep = _sweep()
  read = sweep_command.make_reader([])
  budget = budgets.Budget(sweep, read)
  seen = {}
  for method in ("standard", "dss"):
    axes = {"method": method, "seed": 0}
    steps = budget.steps(axes)
    config = read(
      cells.settings_of(sweep, axes).with_bindings(budget.bindings(steps))
    ).config
    packed = training_data.load_packed(
      config.train_dataset_cfg, config.vocabulary, seed=config.random_seed
    )
    seen[method] = steps * _counted(packed, steps)
    assert budget.steps({**axes, "seed": 1}) == steps  # whatever the draw
    assert math.ceil(steps / (config.eval_period or 1)) == 6
  assert budget.steps({"method": "dss", "seed": 0}) == 60
  assert seen["standard"] == pytest.approx(seen["dss"], rel=0.01)


def test_another_method_may_be_the_reference():
  read = sweep_command.make_reader([])
  by_dss = budgets.Budget(_sweep(), read)
  standard = by_dss.steps({"method": "standard", "seed": 0})
  by_standard = budgets.Budget(
    _sweep(reference="standard", steps=standard), read
  )
  assert by_standard.steps({"method": "standard", "seed": 0}) == standard
  assert by_standard.steps({"method": "dss", "seed": 0}) == 60


def test_packed_rows_count_by_the_records_that_they_hold():
  read = sweep_command.make_reader([])
  bindings = small_sweeps.SMALL_BINDINGS | {
    "BATCH_SIZE": 4,
    "RECORDS_PER_BATCH": None,
  }
  budget = budgets.Budget(_sweep(bindings=bindings), read)
  # Rows of both methods have about as many tokens.
  assert 40 < budget.steps({"method": "standard", "seed": 0}) < 90


@pytest.mark.parametrize("looks", [1, 2, 5, 12])
def test_from_some_steps_on_the_looks_are_as_many_as_asked_for(looks):
  budget = budgets.Budget(_sweep(looks=looks), sweep_command.make_reader([]))
  for steps in range((looks - 1) ** 2 + 1, (looks - 1) ** 2 + 300):
    period = budget.bindings(steps)["EVAL_PERIOD"]
    assert math.ceil(steps / period) == looks


def test_a_plateau_ends_a_run():
  budget = budgets.Budget(
    _sweep(budget="plateau", patience=3, min_improvement=0.01),
    sweep_command.make_reader([]),
  )
  for method in ("standard", "dss"):
    assert budget.steps({"method": method, "seed": 0}) == 60
  assert budget.bindings(60) == {
    "TRAIN_STEPS": 60,
    "EVAL_PERIOD": 10,
    "CHECKPOINT_PERIOD": 10,
    "EARLY_STOPPING_PATIENCE": 3,
    "EARLY_STOPPING_MIN_IMPROVEMENT": 0.01,
  }


def test_tokens_of_a_stream_cannot_be_counted():
  bindings = small_sweeps.SMALL_BINDINGS | {
    "train/utils.DatasetConfig.streaming": True
  }
  budget = budgets.Budget(
    _sweep(bindings=bindings), sweep_command.make_reader([])
  )
  with pytest.raises(UserError, match="set budget to 'steps'"):
    budget.steps({"method": "standard", "seed": 0})
