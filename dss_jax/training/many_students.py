"""Many students of one shape, trained by one program: for accelerators.

A small student leaves most of a GPU or TPU idle, and the next one must wait for
it. Here each step of K runs is one call: `jax.vmap` over a leading student
axis, which may be split over devices. All else is `train.train`, once for each
run, in a thread of its own: its batches, rate, weights and seed, its
evaluations, selection and early stop, and its folder, which is that of any run.
The threads meet at each step, and between steps work one at a time. A run that
has ended keeps its place and is frozen; so the program stays the same, and gets
no faster for it.

On a CPU this is slower than one run after another (measured: 1.5 times), since
there is nothing idle to use.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dss_jax.base import stop_requests
from dss_jax.base.errors import UserError
from dss_jax.base.stop_requests import StoppedError, StopRequests
from dss_jax.models.partitioning import constraints
from dss_jax.training import losses, train
from dss_jax.training.pair_losses import MutualInformation
from dss_jax.training.start_or_resume import Setup
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.train_state import TrainState
from dss_jax.training.train_step import JittedStep

PyTree = Any
_STUDENT = "student"  # the leading axis

# What the program is made of, by the field that says it.
_SHARED: Mapping[str, Callable[[TrainConfig], Any]] = {
  "TrainConfig.model": lambda c: (type(c.model), c.model.config),
  "TrainConfig.optimizer": lambda c: c.optimizer,
  "TrainConfig.partitioner": lambda c: list(c.partitioner.mesh.devices.flat),
  "TrainConfig.num_microbatches": lambda c: c.num_microbatches,
  "TrainConfig.vocabulary_loss": lambda c: c.vocabulary_loss,
  "Objective.normalizer": lambda c: c.objective.normalizer,
  "Objective.z_loss": lambda c: c.objective.z_loss,
  "Objective.label_smoothing": lambda c: c.objective.label_smoothing,
  "Objective.aux_loss": lambda c: _but_for_numbers(c.objective.aux_loss),
  "TrainConfig.learning_rate_fn": lambda c: _but_for_numbers(
    c.learning_rate_fn
  ),
}
# What a run among others cannot have, and what it must be instead.
_ALONE = {"lora": None, "profile_steps": None, "debug_nans": False}


def train_many(
  configs: Sequence[TrainConfig],
  *,
  streams: Sequence[TextIO] | None = None,
  devices: Sequence[Any] | None = None,
) -> list[train.TrainResult | Exception]:
  """Trains students whose steps are one program, each as `train.train` would.

  Runs found in their folders are continued, each from where it stopped.

  Args:
    configs: the runs, on one device each. They may differ in data, seeds,
      rates, weights, steps and whatever does not change the program. The
      `config_text_fn` of each must give its own text, whatever gin holds now.
    streams: where the progress of each goes; None writes all of it to standard
      error.
    devices: split the students evenly; None takes that of the runs.

  Returns:
    How each run ended; the others continue where one fails.

  Raises:
    UserError: for runs that do not share a program.
    StoppedError: Ctrl-C or SIGTERM while training; all steps are saved.
  """
  _check(configs)
  devices = devices or list(configs[0].partitioner.mesh.devices.flat)
  if len(configs) % len(devices):
    raise UserError(
      f"{len(configs)} students cannot be split evenly over {len(devices)}"
      " devices: train a multiple, or on fewer devices"
    )
  with (
    stop_requests.noticed() as signals,
    concurrent.futures.ThreadPoolExecutor(len(configs)) as threads,
  ):
    joint = _JointStep(len(configs), devices, signals)

    def run(index: int) -> train.TrainResult:
      with joint.turn():
        try:
          return train.train(
            _saving_at_once(configs[index]),
            stream=streams[index] if streams else None,
            company=joint.place(index),
          )
        finally:
          joint.leave(index)

    futures = [threads.submit(run, index) for index in range(len(configs))]
    outcomes = [_outcome(future) for future in futures]
  if joint.refusal:
    raise joint.refusal
  for outcome in outcomes:
    if isinstance(outcome, StoppedError):
      raise outcome
  return outcomes


def _saving_at_once(config: TrainConfig) -> TrainConfig:
  """The same run, whose saves have ended when another run has its turn.

  Orbax numbers saves for the whole process, and parts of one find each other by
  the newest number.
  """
  return dataclasses.replace(
    config,
    save_cfg=dataclasses.replace(config.save_cfg, asynchronous=False),
  )


def _outcome(future: concurrent.futures.Future) -> Any:
  return future.exception() or future.result()


def _but_for_numbers(value: Any) -> Any:
  """What a program has of a loss or a schedule as a constant."""
  if isinstance(value, MutualInformation):
    return value.label, value.rationale
  is_constant = value is None or jax.tree_util.all_leaves([value])
  return value if is_constant else jax.tree.structure(value)


def _check(configs: Sequence[TrainConfig]) -> None:
  """Raises UserError for configurations that do not share a program."""
  first = configs[0]
  for config in configs:
    for name, allowed in _ALONE.items():
      if getattr(config, name) != allowed:
        raise UserError(
          f"{name} is {getattr(config, name)!r}; where many students are trained"
          f" together it must be {allowed}",
          fields=f"TrainConfig.{name}",
        )
    for field, value_of in _SHARED.items():
      if value_of(config) != value_of(first):
        raise _differs(config, first, field, value_of(config), value_of(first))
  if first.partitioner.mesh.size > 1 or jax.process_count() > 1:
    raise UserError(
      "many students are trained together by one process, each on one device:"
      " give the partitioner one",
      fields="TrainConfig.partitioner",
    )


def _differs(
  config: TrainConfig, first: TrainConfig, field: str, *values: Any
) -> UserError:
  return UserError(
    f"{field.rpartition('.')[2]} of the run in {config.model_dir!r} is"
    f" {values[0]!r}, and of that in {first.model_dir!r} {values[1]!r}: students"
    " are trained together only where these are the same",
    fields=field,
  )


def _weights(objective: losses.Objective) -> Any:
  return objective.subtask_weights or objective.alpha


class _JointStep:
  """Takes a step of all runs when each has called for its own.

  Args:
    number: of runs.
    devices: split the runs evenly.
    signals: whether all are asked to stop.
  """

  def __init__(
    self,
    number: int,
    devices: Sequence[Any],
    signals: StopRequests,
  ):
    self.signals = signals
    self.refusal: UserError | None = None  # of runs that do not fit together
    self._mesh = Mesh(np.array(devices), (_STUDENT,))
    self._sharding = NamedSharding(self._mesh, PartitionSpec(_STUDENT))
    self._meeting = threading.Condition()
    self._number = number
    self._running = set(range(number))
    self._joined: dict[int, tuple[TrainConfig, Setup, JittedStep]] = {}
    self._calls: dict[int, tuple[Any, PyTree]] = {}  # of those that wait
    self._answers: dict[int, Any] = {}
    # Of all runs, from the first step on.
    self._program: Callable[..., Any] | None = None
    self._arguments: PyTree = None
    self._states: Any = None
    self._state_shardings: Any = None
    self._batches: list[PyTree] = []
    self._take = jax.jit(
      lambda tree, index: jax.tree.map(lambda x: x[index], tree),
      out_shardings=NamedSharding(self._mesh, PartitionSpec()),
    )

  def turn(self) -> threading.Condition:
    """Held by the one thread that works; given up while it waits for a step.

    Neither Orbax nor all of JAX's tracing is made for threads.
    """
    return self._meeting

  def place(self, index: int) -> _Place:
    return _Place(self, index)

  def join(
    self, index: int, config: TrainConfig, setup: Setup, step: JittedStep
  ) -> None:
    """Takes a run in, before its first step."""
    with self._meeting:
      for other, other_setup, other_step in self._joined.values():
        data, others = setup.data, other_setup.data
        if data.subtask_names != others.subtask_names:
          self.refusal = _differs(
            config,
            other,
            "DatasetConfig.mixture_or_task_name",
            *(
              c.train_dataset_cfg.mixture_or_task_name for c in (config, other)
            ),
          )
        elif data.shape != others.shape:
          self.refusal = _differs(
            config, other, "DatasetConfig.batch_size", data.shape, others.shape
          )
        # Weights that change at other steps, or only in one of the two.
        elif jax.tree.structure(step.arguments) != jax.tree.structure(
          other_step.arguments
        ):
          self.refusal = _differs(
            config,
            other,
            "Objective.alpha",
            *(_weights(c.objective) for c in (config, other)),
          )
      self._joined[index] = config, setup, step

  def leave(self, index: int) -> None:
    """Takes no more steps of a run; the others no longer wait for it."""
    with self._meeting:
      self._running.discard(index)
      self._step_if_all_wait()

  def call(self, index: int, state: Any, batch: PyTree) -> Any:
    """The run's step, as `JittedStep` would take it."""
    with self._meeting:
      self._calls[index] = state, batch
      self._step_if_all_wait()
      self._meeting.wait_for(lambda: index in self._answers)
      answer = self._answers.pop(index)
    if isinstance(answer, BaseException):
      raise answer
    return answer

  def _step_if_all_wait(self) -> None:
    if not self._calls or set(self._calls) != self._running:
      return
    try:
      self._answers = self._step()
    except Exception as error:  # each run ends by it
      self._answers = dict.fromkeys(self._calls, error)
    self._calls = {}
    self._meeting.notify_all()

  def _step(self) -> dict[int, Any]:
    if self.refusal:
      raise self.refusal
    calls = self._calls
    program = self._program = self._program or self._begin()
    for index, (_, batch) in calls.items():
      self._batches[index] = batch
    is_running = np.array([i in calls for i in range(self._number)])
    batches = self._stacked(self._batches)
    with self._on_devices():
      self._states, sums = program(
        self._states,
        batches,
        self._arguments,
        jax.device_put(is_running, self._sharding),
      )
      each = _unstacked(sums, self._number)
    return {index: (_OneState(self, index), each[index]) for index in calls}

  def _begin(self) -> Callable[..., Any]:
    """Makes the states; returns the program.

    A run that had ended before has a copy of another in its place, which is
    never looked at: so the program is the one that the others began with.
    """
    first = min(self._calls)
    there = [i if i in self._calls else first for i in range(self._number)]
    states = [self._calls[index][0] for index in there]
    self._batches = [self._calls[index][1] for index in there]
    self._state_shardings = jax.tree.map(lambda x: x.sharding, states[0])
    self._states = self._stacked(states)
    self._arguments = self._stacked(
      [self._joined[index][2].arguments for index in there]
    )
    function = self._joined[first][2].function
    assert function is not None

    def step(state, batch, arguments, is_running):
      new, sums = function(state, batch, *arguments)
      keep = functools.partial(jnp.where, is_running)
      return jax.tree.map(keep, new, state), sums

    step = jax.vmap(step)
    if self._mesh.size > 1:
      spec = PartitionSpec(_STUDENT)
      step = jax.shard_map(
        step, mesh=self._mesh, in_specs=spec, out_specs=spec, check_vma=False
      )
    return jax.jit(step, donate_argnums=0)

  @contextlib.contextmanager
  def _on_devices(self) -> Iterator[None]:
    """The mesh of the students, in place of that of one of them."""
    with jax.set_mesh(self._mesh), constraints.logical_axis_rules(()):
      yield

  def _stacked(self, trees: Sequence[PyTree]) -> PyTree:
    return jax.device_put(_stack(tuple(trees)), self._sharding)

  def one(self, index: int, name: str) -> PyTree:
    """A field of a run's state, where `train` would have it."""
    with self._on_devices():
      part = self._take(getattr(self._states, name), index)
    return jax.device_put(part, getattr(self._state_shardings, name))


@jax.jit
def _stack(trees: tuple[PyTree, ...]) -> PyTree:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@functools.partial(jax.jit, static_argnums=1)
def _unstacked(tree: PyTree, number: int) -> list[PyTree]:
  return [jax.tree.map(operator.itemgetter(i), tree) for i in range(number)]


class _OneState(TrainState):
  """A run's part of the states, which is cut out where it is looked at.

  It is valid until the run's next step.
  """

  def __init__(self, joint: _JointStep, index: int):
    object.__setattr__(self, "_part", functools.partial(joint.one, index))

  def __getattr__(self, name: str) -> Any:
    if name not in ("step", "params", "opt_state"):
      raise AttributeError(name)
    return self._part(name)


class _Place:
  """A run's place among the others: `train.Company`."""

  def __init__(self, joint: _JointStep, index: int):
    self._joint = joint
    self._index = index
    self.signals = joint.signals

  @contextlib.contextmanager
  def steps(
    self, config: TrainConfig, setup: Setup, step: JittedStep
  ) -> Iterator[Callable[[Any, PyTree], Any]]:
    """Gives what takes the run's steps; leaves the others at the end."""
    self._joint.join(self._index, config, setup, step)
    try:
      yield functools.partial(self._joint.call, self._index)
    finally:
      self._joint.leave(self._index)
