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

from dss_jax.base import atomic_files, compilations
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import (
  cpu_memory,
  final_scores,
  run_directory,
  run_setup,
  train_step,
)
from dss_jax.training import evaluation as evaluation_lib
from dss_jax.training import monitoring as logging_lib
from dss_jax.training.loop_state import LoopState
from dss_jax.training.monitoring import nonfinite, profiling, time_breakdown
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.validation_loss import ValidationLoss

PyTree = Any


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
    FloatingPointError: where too many updates in a row were not finite, or
      one with `debug_nans`.
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
    self.breakdown = time_breakdown.TimeBreakdown()
    self.setup, self.state, self.loop = run_setup.set_up(
      config, folder, checkpoints
    )
    self.data, self.base = self.setup.data, self.setup.base
    self.shardings = self.setup.shardings
    self.evaluator = self.setup.evaluators[0]
    self.weighting = config.objective.weighting(self.data.subtask_names)
    earlier = self.setup.earlier
    self.time = earlier.get("time")  # of the last start that made steps
    self.recompilations = compilations.Recompilations(
      int(earlier.get("recompilations", 0)),
      say=lambda text: self.log.progress.say(text),
    )
    # Only now: a configuration that does not fit the run found in the folder
    # must not take the place of the one that does.
    self._write_description()
    self.first_step = int(self.state.step)
    self.first_tokens = self.loop.tokens_seen
    self.validation_loss = (
      None
      if config.evaluation_cfg.loss_batches == 0
      else ValidationLoss(config, self.data.shape, self._student_shardings())
    )
    self.step_fn = self._jit_step()
    self.evaluation_compilations = 0
    self.log = logging_lib.RunLog(
      folder,
      self.data.subtask_names,
      slots=self.data.shape.slots,
      total_steps=config.total_steps,
      from_step=self.first_step,
      breakdown=self.breakdown,
      stream=stream,
      writes=jax.process_index() == 0,
    )
    self.profiler = profiling.ProfilerWindow(
      self._profile_steps(),
      folder,
      first_step=self.first_step,
      say=self.log.progress.say,
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
    with contextlib.ExitStack() as closing:
      closing.callback(self.log.close)
      closing.callback(self.breakdown.close)
      self.profiler.close()

  # ------------------------------------------------------------------ setting up

  def _write_description(self) -> None:
    if jax.process_index() != 0:
      return
    if self.config.config_text_fn:
      atomic_files.write_atomically(
        self.folder / "config.gin", self.config.config_text_fn()
      )
    description = run_setup.describe(self.config, self.setup) | {
      "recompilations": self.recompilations.number,
      "time": self.time,
    }
    atomic_files.write_atomically(
      self.folder / "run.json", json.dumps(description, indent=2) + "\n"
    )

  def _profile_steps(self) -> range | None:
    """What this process records: of several, the first one does."""
    config = self.config
    if config.profile_steps is None or jax.process_index() != 0:
      return None
    return profiling.parse_steps(config.profile_steps, config.total_steps)

  def _transformation(self) -> optax.GradientTransformation:
    return run_setup.transformation(self.config, self.setup.model)

  def _student_params(self, params: PyTree) -> PyTree:
    """The whole student's parameters, from those that are trained."""
    return self.base.merge(params) if self.base else params

  def _student_shardings(self) -> PyTree:
    if self.base is None:
      return self.shardings.params
    return jax.tree.map(lambda array: array.sharding, self.base.params)

  def _nan_debugger(self) -> nonfinite.NanDebugger | None:
    if not self.config.debug_nans:
      return None
    debugger = nonfinite.NanDebugger(
      self._jit_step,
      self._transformation(),
      subtasks=self.data.subtask_names,
      frozen=self.base.params if self.base else None,
      say=self.log.progress.say,
    )
    debugger.check_state(self.state, self.first_step)
    return debugger

  def _jit_step(
    self, tx: optax.GradientTransformation | None = None
  ) -> train_step.JittedStep:
    return run_setup.jit_step(
      self.config,
      self.weighting,
      tx or self._transformation(),
      self.shardings,
      adapted=(self.base.adapters.on, self.base.params) if self.base else None,
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
    self.breakdown.switch("host")
    debugger = self._nan_debugger()
    with self.data.prefetch(
      self.first_step, config.total_steps, put
    ) as batches:
      for position, batch in self.breakdown.waiting("data", batches):
        sums = self._step(position + 1, batch)
        if debugger:
          debugger.check(position + 1, self.state, batch, sums)
        # So that it is freed before the next one is taken, as `waiting` does:
        # freeing arrays lets other threads run, and the maker of batches would
        # go before the step.
        del batch
        if self._after_step(position + 1):
          break

  def _step(
    self, step: int, batch: Mapping[str, jax.Array]
  ) -> Mapping[str, jax.Array]:
    """Hands a step to the devices; looks at nothing of it."""
    self.profiler.before(step, self.state)
    called = time.monotonic()
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      self.state, sums = self.step_fn(self.state, batch)
    self.breakdown.add_step(called, sums["loss"])
    self.log.add_step(step, sums)
    self.profiler.after(step, self.state)
    self.recompilations.note("step", f"step {step}", self.step_fn.compilations)
    return sums

  def _after_step(self, step: int) -> bool:
    """What is due after `step` updates; returns whether the run is over."""
    config = self.config
    last = step == config.total_steps
    evaluate = last or bool(
      config.eval_period and step % config.eval_period == 0
    )
    save = last or step % config.save_cfg.period == 0
    if evaluate or save:
      self._flush()
    elif step % config.stats_period == 0:
      self._flush(leaving=1)
    stop = False
    if evaluate:
      before = compilations.count()
      with self.breakdown.phase("evaluation"), cpu_memory.given_back():
        save |= self._evaluate(step)
      self.evaluation_compilations += compilations.count() - before
      self.recompilations.note(
        "evaluation",
        f"the evaluation of step {step}",
        self.evaluation_compilations,
      )
      stop = self._out_of_patience()
    if save or stop:
      with self.breakdown.phase("checkpoint"):
        self._save(step)
    return stop

  def _flush(self, leaving: int = 0) -> None:
    """Looks at the metrics of the steps made, but for the latest ones."""
    written = self.log.flush(
      self.loop.tokens_seen, self.loop.examples_seen, leaving=leaving
    )
    self.loop.note_steps(written)
    if self.loop.nonfinite_in_a_row >= self.config.max_nonfinite_steps:
      raise FloatingPointError(
        f"loss or gradient was not finite in {self.loop.nonfinite_in_a_row}"
        " steps in a row: lower BASE_LEARNING_RATE, or clip with"
        " <optimizer>.clip_norm; --debug_nans says where it began"
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
    """Scores the selected checkpoint, once, and ends the run."""
    step = int(self.state.step)
    with self.breakdown.phase("checkpoint"):
      self.checkpoints.wait()
    self._write_description()
    with self.breakdown.phase("evaluation"), cpu_memory.given_back():
      best, rows = final_scores.score_selected(
        self.config,
        self.folder,
        self.checkpoints,
        self.setup,
        step=step,
        loop=self.loop,
        student_params=self._student_params,
      )
    for row in rows:
      self.log.progress.say(
        f"{row['split']} {row['task']} {row['metric']}: {row['value']:.4f}"
        f" (n={row['n']}, checkpoint of step {row['checkpoint_step']})"
      )
    if step > self.first_step:
      self._tell_time(step)
    self._write_description()
    return TrainResult(step, best, rows, self.loop)

  def _tell_time(self, step: int) -> None:
    """Where the time of this start went, for people and for run.json."""
    self.breakdown.take()
    seconds = self.breakdown.total
    tokens = self.loop.tokens_seen - self.first_tokens
    self.time = {
      "steps": step - self.first_step,
      "wall_s": round(sum(seconds.values()), 3),
      "seconds": {name: round(value, 3) for name, value in seconds.items()},
      # Useful ones, while the devices were at work.
      "tokens_per_s": round(tokens / max(seconds["step"], 1e-9), 1),
    }
    self.log.progress.say(f"time: {time_breakdown.describe(seconds)}")
