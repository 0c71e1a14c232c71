"""How long a cell trains, and how often it is looked at."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.data import pipeline
from dss_jax.data.feeding import training_data
from dss_jax.data.sampling import Sampler
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays
from dss_jax.experiments.sweeps import cells
from dss_jax.experiments.sweeps.cells import Reader
from dss_jax.experiments.sweeps.declaration import METHOD, SEED, Sweep
from dss_jax.training.train_config import TrainConfig


class Budget:
  """The steps of a sweep's cells.

  Tokens are counted in the data of the first seed, so that all seeds of a
  method have the same steps, and once for each data configuration.

  Args:
    sweep: says which budget.
    reader: reads configurations.
  """

  def __init__(self, sweep: Sweep, reader: Reader):
    self._sweep, self._reader = sweep, reader
    self._known: dict[str, float] = {}

  def steps(self, axes: Mapping[str, Any]) -> int:
    """The steps of a cell.

    Raises:
      UserError: the data are not there, or have no tokens to count.
    """
    sweep = self._sweep
    reference = sweep.reference_method
    if sweep.budget != "tokens" or axes[METHOD] == reference:
      return sweep.steps
    given = self._tokens_per_step({**axes, METHOD: reference})
    own = self._tokens_per_step(axes)
    return max(sweep.looks, round(sweep.steps * given / own))

  def bindings(self, steps: int, own: Container[str] = ()) -> dict[str, Any]:
    """What a cell of so many steps binds besides the names of its `own`."""
    sweep = self._sweep
    # Rounded up: more than (looks - 1)^2 steps have exactly so many looks.
    period = math.ceil(steps / sweep.looks)
    bound: dict[str, Any] = {"TRAIN_STEPS": steps, "EVAL_PERIOD": period}
    if "CHECKPOINT_PERIOD" not in own:
      bound["CHECKPOINT_PERIOD"] = period
    if sweep.budget == "plateau":
      bound["EARLY_STOPPING_PATIENCE"] = sweep.patience
      bound["EARLY_STOPPING_MIN_IMPROVEMENT"] = sweep.min_improvement
    return bound

  def _tokens_per_step(self, axes: Mapping[str, Any]) -> float:
    if seeds := self._sweep.seeds():
      axes = {**axes, SEED: seeds[0]}
    settings = cells.settings_of(self._sweep, axes)
    # The steps are not known yet, and do not matter.
    config = self._reader(settings.with_bindings({"TRAIN_STEPS": 1})).config
    key = repr((config.train_dataset_cfg, config.vocabulary.name))
    if key not in self._known:
      self._known[key] = tokens_per_step(config)
    return self._known[key]


def tokens_per_step(config: TrainConfig) -> float:
  """Training tokens of a step of a run, on average; padding does not count.

  Raises:
    UserError: for batches that are not packed from the examples themselves.
  """
  dataset = config.train_dataset_cfg
  if dataset.batch_files or dataset.streaming:
    raise UserError(
      "budget is 'tokens', which are counted in the examples, and these come"
      " from batch files or a stream: set budget to 'steps'",
      fields="Sweep.budget",
    )
  records = dataset.records_per_batch
  if records is None:
    packed = training_data.load_packed(dataset, config.vocabulary, seed=0)
    records, examples = packed.shape.records_per_batch, packed.example_set
  else:
    examples = pipeline.load_examples(dataset, config.vocabulary)
  units = Sampler(examples, seed=0).units_per_batch(records)
  return units * tokens_per_unit(examples)


def tokens_per_unit(examples: ExampleSet) -> float:
  """Tokens of a unit that the sampler draws, on average over whole epochs."""
  if examples.paired:
    totals = [_tokens_by_record(subtask) for subtask in examples.subtasks]
    records = {record for found in totals for record in found}
    return sum(sum(found.values()) for found in totals) / len(records)
  rates = np.asarray(examples.rates, np.float64)
  means = [
    np.mean([*_tokens_by_record(subtask).values()]) if len(subtask) else 0.0
    for subtask in examples.subtasks
  ]
  return float(rates @ np.asarray(means) / rates.sum())


def _tokens_by_record(subtask: TokenArrays) -> dict[int, float]:
  """Record -> tokens of its example, the mean where it has several."""
  lengths = subtask.input_lengths + subtask.target_lengths
  records, where = np.unique(subtask.record_ids, return_inverse=True)
  means = np.bincount(where, lengths) / np.bincount(where)
  return dict(zip(records.tolist(), means.tolist(), strict=True))
