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
import functools
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import jax
import optax

from dss_jax import checkpoints as checkpoints_lib
from dss_jax import evaluation as evaluation_lib
from dss_jax import logging as logging_lib
from dss_jax import (
  lora_runs,
  results,
  run_directory,
  train_config,
  train_state,
  train_step,
)
from dss_jax.data import packing, training_data
from dss_jax.errors import UserError, damaged_file
from dss_jax.loop_state import LoopState
from dss_jax.pretrained import initial
from dss_jax.train_config import TrainConfig
from dss_jax.validation_loss import ValidationLoss

PyTree = Any

# What the run's seed is folded with, for each use of randomness.
_PARAMS, _DROPOUT = 1, 2


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
  writes = jax.process_index() == 0
  with (
    run_directory.locked(folder) if writes else contextlib.nullcontext(),
    config.partitioner.activate(),
    checkpoints_lib.Checkpoints(folder, config.save_cfg) as checkpoints,
    _Run(config, folder, checkpoints, stream) as run,
  ):
    run.loop_over_steps()
    return run.finish()


class _Run:
  """One start of a run: its objects, and what happens at a step's end."""

  def __init__(
    self,
    config: TrainConfig,
    folder: pathlib.Path,
    checkpoints: checkpoints_lib.Checkpoints,
    stream: TextIO | None,
  ):
    self.config = config
    self.folder = folder
    self.checkpoints = checkpoints
    self.started = time.monotonic()
    partitioner = config.partitioner
    train_config.check_vocabulary(config.vocabulary, config.model)
    self.initial = self._open_initial()
    earlier = self._earlier_description()
    self.data = training_data.load(
      config.train_dataset_cfg,
      config.vocabulary,
      seed=config.random_seed,
      steps=range(checkpoints.latest_step() or 0, config.total_steps),
      rows_multiple_of=partitioner.data_size * config.num_microbatches,
      rows_of_process=partitioner.process_rows,
      earlier_shape=earlier.get("batch_shape"),
    )
    self._check_same_data(earlier)
    self.weighting = config.objective.weighting(self.data.subtask_names)
    self.evaluator = train_config.make_evaluator(
      config, config.evaluation_cfg.split
    )
    evaluation_lib.check_metric(
      self.evaluator.tasks, config.evaluation_cfg.metric
    )
    # Made before training, so that a split that is not there is told at once.
    self.final_evaluators = [self.evaluator, *self._test_evaluators()]
    self.base = lora_runs.open_base(
      config, checkpoints, checkpoints.latest_step()
    )
    # What is trained: the student, or adapters for it.
    self.model = self.base.adapters if self.base else config.model
    self.state, self.shardings = self._restore_or_init()
    self.recompilations = int(earlier.get("recompilations", 0))
    # Only now: a configuration that does not fit the run found in the folder
    # must not take the place of the one that does.
    self._write_description()
    self.first_step = int(self.state.step)
    self.validation_loss = (
      None
      if config.evaluation_cfg.loss_batches == 0
      else ValidationLoss(config, self.data.shape, self._student_shardings())
    )
    self.step_fn = self._jit_step()
    self.compiled = 0
    self.log = logging_lib.RunLog(
      folder,
      self.data.subtask_names,
      slots=self.data.shape.slots,
      total_steps=config.total_steps,
      from_step=self.first_step,
      stream=stream,
      writes=jax.process_index() == 0,
    )
    shape = dataclasses.asdict(self.data.shape)
    if earlier.get("batch_shape", shape) != shape:
      self.log.progress.say(
        f"the run goes on with other batches: {shape} after"
        f" {earlier['batch_shape']}"
      )

  def __enter__(self) -> _Run:
    return self

  def __exit__(self, *_: object) -> None:
    self.log.close()

  # ------------------------------------------------------------------ setting up

  def _test_evaluators(self) -> list[evaluation_lib.Evaluator]:
    split = self.config.evaluation_cfg.test_split
    if split is None:
      return []
    try:
      return [
        train_config.make_evaluator(
          self.config, split, generator=self.evaluator.generator
        )
      ]
    except UserError as error:
      raise UserError(
        f"{error}; to train without a test, set"
        " evaluation.EvaluationConfig.test_split to None"
      ) from error

  def _open_initial(self) -> initial.Initial | None:
    """What a new run starts from, compared with the student before all else."""
    config = self.config
    path = config.initial_checkpoint_path
    if path is None or self.checkpoints.latest_step() is not None:
      return None
    return initial.open_initial(
      path,
      config.model,
      config.vocabulary,
      optimizer_state=config.restore_optimizer,
    )

  def _earlier_description(self) -> dict[str, Any]:
    """`run.json` of the run that is continued; empty where there is none."""
    path = self.folder / "run.json"
    if self.checkpoints.latest_step() is None or not path.exists():
      return {}
    remedy = "restore it, or give another MODEL_DIR"
    with damaged_file(path, remedy):
      earlier = json.loads(path.read_text(encoding="utf-8"))
      shape = earlier.get("batch_shape")
      if shape is not None:
        packing.BatchShape(**shape)
      return earlier

  def _check_same_data(self, earlier: Mapping[str, Any]) -> None:
    """A run goes on only with the data and the order it began with."""
    now = {
      "data_fingerprint": self.data.fingerprint,
      "seed": self.config.random_seed,
    }
    for name, value in now.items():
      if earlier.get(name, value) != value:
        raise UserError(
          f"MODEL_DIR {str(self.folder)!r} holds a run whose {name} is"
          f" {earlier[name]!r}, now it is {value!r}: give another MODEL_DIR, or"
          " the data, task and RANDOM_SEED it began with"
        )

  def _write_description(self) -> None:
    if jax.process_index() != 0:
      return
    if self.config.config_text_fn:
      run_directory.write_atomically(
        self.folder / "config.gin", self.config.config_text_fn()
      )
    description = run_directory.describe_machine() | {
      "data_fingerprint": self.data.fingerprint,
      "task": self.data.task_name,
      "seed": self.config.random_seed,
      "num_parameters": results.num_parameters(self.config.model),
      "mesh": dict(self.config.partitioner.mesh.shape),
      "batch_shape": dataclasses.asdict(self.data.shape),
      "recompilations": self.recompilations,  # of the step, after its first
    }
    if self.base:
      description["lora"] = self.base.as_json()
    run_directory.write_atomically(
      self.folder / "run.json", json.dumps(description, indent=2) + "\n"
    )

  def _transformation(self) -> optax.GradientTransformation:
    return self.config.optimizer.transform(
      self.config.learning_rate_fn,
      train_state.param_shapes(self.model),
      self.model.param_axes(),
    )

  def _student_params(self, params: PyTree) -> PyTree:
    """The whole student's parameters, from those that are trained."""
    return self.base.merge(params) if self.base else params

  def _student_shardings(self) -> PyTree:
    if self.base is None:
      return self.shardings.params
    return jax.tree.map(lambda array: array.sharding, self.base.params)

  def _restore_or_init(
    self,
  ) -> tuple[train_state.TrainState, train_state.TrainState]:
    """The state to go on from, and its shardings; sets `loop`."""
    config, model = self.config, self.model
    tx = self._transformation()
    self.loop = LoopState()
    step = self.checkpoints.latest_step()
    if step is not None:
      shapes, shardings = train_state.abstract_state(
        model, tx, config.partitioner
      )
      with damaged_file(
        self.checkpoints.folder / str(step), "delete that folder"
      ):
        self.loop = LoopState(**self.checkpoints.loop_state(step))
      return self.checkpoints.restore(step, shapes), shardings
    key = jax.random.fold_in(jax.random.key(config.random_seed), _PARAMS)
    if self.base:
      params = self.base.adapters.init(key, self.base.params)
      return train_state.state_from_params(
        params, tx, config.partitioner, model.param_axes()
      )
    if self.initial is not None:
      return initial.initial_state(
        self.initial,
        model,
        tx,
        config.partitioner,
        optimizer_state=config.restore_optimizer,
      )
    return train_state.init_state(model, tx, config.partitioner, key)

  def _jit_step(self) -> train_step.JittedStep:
    config = self.config
    return train_step.jit_train_step(
      model=config.model,
      adapted=(self.base.adapters.on, self.base.params) if self.base else None,
      tx=self._transformation(),
      weighting=self.weighting,
      partitioner=config.partitioner,
      state_shardings=self.shardings,
      base_key=jax.random.fold_in(jax.random.key(config.random_seed), _DROPOUT),
      num_microbatches=config.num_microbatches,
      z_loss=config.objective.z_loss,
      label_smoothing=config.objective.label_smoothing,
      logits_at_once=config.logits_at_once(),
      learning_rate_fn=config.learning_rate_fn,
    )

  # -------------------------------------------------------------------- stepping

  def loop_over_steps(self) -> None:
    """Makes the steps that are left, unless the run stops early."""
    config = self.config
    if self.first_step >= config.total_steps or self._out_of_patience():
      return
    multiple = config.partitioner.data_size * config.num_microbatches
    for line in self.data.describe(self.first_step, multiple):
      self.log.progress.say(line)
    if self.base:
      self.log.progress.say(self.base.describe())
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
        self._count_compilations(step)
        if self._after_step(step):
          break

  def _count_compilations(self, step: int) -> None:
    """Says where a step after the first of this start was compiled again."""
    # The first step may compile as much as it likes.
    new = self.step_fn.compilations - self.compiled
    self.compiled += new
    if new and step > self.first_step + 1:
      self.recompilations += new
      self.log.progress.say(
        f"step {step} was compiled again, as no step after the first should"
        " be: it took longer for it"
      )

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
    params = self._student_params(self.state.params)
    scores = self.evaluator.run(params)
    value = evaluation_lib.selection_value(
      scores, self.config.evaluation_cfg.metric
    )
    best = self.loop.note_evaluation(step, value)
    if jax.process_index() == 0:
      evaluation_lib.write_predictions(self.folder / "eval", step, scores)
    losses = {}
    if self.validation_loss:
      losses = self.validation_loss.run(params)
    values = (
      evaluation_lib.flat_metrics(scores)
      | losses
      | {
        "tokens_seen": self.loop.tokens_seen,
        "examples_seen": self.loop.examples_seen,
      }
    )
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
    self.log.sync()
    self.checkpoints.save(
      step,
      self.state,
      dataclasses.asdict(self.loop),
      self.base.note if self.base else None,
    )

  # ------------------------------------------------------------------- finishing

  def finish(self) -> TrainResult:
    """Reads the test split once, with the selected checkpoint."""
    self.checkpoints.wait()
    self._write_description()
    step = int(self.state.step)
    best = self.checkpoints.resolve_step("best")
    rows = self._finished_rows(step)
    if not rows:
      params = self.checkpoints.restore_params(
        best,
        train_state.with_shardings(
          train_state.param_shapes(self.model), self.shardings.params
        ),
      )
      rows = self._final_rows(self._student_params(params), best, step)
      if jax.process_index() == 0:
        run_directory.write_jsonl(self.folder / "results.jsonl", rows)
    for row in rows:
      self.log.progress.say(
        f"{row['split']} {row['task']} {row['metric']}: {row['value']:.4f}"
        f" (n={row['n']}, checkpoint of step {row['checkpoint_step']})"
      )
    return TrainResult(step, best, rows, self.loop)

  def _finished_rows(self, step: int) -> list[dict[str, Any]]:
    """The rows that an earlier start wrote after `step`, if they are whole."""
    rows = run_directory.read_jsonl(self.folder / "results.jsonl")
    with damaged_file(self.folder / "results.jsonl", "delete it"):
      splits = {row["split"] for row in rows}
      steps = {row["steps"] for row in rows}
    whole = steps == {step} and splits == set(self._final_splits())
    return rows if whole else []

  def _final_splits(self) -> list[str]:
    evaluation = self.config.evaluation_cfg
    return list(filter(None, (evaluation.split, evaluation.test_split)))

  def _final_rows(
    self, params: PyTree, best: int, step: int
  ) -> list[dict[str, Any]]:
    """Scores the selected checkpoint on the selecting and the test split."""
    rows = []
    for evaluator in self.final_evaluators:
      scores = evaluator.run(params)
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
