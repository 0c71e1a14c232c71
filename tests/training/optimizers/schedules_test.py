"""Schedules against numbers worked by hand from T5X's formulas."""

import math

import jax
import jax.numpy as jnp
import pytest

from dss_jax.base import compilations
from dss_jax.base.errors import UserError
from dss_jax.training.optimizers import schedules


def rates(factors, steps, **settings):
  settings.setdefault("min_learning_rate", 0.0)
  fn = schedules.create_learning_rate_scheduler(factors, **settings)
  return [float(fn(step)) for step in steps]


@pytest.mark.parametrize(
  ("factors", "settings", "expected"),
  [
    ("constant", {"base_learning_rate": 1e-3}, {0: 1e-3, 10**6: 1e-3}),
    (
      "constant*linear_warmup",
      {"base_learning_rate": 0.04, "warmup_steps": 100},
      {0: 0.0, 1: 4e-4, 50: 0.02, 100: 0.04, 5000: 0.04},
    ),
    # T5X pretrains with base 1 and 10,000 steps: 1/sqrt(max(s, 10000)).
    (
      "constant * rsqrt_decay",
      {"base_learning_rate": 1.0, "warmup_steps": 10_000},
      {0: 0.01, 10_000: 0.01, 40_000: 0.005, 10**6: 0.001},
    ),
    (
      "constant * linear_warmup * rsqrt_decay",
      {"base_learning_rate": 2.0, "warmup_steps": 16},
      {0: 0.0, 4: 0.125, 16: 0.5, 64: 0.25},
    ),
    (
      "constant * linear_warmup * rsqrt_normalized_decay",
      {"base_learning_rate": 2.0, "warmup_steps": 16},
      {8: 1.0, 16: 2.0, 64: 1.0, 400: 0.4},
    ),
    # Rises to the base at 10, then falls by 0.02 of it a step.
    (
      "linear_decay",
      {
        "base_learning_rate": 2.0,
        "warmup_steps": 10,
        "decay_factor": 0.02,
      },
      {0: 0.0, 5: 1.0, 10: 2.0, 35: 1.0, 60: 0.0, 99: 0.0},
    ),
    (
      "constant * decay_every",
      {
        "base_learning_rate": 8.0,
        "decay_factor": 0.5,
        "steps_per_decay": 10,
      },
      {0: 8.0, 9: 8.0, 10: 4.0, 29: 2.0, 30: 1.0},
    ),
    (
      "constant * linear_warmup * cosine_decay",
      {
        "base_learning_rate": 1.0,
        "warmup_steps": 10,
        "steps_per_cycle": 40,
      },
      {
        5: 0.5,
        10: 1.0,
        20: 0.5 + math.sqrt(0.125),
        30: 0.5,
        40: 0.5 - math.sqrt(0.125),
        50: 1.0,
      },
    ),
    # The official recipe: 10,000 steps, no warm-up; its logs show
    # 4.875e-5 at step 250 and 0 at the end.
    (
      "constant * linear_to_zero",
      {"base_learning_rate": 5e-5, "total_steps": 10_000},
      {0: 5e-5, 250: 4.875e-5, 10_000: 0.0, 20_000: 0.0},
    ),
    (
      "constant * linear_warmup * linear_to_zero",
      {"base_learning_rate": 1.0, "warmup_steps": 20, "total_steps": 100},
      {10: 0.5, 20: 1.0, 60: 0.5, 100: 0.0},
    ),
  ],
)
def test_values(factors, settings, expected):
  got = rates(factors, expected, **settings)
  assert got == pytest.approx(list(expected.values()), rel=1e-6, abs=1e-9)


def test_step_offset_and_floor():
  got = rates(
    "constant * linear_warmup",
    [0, 1000, 1005, 1010],
    base_learning_rate=1.0,
    warmup_steps=10,
    step_offset=1000,
    min_learning_rate=1e-8,
  )
  assert got == pytest.approx([1e-8, 1e-8, 0.5, 1.0], rel=1e-6)


def test_zero_warmup_means_none():
  assert rates("constant*linear_warmup", [0], warmup_steps=0) == [0.5]


def test_traced_step_gives_the_same_float32():
  fn = schedules.create_learning_rate_scheduler(warmup_steps=7)
  traced = jax.jit(fn)(jnp.int32(5))
  assert traced.dtype == jnp.float32
  assert float(traced) == pytest.approx(float(fn(5)), rel=1e-6)


@pytest.mark.parametrize("factor", schedules.FACTORS)
def test_as_an_argument_it_is_the_same_schedule(factor):
  """One program serves all numbers, and rounds as the schedule by itself."""
  program = jax.jit(lambda schedule, step: schedule(step))
  compiled = None
  for rate, steps in ((0.04, 100), (0.3, 7)):
    schedule = schedules.create_learning_rate_scheduler(
      f"constant * {factor}",
      base_learning_rate=rate,
      warmup_steps=steps,
      total_steps=10 * steps,
      steps_per_cycle=3 * steps,
      steps_per_decay=steps,
    )
    for step in (0, 3, 50, 999):
      got, want = float(program(schedule, step)), float(schedule(step))
      assert got == pytest.approx(want, rel=2e-7, abs=1e-10)
    compiled = compiled or compilations.count()
  assert compilations.count() == compiled


@pytest.mark.parametrize(
  ("factors", "settings", "field", "words"),
  [
    ("constant * warm_up", {}, "factors", ["'warm_up'", "linear_warmup"]),
    ("constant *", {}, "factors", ["''"]),
    ("linear_to_zero", {}, "total_steps", ["is None"]),
    ("linear_to_zero", {"total_steps": 0}, "total_steps", ["is 0"]),
    ("rsqrt_decay", {"warmup_steps": 0}, "warmup_steps", ["is 0"]),
    ("decay_every", {"steps_per_decay": 0}, "steps_per_decay", ["is 0"]),
    ("cosine_decay", {"steps_per_cycle": 0}, "steps_per_cycle", ["is 0"]),
    ("constant", {"base_learning_rate": "x"}, "base_learning_rate", ["'x'"]),
    ("constant", {"decay_factor": None}, "decay_factor", ["None"]),
    ("constant", {"step_offset": "a"}, "step_offset", ["'a'"]),
    ("constant", {"min_learning_rate": math.nan}, "min_learning_rate", ["nan"]),
  ],
)
def test_wrong_input_is_one_clear_line(factors, settings, field, words):
  with pytest.raises(UserError) as error:
    schedules.create_learning_rate_scheduler(factors, **settings)
  message = str(error.value)
  assert "\n" not in message
  assert error.value.fields == (f"create_learning_rate_scheduler.{field}",)
  for word in words:
    assert word in message
