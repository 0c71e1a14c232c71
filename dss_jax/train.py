"""Training: set up or restore, then one loop whose position is the step.

The loop is a plain `for` over steps. Batches are a pure function of (seed,
step), so a checkpoint's step is all the data position there is; what the loop
itself remembers (the best step, patience) is saved beside the arrays. Killed
at any moment and called again, `train` ends with the same parameters and the
same metrics as if it had never been interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import jax
import optax

from dss_jax import checkpoints as checkpoints_lib
from dss_jax import evaluation as evaluation_lib
from dss_jax import (
  generation,
  losses,
  optimizers,
  partitioning,
  results,
  run_directory,
  schedules,
  train_state,
  train_step,
  vocabulary_loss,
)
from dss_jax import logging as logging_lib
from dss_jax.data import pipeline, vocabularies
from dss_jax.errors import UserError
from dss_jax.models import encoder_decoder
from dss_jax.pretrained import initial

PyTree = Any

# What the run's seed is folded with, for each use of randomness.
_PARAMS, _DROPOUT = 1, 2


# Fields of a run that are objects, a method that tells them from the function
# that makes them, and an example.
_OBJECTS = {
  "model": ("hidden_states", "models.EncoderDecoderModel"),
  "vocabulary": ("encode", "vocabularies.from_name"),
  "optimizer": ("transform", "optimizers.AdamW"),
  "partitioner": ("put_batch", "partitioning.PjitPartitioner"),
}
# Fields of a run that count something, and the macros that set them.
_PATIENCE = "early_stopping_patience"
_AT_LEAST_ONE = {
  "total_steps": "TRAIN_STEPS",
  "num_microbatches": "NUM_MICROBATCHES",
  "eval_period": "EVAL_PERIOD",
  "stats_period": "STATS_PERIOD",
  "max_nonfinite_steps": "train.train.max_nonfinite_steps",
  _PATIENCE: "EARLY_STOPPING_PATIENCE",
}


@dataclasses.dataclass
class LoopState:
  """What the loop must remember besides the arrays; saved with them.

  Attributes:
    best_step: the step whose evaluation was best so far.
    best_value: its selection metric.
    stale_evaluations: evaluations since then.
    encoder_tokens: non-padding input tokens trained on so far.
    decoder_tokens: non-padding target tokens trained on so far.
    examples_seen: sub-task examples trained on so far.
    nonfinite_steps: updates skipped because loss or gradient was not finite.
    nonfinite_in_a_row: how many of the latest ones.
    wall_s: seconds spent, over all starts.
  """

  best_step: int | None = None
  best_value: float | None = None
  stale_evaluations: int = 0
  encoder_tokens: int = 0
  decoder_tokens: int = 0
  examples_seen: int = 0
  nonfinite_steps: int = 0
  nonfinite_in_a_row: int = 0
  wall_s: float = 0.0

  @property
  def tokens_seen(self) -> int:
    """Non-padding tokens of all sub-tasks trained on so far."""
    return self.encoder_tokens + self.decoder_tokens

  def note_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
    """Takes in the values of steps made, as in metrics.jsonl."""
    for row in rows:
      self.encoder_tokens += int(row["encoder_tokens"])
      self.decoder_tokens += int(row["decoder_tokens"])
      self.examples_seen += int(row["examples"])
      self.nonfinite_steps += int(row["nonfinite"])
      self.nonfinite_in_a_row = (
        self.nonfinite_in_a_row + 1 if row["nonfinite"] else 0
      )

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
    objective: weights and normalisation of the sub-tasks' losses.
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
    config_text_fn: returns the configuration as text, for `config.gin`.
  """

  model: encoder_decoder.EncoderDecoderModel
  model_dir: str
  vocabulary: vocabularies.Vocabulary
  optimizer: optimizers.Optimizer
  learning_rate_fn: schedules.LearningRateFn
  train_dataset_cfg: pipeline.DatasetConfig
  total_steps: int
  evaluation_cfg: evaluation_lib.EvaluationConfig = dataclasses.field(
    default_factory=evaluation_lib.EvaluationConfig
  )
  partitioner: partitioning.Partitioner = dataclasses.field(
    default_factory=partitioning.Partitioner
  )
  objective: losses.Objective = dataclasses.field(
    default_factory=losses.Objective
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
  config_text_fn: Callable[[], str] | None = None

  def __post_init__(self):
    for name, (method, example) in _OBJECTS.items():
      value = getattr(self, name)
      if isinstance(value, type) or not hasattr(value, method):
        raise UserError(
          f"train.train.{name} is {value!r}; give the object, with parentheses"
          f" in gin: @{example}()"
        )
    for name, binding in _AT_LEAST_ONE.items():
      value = getattr(self, name)
      optional = value is None and name in ("eval_period", _PATIENCE)
      if not optional and not (isinstance(value, int) and value >= 1):
        raise UserError(
          f"{binding} is {value!r}; it must be a whole number from 1"
        )


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


def check_vocabulary(
  vocabulary: vocabularies.Vocabulary,
  model: encoder_decoder.EncoderDecoderModel,
) -> None:
  """Raises UserError where the student lacks ids of the vocabulary."""
  if vocabulary.vocab_size > model.config.vocab_size:
    raise UserError(
      f"the vocabulary {vocabulary.name} has {vocabulary.vocab_size} ids but"
      f" the student only {model.config.vocab_size}: set"
      " network.T5Config.vocab_size to at least that (a multiple of 128 is"
      " fastest), or another VOCABULARY"
    )


def make_evaluator(
  config: TrainConfig, split: str, tasks: Sequence[str] | None = None
) -> evaluation_lib.Evaluator:
  """The evaluator of a run's tasks on a split.

  Args:
    config: the run.
    split: `validation` or `test`.
    tasks: names to score instead of those of the run.
  """
  evaluation = config.evaluation_cfg
  dataset = config.train_dataset_cfg
  names = tasks or evaluation.tasks
  found: list[pipeline.EvaluationTask] = []
  for name in names or [dataset.mixture_or_task_name]:
    found += pipeline.load_evaluations(
      name,
      split,
      config.vocabulary,
      dataset,
      labels_only=not names,
      max_examples=evaluation.max_examples,
    )
  for task in found:
    if not len(task):
      raise UserError(
        f"{task.name} has nothing to score in split {split!r}: there are no"
        " records with a target; choose EVAL_TASKS or another split"
      )
  generator = generation.Generator(
    config.model,
    config.partitioner,
    evaluation.decode,
    batch_size=evaluation.batch_size,
  )
  return evaluation_lib.Evaluator(generator, config.vocabulary, found)


def train(config: TrainConfig, *, stream: TextIO | None = None) -> TrainResult:
  """Trains a student, from the start or from where the run stopped.

  Args:
    config: the run.
    stream: where progress goes; None writes it to standard error.

  Raises:
    UserError: for a configuration that cannot run.
    FloatingPointError: where too many updates in a row were not finite.
  """
  folder = pathlib.Path(config.model_dir)
  with (
    run_directory.locked(folder),
    config.partitioner.activate(),
    _Run(config, folder, stream) as run,
  ):
    run.loop_over_steps()
    return run.finish()


class _Run:
  """One start of a run: its objects, and what happens at a step's end."""

  def __init__(
    self, config: TrainConfig, folder: pathlib.Path, stream: TextIO | None
  ):
    self.config = config
    self.folder = folder
    self.started = time.monotonic()
    partitioner = config.partitioner
    check_vocabulary(config.vocabulary, config.model)
    self.data = pipeline.load_training_data(
      config.train_dataset_cfg,
      config.vocabulary,
      seed=config.random_seed,
      rows_multiple_of=partitioner.data_size * config.num_microbatches,
      rows_of_process=partitioner.process_rows,
    )
    self.weighting = config.objective.weighting(self.data.subtask_names)
    self.evaluator = make_evaluator(config, config.evaluation_cfg.split)
    self.checkpoints = checkpoints_lib.Checkpoints(folder, config.save_cfg)
    self.state, self.shardings = self._restore_or_init()
    # Only now: a configuration that does not fit the run found in the folder
    # must not take the place of the one that does.
    self._write_description()
    self.first_step = int(self.state.step)
    self.step_fn = self._jit_step()
    self.log = logging_lib.RunLog(
      folder,
      self.data.subtask_names,
      slots=self.data.shape.slots,
      total_steps=config.total_steps,
      from_step=self.first_step,
      stream=stream,
    )

  def __enter__(self) -> _Run:
    return self

  def __exit__(self, *_: object) -> None:
    self.log.close()
    self.checkpoints.close()

  # ------------------------------------------------------------------ setting up

  def _write_description(self) -> None:
    if jax.process_index() != 0:
      return
    if self.config.config_text_fn:
      run_directory.write_atomically(
        self.folder / "config.gin", self.config.config_text_fn()
      )
    description = run_directory.describe_machine() | {
      "data_fingerprint": self.data.examples.fingerprint,
      "task": self.data.examples.task_name,
      "seed": self.config.random_seed,
      "num_parameters": results.num_parameters(self.config.model),
      "mesh": dict(self.config.partitioner.mesh.shape),
      "batch_shape": dataclasses.asdict(self.data.shape),
    }
    run_directory.write_atomically(
      self.folder / "run.json", json.dumps(description, indent=2) + "\n"
    )

  def _transformation(self) -> optax.GradientTransformation:
    model = self.config.model
    return self.config.optimizer.transform(
      self.config.learning_rate_fn,
      train_state.param_shapes(model),
      model.param_axes(),
    )

  def _restore_or_init(
    self,
  ) -> tuple[train_state.TrainState, train_state.TrainState]:
    """The state to go on from, and its shardings; sets `loop`."""
    config, model = self.config, self.config.model
    tx = self._transformation()
    self.loop = LoopState()
    step = self.checkpoints.latest_step()
    if step is not None:
      shapes, shardings = train_state.abstract_state(
        model, tx, config.partitioner
      )
      self.loop = LoopState(**self.checkpoints.loop_state(step))
      return self.checkpoints.restore(step, shapes), shardings
    if config.initial_checkpoint_path:
      params = initial.load_params(config.initial_checkpoint_path, model)
      return train_state.state_from_params(
        params, tx, config.partitioner, model.param_axes()
      )
    key = jax.random.fold_in(jax.random.key(config.random_seed), _PARAMS)
    return train_state.init_state(model, tx, config.partitioner, key)

  def _jit_step(self) -> train_step.JittedStep:
    config = self.config
    data_parts = config.partitioner.data_size * config.num_microbatches
    return train_step.jit_train_step(
      model=config.model,
      tx=self._transformation(),
      weighting=self.weighting,
      partitioner=config.partitioner,
      state_shardings=self.shardings,
      base_key=jax.random.fold_in(jax.random.key(config.random_seed), _DROPOUT),
      num_microbatches=config.num_microbatches,
      z_loss=config.objective.z_loss,
      label_smoothing=config.objective.label_smoothing,
      logit_slices=vocabulary_loss.num_slices(
        self.data.shape.rows // data_parts,
        self.data.shape.decoder_length,
        config.model.config.vocab_size,
      ),
      learning_rate_fn=config.learning_rate_fn,
    )

  # -------------------------------------------------------------------- stepping

  def loop_over_steps(self) -> None:
    """Makes the steps that are left, unless the run stops early."""
    config = self.config
    if self.first_step >= config.total_steps or self._out_of_patience():
      return
    put = functools.partial(
      config.partitioner.put_batch, global_shapes=self.data.global_shapes
    )
    with self.data.prefetch(
      self.first_step, config.total_steps, put
    ) as batches:
      for position, batch in batches:
        self.state, sums = self.step_fn(self.state, batch)
        step = position + 1
        self.log.add_step(step, sums)
        if self._after_step(step):
          break

  def _after_step(self, step: int) -> bool:
    """What is due after `step` updates; returns whether the run is over."""
    config = self.config
    last = step == config.total_steps
    evaluate = last or bool(
      config.eval_period and step % config.eval_period == 0
    )
    save = last or step % config.save_cfg.period == 0
    if evaluate or save or step % config.stats_period == 0:
      self._flush(step)
    stop = False
    if evaluate:
      save |= self._evaluate(step)
      stop = self._out_of_patience()
    if save or stop:
      self._save(step)
    return stop

  def _flush(self, step: int) -> None:
    written = self.log.flush(self.loop.tokens_seen, self.loop.examples_seen)
    self.loop.note_steps(written)
    if self.loop.nonfinite_in_a_row >= self.config.max_nonfinite_steps:
      raise FloatingPointError(
        f"loss or gradient was not finite in {self.loop.nonfinite_in_a_row}"
        f" steps in a row up to step {step}: lower BASE_LEARNING_RATE, or"
        " clip with <optimizer>.clip_norm"
      )

  def _evaluate(self, step: int) -> bool:
    """Scores the student; returns whether it is the best so far."""
    started = time.monotonic()
    scores = self.evaluator.run(self.state.params)
    value = evaluation_lib.selection_value(
      scores, self.config.evaluation_cfg.metric
    )
    best = self.loop.note_evaluation(step, value)
    if jax.process_index() == 0:
      evaluation_lib.write_predictions(self.folder / "eval", step, scores)
    values = evaluation_lib.flat_metrics(scores) | {
      "tokens_seen": self.loop.tokens_seen,
      "examples_seen": self.loop.examples_seen,
    }
    self.log.add_evaluation(step, values, time.monotonic() - started)
    shown = ", ".join(
      f"{name} {value:.4f}"
      for score in scores
      for name, value in score.metrics.items()
    )
    self.log.progress.say(
      f"step {step}: {scores[0].split} {shown}{' (best)' if best else ''}"
    )
    return best

  def _out_of_patience(self) -> bool:
    patience = self.config.early_stopping_patience
    return patience is not None and self.loop.stale_evaluations >= patience

  def _save(self, step: int) -> None:
    now = time.monotonic()
    self.loop.wall_s += now - self.started
    self.started = now
    self.checkpoints.save(step, self.state, dataclasses.asdict(self.loop))

  # ------------------------------------------------------------------- finishing

  def finish(self) -> TrainResult:
    """Reads the test split once, with the selected checkpoint."""
    self.checkpoints.wait()
    step = int(self.state.step)
    best = self.checkpoints.resolve_step("best")
    rows = run_directory.read_jsonl(self.folder / "results.jsonl")
    if not rows or rows[0]["steps"] != step:
      params = self.checkpoints.restore_params(
        best,
        train_state.with_shardings(
          train_state.param_shapes(self.config.model), self.shardings.params
        ),
      )
      rows = self._final_rows(params, best, step)
      if jax.process_index() == 0:
        run_directory.write_jsonl(self.folder / "results.jsonl", rows)
    for row in rows:
      self.log.progress.say(
        f"{row['split']} {row['task']} {row['metric']}: {row['value']:.4f}"
        f" (n={row['n']}, checkpoint of step {row['checkpoint_step']})"
      )
    return TrainResult(step, best, rows, self.loop)

  def _final_rows(
    self, params: PyTree, best: int, step: int
  ) -> list[dict[str, Any]]:
    """Scores the selected checkpoint on the selecting and the test split."""
    evaluation = self.config.evaluation_cfg
    rows = []
    for split in filter(None, (evaluation.split, evaluation.test_split)):
      scores = make_evaluator(self.config, split).run(params)
      if jax.process_index() == 0:
        evaluation_lib.write_predictions(self.folder / "eval", best, scores)
      rows += results.result_rows(
        self.config,
        self.data,
        scores,
        steps=step,
        checkpoint_step=best,
        loop=self.loop,
      )
    return rows
