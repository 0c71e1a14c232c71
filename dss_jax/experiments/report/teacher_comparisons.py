"""Students against the teacher, and the cheapest of them that beat it.

Whether a group of runs beats the teacher is decided on validation, against the
teacher's stored answers, by a paired one-sided test that is adjusted for the
number of groups compared; the test split is read after that. Group and teacher
are compared on the items that the teacher answered.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from dss_jax.experiments import bootstrap_statistics, paired_statistics
from dss_jax.experiments.paired_statistics import Comparison
from dss_jax.experiments.report import report_statistics, run_groups
from dss_jax.experiments.report.report_statistics import GroupComparison
from dss_jax.experiments.report.run_groups import RunGroup, Series
from dss_jax.experiments.report.stored_teacher import Teacher

_DRAWS = 1000
# One-sided; for a single group, the lower end of the 95 % interval is above 0.
_LEVEL = 0.025


@dataclasses.dataclass(frozen=True)
class TeacherComparison:
  """A group against the teacher's stored answers.

  Attributes:
    group: the students.
    teacher: the reading of the teacher's answers that is best for the teacher.
    validation: group minus teacher on the split that decides; None where one of
      the two has no answers to it.
    validation_p: one-sided p-value on that split, adjusted by Holm's method over
      the groups that are compared with this teacher; NaN without a decision.
    test: group minus teacher on the test split, read after the decision.
    teacher_accuracy: on the test items of `test`.
    p_value: of the test split, as for groups.
    adjusted: likewise.
  """

  group: RunGroup
  teacher: Teacher
  validation: Comparison | None
  validation_p: float
  test: Comparison
  teacher_accuracy: float
  p_value: float
  adjusted: float

  @property
  def beats(self) -> bool | None:
    """Whether the group is better on validation; None without a decision."""
    return None if self.validation is None else self.validation_p <= _LEVEL

  @property
  def items_left_out(self) -> int:
    """Test items that the teacher did not answer."""
    return len(self.group.runs[0].test.ids) - self.test.items


@dataclasses.dataclass(frozen=True)
class FrontPoint:
  """A group as one of those that might beat the teacher most cheaply.

  Attributes:
    group: the runs.
    beats: see `TeacherComparison.beats`.
    on_front: whether it beats the teacher and no other group of its method that
      does is smaller or has less data, and is in neither respect worse.
    frequency: the share of resamples of seeds and items in which it is on the
      front; NaN where groups cannot be resampled together.
    gap: validation accuracy minus the teacher's.
  """

  group: RunGroup
  beats: bool
  on_front: bool
  frequency: float
  gap: float


def hardest_teacher(
  teachers: Sequence[Teacher], groups: Sequence[RunGroup]
) -> Teacher | None:
  """The teacher that is most often right, of those that answered test items.

  Judged on the validation items where it answered them, else on the test items:
  a student that beats the best reading of a teacher beats the others. An item
  without an answer is none that it is right on: a few answers make no teacher
  the hardest one.
  """
  best, found = -math.inf, None
  for teacher in teachers:
    for split in ("validation", "test"):
      scores = [teacher_scores(teacher, group, split=split) for group in groups]
      means = [float(np.nan_to_num(s).mean()) for s in scores if s is not None]
      if means:
        break
    if means and (mean := sum(means) / len(means)) > best:
      best, found = mean, teacher
  return found


def teacher_scores(
  teacher: Teacher, group: RunGroup, *, split: str = "test"
) -> np.ndarray | None:
  """[seeds, items]: the teacher on the items that each run answered.

  NaN where it has no answer; None where it has too few.
  """
  answers = group.answers(split=split)
  if answers is None or len({len(each.ids) for each in answers}) != 1:
    return None
  rows = [teacher.scores(each, group.metric) for each in answers]
  found = [row for row in rows if row is not None]
  return np.stack(found) if len(found) == len(rows) else None


def compare_with_teacher(
  groups: Iterable[RunGroup], teacher: Teacher
) -> list[TeacherComparison]:
  """Compares groups of one dataset with a teacher.

  The p-values of the test split are not adjusted yet.
  """
  found = []
  for group in groups:
    pair = paired(teacher, group, "test")
    if pair is None:
      continue
    test = paired_statistics.compare(*pair)
    p, _ = report_statistics.p_value(test, *pair)
    validation = paired(teacher, group, "validation")
    decision = validation and paired_statistics.compare(*validation)
    found.append(
      TeacherComparison(
        group,
        teacher,
        decision,
        decision.p_above if decision else math.nan,
        test,
        float(pair[1].mean()),
        p,
        p,
      )
    )
  return [
    dataclasses.replace(each, validation_p=value)
    for each, value in zip(
      found,
      paired_statistics.holm([each.validation_p for each in found]),
      strict=True,
    )
  ]


def paired(
  teacher: Teacher, group: RunGroup, split: str
) -> tuple[np.ndarray, np.ndarray] | None:
  """[seeds, items] of group and teacher, on the items that both answered."""
  scores = group.scores(split=split)
  row = None
  if scores is not None:
    row = teacher_scores(teacher, group, split=split)
  if scores is None or row is None:
    return None
  known = answered(row)
  return (scores[:, known], row[:, known]) if known.sum() > 1 else None


def answered(row: np.ndarray) -> np.ndarray:
  """[items] whether a teacher's scores, [seeds, items], are all there."""
  return np.asarray(~np.isnan(row).any(axis=0))


def fronts(
  comparisons: Iterable[TeacherComparison],
) -> dict[Series, list[FrontPoint]]:
  """For each method the groups that beat the teacher with the least of both.

  Args:
    comparisons: of one dataset; those without a decision, and groups of unknown
      size, are passed over.
  """
  by_series: dict[Series, list[TeacherComparison]] = collections.defaultdict(
    list
  )
  for comparison in comparisons:
    group = comparison.group
    if (
      comparison.validation is not None and group.parameters and group.examples
    ):
      by_series[group.series].append(comparison)
  return {series: _front(same) for series, same in by_series.items()}


def _front(comparisons: Sequence[TeacherComparison]) -> list[FrontPoint]:
  frequencies = _frequencies(comparisons)
  winners = [c.group for c in comparisons if c.beats]
  points = []
  for index, comparison in enumerate(comparisons):
    group = comparison.group
    cost = _cost(group)
    is_beaten = any(
      all(a <= b for a, b in zip(_cost(other), cost, strict=True))
      and _cost(other) != cost
      for other in winners
    )
    assert comparison.validation is not None
    points.append(
      FrontPoint(
        group,
        bool(comparison.beats),
        bool(comparison.beats) and not is_beaten,
        frequencies[index],
        comparison.validation.difference,
      )
    )
  return points


def _cost(group: RunGroup) -> tuple[int, int]:
  return group.parameters or 0, group.examples or 0


def _frequencies(comparisons: Sequence[TeacherComparison]) -> list[float]:
  """How often each group is on the front; NaN if it cannot be known."""
  groups = [comparison.group for comparison in comparisons]
  seeds = report_statistics.common_seeds(groups)
  unknown = [math.nan] * len(groups)
  if not seeds or not run_groups.same_items_for_each_seed(
    groups, seeds, split="validation"
  ):
    return unknown
  scores = [group.scores(seeds, split="validation") for group in groups]
  own = comparisons[0].teacher
  answers = groups[0].answers(seeds, split="validation")
  assert answers is not None
  rows = [own.scores(each, groups[0].metric) for each in answers]
  if any(s is None for s in scores) or any(row is None for row in rows):
    return unknown
  stacked = np.stack([row for row in rows if row is not None])
  known = answered(stacked)
  if known.sum() < 2:
    return unknown
  found = bootstrap_statistics.winning_frequency(
    {str(i): s[:, known] for i, s in enumerate(scores) if s is not None},
    {str(i): _cost(group) for i, group in enumerate(groups)},
    stacked[:, known],
    draws=_DRAWS,
  )
  return [found[str(i)] for i in range(len(groups))]


def adjusted(
  comparisons: Sequence[GroupComparison], others: Sequence[TeacherComparison]
) -> tuple[list[GroupComparison], list[TeacherComparison]]:
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
