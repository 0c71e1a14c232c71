"""What a report says of its cells: means, comparisons, savings, winners.

Comparisons are paired by seed and by test item; see `paired_statistics` for the
model behind intervals and p-values.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dss_jax.experiments import paired_statistics
from dss_jax.experiments.paired_statistics import Comparison, Reach, Summary
from dss_jax.experiments.report import run_cells
from dss_jax.experiments.report.finished_runs import Answers
from dss_jax.experiments.report.run_cells import Cell, Family
from dss_jax.experiments.report.stored_teacher import Teacher

BASELINE = "standard"
_DRAWS = 1000


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


@dataclasses.dataclass(frozen=True)
class TeacherComparison:
  """A cell against the teacher's stored answers.

  Attributes:
    cell: the students.
    teacher: the reading of the teacher's answers that is best for the teacher.
    validation: cell minus teacher on the split that decides; None where one of
      the two has no answers to it.
    test: cell minus teacher on the test split, read after the decision.
    p_value: of the test split, as for cells.
    adjusted: likewise.
  """

  cell: Cell
  teacher: Teacher
  validation: Comparison | None
  test: Comparison
  p_value: float
  adjusted: float

  @property
  def beats(self) -> bool | None:
    """Whether the paired lower bound on validation is above 0."""
    return None if self.validation is None else self.validation.low > 0


@dataclasses.dataclass(frozen=True)
class Saving:
  """How much less a method needs to be as good as a reference.

  Attributes:
    kind: "data" or "model".
    family: the method.
    fixed: the student (for data) or the training records (for a model), which
      stays the same along the curve.
    level: what is to be reached, in words.
    needed: records or parameters at which it is reached.
    smallest: the smallest size of the curve.
    reference_size: what the reference has of them; None for the teacher.
    seeds: number of seeds.
  """

  kind: str
  family: Family
  fixed: str
  level: str
  needed: Reach
  smallest: float
  reference_size: float | None
  seeds: int


@dataclasses.dataclass(frozen=True)
class FrontPoint:
  """A cell as one of those that might beat the teacher most cheaply.

  Attributes:
    cell: the runs.
    beats: see `TeacherComparison.beats`.
    on_front: whether it beats the teacher and no other cell of its method that
      does is smaller or has less data, and is in neither respect worse.
    frequency: the share of resamples of seeds and items in which it is on the
      front; NaN where cells cannot be resampled together.
    gap: validation accuracy minus the teacher's.
  """

  cell: Cell
  beats: bool
  on_front: bool
  frequency: float
  gap: float


# ----------------------------------------------------------------- the cells


def chance_of(answers: Iterable[Answers]) -> float:
  """The share of the most frequent target, the largest of all runs."""
  return max(
    collections.Counter(each.targets).most_common(1)[0][1] / len(each.targets)
    for each in answers
  )


def cell_rows(cells: Iterable[Cell]) -> list[CellRow]:
  """Summarises cells."""
  rows = []
  for cell in cells:
    scores = _test_scores(cell)
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


def _test_scores(cell: Cell, seeds: Iterable[int] | None = None) -> np.ndarray:
  scores = cell.scores(seeds)
  assert scores is not None  # `run_cells.group` sees to it
  return scores


# ----------------------------------------------------------- cell against cell


def comparable(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
  """The pairs that a report compares: other methods with fine-tuning.

  Both have the same dataset, student, beginning, labels and training records.
  Without fine-tuning among them, the first method stands in its place. A method
  with other rationales (a control) is compared with the plain one too.
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
    seeds = _common_seeds([cell, baseline])
    if not seeds:
      without.append((cell, baseline))
      continue
    first, second = _test_scores(cell, seeds), _test_scores(baseline, seeds)
    result = paired_statistics.compare(first, second)
    p_value, test = _p_value(result, first, second)
    found.append(
      CellComparison(
        cell,
        baseline,
        result,
        p_value,
        test,
        p_value,
        len({*cell.seeds, *baseline.seeds}) - len(seeds),
      )
    )
  return found, without


def _p_value(
  result: Comparison, first: np.ndarray, second: np.ndarray
) -> tuple[float, str]:
  if result.seeds > 1:
    return result.p_value, "sign flip"
  p_value = paired_statistics.mcnemar_p_value(first[0], second[0])
  return p_value, "McNemar"


def _common_seeds(cells: Iterable[Cell]) -> list[int]:
  return sorted(set.intersection(*(set(cell.seeds) for cell in cells)))


def adjusted(
  comparisons: Sequence[CellComparison], others: Sequence[TeacherComparison]
) -> tuple[list[CellComparison], list[TeacherComparison]]:
  """Adjusts all p-values of a report together, by Holm's method."""
  values = paired_statistics.holm(
    [c.p_value for c in comparisons] + [c.p_value for c in others]
  )
  return (
    [
      dataclasses.replace(comparison, adjusted=value)
      for comparison, value in zip(comparisons, values, strict=False)
    ],
    [
      dataclasses.replace(comparison, adjusted=value)
      for comparison, value in zip(
        others, values[len(comparisons) :], strict=True
      )
    ],
  )


# -------------------------------------------------------- against the teacher


def hardest_teacher(
  teachers: Sequence[Teacher], cells: Sequence[Cell]
) -> Teacher | None:
  """The teacher that is most often right, where it answered all test items.

  Judged on the validation items where it answered them, else on the test items:
  a student that beats the best reading of a teacher beats the others.
  """
  best, found = -math.inf, None
  for teacher in teachers:
    for split in ("validation", "test"):
      scores = [teacher_scores(teacher, cell, split=split) for cell in cells]
      means = [float(s.mean()) for s in scores if s is not None]
      if means:
        break
    if means and (mean := sum(means) / len(means)) > best:
      best, found = mean, teacher
  return found


def teacher_scores(
  teacher: Teacher, cell: Cell, *, split: str = "test"
) -> np.ndarray | None:
  """[seeds, items]: the teacher on the items that each run answered."""
  answers = cell.answers(split=split)
  if answers is None or len({len(each.ids) for each in answers}) != 1:
    return None
  rows = [teacher.scores(each, cell.metric) for each in answers]
  found = [row for row in rows if row is not None]
  return np.stack(found) if len(found) == len(rows) else None


def compare_with_teacher(
  cells: Iterable[Cell], teacher: Teacher
) -> list[TeacherComparison]:
  """Compares cells with a teacher; p-values are not adjusted yet."""
  found = []
  for cell in cells:
    row = teacher_scores(teacher, cell)
    if row is None:
      continue
    scores = _test_scores(cell)
    test = paired_statistics.compare(scores, row)
    p_value, _ = _p_value(test, scores, row)
    validation, own = cell.scores(split="validation"), None
    if validation is not None:
      own = teacher_scores(teacher, cell, split="validation")
    found.append(
      TeacherComparison(
        cell,
        teacher,
        None
        if validation is None or own is None
        else paired_statistics.compare(validation, own),
        test,
        p_value,
        p_value,
      )
    )
  return found


def fronts(
  comparisons: Iterable[TeacherComparison],
) -> dict[Family, list[FrontPoint]]:
  """For each method the cells that beat the teacher with the least of both.

  Args:
    comparisons: of one dataset; those without a decision, and cells of unknown
      size, are passed over.
  """
  by_family: dict[Family, list[TeacherComparison]] = collections.defaultdict(
    list
  )
  for comparison in comparisons:
    cell = comparison.cell
    if comparison.validation is not None and cell.parameters and cell.examples:
      by_family[cell.family].append(comparison)
  return {family: _front(same) for family, same in by_family.items()}


def _front(comparisons: Sequence[TeacherComparison]) -> list[FrontPoint]:
  frequencies = _frequencies(comparisons)
  winners = [c.cell for c in comparisons if c.beats]
  points = []
  for index, comparison in enumerate(comparisons):
    cell = comparison.cell
    cost = _cost(cell)
    is_beaten = any(
      all(a <= b for a, b in zip(_cost(other), cost, strict=True))
      and _cost(other) != cost
      for other in winners
    )
    assert comparison.validation is not None
    points.append(
      FrontPoint(
        cell,
        bool(comparison.beats),
        bool(comparison.beats) and not is_beaten,
        frequencies[index],
        comparison.validation.difference,
      )
    )
  return points


def _cost(cell: Cell) -> tuple[int, int]:
  return cell.parameters or 0, cell.examples or 0


def _frequencies(comparisons: Sequence[TeacherComparison]) -> list[float]:
  """How often each cell is on the front; NaN if it cannot be known."""
  cells = [comparison.cell for comparison in comparisons]
  seeds = _common_seeds(cells)
  unknown = [math.nan] * len(cells)
  if not seeds or not run_cells.same_items_for_each_seed(
    cells, seeds, split="validation"
  ):
    return unknown
  scores = [cell.scores(seeds, split="validation") for cell in cells]
  own = comparisons[0].teacher
  answers = cells[0].answers(seeds, split="validation")
  assert answers is not None
  rows = [own.scores(each, cells[0].metric) for each in answers]
  if any(s is None for s in scores) or any(row is None for row in rows):
    return unknown
  found = paired_statistics.winning_frequency(
    {str(i): s for i, s in enumerate(scores) if s is not None},
    {str(i): _cost(cell) for i, cell in enumerate(cells)},
    np.stack([row for row in rows if row is not None]),
    draws=_DRAWS,
  )
  return [found[str(i)] for i in range(len(cells))]


# ------------------------------------------------------------------- savings


def savings(
  cells: Sequence[Cell], teachers: Mapping[str, Teacher]
) -> list[Saving]:
  """Data and model savings, for every curve of at least two sizes.

  Those of parameters are with the most training records.

  Args:
    cells: of all datasets.
    teachers: dataset -> the teacher to be reached.
  """
  return [
    *_savings_along(cells, teachers, "data"),
    *_savings_along(cells, teachers, "model"),
  ]


def _size(cell: Cell, kind: str) -> int | None:
  return cell.examples if kind == "data" else cell.parameters


def _savings_along(
  cells: Sequence[Cell], teachers: Mapping[str, Teacher], kind: str
) -> list[Saving]:
  curves: dict[tuple, dict[Family, list[Cell]]] = collections.defaultdict(dict)
  most = _most_records(cells)
  for cell in cells:
    if not _size(cell, kind):
      continue
    if kind == "model" and cell.examples != most.get(cell.family.dataset):
      continue
    fixed = cell.student if kind == "data" else f"{cell.examples} records"
    family = cell.family
    key = (family.dataset, fixed, family.init, family.label_source)
    curves[key].setdefault(family, []).append(cell)
  found = []
  for (dataset, fixed, *_), families in curves.items():
    for family, curve in families.items():
      curve = sorted(curve, key=lambda cell: _size(cell, kind) or 0)
      if len({_size(cell, kind) for cell in curve}) < 2:
        continue
      for baseline, reference in families.items():
        if baseline.method == BASELINE and family.method != BASELINE:
          largest = max(reference, key=lambda cell: _size(cell, kind) or 0)
          found.append(_saving(kind, family, fixed, curve, largest))
      if dataset in teachers:
        found.append(_saving(kind, family, fixed, curve, teachers[dataset]))
  return [saving for saving in found if saving is not None]


def _most_records(cells: Iterable[Cell]) -> dict[str, int | None]:
  """Dataset -> the most training records with which there are two students."""
  students: dict[tuple[str, int], set[int]] = collections.defaultdict(set)
  for cell in cells:
    if cell.examples and cell.parameters:
      students[cell.family.dataset, cell.examples].add(cell.parameters)
  found: dict[str, int | None] = {}
  for (dataset, examples), parameters in students.items():
    if len(parameters) > 1:
      found[dataset] = max(examples, found.get(dataset) or 0)
  return found


def _saving(
  kind: str,
  family: Family,
  fixed: str,
  curve: Sequence[Cell],
  reference: Cell | Teacher,
) -> Saving | None:
  """The saving of a curve; None where its runs cannot be paired."""
  of_cell = isinstance(reference, Cell)
  seeds = _common_seeds([*curve, reference] if of_cell else curve)
  cells = [*curve, reference] if isinstance(reference, Cell) else curve
  sizes = [float(_size(cell, kind) or 0) for cell in curve]
  if (
    not seeds
    or len(set(sizes)) < len(sizes)
    or not run_cells.same_items_for_each_seed(cells, seeds)
  ):
    return None
  if isinstance(reference, Cell):
    level = _test_scores(reference, seeds)
    size = _size(reference, kind)
    words = (
      f"{run_cells.method_name(reference.family.method)} with"
      f" {size:,} {'records' if kind == 'data' else 'parameters'}"
    )
  else:
    rows = [
      reference.scores(each, curve[0].metric)
      for each in curve[0].answers(seeds) or ()
    ]
    if not rows or any(row is None for row in rows):
      return None
    level = np.stack([row for row in rows if row is not None])
    size, words = None, f"the teacher ({reference.name})"
  needed = paired_statistics.reach(
    sizes,
    np.stack([_test_scores(cell, seeds) for cell in curve]),
    level,
    draws=_DRAWS,
  )
  return Saving(kind, family, fixed, words, needed, sizes[0], size, len(seeds))
