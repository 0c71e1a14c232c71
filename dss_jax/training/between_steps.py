"""What follows a step: its metrics, an evaluation, a checkpoint.

A run that is told to stop saves the step it is at. It does not wait for the
rest of an evaluation: the checkpoint says that this is due, and the next start
makes it before all else.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax

from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import cpu_memory
from dss_jax.training import evaluation as evaluation_lib
from dss_jax.training.monitoring import Monitor
from dss_jax.training.start_or_resume import Setup
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.train_state import LoopState, TrainState

PyTree = Any


class _StopError(Exception):
  """Ends an evaluation, in all processes at the same batch."""


@dataclasses.dataclass
class BetweenSteps:
  """Does what is due after a step.

  Attributes:
    config: the run.
    setup: what this start of the run works with.
    checkpoints: those of the run.
    loop: what the loop remembers; kept up to date.
    monitor: what watches the run.
    is_stopped: whether the run is to stop, which all processes agree on; asked
      after each step and each batch of an evaluation.
    saved_at: until when `loop.wall_s` counts, by `time.monotonic`.
  """

  config: TrainConfig
  setup: Setup
  checkpoints: checkpoints_lib.Checkpoints
  loop: LoopState
  monitor: Monitor
  is_stopped: Callable[[], bool]
  saved_at: float

  def after(self, step: int, state: TrainState) -> bool:
    """Does what is due after `step` updates; returns whether the run stops.

    Raises:
      FloatingPointError: where too many steps in a row were not finite.
    """
    config, loop = self.config, self.loop
    is_last = step == config.total_steps
    evaluates = is_last or bool(
      config.eval_period and step % config.eval_period == 0
    )
    is_stopped = self.is_stopped()
    saves = is_last or is_stopped or step % config.save_cfg.period == 0
    if evaluates or saves:
      flush(config, loop, self.monitor)
    elif step % config.stats_period == 0:
      flush(config, loop, self.monitor, leaving=1)
    if saves and not (is_last or is_stopped):
      # If all steps since the checkpoint before were skipped, it is the same,
      # and would take the place of one from before the run diverged.
      saves = loop.nonfinite_in_a_row < config.save_cfg.period
    if evaluates:
      loop.evaluation_due = True
      if not is_stopped:
        saves |= self._evaluate(step, state.params)
    # Still due: it was stopped, or not begun.
    is_stopped |= loop.evaluation_due
    stops = is_stopped or self._is_out_of_patience()
    if is_stopped:
      self.monitor.say(f"saving step {step} of {config.total_steps}")
    if saves or stops:
      self._save(step, state)
    return stops

  def catch_up(self, step: int, state: TrainState) -> bool:
    """Does what an earlier start left; returns whether the run stops here.

    Args:
      step: updates made before this start.
      state: as saved.
    """
    if not self.loop.evaluation_due:
      return self._is_out_of_patience()
    self._evaluate(step, state.params)
    if self.loop.evaluation_due:
      return True
    ends = step == self.config.total_steps or self._is_out_of_patience()
    if ends:  # else the next checkpoint will say what was found
      self._save(step, state)
    return ends

  def _is_out_of_patience(self) -> bool:
    return self.loop.out_of_patience(self.config.early_stopping_patience)

  def _evaluate(self, step: int, params: PyTree) -> bool:
    """Makes the evaluation that is due; returns whether it is the best so far.

    It stays due where the run is told to stop meanwhile.
    """
    try:
      with self.monitor.evaluation(step), cpu_memory.given_back():
        is_best = self._score(step, params)
    except _StopError:
      return False
    self.loop.evaluation_due = False
    return is_best

  def _go_on(self, *_: object) -> None:
    """Raises _StopError where the run is to stop."""
    if self.is_stopped():
      raise _StopError

  def _score(self, step: int, params: PyTree) -> bool:
    """Scores what was trained; returns whether it is the best so far."""
    config, loop, monitor = self.config, self.loop, self.monitor
    started = time.monotonic()
    params = self.setup.student_params(params)
    scores = self.setup.evaluators[0].run(params, progress=self._go_on)
    values = evaluation_lib.flat_metrics(scores)
    if self.setup.validation_loss:
      values |= self.setup.validation_loss.run(params, progress=self._go_on)
    # Nothing is noted or written before it is known that all of it is made.
    selection = evaluation_lib.selection_value(
      scores, config.evaluation_cfg.metric
    )
    is_best = loop.note_evaluation(
      step, selection, config.early_stopping_min_improvement
    )
    if jax.process_index() == 0:
      evaluation_lib.write_predictions(config.folder / "eval", step, scores)
    values |= {
      "tokens_seen": loop.tokens_seen,
      "examples_seen": loop.examples_seen,
    }
    monitor.add_evaluation(step, values, time.monotonic() - started)
    shown = ", ".join(
      f"{name} {value:.4f}"
      for score in scores
      for name, value in score.metrics.items()
    )
    best = " (best)" if is_best else ""
    monitor.say(f"step {step}: {scores[0].split} {shown}{best}")
    for score in scores:
      monitor.show_predictions(step, score.task, score.predictions)
    return is_best

  def _save(self, step: int, state: TrainState) -> None:
    with self.monitor.phase("checkpoint"):
      now = time.monotonic()
      self.loop.wall_s += now - self.saved_at
      self.saved_at = now
      self.monitor.sync()
      base = self.setup.base
      self.checkpoints.save(
        step,
        state,
        dataclasses.asdict(self.loop),
        base.note if base else None,
      )


def flush(
  config: TrainConfig, loop: LoopState, monitor: Monitor, *, leaving: int = 0
) -> None:
  """Takes in the metrics of the steps made, all but the `leaving` latest.

  Raises:
    FloatingPointError: where too many steps in a row were not finite.
  """
  loop.note_steps(
    monitor.flush(loop.tokens_seen, loop.examples_seen, leaving=leaving)
  )
  if loop.nonfinite_in_a_row >= config.max_nonfinite_steps:
    raise FloatingPointError(
      f"loss or gradient was not finite in {loop.nonfinite_in_a_row} steps in a"
      " row: lower the learning rate, or set clip_norm of the optimizer;"
      " debug_nans says where it began"
    )
