"""Optimizers: T5X's Adafactor, AdamW, and Adam scaled by parameter size.

Each is a frozen dataclass of settings whose `transform` gives an Optax
gradient transformation. Three things hold for all:

* The learning rate is `learning_rate_fn(step)`, with `step` an optional extra
  argument of `update`; without it, the number of updates made so far. So a
  skipped step still moves along the schedule, but not the moments' clock. The
  extra argument `learning_rate` takes its place, so that a compiled program can
  take its rate as an argument.
* Dimensions that stack separate parameters (`layers` of scanned layers) are
  batch dimensions: one update per layer, whether layers are scanned or not.
* Weight decay leaves out layer-norm scales and biases, T5's relative position
  biases among them (`updates.NO_DECAY`).
"""

from typing import Any, Protocol

import optax

from dss_jax.training.optimizers.adafactor import (
  Adafactor,
  AdafactorState,
  standard_logical_factor_rules,
)
from dss_jax.training.optimizers.adam import AdamW, ParameterScaledAdam
from dss_jax.training.optimizers.schedules import LearningRateFn

__all__ = [
  "Adafactor",
  "AdafactorState",
  "AdamW",
  "Optimizer",
  "ParameterScaledAdam",
  "standard_logical_factor_rules",
]


class Optimizer(Protocol):
  """What the training loop needs of an optimizer."""

  def transform(
    self,
    learning_rate_fn: LearningRateFn,
    params_shape: Any,
    param_axes: Any = None,
  ) -> optax.GradientTransformationExtraArgs:
    """The Optax transformation for parameters of these shapes and axes."""
    ...
