"""What training changes: the arrays, and what the loop remembers besides."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dss_jax.models.abstract_params import param_shapes, with_shardings
from dss_jax.models.partitioning import Partitioner, place


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The state of a run, a pytree.

  Attributes:
    step: [] int32, steps made, skipped ones included; also the position in
      the data.
    params: nested dict of float32 arrays, with T5X's paths.
    opt_state: the optimizer's state.
  """

  step: jax.Array
  params: Any
  opt_state: Any

  def replace(self, **changes: Any) -> "TrainState":
    """A copy with some fields changed."""
    return dataclasses.replace(self, **changes)

  @classmethod
  def create(
    cls, params: Any, tx: optax.GradientTransformation
  ) -> "TrainState":
    """The state before the first step."""
    return cls(jnp.zeros([], jnp.int32), params, tx.init(params))


@dataclasses.dataclass
class LoopState:
  """What the loop must remember besides the arrays; saved with them.

  Attributes:
    best_step: the step whose evaluation was best so far.
    best_value: its selection metric.
    stale_evaluations: evaluations since the last one that improved enough.
    plateau_value: the selection metric of that one.
    encoder_tokens: non-padding input tokens trained on so far.
    decoder_tokens: non-padding target tokens trained on so far.
    examples_seen: sub-task examples trained on so far.
    nonfinite_steps: updates skipped because loss or gradient was not finite.
    nonfinite_in_a_row: how many of the latest updates were skipped.
    evaluation_due: whether this step is still to be evaluated, since the run
      was told to stop.
    wall_s: seconds spent, over all starts.
  """

  best_step: int | None = None
  best_value: float | None = None
  stale_evaluations: int = 0
  plateau_value: float | None = None
  encoder_tokens: int = 0
  decoder_tokens: int = 0
  examples_seen: int = 0
  nonfinite_steps: int = 0
  nonfinite_in_a_row: int = 0
  evaluation_due: bool = False
  wall_s: float = 0.0

  @property
  def tokens_seen(self) -> int:
    """Non-padding tokens of all sub-tasks trained on so far."""
    return self.encoder_tokens + self.decoder_tokens

  def note_steps(self, steps: Sequence[Mapping[str, float]]) -> None:
    """Takes in the values of steps made, as in metrics.jsonl."""
    for values in steps:
      self.encoder_tokens += int(values["encoder_tokens"])
      self.decoder_tokens += int(values["decoder_tokens"])
      self.examples_seen += int(values["examples"])
      self.nonfinite_steps += int(values["nonfinite"])
      self.nonfinite_in_a_row = (
        self.nonfinite_in_a_row + 1 if values["nonfinite"] else 0
      )

  def note_evaluation(
    self, step: int, value: float, min_improvement: float = 0.0
  ) -> bool:
    """Takes an evaluation in; returns whether it is the best so far.

    Args:
      step: updates made.
      value: the selection metric.
      min_improvement: what it must be better by, and more, for patience to
        begin anew.
    """
    # Runs that began without a minimum have no value of a plateau.
    plateau = (
      self.best_value if self.plateau_value is None else self.plateau_value
    )
    if plateau is None or value > plateau + min_improvement:
      self.plateau_value, self.stale_evaluations = value, 0
    else:
      self.stale_evaluations += 1
    if self.best_value is None or value > self.best_value:
      self.best_step, self.best_value = step, value
      return True
    return False

  def out_of_patience(self, patience: int | None) -> bool:
    """Whether so many evaluations passed without a better one."""
    return patience is not None and self.stale_evaluations >= patience


def state_shapes(model: Any, tx: optax.GradientTransformation) -> TrainState:
  """Shapes and types of the whole state, without any memory."""
  return jax.eval_shape(
    lambda params: TrainState.create(params, tx), param_shapes(model)
  )


def abstract_state(
  model: Any, tx: optax.GradientTransformation, partitioner: Partitioner
) -> tuple[TrainState, TrainState]:
  """The state's shapes with shardings, and the shardings by themselves."""
  shapes = state_shapes(model, tx)
  shardings = partitioner.state_shardings(shapes, model.param_axes())
  return with_shardings(shapes, shardings), shardings


def init_state(
  model: Any,
  tx: optax.GradientTransformation,
  partitioner: Partitioner,
  key: jax.Array,
) -> tuple[TrainState, TrainState]:
  """A fresh state, made in place: each device computes only its part.

  Args:
    model: with `init(key)` and `param_axes()`.
    tx: the optimizer.
    partitioner: says where everything lives.
    key: typed key for the parameters.

  Returns:
    The state, and its shardings in the same structure.
  """
  _, shardings = abstract_state(model, tx, partitioner)
  init = jax.jit(
    lambda key: TrainState.create(model.init(key), tx),
    out_shardings=shardings,
  )
  with partitioner.activate():
    return init(key), shardings


def state_from_params(
  params: Any,
  tx: optax.GradientTransformation,
  partitioner: Partitioner,
  param_axes: Any,
  *,
  copy: bool = True,
) -> tuple[TrainState, TrainState]:
  """A state at step 0 from given parameters, such as a checkpoint's.

  Args:
    params: arrays of any placement, NumPy's too.
    tx: the optimizer; its state starts afresh.
    partitioner: says where everything lives.
    param_axes: logical axes of the parameters.
    copy: whether the caller keeps the parameters; if not, the state takes over
      those that are already in place, and they must not be used afterwards.

  Returns:
    The state, and its shardings in the same structure.
  """
  shardings = partitioner.state_shardings(
    jax.eval_shape(lambda p: TrainState.create(p, tx), params), param_axes
  )
  params = place(params, shardings.params)
  if not copy:
    with partitioner.activate():
      init = jax.jit(tx.init, out_shardings=shardings.opt_state)
      opt_state = init(params)
    step = jax.device_put(jnp.zeros([], jnp.int32), shardings.step)
    return TrainState(step, params, opt_state), shardings

  def create(params):
    # Copies, because training steps take over the memory of their state: the
    # caller's arrays must not be part of it.
    return TrainState.create(jax.tree.map(jnp.copy, params), tx)

  with partitioner.activate():
    return jax.jit(create, out_shardings=shardings)(params), shardings
