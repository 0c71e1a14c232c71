"""Everything that a report says, computed once; tables, figures and page show it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

from dss_jax.base.errors import UserError
from dss_jax.experiments.report import (
  finished_runs,
  report_savings,
  report_statistics,
  run_groups,
  stored_teacher,
  teacher_comparisons,
)
from dss_jax.experiments.report.finished_runs import LeftOut, Run
from dss_jax.experiments.report.report_savings import Saving
from dss_jax.experiments.report.report_statistics import (
  GroupComparison,
  GroupRow,
)
from dss_jax.experiments.report.run_groups import RunGroup, Series
from dss_jax.experiments.report.stored_teacher import Teacher
from dss_jax.experiments.report.teacher_comparisons import (
  FrontPoint,
  TeacherComparison,
)


@dataclasses.dataclass(frozen=True)
class Content:
  """What a report says.

  Attributes:
    rows: the groups with their means.
    comparisons: of groups, p-values adjusted.
    unpaired: pairs of groups without a common seed.
    teachers: whose answers to test items are at hand.
    hardest: dataset -> the teacher that students are compared with.
    against_teacher: groups against it.
    fronts: method -> its groups as winners over the teacher.
    savings: of data and of parameters.
    left_out: runs that are not part of it.
    notes: what else a reader must know, a sentence each.
  """

  rows: Sequence[GroupRow]
  comparisons: Sequence[GroupComparison]
  unpaired: Sequence[tuple[RunGroup, RunGroup]]
  teachers: Sequence[Teacher]
  hardest: Mapping[str, Teacher]
  against_teacher: Sequence[TeacherComparison]
  fronts: Mapping[Series, Sequence[FrontPoint]]
  savings: Sequence[Saving]
  left_out: Sequence[LeftOut]
  notes: Sequence[str]

  @property
  def groups(self) -> list[RunGroup]:
    return [row.group for row in self.rows]

  @property
  def runs(self) -> list[Run]:
    return [run for group in self.groups for run in group.runs]

  @property
  def series(self) -> list[Series]:
    return list(dict.fromkeys(group.series for group in self.groups))

  @property
  def datasets(self) -> list[str]:
    return list(dict.fromkeys(group.series.dataset for group in self.groups))

  def of_dataset(self, dataset: str) -> list[GroupRow]:
    return [row for row in self.rows if row.group.series.dataset == dataset]

  def name(self, series: Series) -> str:
    """A series' name, as distinct as its dataset's others make it."""
    others = [each for each in self.series if each.dataset == series.dataset]
    return run_groups.series_name(series, others)


def build(
  folders: Iterable[str | os.PathLike[str]],
  *,
  teacher_files: Sequence[str | os.PathLike[str]] = (),
  data_dir: str | None = None,
) -> Content:
  """Reads runs and computes what a report says of them.

  Args:
    folders: runs, folders of runs, sweeps.
    teacher_files: records with a teacher's answers to the items.
    data_dir: folder of the released data, for their teachers' answers.

  Raises:
    UserError: there is no finished run.
  """
  runs, left_out = finished_runs.find(folders)
  groups, others = run_groups.group_runs(runs)
  left_out += others
  if not groups:
    raise UserError(
      f"none of {len(left_out)} runs can be reported: {_first(left_out)}",
      fields="folders",
    )
  found, notes = stored_teacher.of_runs(
    [run for group in groups for run in group.runs], teacher_files, data_dir
  )
  teachers, hardest, lacking = _fitting(found, groups)
  comparisons, unpaired = report_statistics.compare_groups(
    report_statistics.comparable(groups)
  )
  against = [
    comparison
    for dataset, teacher in hardest.items()
    for comparison in teacher_comparisons.compare_with_teacher(
      [g for g in groups if g.series.dataset == dataset], teacher
    )
  ]
  comparisons, against = teacher_comparisons.adjusted(comparisons, against)
  fronts: dict[Series, list[FrontPoint]] = {}
  for dataset in hardest:
    of_dataset = [c for c in against if c.group.series.dataset == dataset]
    fronts |= teacher_comparisons.fronts(of_dataset)
  savings, without = report_savings.savings(groups, hardest)
  return Content(
    rows=report_statistics.group_rows(groups),
    comparisons=comparisons,
    unpaired=unpaired,
    teachers=teachers,
    hardest=hardest,
    against_teacher=against,
    fronts=fronts,
    savings=savings,
    left_out=left_out,
    notes=[*notes, *lacking, *_own_items(groups), *without],
  )


def _first(left_out: Sequence[LeftOut]) -> str:
  return "; ".join(f"{each.folder}: {each.reason}" for each in left_out[:3])


def _fitting(
  found: Sequence[Teacher], groups: Sequence[RunGroup]
) -> tuple[list[Teacher], dict[str, Teacher], list[str]]:
  """The teachers that answered test items of their dataset.

  Returns:
    Them; dataset -> the one to compare with; and a sentence on each that
    answered none or only some of the test items.
  """
  fitting: list[Teacher] = []
  lacking = []
  for teacher in found:
    of_dataset = [g for g in groups if g.series.dataset == teacher.dataset]
    is_fitting = any(
      teacher_comparisons.paired(teacher, group, "test") is not None
      for group in of_dataset
    )
    if is_fitting:
      fitting.append(teacher)
    lacking += _what_it_lacks(teacher, of_dataset[0], is_fitting)
  hardest = {}
  for dataset in dict.fromkeys(t.dataset for t in fitting):
    best = teacher_comparisons.hardest_teacher(
      [t for t in fitting if t.dataset == dataset],
      [g for g in groups if g.series.dataset == dataset],
    )
    if best is not None:
      hardest[dataset] = best
  return fitting, hardest, lacking


def _what_it_lacks(
  teacher: Teacher, group: RunGroup, is_fitting: bool
) -> list[str]:
  """A sentence on a teacher that did not answer all test items, or none."""
  run = group.runs[0]
  lacks = [
    f"{known} of {len(answers.ids)} {split} items"
    for split, answers in (("validation", run.validation), ("test", run.test))
    if answers is not None
    and (known := sum(each in teacher.answers for each in answers.ids))
    < len(answers.ids)
  ]
  if is_fitting and not lacks:
    return []
  if is_fitting:
    return [
      f"{teacher.name} answered {' and '.join(lacks)} of {teacher.dataset}; it is"
      " compared with on these alone: the others were not asked, or got no"
      " answer."
    ]
  what = f"{teacher.name} is not compared with on {teacher.dataset}: "
  if lacks:
    return [f"{what}it answered {' and '.join(lacks)}."]
  return [f"{what}its items have other gold labels than the runs' test items."]


def _own_items(groups: Sequence[RunGroup]) -> list[str]:
  by_dataset: dict[str, list[RunGroup]] = {}
  for group in groups:
    by_dataset.setdefault(group.series.dataset, []).append(group)
  return [
    f"On {dataset}, each seed has test items of its own: methods are paired"
    " within a seed, and an interval is over seeds and their items."
    for dataset, same in by_dataset.items()
    if run_groups.has_own_items(same)
  ]
