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
  run_cells,
  stored_teacher,
  teacher_comparisons,
)
from dss_jax.experiments.report.finished_runs import LeftOut, Run
from dss_jax.experiments.report.report_savings import Saving
from dss_jax.experiments.report.report_statistics import CellComparison, CellRow
from dss_jax.experiments.report.run_cells import Cell, Family
from dss_jax.experiments.report.stored_teacher import Teacher
from dss_jax.experiments.report.teacher_comparisons import (
  FrontPoint,
  TeacherComparison,
)


@dataclasses.dataclass(frozen=True)
class Content:
  """What a report says.

  Attributes:
    rows: the cells with their means.
    comparisons: of cells, p-values adjusted.
    unpaired: pairs of cells without a common seed.
    teachers: whose answers to test items are at hand.
    hardest: dataset -> the teacher that students are compared with.
    against_teacher: cells against it.
    fronts: method -> its cells as winners over the teacher.
    savings: of data and of parameters.
    left_out: runs that are not part of it.
    notes: what else a reader must know, a sentence each.
  """

  rows: Sequence[CellRow]
  comparisons: Sequence[CellComparison]
  unpaired: Sequence[tuple[Cell, Cell]]
  teachers: Sequence[Teacher]
  hardest: Mapping[str, Teacher]
  against_teacher: Sequence[TeacherComparison]
  fronts: Mapping[Family, Sequence[FrontPoint]]
  savings: Sequence[Saving]
  left_out: Sequence[LeftOut]
  notes: Sequence[str]

  @property
  def cells(self) -> list[Cell]:
    return [row.cell for row in self.rows]

  @property
  def runs(self) -> list[Run]:
    return [run for cell in self.cells for run in cell.runs]

  @property
  def families(self) -> list[Family]:
    return list(dict.fromkeys(cell.family for cell in self.cells))

  @property
  def datasets(self) -> list[str]:
    return list(dict.fromkeys(cell.family.dataset for cell in self.cells))

  def of_dataset(self, dataset: str) -> list[CellRow]:
    return [row for row in self.rows if row.cell.family.dataset == dataset]

  def name(self, family: Family) -> str:
    """A family's name, as distinct as its dataset's others make it."""
    others = [f for f in self.families if f.dataset == family.dataset]
    return run_cells.family_name(family, others)


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
  cells, others = run_cells.group(runs)
  left_out += others
  if not cells:
    raise UserError(
      f"none of {len(left_out)} runs can be reported: {_first(left_out)}",
      fields="folders",
    )
  found, notes = stored_teacher.of_runs(
    [run for cell in cells for run in cell.runs], teacher_files, data_dir
  )
  teachers, hardest, lacking = _fitting(found, cells)
  comparisons, unpaired = report_statistics.compare_cells(
    report_statistics.comparable(cells)
  )
  against = [
    comparison
    for dataset, teacher in hardest.items()
    for comparison in teacher_comparisons.compare_with_teacher(
      [c for c in cells if c.family.dataset == dataset], teacher
    )
  ]
  comparisons, against = teacher_comparisons.adjusted(comparisons, against)
  fronts: dict[Family, list[FrontPoint]] = {}
  for dataset in hardest:
    of_dataset = [c for c in against if c.cell.family.dataset == dataset]
    fronts |= teacher_comparisons.fronts(of_dataset)
  savings, without = report_savings.savings(cells, hardest)
  return Content(
    rows=report_statistics.cell_rows(cells),
    comparisons=comparisons,
    unpaired=unpaired,
    teachers=teachers,
    hardest=hardest,
    against_teacher=against,
    fronts=fronts,
    savings=savings,
    left_out=left_out,
    notes=[*notes, *lacking, *_own_items(cells), *without],
  )


def _first(left_out: Sequence[LeftOut]) -> str:
  return "; ".join(f"{each.folder}: {each.reason}" for each in left_out[:3])


def _fitting(
  found: Sequence[Teacher], cells: Sequence[Cell]
) -> tuple[list[Teacher], dict[str, Teacher], list[str]]:
  """The teachers that answered test items of their dataset.

  Returns:
    Them; dataset -> the one to compare with; and a sentence on each that
    answered none or only some of the test items.
  """
  fitting: list[Teacher] = []
  lacking = []
  for teacher in found:
    of_dataset = [c for c in cells if c.family.dataset == teacher.dataset]
    is_fitting = any(
      teacher_comparisons.paired(teacher, cell, "test") is not None
      for cell in of_dataset
    )
    if is_fitting:
      fitting.append(teacher)
    lacking += _what_it_lacks(teacher, of_dataset[0], is_fitting)
  hardest = {}
  for dataset in dict.fromkeys(t.dataset for t in fitting):
    best = teacher_comparisons.hardest_teacher(
      [t for t in fitting if t.dataset == dataset],
      [c for c in cells if c.family.dataset == dataset],
    )
    if best is not None:
      hardest[dataset] = best
  return fitting, hardest, lacking


def _what_it_lacks(teacher: Teacher, cell: Cell, is_fitting: bool) -> list[str]:
  """A sentence on a teacher that did not answer all test items, or none."""
  run = cell.runs[0]
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


def _own_items(cells: Sequence[Cell]) -> list[str]:
  by_dataset: dict[str, list[Cell]] = {}
  for cell in cells:
    by_dataset.setdefault(cell.family.dataset, []).append(cell)
  return [
    f"On {dataset}, each seed has test items of its own: methods are paired"
    " within a seed, and an interval is over seeds and their items."
    for dataset, same in by_dataset.items()
    if run_cells.has_own_items(same)
  ]
