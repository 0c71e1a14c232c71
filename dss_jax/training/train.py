"""Training: set up or restore, then one loop whose position is the step.

The loop is a plain `for` over steps. Batches are a pure function of (seed,
step), so a checkpoint's step is all the data position there is; what the loop
itself remembers (the best step, patience) is saved with the arrays. Killed at
any moment and called again, `train` ends with the same parameters and the same
metrics as if it had never been interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from dss_jax.base import atomic_files, stop_requests
from dss_jax.base.stop_requests import StoppedError, StopRequests
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import cpu_memory, results, run_directory, start_or_resume
from dss_jax.training import evaluation as evaluation_lib
from dss_jax.training.monitoring import Monitor, watchdog
from dss_jax.training.monitoring.time_breakdown import TimeBreakdown
from dss_jax.training.start_or_resume import Setup
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.train_state import LoopState

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """How a run ended.

  Attributes:
    step: updates made.
    best_step: the selected checkpoint.
    results: the entries of results.jsonl.
    loop: what the loop remembered at the end.
  """

  step: int
  best_step: int
  results: Sequence[Mapping[str, Any]]
  loop: LoopState


def train(
  config: TrainConfig,
  *,
  stream: TextIO | None = None,
  watchdog_seconds: float | None = None,
) -> TrainResult:
  """Trains a student, from the start or from where the run stopped.

  Args:
    config: the run.
    stream: where progress goes; None writes it to standard error.
    watchdog_seconds: ends the process where no step is done for as long, see
      `monitoring.watchdog`; None never does.

  Raises:
    UserError: for a configuration that cannot run.
    FloatingPointError: where too many updates in a row were not finite, or
      one with `debug_nans`.
    StoppedError: Ctrl-C or SIGTERM while training; the step is saved.
  """
  tell_others = _tell_others()
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(run_directory.locked(config.folder))
    stack.enter_context(config.partitioner.activate())
    checkpoints = stack.enter_context(
      checkpoints_lib.Checkpoints(config.folder, config.save_cfg)
    )
    # Restore the run, or begin it.
    saved_at = time.monotonic()
    breakdown = TimeBreakdown()
    setup, state, loop = start_or_resume.start_or_resume(config, checkpoints)
    step = first_step = int(state.step)
    first_tokens = loop.tokens_seen
    monitor = stack.enter_context(
      Monitor(config, setup, first_step, breakdown=breakdown, stream=stream)
    )
    write_description(config, setup, monitor)

    stop_step = config.total_steps
    if loop.out_of_patience(config.early_stopping_patience):
      stop_step = first_step
    if first_step < stop_step:
      _describe(config, setup, first_step, monitor)
      monitor.check_state(state)

    # Train.
    step_fn = setup.make_step(setup.tx)
    put = functools.partial(
      config.partitioner.put_batch, global_shapes=setup.data.global_shapes
    )
    with (
      _stop_requests(tell_others) as signals,
      watchdog.watching(breakdown, watchdog_seconds),
      setup.data.prefetch(first_step, stop_step, put) as batches,
    ):
      for position, batch in monitor.batches(batches):
        step = position + 1
        with monitor.step(step, state):
          state, sums = step_fn(state, batch)
        monitor.add_step(step, state, batch, sums)
        # The batch is freed before the next one is taken: freeing arrays lets
        # other threads run, and the maker of batches would run before the step.
        del batch

        is_last = step == config.total_steps
        evaluates = is_last or bool(
          config.eval_period and step % config.eval_period == 0
        )
        is_stopped = _is_stopped(signals, step)
        saves = is_last or is_stopped or step % config.save_cfg.period == 0
        if evaluates or saves:
          flush(config, loop, monitor)
        elif step % config.stats_period == 0:
          flush(config, loop, monitor, leaving=1)
        if evaluates:
          with monitor.evaluation(step), cpu_memory.given_back():
            saves |= evaluate(config, setup, state.params, step, loop, monitor)
        stops = is_stopped or loop.out_of_patience(
          config.early_stopping_patience
        )
        if saves or stops:
          with monitor.phase("checkpoint"):
            loop.wall_s += time.monotonic() - saved_at
            saved_at = time.monotonic()
            monitor.sync()
            note = setup.base.note if setup.base else None
            checkpoints.save(step, state, dataclasses.asdict(loop), note)
        if stops:
          break
      with monitor.phase("checkpoint"):
        checkpoints.wait()

    # Score the selected checkpoint.
    write_description(config, setup, monitor)
    if (number := _signal_to_any(signals)) is not None:
      raise StoppedError(
        f"step {step} of {config.total_steps} is saved", number
      )
    with monitor.phase("evaluation"), cpu_memory.given_back():
      best_step, entries = results.score_selected(
        config, checkpoints, setup, loop, step
      )
    for entry in entries:
      monitor.say(
        f"{entry['split']} {entry['task']} {entry['metric']}:"
        f" {entry['value']:.4f} (n={entry['n']}, checkpoint of step"
        f" {entry['checkpoint_step']})"
      )
    if step > first_step:
      monitor.end(step - first_step, loop.tokens_seen - first_tokens)
    write_description(config, setup, monitor)
    return TrainResult(step, best_step, entries, loop)


def _tell_others() -> Callable[[int], None] | None:
  """What tells other processes of a signal; None where there are none.

  JAX has caught SIGTERM to tell them, and would ignore it while the loop does
  not ask: it must end a process that is not in its loop.
  """
  if (
    jax.process_count() == 1
    or threading.current_thread() is not threading.main_thread()
  ):
    return None
  return stop_requests.taken_from_c(signal.SIGTERM)


def _stop_requests(
  tell_others: Callable[[int], None] | None,
) -> contextlib.AbstractContextManager[StopRequests]:
  """Notices signals, where all processes can learn of them."""
  if jax.process_count() > 1 and tell_others is None:
    return contextlib.nullcontext(StopRequests())
  return stop_requests.noticed(tell_others)


def _is_stopped(signals: StopRequests, step: int) -> bool:
  """Whether to stop after this step, which all processes agree on."""
  if jax.process_count() == 1:
    return signals.number is not None
  settings: Any = jax.config
  if not settings.jax_enable_preemption_service:
    return False
  is_stopped = multihost_utils.reached_preemption_sync_point(step)
  if is_stopped and signals.number is None:  # another process got the signal
    signals.number = signal.SIGTERM
  return is_stopped


def _signal_to_any(signals: StopRequests) -> int | None:
  """The signal that a process got, be it after the last step."""
  if jax.process_count() == 1:
    return signals.number
  numbers = multihost_utils.process_allgather(np.array(signals.number or 0))
  return signals.number or int(numbers.max()) or None


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


def evaluate(
  config: TrainConfig,
  setup: Setup,
  params: PyTree,
  step: int,
  loop: LoopState,
  monitor: Monitor,
) -> bool:
  """Scores what was trained; returns whether it is the best so far."""
  started = time.monotonic()
  params = setup.student_params(params)
  scores = setup.evaluators[0].run(params)
  selection = evaluation_lib.selection_value(
    scores, config.evaluation_cfg.metric
  )
  is_best = loop.note_evaluation(
    step, selection, config.early_stopping_min_improvement
  )
  if jax.process_index() == 0:
    evaluation_lib.write_predictions(config.folder / "eval", step, scores)
  values = evaluation_lib.flat_metrics(scores)
  if setup.validation_loss:
    values |= setup.validation_loss.run(params)
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


def write_description(
  config: TrainConfig, setup: Setup, monitor: Monitor
) -> None:
  """Writes `config.gin` and `run.json`.

  Only after the set-up: a configuration that does not fit the run found in the
  folder must not take the place of the one that does.
  """
  if jax.process_index() != 0:
    return
  if config.config_text_fn:
    atomic_files.write_atomically(
      config.folder / "config.gin", config.config_text_fn()
    )
  description = run_directory.describe_machine() | {
    "data_fingerprint": setup.data.fingerprint,
    "task": setup.data.task_name,
    "seed": config.random_seed,
    "num_parameters": results.num_parameters(config.model),
    "mesh": dict(config.partitioner.mesh.shape),
    "batch_shape": dataclasses.asdict(setup.data.shape),
  }
  if setup.base:
    description["lora"] = setup.base.as_json()
  description |= {
    "recompilations": monitor.recompilations,
    "time": monitor.time,
  }
  atomic_files.write_atomically(
    config.folder / "run.json", json.dumps(description, indent=2) + "\n"
  )


def _describe(
  config: TrainConfig, setup: Setup, first_step: int, monitor: Monitor
) -> None:
  """Says what is trained, and on which batches."""
  shape = dataclasses.asdict(setup.data.shape)
  earlier_shape = setup.earlier.get("batch_shape", shape)
  if earlier_shape != shape:
    monitor.say(
      f"the run continues with other batches: {shape} after {earlier_shape}"
    )
  multiple = config.partitioner.data_size * config.num_microbatches
  for line in setup.data.describe(first_step, multiple):
    monitor.say(line)
  for evaluator in setup.evaluators:
    for line in evaluator.describe():
      monitor.say(line)
  if setup.base:
    monitor.say(setup.base.describe())
