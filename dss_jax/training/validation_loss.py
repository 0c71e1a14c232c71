"""Teacher-forced losses on a split that is not trained on.

What T5X calls train-eval: each sub-task's mean loss and token accuracy, without
dropout, over packed batches of the split. Unlike decoding it covers rationales
at little cost.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dss_jax.data import pipeline
from dss_jax.data.feeding import split_batches
from dss_jax.data.packing import packing_plans
from dss_jax.training import train_step
from dss_jax.training.train_config import TrainConfig

PyTree = Any

# Batches that may wait for the devices.
_IN_FLIGHT = 2


class ValidationLoss:
  """Measures the losses of a student on a split of the training task."""

  def __init__(
    self,
    config: TrainConfig,
    training_shape: packing_plans.BatchShape,
    param_shardings: PyTree,
  ):
    """Reads the split and prepares the compiled step.

    Args:
      config: the run; `evaluation_cfg` says which split and how much of it.
      training_shape: the shape of the training batches. Those of the split have
        as many rows, at least as long.
      param_shardings: where the student's parameters live.
    """
    dataset = dataclasses.replace(
      config.train_dataset_cfg, split=config.evaluation_cfg.split
    )
    examples = pipeline.load_examples(
      dataset, config.vocabulary, may_be_empty=True
    )
    self.split = dataset.split
    self._names = [subtask.name for subtask in examples.subtasks]
    shape = dataclasses.replace(
      training_shape,
      encoder_length=_long_enough(
        training_shape.encoder_length,
        [subtask.input_lengths for subtask in examples.subtasks],
      ),
      decoder_length=_long_enough(
        training_shape.decoder_length,
        [subtask.target_lengths for subtask in examples.subtasks],
      ),
    )
    partitioner = config.partitioner
    self._batches = split_batches.SplitBatches(
      examples, shape, host_rows=partitioner.process_rows(shape.rows)
    )
    limit = config.evaluation_cfg.loss_batches
    self._num_batches = min(len(self._batches), limit or len(self._batches))
    self._partitioner = partitioner
    self._global_shapes = {
      name: tuple(spec.shape)
      for name, spec in self._batches.feature_specs.items()
    }
    self._step = train_step.jit_eval_step(
      model=config.model,
      partitioner=partitioner,
      param_shardings=param_shardings,
      num_subtasks=len(self._names),
      logits_at_once=config.logits_at_once(),
    )

  def run(
    self, params: PyTree, *, progress: Callable[[], None] | None = None
  ) -> dict[str, float]:
    """`<split>/<subtask>/loss` in nats a token, and `.../token_accuracy`.

    Sub-tasks without examples in the split are left out.

    Args:
      params: the student's parameters.
      progress: called after each batch.
    """
    totals: dict[str, np.ndarray] = {}
    waiting: collections.deque[dict[str, jax.Array]] = collections.deque()

    def collect() -> None:
      sums = jax.device_get(waiting.popleft())
      for name in ("nll", "tokens", "correct"):
        totals[name] = totals.get(name, 0) + np.asarray(sums[name], np.float64)
      if progress:
        progress()

    for index in range(self._num_batches):
      batch = self._partitioner.put_batch(
        self._batches[index], self._global_shapes
      )
      waiting.append(self._step(params, batch))
      # The next batch is made while the devices work on this one.
      if len(waiting) > _IN_FLIGHT:
        collect()
    while waiting:
      collect()
    values = {}
    for k, name in enumerate(self._names):
      if totals and totals["tokens"][k]:
        tokens = totals["tokens"][k]
        prefix = f"{self.split}/{name}"
        values[f"{prefix}/loss"] = float(totals["nll"][k] / tokens)
        values[f"{prefix}/token_accuracy"] = float(
          totals["correct"][k] / tokens
        )
    return values


def _long_enough(length: int, example_lengths: list[np.ndarray]) -> int:
  """A row length of at least `length` that every example fits into.

  Args:
    length: tokens.
    example_lengths: [examples] int, tokens, of each sub-task.
  """
  longest = max((int(n.max(initial=0)) for n in example_lengths), default=0)
  return max(length, -(-longest // 8) * 8)
