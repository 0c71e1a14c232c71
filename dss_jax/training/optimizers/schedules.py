"""Learning-rate schedules in T5X's language: factors joined with `*`.

    create_learning_rate_scheduler("constant * linear_warmup * rsqrt_decay")

The parameters, their defaults and every formula are T5X's
(`t5x.utils.create_learning_rate_scheduler`); `linear_to_zero` is added, because
the official "distilling step-by-step" recipe falls linearly to zero without
warm-up (the Hugging Face Trainer's default schedule).

A schedule is a pytree of its numbers. So a compiled program can take it as an
argument, and serve all schedules of the same factors.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dss_jax.base.errors import UserError

LearningRateFn = Callable[[jax.Array | int], jax.Array]

_FUNCTION = "create_learning_rate_scheduler"

FACTORS = (
  "constant",
  "linear_warmup",
  "linear_decay",
  "rsqrt_decay",
  "rsqrt_normalized_decay",
  "decay_every",
  "cosine_decay",
  "linear_to_zero",
)


def create_learning_rate_scheduler(
  factors: str = "constant * linear_warmup * rsqrt_decay",
  base_learning_rate: float = 0.5,
  warmup_steps: int = 1000,
  decay_factor: float = 0.5,
  steps_per_decay: int = 20000,
  steps_per_cycle: int = 100000,
  step_offset: int = 0,
  min_learning_rate: float = 1e-8,
  total_steps: int | None = None,
) -> "FactorSchedule":
  """Builds the learning rate as a function of the training step.

  With s = max(0, step - step_offset), the factors are:

  * `constant`: base_learning_rate
  * `linear_warmup`: min(1, s / warmup_steps); 1 if warmup_steps is 0
  * `linear_decay`: base_learning_rate
    · min(s / warmup_steps, 1 + decay_factor · (warmup_steps - s));
    it holds `constant` and `linear_warmup` already
  * `rsqrt_decay`: 1 / sqrt(max(s, warmup_steps))
  * `rsqrt_normalized_decay`: sqrt(warmup_steps / max(s, warmup_steps))
  * `decay_every`: decay_factor ** floor(s / steps_per_decay)
  * `cosine_decay`: (1 + cos(π · (p mod 1))) / 2,
    p = max(0, s - warmup_steps) / steps_per_cycle
  * `linear_to_zero`: (total_steps - s) / (total_steps - w), kept within 0..1,
    w = warmup_steps next to `linear_warmup`, else 0

  Args:
    factors: names joined with `*`.
    base_learning_rate: the rate that `constant` stands for.
    warmup_steps: steps of warm-up.
    decay_factor: see `linear_decay` and `decay_every`.
    steps_per_decay: steps between two decays of `decay_every`.
    steps_per_cycle: steps of one cosine cycle.
    step_offset: step that counts as step 0.
    min_learning_rate: no result is below this.
    total_steps: the last step of `linear_to_zero`.

  Returns:
    `fn(step)`, a float32 scalar; `step` is the number of updates made before,
    an int or an int32 scalar. It is a pytree of its numbers.

  Raises:
    UserError: for an unknown factor, or a number a factor cannot use.
  """
  names = [name.strip() for name in str(factors).split("*")]
  unknown = [name for name in names if name not in FACTORS]
  if unknown:
    raise UserError(
      f"factors is {factors!r}, with the unknown {unknown[0]!r}; allowed are"
      f" {', '.join(FACTORS)}",
      fields=f"{_FUNCTION}.factors",
    )

  def require(name, value, minimum):
    if not isinstance(value, int | float) or not minimum <= value < math.inf:
      raise UserError(
        f"{name} is {value!r}, but {factors!r} needs a number of at least"
        f" {minimum}",
        fields=f"{_FUNCTION}.{name}",
      )

  require("base_learning_rate", base_learning_rate, 0)
  require("decay_factor", decay_factor, 0)
  require("step_offset", step_offset, 0)
  require("min_learning_rate", min_learning_rate, 0)
  if {"linear_decay", "rsqrt_decay", "rsqrt_normalized_decay"} & set(names):
    require("warmup_steps", warmup_steps, 1)
  require("warmup_steps", warmup_steps, 0)
  if not warmup_steps:
    names = [name for name in names if name != "linear_warmup"]
  if "linear_to_zero" in names:
    warm = warmup_steps if "linear_warmup" in names else 0
    require("total_steps", total_steps, warm + 1)
  if "decay_every" in names:
    require("steps_per_decay", steps_per_decay, 1)
  if "cosine_decay" in names:
    require("steps_per_cycle", steps_per_cycle, 1)
  return FactorSchedule(
    tuple(names),
    float(base_learning_rate),
    float(warmup_steps),
    float(decay_factor),
    float(steps_per_decay),
    float(steps_per_cycle),
    float(step_offset),
    float(min_learning_rate),
    float(total_steps or 0),
  )


@functools.partial(
  jax.tree_util.register_dataclass,
  meta_fields=["factors"],
  data_fields=[
    "base_learning_rate",
    "warmup_steps",
    "decay_factor",
    "steps_per_decay",
    "steps_per_cycle",
    "step_offset",
    "min_learning_rate",
    "total_steps",
  ],
)
@dataclasses.dataclass(frozen=True)
class FactorSchedule:
  """A learning rate made of factors: `create_learning_rate_scheduler` says how.

  Attributes:
    factors: names of `FACTORS`. The other fields are numbers, or float32
      scalars inside a program that takes the schedule as an argument.
  """

  factors: tuple[str, ...]
  base_learning_rate: Any
  warmup_steps: Any
  decay_factor: Any
  steps_per_decay: Any
  steps_per_cycle: Any
  step_offset: Any
  min_learning_rate: Any
  total_steps: Any

  def __call__(self, step: jax.Array | int) -> jax.Array:
    """The learning rate, a float32 scalar, after `step` updates."""
    s = jnp.asarray(step).astype(jnp.float32) - self.step_offset
    s = jnp.maximum(0.0, s)
    rate = jnp.float32(1.0)
    for name in self.factors:
      rate = rate * self._factor(name, s)
    return jnp.maximum(rate, self.min_learning_rate).astype(jnp.float32)

  def _factor(self, name: str, s: jax.Array) -> jax.Array | float:
    if name == "constant":
      return self.base_learning_rate
    if name == "linear_warmup":
      return jnp.minimum(1.0, s / self.warmup_steps)
    if name == "linear_decay":
      rising = s / self.warmup_steps
      falling = 1.0 + self.decay_factor * (self.warmup_steps - s)
      return self.base_learning_rate * jnp.minimum(rising, falling)
    if name == "rsqrt_decay":
      return 1.0 / jnp.sqrt(jnp.maximum(s, self.warmup_steps))
    if name == "rsqrt_normalized_decay":
      return jnp.sqrt(self.warmup_steps / jnp.maximum(s, self.warmup_steps))
    if name == "decay_every":
      return self.decay_factor ** jnp.floor(s / self.steps_per_decay)
    if name == "cosine_decay":
      progress = (s - self.warmup_steps) / self.steps_per_cycle
      progress = jnp.maximum(0.0, progress)
      return 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0)))
    start = self.warmup_steps if "linear_warmup" in self.factors else 0.0
    remaining = (self.total_steps - s) / (self.total_steps - start)
    return jnp.clip(remaining, 0.0, 1.0)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["steps", "values"],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class PiecewiseLinear:
  """A number that changes linearly between given steps; constant outside.

  Attributes:
    steps: ascending; numbers, as `FactorSchedule`'s.
    values: at these steps.
  """

  steps: tuple[Any, ...]
  values: tuple[Any, ...]

  @classmethod
  def through(cls, points: Mapping[int, float]) -> "PiecewiseLinear":
    """The schedule through these points, step -> value, in any order."""
    steps, values = zip(*sorted(points.items()))
    return cls(tuple(map(float, steps)), tuple(map(float, values)))

  def __call__(self, step: jax.Array | int) -> jax.Array:
    """The value, a float32 scalar, after `step` updates."""
    steps, values = (
      jnp.stack([jnp.float32(x) for x in numbers])
      for numbers in (self.steps, self.values)
    )
    return jnp.interp(jnp.asarray(step).astype(jnp.float32), steps, values)
