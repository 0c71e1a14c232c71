"""Training: set up or restore, then one loop whose position is the step.

The loop is a plain `for` over steps. Batches are a pure function of (seed,
step), so a checkpoint's step is all the data position there is; what the loop
itself remembers (the best step, patience) is saved beside the arrays. Killed
at any moment and called again, `train` ends with the same parameters and the
same metrics as if it had never been interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dss_jax import checkpoints as checkpoints_lib
from dss_jax import evaluation as evaluation_lib
from dss_jax import logging as logging_lib
from dss_jax import (
    losses,
    optimizers,
    partitioning,
    pretrained,
    run_directory,
    schedules,
    train_step,
)
from dss_jax.data import pipeline, vocabularies
from dss_jax.errors import UserError
from dss_jax.models import encoder_decoder


@dataclasses.dataclass
class LoopState:
  """What the loop must remember besides the arrays; saved with them.

  Attributes:
    best_step: the step whose evaluation was best so far.
    best_value: its selection metric.
    stale_evaluations: evaluations since then.
    tokens_seen: non-padding encoder and decoder tokens trained on so far.
    examples_seen: sub-task examples trained on so far.
    nonfinite_steps: updates skipped because loss or gradient was not finite.
    wall_s: seconds spent, over all starts.
  """

  best_step: int | None = None
  best_value: float | None = None
  stale_evaluations: int = 0
  tokens_seen: int = 0
  examples_seen: int = 0
  nonfinite_steps: int = 0
  wall_s: float = 0.0

  def note_evaluation(self, step: int, value: float) -> bool:
    """Takes an evaluation in; returns whether it is the best so far."""
    if self.best_value is None or value > self.best_value:
      self.best_step, self.best_value = step, value
      self.stale_evaluations = 0
      return True
    self.stale_evaluations += 1
    return False


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """All that a training run is made of; the arguments of T5X's `train.train`.

  Attributes:
    model: the student.
    model_dir: folder of the run; a run found there is continued.
    vocabulary: turns text into tokens, for inputs and targets.
    optimizer: one of `dss_jax.optimizers`.
    learning_rate_fn: step -> learning rate.
    train_dataset_cfg: what to train on.
    total_steps: updates in all.
    evaluation_cfg: what to decode and score while training.
    partitioner: the mesh.
    weighting: the objective's weights.
    save_cfg: when checkpoints are made and kept.
    initial_checkpoint_path: parameters to start from (a run's MODEL_DIR or a
      T5X checkpoint); None starts from random ones.
    num_microbatches: parts a batch is cut into to save memory.
    random_seed: of initial parameters, dropout and data order.
    eval_period: steps between evaluations; None evaluates at the end only.
    stats_period: steps between looks at the metrics; all steps are written.
    early_stopping_patience: evaluations without a better one before the run
      ends; None trains all steps.
    max_nonfinite_steps: updates in a row that may be skipped for a loss or
      gradient that is not finite before the run is stopped.
    z_loss: weight of the z-loss.
    label_smoothing: probability mass spread over the vocabulary.
    config_text_fn: returns the configuration as text, for `config.gin`.
  """

  model: encoder_decoder.EncoderDecoderModel
  model_dir: str
  vocabulary: vocabularies.Vocabulary
  optimizer: optimizers.Optimizer
  learning_rate_fn: schedules.Schedule
  train_dataset_cfg: pipeline.DatasetConfig
  total_steps: int
  evaluation_cfg: evaluation_lib.EvaluationConfig = dataclasses.field(
      default_factory=evaluation_lib.EvaluationConfig
  )
  partitioner: partitioning.Partitioner = dataclasses.field(
      default_factory=partitioning.Partitioner
  )
  weighting: losses.Weighting = dataclasses.field(
      default_factory=losses.Weighting
  )
  save_cfg: checkpoints_lib.SaveOptions = dataclasses.field(
      default_factory=checkpoints_lib.SaveOptions
  )
  initial_checkpoint_path: str | None = None
  num_microbatches: int = 1
  random_seed: int = 0
  eval_period: int | None = None
  stats_period: int = 10
  early_stopping_patience: int | None = None
  max_nonfinite_steps: int = 10
  z_loss: float = 0.0
  label_smoothing: float = 0.0
  config_text_fn: Callable[[], str] | None = None


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """How a run ended.

  Attributes:
    step: updates made.
    best_step: the selected checkpoint.
    rows: the rows of results.jsonl.
    loop: what the loop remembered at the end.
  """

  step: int
  best_step: int
  rows: Sequence[Mapping[str, Any]]
  loop: LoopState


def train(config: TrainConfig, *, quiet: bool = False) -> TrainResult:
  """Trains a student, from the start or from where the run stopped.

  Args:
    config: the run.
    quiet: print nothing (files are written all the same).

  Raises:
    UserError: for a configuration that cannot run.
    FloatingPointError: where too many updates in a row were not finite.
  """
  folder = pathlib.Path(config.model_dir)
  with contextlib.ExitStack() as stack:
    stack.enter_context(run_directory.locked(folder))
    stack.enter_context(config.partitioner.activate())
    run = _Run(config, folder, quiet)
    stack.callback(run.close)
    run.restore_or_init()
    run.loop_over_steps()
    return run.finish()


class _Run:
  """One start of a run: its objects, and what happens at a step's end."""

  def __init__(self, config: TrainConfig, folder: pathlib.Path, quiet: bool):
    self.config = config
    self.folder = folder
    self.started = time.monotonic()
    self.loop = LoopState()
    partitioner = config.partitioner
    self.data = pipeline.load_training_data(
        config.train_dataset_cfg,
        config.vocabulary,
        seed=config.random_seed,
        rows_multiple_of=partitioner.data_size * config.num_microbatches,
        row_slice=partitioner.process_rows,
    )
    check_vocabulary(config.vocabulary, config.model)
    self.weighting = config.objective.weighting(self.data.subtask_names)
    self.evaluator = make_evaluator(config)
    self.checkpoints = checkpoints_lib.Checkpoints(folder, config.save_cfg)
    self.progress = logging_lib.Progress(config.total_steps, quiet=quiet)
    self._write_description()

