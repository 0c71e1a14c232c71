"""What a report says of its cells: means, and cells compared.

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
from dss_jax.experiments.report.run_cells import Cell

BASELINE = "standard"


@dataclasses.dataclass(frozen=True)
class CellRow:
  """A cell and what its runs reached on the test split.

  Attributes:
    cell: the runs.
    summary: mean, interval, runs at chance.
    detectable: the smallest difference from a fixed level that so many seeds
      and items would find in 80 % of experiments.
    chance: what always giving the most frequent answer reaches.
    items: test items of each run.
    steps: mean number of training steps.
    tokens: mean number of training tokens; NaN if unknown.
  """

  cell: Cell
  summary: Summary
  detectable: float
  chance: float
  items: int
  steps: float
  tokens: float


@dataclasses.dataclass(frozen=True)
class CellComparison:
  """A cell against another of the same data, size and student.

  Attributes:
    cell: the first.
    baseline: the second.
    result: first minus second, over their common seeds.
    p_value: by sign flips over seeds; for a single seed by McNemar's exact
      test.
    test: "sign flip" or "McNemar".
    adjusted: the p-value adjusted by Holm's method over the whole report.
    seeds_left_out: seeds that only one of the two has.
  """

  cell: Cell
  baseline: Cell
  result: Comparison
  p_value: float
  test: str
  adjusted: float
  seeds_left_out: int


# ----------------------------------------------------------------- the cells


def chance_of(answers: Iterable[Answers]) -> float:
  """The share of the most frequent target, the largest of all runs."""
  return max(
    collections.Counter(each.targets).most_common(1)[0][1] / len(each.targets)
    for each in answers
  )


def is_chance(accuracy: float, chance: float, items: int) -> bool:
  """Whether an accuracy is at most two standard errors above chance."""
  return accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / items)


def cell_rows(cells: Iterable[Cell]) -> list[CellRow]:
  """Summarises cells."""
  rows = []
  for cell in cells:
    scores = scores_of(cell)
    chance = chance_of(run.test for run in cell.runs)
    level = np.zeros((1, scores.shape[1]))
    tokens = [run.entry.get("tokens_seen") for run in cell.runs]
    rows.append(
      CellRow(
        cell=cell,
        summary=paired_statistics.summarize(scores, chance=chance),
        detectable=paired_statistics.compare(scores, level).detectable,
        chance=chance,
        items=scores.shape[1],
        steps=float(np.mean([run.entry["steps"] for run in cell.runs])),
        tokens=float(
          np.mean(
            [t if isinstance(t, int | float) else math.nan for t in tokens]
          )
        ),
      )
    )
  return rows


def scores_of(cell: Cell, seeds: Iterable[int] | None = None) -> np.ndarray:
  scores = cell.scores(seeds)
  assert scores is not None  # `run_cells.group` sees to it
  return scores


# ----------------------------------------------------------- cell against cell


def comparable(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
  """The pairs that a report compares: other methods with fine-tuning.

  Both have the same dataset, student, beginning, labels and training records.
  Without fine-tuning among them, the first method stands in its place.
  """
  groups: dict[tuple, list[Cell]] = collections.defaultdict(list)
  for cell in cells:
    family = cell.family
    groups[
      family.dataset,
      cell.student,
      family.init,
      family.label_source,
      cell.examples,
    ].append(cell)
  pairs = []
  for same in groups.values():
    baselines = [c for c in same if c.family.method == BASELINE] or same[:1]
    pairs += [
      (cell, baseline)
      for baseline in baselines
      for cell in same
      if cell not in baselines
    ]
  return pairs


def compare_cells(
  pairs: Iterable[tuple[Cell, Cell]],
) -> tuple[list[CellComparison], list[tuple[Cell, Cell]]]:
  """Compares pairs of cells; p-values are not adjusted yet.

  Returns:
    The comparisons, and the pairs that have no seed in common.
  """
  found, without = [], []
  for cell, baseline in pairs:
    seeds = common_seeds([cell, baseline])
    if not seeds:
      without.append((cell, baseline))
      continue
    first, second = scores_of(cell, seeds), scores_of(baseline, seeds)
    result = paired_statistics.compare(first, second)
    p, test = p_value(result, first, second)
    found.append(
      CellComparison(
        cell,
        baseline,
        result,
        p,
        test,
        p,
        len({*cell.seeds, *baseline.seeds}) - len(seeds),
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


def common_seeds(cells: Iterable[Cell]) -> list[int]:
  return sorted(set.intersection(*(set(cell.seeds) for cell in cells)))
