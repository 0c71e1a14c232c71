"""Savings and fronts, with the uncertainty of seeds and items by resampling both.

Scores are `[seeds, items]` as in `paired_statistics`. What is told here is no
mean, such as a size at which a curve crosses a level, so that no formula gives
its interval.

Source: Owen, "The pigeonhole bootstrap" (2007), for resampling both axes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.experiments import paired_statistics

_DRAWS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Reach:
  """The size at which one curve reaches a level.

  Sizes are numbers of records or of parameters. What lies outside the sizes
  that were run is never extrapolated: `-inf` means at or below the smallest
  size, `inf` that the largest does not reach the level.

  Attributes:
    size: of the mean curve.
    low: lower end of the interval.
    high: upper end of the interval.
    largest: the largest size that was run.
  """

  size: float
  low: float
  high: float
  largest: float


def reach(
  sizes: Sequence[float],
  curve: np.ndarray,
  reference: np.ndarray,
  *,
  confidence: float = 0.95,
  draws: int = 1000,
  seed: int = 0,
) -> Reach:
  """Find the size at which a method is as good as the reference.

  The data saving of a method is that of `reach(counts, method, fine_tuning[-1])`
  and the model saving that of parameter counts. The curve is made monotone
  (isotonic regression) and interpolated linearly over log size; the interval
  resamples seeds and items, of curve and reference together.

  Args:
    sizes: [sizes] ascending.
    curve: [sizes, seeds, items] scores of the method.
    reference: [seeds, items] scores whose mean is the level to reach; the same
      items, and the same seeds or a row of one.
    confidence: of the interval.
    draws: bootstrap resamples.
    seed: of the resampling.

  Raises:
    UserError: for scores that are not finite or cannot be compared, and for
      options out of range.
  """
  paired_statistics.check_confidence(confidence)
  _check_draws(draws)
  sizes_array = paired_statistics.finite(sizes, "sizes")
  curve, reference = (
    paired_statistics.finite(curve, "scores"),
    paired_statistics.as_scores(reference),
  )
  if (
    curve.ndim != 3
    or not len(curve)
    or sizes_array.shape != curve.shape[:1]
    or curve.shape[2] != reference.shape[1]
    or len(reference) not in (1, curve.shape[1])
    or np.any(np.diff(sizes_array) <= 0)
    or sizes_array[0] <= 0
  ):
    raise UserError(
      f"a curve of shape {curve.shape} at {sizes_array.size} sizes cannot be"
      f" compared with a reference of shape {reference.shape}; sizes must"
      " ascend, seeds and items must be the same"
    )
  differences = curve - reference
  centres = differences.mean(axis=(1, 2))
  means = _resampled_means(differences, draws, seed)
  # Resampling few seeds spreads too little; each size's spread is brought to
  # what `mean_interval` has.
  for index, spread in enumerate(means.std(axis=0)):
    error, freedom = paired_statistics.standard_error(differences[index])
    if spread > 0:
      wanted = error * stats.t.ppf((1 + confidence) / 2, freedom)
      stretch = wanted / (spread * stats.norm.ppf((1 + confidence) / 2))
      means[:, index] += (means[:, index] - centres[index]) * (stretch - 1)
  found = [_crossing(sizes_array, draw) for draw in means]
  # Quantiles that exist among the draws: interpolating next to an infinity
  # would make numbers of nothing.
  low, high = np.quantile(
    found,
    [(1 - confidence) / 2, (1 + confidence) / 2],
    method="inverted_cdf",
  )
  estimate = _crossing(sizes_array, centres)
  return Reach(estimate, float(low), float(high), float(sizes_array[-1]))


def winning_frequency(
  groups: Mapping[str, np.ndarray],
  costs: Mapping[str, Sequence[float]],
  teacher: np.ndarray,
  *,
  draws: int = 1000,
  seed: int = 0,
) -> dict[str, float]:
  """How often each group is on the front of those that beat the teacher.

  A group is on the front if it beats the teacher and no other group that does
  costs no more in every respect and less in one.

  Args:
    groups: for the name of each group of runs its [seeds, items] scores, all of
      one shape.
    costs: for each group's name its costs, such as parameters and records.
    teacher: [items] scores of the teacher on the same items, or
      [seeds, items] where each seed has items of its own.
    draws: bootstrap resamples.
    seed: of the resampling.

  Returns:
    For each group the share of resamples in which it is on the front.

  Raises:
    UserError: for scores or costs that are not finite or cannot be compared,
      and for options out of range.
  """
  _check_draws(draws)
  names = list(groups)
  scores = [paired_statistics.as_scores(groups[name]) for name in names]
  teacher = paired_statistics.finite(teacher, "the teacher's scores")
  shapes = {array.shape for array in scores}
  shape = next(iter(shapes), (0, 0))
  if len(shapes) != 1 or teacher.shape not in (shape, shape[1:]):
    raise UserError(
      f"scores of shapes {', '.join(map(str, sorted(shapes))) or '()'} and a"
      f" teacher of shape {teacher.shape} cannot be compared; all must have the"
      " same seeds and the same items"
    )
  rows = [paired_statistics.finite(costs[name], "costs") for name in names]
  if len({len(row) for row in rows}) != 1:
    raise UserError("each setting must have as many costs as the others")
  stacked, cost = np.stack(scores), np.stack(rows)
  teacher = np.broadcast_to(teacher, shape)
  no_more = np.all(cost[None] <= cost[:, None], axis=2)
  cheaper = no_more & np.any(cost[None] < cost[:, None], axis=2)
  wins = np.zeros(len(names))
  for means in _resampled_means(
    np.concatenate([stacked, teacher[None]]), draws, seed
  ):
    better = means[:-1] > means[-1]
    wins += better & ~np.any(cheaper & better, axis=1)
  return dict(zip(names, (wins / draws).tolist(), strict=True))


def _check_draws(draws: int) -> None:
  checks.in_range("draws", draws, 1, whole=True)


def _resampled_means(scores: np.ndarray, draws: int, seed: int) -> np.ndarray:
  """Means of `scores` [..., seeds, items] over resampled seeds and items.

  All leading entries share each draw's seeds and items. A single seed is not
  resampled.

  Returns:
    [draws, ...] means.
  """
  seeds, items = scores.shape[-2:]
  generator = np.random.default_rng(seed)
  blocks = []
  for start in range(0, draws, _DRAWS_AT_ONCE):
    block = min(_DRAWS_AT_ONCE, draws - start)
    chosen = generator.multinomial(seeds, np.full(seeds, 1 / seeds), block)
    weights = generator.multinomial(items, np.full(items, 1 / items), block)
    by_seed = scores @ weights.T  # [..., seeds, draws]
    blocks.append(np.einsum("...sd,ds->d...", by_seed, chosen))
  return np.concatenate(blocks) / (seeds * items)


def _crossing(sizes: np.ndarray, differences: np.ndarray) -> float:
  """The size at which the monotone curve through `differences` reaches 0.

  Returns:
    -inf if the smallest size is there already, inf if none is.
  """
  rising = optimize.isotonic_regression(differences).x
  reached = np.flatnonzero(rising >= -1e-12)
  if not len(reached):
    return math.inf
  first = reached[0]
  if first == 0:
    return -math.inf
  before, after = rising[first - 1], rising[first]
  logs = np.log(sizes)
  share = before / (before - after)
  return float(
    np.exp(logs[first - 1] + share * (logs[first] - logs[first - 1]))
  )
