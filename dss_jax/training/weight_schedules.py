"""Weights of losses that stay, or change over training."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.training.optimizers.schedules import PiecewiseLinear

# A weight for all steps, or the weights at some, between which it is linear.
Weight = float | Mapping[int, float]
MAX_STEP = 2**24  # float32 holds all whole numbers up to this


def check(field: str, weight: Any, most: float) -> None:
  """Raises UserError unless it is a `Weight` with values from 0 to `most`."""
  if not isinstance(weight, Mapping):
    return checks.in_range(field, weight, 0, most)
  if not weight or not all(
    type(step) is int and 0 <= step <= MAX_STEP for step in weight
  ):
    raise UserError(
      f"{field.rpartition('.')[2]} is {weight!r}; it must be a number, or name"
      f" values at steps from 0 to {MAX_STEP}, such as {{0: 0.9, 1000: 0.5}}",
      fields=field,
    )
  for value in weight.values():
    checks.in_range(field, value, 0, most)
  return None


def of(weight: Weight) -> float | PiecewiseLinear:
  """A weight as a number or a schedule, which are pytrees."""
  if isinstance(weight, Mapping):
    return PiecewiseLinear.through(weight)
  return float(weight)


def at(weights: Sequence[Any], step: jax.Array | int) -> tuple[Any, ...]:
  """The weights, numbers or schedules, after `step` updates."""
  return tuple(w(step) if callable(w) else w for w in weights)
