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
from typing import Any, Protocol, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from dss_jax.base import atomic_files, stop_requests
from dss_jax.base.stop_requests import StoppedError, StopRequests
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import cpu_memory, results, run_directory, start_or_resume
from dss_jax.training.between_steps import BetweenSteps
from dss_jax.training.monitoring import Monitor, watchdog
from dss_jax.training.monitoring.time_breakdown import TimeBreakdown
from dss_jax.training.start_or_resume import Setup
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.train_state import LoopState
from dss_jax.training.train_step import JittedStep


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


class Company(Protocol):
  """Other runs that are trained with this one; see `many_students`."""

  @property
  def signals(self) -> StopRequests:
    """Whether all are asked to stop."""
    ...

  def steps(
    self, config: TrainConfig, setup: Setup, step: JittedStep
  ) -> contextlib.AbstractContextManager[Callable[[Any, Any], Any]]:
    """Gives what takes the run's steps in place of `step`."""
    ...


def train(
  config: TrainConfig,
  *,
  stream: TextIO | None = None,
  watchdog_seconds: float | None = None,
  company: Company | None = None,
) -> TrainResult:
  """Trains a student, from the start or from where the run stopped.

  Args:
    config: the run.
    stream: where progress goes; None writes it to standard error.
    watchdog_seconds: ends the process where no step is done for as long, see
      `monitoring.watchdog`; None never does.
    company: takes the steps of several runs together; None takes them alone.

  Raises:
    UserError: for a configuration that cannot run.
    FloatingPointError: where too many updates in a row were not finite, or
      one with `debug_nans`.
    StoppedError: Ctrl-C or SIGTERM while training; the step is saved. An
      evaluation that they stopped is made by the next start.
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
    started = time.monotonic()
    breakdown = TimeBreakdown()
    setup, state, loop = start_or_resume.start_or_resume(config, checkpoints)
    step = first_step = int(state.step)
    first_tokens = loop.tokens_seen
    monitor = stack.enter_context(
      Monitor(
        config,
        setup,
        first_step,
        evaluation_due=loop.evaluation_due,
        breakdown=breakdown,
        stream=stream,
      )
    )
    write_description(config, setup, monitor)

    is_over = loop.out_of_patience(config.early_stopping_patience)
    if first_step < config.total_steps and not is_over:
      _describe(config, setup, first_step, monitor)
      monitor.check_state(state)

    # Train.
    put = functools.partial(
      config.partitioner.put_batch, global_shapes=setup.data.global_shapes
    )
    with (
      _stop_requests(tell_others, company) as signals,
      watchdog.watching(breakdown, watchdog_seconds),
    ):
      between = BetweenSteps(
        config,
        setup,
        checkpoints,
        loop,
        monitor,
        is_stopped=_StopAgreement(signals),
        saved_at=started,
      )
      stops = between.catch_up(first_step, state)
      stop_step = first_step if stops else config.total_steps
      with (
        setup.data.prefetch(first_step, stop_step, put) as batches,
        _steps_of(config, setup, company) as step_fn,
      ):
        for position, batch in monitor.batches(batches):
          step = position + 1
          with monitor.step(step, state):
            state, sums = step_fn(state, batch)
          monitor.add_step(step, state, batch, sums)
          # The batch is freed before the next one is taken: freeing arrays lets
          # other threads run, and the maker of batches would run before the
          # step.
          del batch
          if between.after(step, state):
            break
      with monitor.phase("checkpoint"):
        checkpoints.wait()

    # Score the selected checkpoint.
    write_description(config, setup, monitor)
    if (number := _signal_to_any(signals)) is not None:
      saved = f"step {step} of {config.total_steps} is saved"
      if loop.evaluation_due:
        saved += ", to be evaluated when the run continues"
      raise StoppedError(saved, number)
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

  JAX has caught SIGTERM to tell them, be it the only process, and would ignore
  it while the loop does not ask: it must end a process that is not in its loop.
  """
  if (
    not jax.distributed.is_initialized()
    or threading.current_thread() is not threading.main_thread()
  ):
    return None
  return stop_requests.taken_from_c(signal.SIGTERM)


def _steps_of(
  config: TrainConfig, setup: Setup, company: Company | None
) -> contextlib.AbstractContextManager[Callable[[Any, Any], Any]]:
  """Gives what takes the run's steps."""
  step = setup.make_step(setup.tx)
  if company:
    return company.steps(config, setup, step)
  return contextlib.nullcontext(step)


def _stop_requests(
  tell_others: Callable[[int], None] | None,
  company: Company | None,
) -> contextlib.AbstractContextManager[StopRequests]:
  """Notices signals, where all processes can learn of them."""
  if company:
    return contextlib.nullcontext(company.signals)
  if jax.process_count() > 1 and tell_others is None:
    return contextlib.nullcontext(StopRequests())
  return stop_requests.noticed(tell_others)


class _StopAgreement:
  """Says whether to stop here, which all processes agree on.

  Each of them must ask at the same points; the agreement is about how often
  they have asked.
  """

  def __init__(self, signals: StopRequests):
    self._signals = signals
    self._asked = 0

  def __call__(self) -> bool:
    if jax.process_count() == 1:
      return self._signals.number is not None
    settings: Any = jax.config
    if not settings.jax_enable_preemption_service:
      return False
    self._asked += 1
    is_stopped = multihost_utils.reached_preemption_sync_point(self._asked)
    if is_stopped and self._signals.number is None:  # another process got it
      self._signals.number = signal.SIGTERM
    return is_stopped


def _signal_to_any(signals: StopRequests) -> int | None:
  """The signal that a process got, be it after the last step."""
  if jax.process_count() == 1:
    return signals.number
  numbers = multihost_utils.process_allgather(np.array(signals.number or 0))
  return signals.number or int(numbers.max()) or None


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
  multiple = config.partitioner.batch_shards * config.num_microbatches
  for line in setup.data.describe(first_step, multiple):
    monitor.say(line)
  for evaluator in setup.evaluators:
    for line in evaluator.describe():
      monitor.say(line)
  if setup.base:
    monitor.say(setup.base.describe())
