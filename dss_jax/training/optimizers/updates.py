"""What optimizers share: clipping, decay masks, learning rates."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dss_jax.models.partitioning import logical_axes
from dss_jax.training.optimizers.schedules import LearningRateFn

# Searched in a parameter's path: layer-norm scales and biases, T5's relative
# position biases among them. T5X and Optax decay these too by default, though
# for a scale zero is not a neutral value. An empty tuple decays everything.
NO_DECAY = (r"(^|/)(scale|bias|rel_embedding)$",)


def decay_mask(params_shape: Any, no_decay: tuple[str, ...]) -> Any:
  """Pytree of bools like the parameters: whether weight decay applies."""
  structure = jax.tree.structure(params_shape)
  return structure.unflatten(
    not any(re.search(pattern, param.path) for pattern in no_decay)
    for param in logical_axes.named_params(params_shape)
  )


def clipped(
  tx: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformationExtraArgs:
  """`tx` on gradients scaled down to a global L2 norm of `clip_norm` or less.

  The state is that of `tx`.
  """
  tx = optax.with_extra_args_support(tx)
  if clip_norm is None:
    return tx

  def update(updates, state, params=None, **extra_args):
    scale = jnp.minimum(1.0, clip_norm / optax.tree.norm(updates))
    updates = jax.tree.map(lambda g: g * scale, updates)
    return tx.update(updates, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(tx.init, update)


def rate_of_update(
  learning_rate_fn: LearningRateFn,
  count: jax.Array,
  *,
  step: jax.Array | None = None,
  learning_rate: jax.Array | None = None,
  **others: Any,
) -> jax.Array:
  """The learning rate of an update, from the extra arguments it is given.

  Args:
    learning_rate_fn: the optimizer's own.
    count: updates made so far, the step where no other is given.
    step: what to call `learning_rate_fn` with.
    learning_rate: the rate itself, in place of all this.
    others: what other transformations read.
  """
  del others
  if learning_rate is not None:
    return learning_rate
  return learning_rate_fn(count if step is None else step)


class ScheduleState(NamedTuple):
  """Number of updates made, the step of the learning rate by default."""

  count: jax.Array  # [] int32


def scale_by_learning_rate(
  learning_rate_fn: LearningRateFn,
) -> optax.GradientTransformationExtraArgs:
  """Multiplies by minus the learning rate; see `rate_of_update`."""

  def init(params):
    del params
    return ScheduleState(jnp.zeros([], jnp.int32))

  def update(updates, state, params=None, **extra_args):
    del params
    rate = rate_of_update(learning_rate_fn, state.count, **extra_args)
    updates = jax.tree.map(lambda u: -rate * u, updates)
    return updates, ScheduleState(state.count + 1)

  return optax.GradientTransformationExtraArgs(init, update)


def scale_by_block_rms(
  params_shape: Any, param_axes: Any, minimum: float
) -> optax.GradientTransformation:
  """Multiplies by max(RMS of the parameter block, minimum)."""
  named = list(logical_axes.named_params(params_shape, param_axes))

  def init(params):
    del params
    return optax.EmptyState()

  def update(updates, state, params=None):
    leaves, structure = jax.tree.flatten(updates)
    values = structure.flatten_up_to(params)
    scaled = []
    for param, u, p in zip(named, leaves, values, strict=True):
      dims = logical_axes.block_dims(param.axes)
      rms = jnp.sqrt(jnp.mean(jnp.square(p), axis=dims, keepdims=True))
      scaled.append(u * jnp.maximum(rms, minimum))
    return structure.unflatten(scaled), state

  return optax.GradientTransformation(init, update)
