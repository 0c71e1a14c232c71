"""Statistics of experiments, against other libraries and known answers."""

import math
import warnings
from typing import Any

import made_scores
import numpy as np
import pytest
from scipy import stats

from dss_jax.base.errors import UserError
from dss_jax.experiments import paired_statistics


def test_mcnemar_is_that_of_statsmodels():
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # It warns while it is imported.
    from statsmodels.stats import contingency_tables
  generator = np.random.default_rng(0)
  for _ in range(20):
    first, second = generator.random((2, 60)) < generator.random((2, 1))
    table = [
      [np.sum(first & second), np.sum(first & ~second)],
      [np.sum(~first & second), np.sum(~first & ~second)],
    ]
    result: Any = contingency_tables.mcnemar(table, exact=True)
    found = paired_statistics.mcnemar_p_value(first, second)
    assert found == pytest.approx(result.pvalue, rel=1e-9)
  assert paired_statistics.mcnemar_p_value(first, first) == 1.0


def test_holm_is_that_of_statsmodels_and_leaves_what_was_not_tested():
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from statsmodels.stats import multitest
  p_values = np.random.default_rng(1).random(12) ** 3
  _, expected, *_ = multitest.multipletests(p_values, method="holm")
  assert paired_statistics.holm(p_values.tolist()) == pytest.approx(
    list(np.asarray(expected))
  )
  adjusted = paired_statistics.holm([0.01, math.nan, 0.04])
  assert adjusted[0] == pytest.approx(0.02)
  assert math.isnan(adjusted[1])
  assert adjusted[2] == pytest.approx(0.04)
  assert paired_statistics.holm([]) == []


def test_sign_flips_are_those_of_scipy():
  differences = np.array([0.3, 0.1, -0.05, 0.2, 0.4, 0.15, 0.02])
  expected = stats.permutation_test(
    (differences,),
    np.mean,
    permutation_type="samples",
    n_resamples=2**7,
  ).pvalue
  found = paired_statistics.sign_flip_p_value(differences)
  assert found == pytest.approx(expected)


def test_sign_flips_of_few_and_of_many_seeds():
  assert paired_statistics.sign_flip_p_value(np.ones(3)) == 0.25
  assert paired_statistics.sign_flip_p_value(np.ones(6)) == 2 / 64
  assert math.isnan(paired_statistics.sign_flip_p_value(np.ones(1)))
  many = np.random.default_rng(2).normal(0.5, 1, 20)
  by_t = stats.ttest_1samp(many, 0)[1]
  assert paired_statistics.sign_flip_p_value(many) == pytest.approx(
    by_t, rel=0.25
  )


def test_a_single_seed_has_the_paired_t_interval_over_items():
  first, second = made_scores.scores(
    1, 300, accuracies=(0.8, 0.7), deviation=0, seed=3
  )
  found = paired_statistics.compare(first, second)
  expected = stats.ttest_rel(first[0], second[0]).confidence_interval()
  assert found.low == pytest.approx(expected.low)
  assert found.high == pytest.approx(expected.high)
  assert math.isnan(found.p_value)
  expected = stats.ttest_rel(first[0], second[0], alternative="greater")
  assert found.p_above == pytest.approx(expected.pvalue)


def test_where_nothing_varies_nothing_is_known_of_what_would_be_missed():
  same = paired_statistics.compare(np.ones((1, 10)), np.ones((1, 10)))
  assert (same.difference, same.p_above) == (0, 1)
  assert math.isnan(same.detectable)
  better = paired_statistics.compare(np.ones((3, 10)), np.zeros((3, 10)))
  assert (better.difference, better.p_above) == (1, 0)
  assert math.isnan(better.detectable)


def test_an_effect_that_an_unpaired_analysis_misses_is_found():
  """Seeds move both methods together: only their difference is steady."""
  generator = np.random.default_rng(4)
  luck = generator.normal(0, 0.12, (6, 1))
  item = generator.uniform(size=(1, 400))
  first = (item < 0.75 + luck) * 1.0
  second = (item < 0.70 + luck) * 1.0
  found = paired_statistics.compare(first, second)
  assert found.low > 0.02
  assert found.p_value == found.smallest_p_value == 2 / 64
  unpaired: Any = stats.ttest_ind(first.mean(axis=1), second.mean(axis=1))
  assert unpaired.pvalue > 0.3


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("deviation", [0.0, 0.06])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds, deviation):
  covered = 0
  for trial in range(1000):
    first, second = made_scores.scores(
      seeds, 80, accuracies=(0.7, 0.6), deviation=deviation, seed=trial
    )
    low, high = paired_statistics.mean_interval(first - second)
    covered += low <= 0.1 <= high
  # Two standard errors of the simulation are 1.4 points. Three seeds that do
  # not differ at all are given more than they need.
  assert 0.93 - 0.014 <= covered / 1000 <= 0.995


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_the_truth_where_seeds_have_their_own_items(seeds):
  """Seeds may draw the data too; both methods answer the same items."""
  covered = 0
  for trial in range(1000):
    generator = np.random.default_rng(trial)
    difficulty = generator.uniform(-0.15, 0.15, (seeds, 80))
    shifts = generator.normal(0, 0.06, (2, seeds, 1))
    draws = generator.random((2, seeds, 80))
    first, second = draws < np.array([[[0.7]], [[0.6]]]) + difficulty + shifts
    low, high = paired_statistics.mean_interval(first * 1.0 - second)
    covered += low <= 0.1 <= high
  assert 0.95 - 0.02 <= covered / 1000 <= 0.95 + 0.03


def test_many_seeds_have_the_interval_of_the_bootstrap():
  """Resamples both axes by scipy's bootstrap of seeds, then of items."""
  (scores,) = made_scores.scores(
    40, 400, accuracies=(0.7,), deviation=0.08, seed=5
  )
  low, high = paired_statistics.mean_interval(scores)
  seeds = stats.bootstrap(
    (scores.mean(axis=1),), np.mean, method="percentile", rng=0
  ).standard_error
  items = stats.bootstrap(
    (scores.mean(axis=0),), np.mean, method="percentile", rng=0
  ).standard_error
  # The residual's share is in both, and small with so many of each.
  expected = 2 * stats.norm.ppf(0.975) * math.hypot(seeds, items)
  assert high - low == pytest.approx(expected, rel=0.1)


def test_the_detectable_difference_is_detected_in_four_of_five_experiments():
  deviation, items, seeds = 0.04, 100, 6
  comparisons = [
    paired_statistics.compare(
      *made_scores.scores(
        seeds,
        items,
        accuracies=(0.70, 0.60),
        deviation=deviation,
        seed=trial,
      )
    )
    for trial in range(400)
  ]
  detectable = float(np.median([found.detectable for found in comparisons]))
  found = [
    paired_statistics.compare(
      *made_scores.scores(
        seeds,
        items,
        accuracies=(0.60 + detectable, 0.60),
        deviation=deviation,
        seed=1000 + trial,
      )
    ).low
    > 0
    for trial in range(400)
  ]
  assert 0.72 <= np.mean(found) <= 0.9


def test_runs_at_chance_are_counted_and_both_means_are_there():
  (good,) = made_scores.scores(3, 300, accuracies=(0.8,), deviation=0, seed=6)
  (collapsed,) = made_scores.scores(
    2, 300, accuracies=(0.34,), deviation=0, seed=7
  )
  runs = np.concatenate([good, collapsed])
  summary = paired_statistics.summarize(runs, chance=1 / 3)
  assert summary.at_chance == (False, False, False, True, True)
  assert summary.mean == pytest.approx(runs.mean())
  assert summary.mean_above_chance == pytest.approx(good.mean())
  assert summary.seed_deviation == pytest.approx(runs.mean(axis=1).std(ddof=1))


def test_the_interval_of_a_mean_has_no_impossible_shares():
  """Two runs that are nearly always right, and their mirror image."""
  nearly = np.ones((2, 100))
  nearly[0, :5] = 0
  good = paired_statistics.summarize(nearly, chance=0.5)
  bad = paired_statistics.summarize(1 - nearly, chance=0.5)
  assert paired_statistics.mean_interval(nearly)[1] > 1
  assert good.low < good.mean < good.high == 1
  assert bad.high > bad.mean > bad.low == 0


GOOD, MISSING = np.ones((3, 50)), np.r_[math.nan, np.ones(49)]


@pytest.mark.parametrize(
  ("function", "arguments"),
  [
    ("mcnemar_p_value", (MISSING, np.zeros(50))),
    ("mcnemar_p_value", (np.zeros(50), MISSING)),
    ("sign_flip_p_value", (MISSING[:5],)),
    ("summarize", (GOOD * MISSING,)),
    ("compare", (GOOD, GOOD * MISSING)),
  ],
)
def test_missing_values_are_refused_everywhere(function, arguments):
  options = {"chance": 0.5} if function == "summarize" else {}
  with pytest.raises(UserError, match="not finite"):
    getattr(paired_statistics, function)(*arguments, **options)


@pytest.mark.parametrize(
  ("function", "arguments", "options", "message"),
  [
    ("compare", (GOOD, GOOD), {"confidence": 95}, "confidence is 95; it must"),
    ("mcnemar_p_value", ([0.5, 1], [0, 1]), {}, "a score is 0.5; right is 1"),
    ("mcnemar_p_value", ([0, 1], [1]), {}, "cannot be paired"),
    ("holm", ([0.5, 1.5],), {}, "p_value is 1.5; it must be from 0 to 1"),
  ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_in_one_line(
  function, arguments, options, message
):
  with pytest.raises(UserError) as error:
    getattr(paired_statistics, function)(*arguments, **options)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_scores_that_cannot_be_paired_are_refused():
  with pytest.raises(UserError, match="cannot be paired"):
    paired_statistics.compare(np.ones((3, 5)), np.ones((3, 6)))
  with pytest.raises(UserError, match="cannot be paired"):
    paired_statistics.compare(np.ones((3, 5)), np.ones((2, 5)))
  with pytest.raises(UserError, match="not finite"):
    paired_statistics.mean_interval(np.array([[1.0, math.nan]]))
  with pytest.raises(UserError, match="two items"):
    paired_statistics.mean_interval(np.ones((3, 1)))
