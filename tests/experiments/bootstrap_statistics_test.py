"""Savings and fronts by resampling, against known answers."""

import math

import made_scores
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.experiments import bootstrap_statistics

SIZES = (125, 250, 500, 1000, 2000)
ACCURACIES = (0.45, 0.55, 0.65, 0.75, 0.85)


def test_the_size_that_reaches_a_level_lies_between_those_that_were_run():
  curve = np.repeat(np.array(ACCURACIES)[:, None, None], 200, axis=2)
  level = np.full((1, 200), 0.70)
  found = bootstrap_statistics.reach(SIZES, curve, level, draws=20)
  # Half way between 0.65 and 0.75, on a logarithmic axis.
  assert found.size == pytest.approx(500 * math.sqrt(2))
  assert found.low == found.high == found.size


def test_a_curve_that_falls_somewhere_is_made_monotone():
  means = np.array([0.5, 0.7, 0.6, 0.8, 0.9])
  curve = np.repeat(means[:, None, None], 50, axis=2)
  found = bootstrap_statistics.reach(
    SIZES, curve, np.full((1, 50), 0.65), draws=2
  )
  # 250 and 500 are pooled to 0.65.
  assert found.size == pytest.approx(250)


def test_what_lies_outside_the_sizes_is_not_extrapolated():
  curve = np.repeat(np.array(ACCURACIES)[:, None, None], 50, axis=2)
  never = bootstrap_statistics.reach(SIZES, curve, np.full(50, 0.95), draws=2)
  assert never.size == math.inf
  always = bootstrap_statistics.reach(SIZES, curve, np.full(50, 0.3), draws=2)
  assert always.size == -math.inf


@pytest.mark.parametrize("seeds", [3, 10])
def test_intervals_of_sizes_cover_the_truth(seeds):
  covered = 0
  for trial in range(200):
    answers = made_scores.scores(
      seeds, 150, accuracies=(*ACCURACIES, 0.70), deviation=0.04, seed=trial
    )
    found = bootstrap_statistics.reach(
      SIZES, answers[:-1], answers[-1], draws=200, seed=trial
    )
    covered += found.low <= 500 * math.sqrt(2) <= found.high
  assert covered / 200 >= 0.91


def test_the_cheapest_winner_is_found_and_ties_with_the_teacher_lose():
  teacher = np.tile([1.0, 1.0, 0.0, 0.0], 50)
  better = np.tile([1.0, 1.0, 1.0, 0.0], 50)
  shares = bootstrap_statistics.winning_frequency(
    {"large": better, "small": better, "tiny": teacher},
    {"large": [3], "small": [2], "tiny": [1]},
    teacher,
    draws=50,
  )
  assert shares == {"tiny": 0.0, "small": 1.0, "large": 0.0}


GOOD, MISSING = np.ones((3, 50)), np.r_[math.nan, np.ones(49)]


@pytest.mark.parametrize(
  ("function", "arguments"),
  [
    ("reach", ([1, 2], [GOOD * 0, GOOD * MISSING], GOOD)),
    ("reach", ([1, 2], [GOOD * 0, GOOD], GOOD * MISSING)),
    ("reach", ([1, math.nan], [GOOD * 0, GOOD], GOOD)),
    ("winning_frequency", ({"a": GOOD}, {"a": [1]}, MISSING)),
    ("winning_frequency", ({"a": GOOD * MISSING}, {"a": [1]}, GOOD[0])),
    ("winning_frequency", ({"a": GOOD}, {"a": [math.nan]}, GOOD[0])),
  ],
)
def test_missing_values_are_refused(function, arguments):
  with pytest.raises(UserError, match="not finite"):
    getattr(bootstrap_statistics, function)(*arguments)


@pytest.mark.parametrize(
  ("function", "arguments", "options", "message"),
  [
    ("reach", ([1], [GOOD], GOOD), {"confidence": 95}, "confidence is 95"),
    ("reach", ([1], [GOOD], GOOD), {"draws": 0}, "draws is 0; it must be a"),
    ("reach", ([], np.ones((0, 3, 50)), GOOD), {}, "at 0 sizes cannot be"),
    ("reach", (3.0, [GOOD], GOOD), {}, "at 1 sizes cannot be"),
    ("winning_frequency", ({"a": GOOD}, {"a": [1]}, GOOD[0]), {"draws": 2.5},
     "draws is 2.5"),
    ("winning_frequency", ({}, {}, GOOD[0]), {}, "cannot be compared"),
    ("winning_frequency", ({"a": GOOD}, {"a": [1]}, GOOD[0, :9]), {},
     "cannot be compared"),
    ("winning_frequency", ({"a": GOOD, "b": GOOD[:2]}, {"a": [1], "b": [1]},
     GOOD[0]), {}, "cannot be compared"),
    ("winning_frequency", ({"a": GOOD, "b": GOOD}, {"a": [1], "b": (1, 2)},
     GOOD[0]), {}, "as many costs"),
    ("reach", ((2, 1), np.ones((2, 1, 5)), np.ones((1, 5))), {},
     "must ascend"),
  ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_in_one_line(
  function, arguments, options, message
):
  with pytest.raises(UserError) as error:
    getattr(bootstrap_statistics, function)(*arguments, **options)
  assert message in str(error.value)
  assert "\n" not in str(error.value)
