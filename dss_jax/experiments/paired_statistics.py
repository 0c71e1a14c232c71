"""Statistics of experiments: paired by seed and by test item, always.

Every array of scores is `[seeds, items]`: entry (s, i) says how well the run of
seed s answered item i (1 or 0 for accuracy). Two methods are compared on the
same seeds and the same items, so that what a seed or an item does to both
cancels; an analysis that forgets the pairing can miss an effect ten times
larger than the one it finds. The model behind the intervals is

    difference[s, i] = mean + seed[s] + item[i] + residual[s, i]

with seeds and items drawn from populations: an interval says what other seeds
and other items of the same kind would give.

Sources: Satterthwaite (1946) for the degrees of freedom; McNemar (1947); Holm
(1979). What is resampled is in `bootstrap_statistics.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from dss_jax.base import checks
from dss_jax.base.errors import UserError

# More seeds than this are flipped at random in place of exhaustively.
_MOST_EXACT_SEEDS = 16
_RANDOM_FLIPS = 100_000


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How two methods differ, on the same seeds and items.

  Attributes:
    difference: the mean of first minus second.
    low: lower end of the interval.
    high: upper end of the interval.
    p_value: two-sided, by flipping the signs of the seeds' differences; NaN
      for a single seed.
    p_above: one-sided, that the true difference is at most 0, by the t of the
      interval: at most .025 where the lower end of a 95 % interval is above 0.
    smallest_p_value: the least that so many seeds can show, 2^(1 - seeds).
    detectable: the smallest true difference that this many seeds and items
      would find in 80 % of experiments (the minimum detectable effect); NaN
      where nothing varies, which says nothing about it.
    seeds: number of seeds.
    items: number of items.
  """

  difference: float
  low: float
  high: float
  p_value: float
  p_above: float
  smallest_p_value: float
  detectable: float
  seeds: int
  items: int


def compare(
  first: np.ndarray,
  second: np.ndarray,
  *,
  confidence: float = 0.95,
) -> Comparison:
  """Compare two methods' scores.

  Args:
    first: [seeds, items] scores.
    second: [seeds, items] scores of the same seeds on the same items. A row of
      one, [1, items], is compared with every seed: a teacher's answers.
    confidence: of the interval.

  Raises:
    UserError: for scores that cannot be paired.
  """
  first, second = as_scores(first), as_scores(second)
  if first.shape[1] != second.shape[1] or len(second) not in (1, len(first)):
    raise UserError(
      f"scores of shapes {first.shape} and {second.shape} cannot be paired;"
      " both methods need the same seeds and the same items"
    )
  differences = first - second
  low, high = mean_interval(differences, confidence=confidence)
  error, freedom = standard_error(differences)
  mean = float(differences.mean())
  least = stats.t.ppf((1 + confidence) / 2, freedom) + stats.t.ppf(0.8, freedom)
  return Comparison(
    difference=mean,
    low=low,
    high=high,
    p_value=sign_flip_p_value(differences.mean(axis=1)),
    p_above=_p_above(mean, error, freedom),
    smallest_p_value=2.0 ** (1 - len(differences)),
    detectable=error * float(least) if error else math.nan,
    seeds=differences.shape[0],
    items=differences.shape[1],
  )


def _p_above(mean: float, error: float, freedom: float) -> float:
  if not error:
    return 0.0 if mean > 0 else 1.0
  return float(stats.t.sf(mean / error, freedom))


def mean_interval(
  scores: np.ndarray, *, confidence: float = 0.95
) -> tuple[float, float]:
  """An interval for the mean over seeds and items.

  Student's t at the standard error and degrees of freedom of the variance
  components. A percentile bootstrap over seeds and items gives the same where
  there are twenty seeds, but with three it covers the truth four times in
  five, not nineteen in twenty. One seed alone gives an interval over items
  only.

  Args:
    scores: [seeds, items] scores or differences.
    confidence: of the interval, 0.5 to 0.999.
  """
  scores = as_scores(scores)
  check_confidence(confidence)
  error, freedom = standard_error(scores)
  half = error * float(stats.t.ppf((1 + confidence) / 2, freedom))
  centre = float(scores.mean())
  return centre - half, centre + half


def sign_flip_p_value(differences: np.ndarray, *, seed: int = 0) -> float:
  """Two-sided p of the mean being 0, by flipping signs of seeds.

  Exact for up to 16 seeds. With fewer than 6 seeds it cannot fall below .05.

  Args:
    differences: [seeds] the mean difference of each seed.
    seed: of the random flips, beyond 16 seeds.

  Returns:
    The share of sign patterns with a mean at least as far from 0; NaN for one
    seed.

  Raises:
    UserError: for differences that are not finite.
  """
  differences = finite(differences, "differences")
  n = len(differences)
  if n < 2:
    return math.nan
  if n <= _MOST_EXACT_SEEDS:
    bits = np.arange(2**n)[:, None] >> np.arange(n)
    signs = 1.0 - 2.0 * (bits & 1)
  else:
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], (_RANDOM_FLIPS, n))
    signs[0] = 1.0  # The observed pattern is one of the patterns.
  means = np.abs(signs @ differences) / n
  return float(np.mean(means >= abs(differences.mean()) - 1e-12))


def mcnemar_p_value(first: np.ndarray, second: np.ndarray) -> float:
  """Exact two-sided McNemar test of one pair of checkpoints.

  Args:
    first: [items] right or wrong.
    second: [items] right or wrong, of the same items. Items of several seeds
      must not be pooled: they repeat.

  Raises:
    UserError: for scores that cannot be paired, or are not 1 or 0.
  """
  first, second = finite(first, "scores"), finite(second, "scores")
  if first.shape != second.shape or first.ndim != 1:
    raise UserError(
      f"scores of shapes {first.shape} and {second.shape} cannot be paired; both"
      " must be [items], of the same items"
    )
  for value in np.setdiff1d([*first, *second], [0, 1])[:1]:
    raise UserError(f"a score is {value:g}; right is 1 and wrong is 0")
  first, second = first.astype(bool), second.astype(bool)
  only_first = int(np.sum(first & ~second))
  only_second = int(np.sum(second & ~first))
  if only_first + only_second == 0:
    return 1.0
  return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
  """Adjust the p-values of one report by Holm's step-down method.

  Args:
    p_values: one a comparison; NaN (a comparison without a test) stays and is
      not counted.

  Raises:
    UserError: for what is no probability.
  """
  for p_value in p_values:
    if not math.isnan(p_value):
      checks.in_range("p_value", p_value, 0, 1)
  adjusted = np.asarray(p_values, float).copy()
  tested = np.flatnonzero(~np.isnan(adjusted))
  order = tested[np.argsort(adjusted[tested], kind="stable")]
  factors = np.arange(len(order), 0, -1)
  adjusted[order] = np.minimum(
    1.0, np.maximum.accumulate(adjusted[order] * factors)
  )
  return adjusted.tolist()


@dataclasses.dataclass(frozen=True)
class Summary:
  """The runs of one method in one setting.

  Attributes:
    mean: over all runs.
    low: lower end of the interval over seeds and items.
    high: upper end of the interval.
    seed_deviation: standard deviation over seeds; NaN for one seed.
    at_chance: which runs are not better than always giving the most frequent
      answer (one-sided binomial test at 2.5 %).
    mean_above_chance: over the other runs; NaN if there are none.
  """

  mean: float
  low: float
  high: float
  seed_deviation: float
  at_chance: tuple[bool, ...]
  mean_above_chance: float


def summarize(
  scores: np.ndarray, *, chance: float, confidence: float = 0.95
) -> Summary:
  """Summarise the runs of one method.

  Args:
    scores: [seeds, items] right (1) or wrong (0).
    chance: the share of the most frequent answer among the items, 0 to 1.
    confidence: of the interval.
  """
  scores = as_scores(scores)
  checks.in_range("chance", chance, least=0, most=1)
  means = scores.mean(axis=1)
  at_chance = tuple(
    bool(
      stats.binomtest(
        round(float(run.sum())), run.size, chance, alternative="greater"
      ).pvalue
      > 0.025
    )
    for run in scores
  )
  above = means[~np.asarray(at_chance)]
  low, high = mean_interval(scores, confidence=confidence)
  return Summary(
    mean=float(means.mean()),
    # Student's t does not know that no share lies beyond 0 and 1.
    low=max(low, 0.0),
    high=min(high, 1.0),
    seed_deviation=float(means.std(ddof=1)) if len(means) > 1 else math.nan,
    at_chance=at_chance,
    mean_above_chance=float(above.mean()) if len(above) else math.nan,
  )


def as_scores(scores: np.ndarray) -> np.ndarray:
  """`scores` as [seeds, items] float64; one dimension is a single seed."""
  array = np.asarray(scores, float)
  if array.ndim == 1:
    array = array[None]
  if array.ndim != 2 or array.shape[1] < 2 or not len(array):
    raise UserError(
      f"scores have shape {array.shape}; they must be [seeds, items] with at"
      " least one seed and two items"
    )
  return finite(array, "scores")


def finite(values: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
  """`values` as float64, none of which may be missing."""
  array = np.asarray(values, float)
  if not np.all(np.isfinite(array)):
    raise UserError(f"{what} hold values that are not finite")
  return array


def check_confidence(confidence: float) -> None:
  checks.in_range("confidence", confidence, least=0.5, most=0.999)


def standard_error(scores: np.ndarray) -> tuple[float, float]:
  """The standard error of the mean of [seeds, items], and its freedom.

  Mean squares of the two-way layout without replication estimate the variance
  of seeds, of items and of the rest; their sum's degrees of freedom are
  Satterthwaite's.
  """
  n, m = scores.shape
  mean = scores.mean()
  items = scores.mean(axis=0) - mean
  if n == 1:
    return float(scores.std(ddof=1) / math.sqrt(m)), float(m - 1)
  seeds = scores.mean(axis=1) - mean
  rest = scores - mean - items - seeds[:, None]
  square_seeds = m * float(seeds @ seeds) / (n - 1)
  square_items = n * float(items @ items) / (m - 1)
  square_rest = float(np.sum(rest**2)) / ((n - 1) * (m - 1))
  # Sampling noise can make the sum smaller than one of its parts.
  total = max(square_seeds + square_items - square_rest, square_rest)
  if total == 0 or n == 2:
    # Two seeds say so little about other seeds that nothing is added to their
    # one degree of freedom.
    return math.sqrt(total / (n * m)), float(n - 1)
  freedom = total**2 / (
    square_seeds**2 / (n - 1)
    + square_items**2 / (m - 1)
    + square_rest**2 / ((n - 1) * (m - 1))
  )
  return math.sqrt(total / (n * m)), freedom
