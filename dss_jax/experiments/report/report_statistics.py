"""What a report says of its groups: means, and groups compared.

Comparisons are paired by seed and by test item; see `paired_statistics` for the
model behind intervals and p-values.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from dss_jax.experiments import paired_statistics
from dss_jax.experiments.paired_statistics import Comparison, Summary
from dss_jax.experiments.report.finished_runs import Answers
from dss_jax.experiments.report.run_groups import RunGroup

BASELINE = "standard"


@dataclasses.dataclass(frozen=True)
class GroupRow:
  """A group and what its runs reached on the test split.

  Attributes:
    group: the runs.
    summary: mean, interval, runs at chance.
    detectable: the smallest difference from a fixed level that so many seeds
      and items would find in 80 % of experiments.
    chance: what always giving the most frequent answer reaches.
    items: test items of each run.
    steps: mean number of training steps.
    tokens: mean number of training tokens; NaN if unknown.
  """

  group: RunGroup
  summary: Summary
  detectable: float
  chance: float
  items: int
  steps: float
  tokens: float


@dataclasses.dataclass(frozen=True)
class GroupComparison:
  """A group against another of the same data, size and student.

  Attributes:
    group: the first.
    baseline: the second.
    result: first minus second, over their common seeds.
    p_value: by sign flips over seeds; for a single seed by McNemar's exact
      test.
    test: "sign flip" or "McNemar".
    adjusted: the p-value adjusted by Holm's method over the whole report.
    seeds_left_out: seeds that only one of the two has.
  """

  group: RunGroup
  baseline: RunGroup
  result: Comparison
  p_value: float
  test: str
  adjusted: float
  seeds_left_out: int


# ------------------------------------------------------------------- the groups


def chance_of(answers: Iterable[Answers]) -> float:
  """The share of the most frequent target, the largest of all runs."""
  return max(
    collections.Counter(each.targets).most_common(1)[0][1] / len(each.targets)
    for each in answers
  )


def is_chance(accuracy: float, chance: float, items: int) -> bool:
  """Whether an accuracy is at most two standard errors above chance."""
  return accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / items)


def group_rows(groups: Iterable[RunGroup]) -> list[GroupRow]:
  """Summarises groups."""
  rows = []
  for group in groups:
    scores = scores_of(group)
    chance = chance_of(run.test for run in group.runs)
    level = np.zeros((1, scores.shape[1]))
    tokens = [run.entry.get("tokens_seen") for run in group.runs]
    rows.append(
      GroupRow(
        group=group,
        summary=paired_statistics.summarize(scores, chance=chance),
        detectable=paired_statistics.compare(scores, level).detectable,
        chance=chance,
        items=scores.shape[1],
        steps=float(np.mean([run.entry["steps"] for run in group.runs])),
        tokens=float(
          np.mean(
            [t if isinstance(t, int | float) else math.nan for t in tokens]
          )
        ),
      )
    )
  return rows


def scores_of(
  group: RunGroup, seeds: Iterable[int] | None = None
) -> np.ndarray:
  scores = group.scores(seeds)
  assert scores is not None  # `run_groups.group_runs` sees to it
  return scores


# ---------------------------------------------------------- group against group


def comparable(groups: Sequence[RunGroup]) -> list[tuple[RunGroup, RunGroup]]:
  """The pairs that a report compares: other methods with fine-tuning.

  Both have the same dataset, student, beginning, labels and training records.
  Without fine-tuning among them, the first method stands in its place.
  """
  alike: dict[tuple, list[RunGroup]] = collections.defaultdict(list)
  for group in groups:
    series = group.series
    alike[
      series.dataset,
      group.student,
      series.init,
      series.label_source,
      group.examples,
    ].append(group)
  pairs = []
  for same in alike.values():
    baselines = [g for g in same if g.series.method == BASELINE] or same[:1]
    pairs += [
      (group, baseline)
      for baseline in baselines
      for group in same
      if group not in baselines
    ]
  return pairs


def compare_groups(
  pairs: Iterable[tuple[RunGroup, RunGroup]],
) -> tuple[list[GroupComparison], list[tuple[RunGroup, RunGroup]]]:
  """Compares pairs of groups; p-values are not adjusted yet.

  Returns:
    The comparisons, and the pairs that have no seed in common.
  """
  found, without = [], []
  for group, baseline in pairs:
    seeds = common_seeds([group, baseline])
    if not seeds:
      without.append((group, baseline))
      continue
    first, second = scores_of(group, seeds), scores_of(baseline, seeds)
    result = paired_statistics.compare(first, second)
    p, test = p_value(result, first, second)
    found.append(
      GroupComparison(
        group,
        baseline,
        result,
        p,
        test,
        p,
        len({*group.seeds, *baseline.seeds}) - len(seeds),
      )
    )
  return found, without


def p_value(
  result: Comparison, first: np.ndarray, second: np.ndarray
) -> tuple[float, str]:
  if result.seeds > 1:
    return result.p_value, "sign flip"
  p_value = paired_statistics.mcnemar_p_value(first[0], second[0])
  return p_value, "McNemar"


def common_seeds(groups: Iterable[RunGroup]) -> list[int]:
  return sorted(set.intersection(*(set(group.seeds) for group in groups)))
