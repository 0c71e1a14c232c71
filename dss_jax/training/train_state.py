"""What training changes: step, parameters, optimizer state; nothing else."""

import dataclasses
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
    opt_state: of the optimizer.
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
  shardings = partitioner.state_shardings(
    state_shapes(model, tx), model.param_axes()
  )
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
    copy: leave the parameters to the caller; else the state takes them over,
      where they are already in place, and nobody may use them afterwards.

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
