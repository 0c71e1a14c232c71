"""AdamW, and Adam scaled by the size of each parameter."""

import dataclasses
from typing import Any

import optax

from dss_jax.training.optimizers import updates
from dss_jax.training.optimizers.schedules import LearningRateFn


@dataclasses.dataclass(frozen=True)
class AdamW:
  """Adam with decoupled weight decay (arXiv:1711.05101).

  The defaults are the official "distilling step-by-step" recipe's but for its
  clip norm of 1: no weight decay, Adam's usual constants.

  Attributes:
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: multiplied by the learning rate and the parameter.
    clip_norm: largest global norm of the gradient, before the moments see it;
      None does not clip.
    no_decay: paths (regular expressions) that weight decay leaves out.
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip_norm: float | None = None
  no_decay: tuple[str, ...] = updates.NO_DECAY

  def transform(
    self,
    learning_rate_fn: LearningRateFn,
    params_shape: Any,
    param_axes: Any = None,
  ) -> optax.GradientTransformationExtraArgs:
    """The Optax transformation; `param_axes` makes no difference here."""
    del param_axes
    return _adam(self, learning_rate_fn, params_shape)


@dataclasses.dataclass(frozen=True)
class ParameterScaledAdam(AdamW):
  """Adam whose step is relative to the size of each parameter.

      update = -lr · (max(RMS(block), min_scale) · adam_direction + decay)

  A block is one parameter tensor of one layer. So a learning rate says by what
  fraction parameters may change, as in Adafactor (arXiv:1804.04235, section
  8), while both moments stay exact: 0.04 trains the small students of this
  project from scratch where plain Adam would need a rate per width.

  Attributes:
    min_scale: smallest RMS a block counts with, so that zeros can grow. The
      other fields are those of `AdamW`.
  """

  min_scale: float = 1e-3

  def transform(
    self,
    learning_rate_fn: LearningRateFn,
    params_shape: Any,
    param_axes: Any = None,
  ) -> optax.GradientTransformationExtraArgs:
    """The Optax transformation; `param_axes` separates stacked layers."""
    scaling = updates.scale_by_block_rms(
      params_shape, param_axes, self.min_scale
    )
    return _adam(self, learning_rate_fn, params_shape, scaling)


def _adam(
  settings: AdamW,
  learning_rate_fn: LearningRateFn,
  params_shape: Any,
  *scalings: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Adam, what scales its direction, decoupled weight decay, the rate."""
  mask = updates.decay_mask(params_shape, settings.no_decay)
  tx = optax.chain(
    optax.scale_by_adam(settings.b1, settings.b2, settings.eps),
    *scalings,
    optax.add_decayed_weights(settings.weight_decay, mask),
    updates.scale_by_learning_rate(learning_rate_fn),
  )
  return updates.clipped(tx, settings.clip_norm)
