"""The figures of a report: less data, a smaller student, and both at once.

A figure that the runs cannot support is left out, with the reason.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence

from dss_jax.experiments.report.figure_files import STYLE, Drawing
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_drawing import LEAST_FREQUENCY, Chart
from dss_jax.experiments.report.report_statistics import BASELINE, GroupRow
from dss_jax.experiments.report.run_groups import Series
from dss_jax.experiments.report.teacher_comparisons import FrontPoint


@dataclasses.dataclass(frozen=True)
class Missing:
  """A figure that is left out.

  Attributes:
    title: what it would show.
    reason: why it does not.
  """

  title: str
  reason: str


def draw(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """Draws all figures that the runs support.

  Returns:
    The drawings, and those left out.
  """
  from matplotlib import rc_context

  drawings: list[Drawing] = []
  missing: list[Missing] = []
  with rc_context(STYLE):
    for make in (_less_data, _smaller_student, _least_of_both, _methods):
      found, without = make(content)
      drawings += found
      missing += without
  return drawings, missing


def _less_data(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """Accuracy against the number of training records, for each student."""
  title = "Accuracy against training-set size"
  figures: dict[tuple, list[GroupRow]] = collections.defaultdict(list)
  for row in content.rows:
    group, series = row.group, row.group.series
    if group.examples:
      figures[
        series.dataset, group.student, series.init, series.label_source
      ].append(row)
  found = []
  for (dataset, student, init, labels), rows in figures.items():
    if len({row.group.examples for row in rows}) < 2:
      continue
    drawing = Chart(content, dataset, rows, lambda r: r.group.examples or 0)
    drawing.level(_full_data(rows), "all data")
    drawing.teacher()
    drawing.curves()
    drawing.label("training records", student)
    source = "" if labels == "gold" else f", {labels} labels"
    name, begun = _beginning(content, dataset, init)
    found.append(
      drawing.finish(
        f"data_{dataset}_{student}_{labels}{name}",
        f"{dataset}: accuracy against training-set size",
        f"{student}{begun}{source}. {_DOTTED}",
      )
    )
  if found:
    return found, []
  return [], [
    Missing(title, "it takes runs of one student with two sizes or more")
  ]


_DOTTED = (
  "The dotted line is fine-tuning with all its data: where another method"
  " crosses it, it needs less."
)


def _beginning(content: Content, dataset: str, init: str) -> tuple[str, str]:
  """What tells drawings of students apart that began elsewhere.

  Returns:
    The end of a drawing's name, and words for its caption; nothing where all
    students of the dataset began alike.
  """
  all_of = [s.init for s in content.series if s.dataset == dataset]
  inits = list(dict.fromkeys(all_of))
  if len(inits) < 2:
    return "", ""
  # Of checkpoints the last folder may be the same.
  name = os.path.basename(init.rstrip("/"))
  if [os.path.basename(each.rstrip("/")) for each in inits].count(name) > 1:
    name = f"{inits.index(init) + 1}_{name}"
  return f"_from_{name}", f" from {init}"


def _full_data(rows: Sequence[GroupRow]) -> GroupRow | None:
  """Fine-tuning on the most records."""
  baselines = [r for r in rows if r.group.series.method == BASELINE]
  return max(baselines, key=lambda r: r.group.examples or 0, default=None)


def _smaller_student(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """Accuracy against the student's size, at the most data."""
  title = "Accuracy against student size"
  figures: dict[tuple, list[GroupRow]] = collections.defaultdict(list)
  for row in content.rows:
    series = row.group.series
    if row.group.parameters:
      figures[series.dataset, series.init, series.label_source].append(row)
  found = []
  for (dataset, init, labels), of_dataset in figures.items():
    # The most records with which there are two students.
    sizes: dict[int | None, set[int | None]] = collections.defaultdict(set)
    for row in of_dataset:
      sizes[row.group.examples].add(row.group.parameters)
    enough = [n for n, students in sizes.items() if len(students) > 1]
    if not enough:
      continue
    most = max(enough, key=lambda n: n or 0)
    rows = [row for row in of_dataset if row.group.examples == most]
    drawing = Chart(content, dataset, rows, lambda r: r.group.parameters or 0)
    drawing.teacher()
    drawing.curves()
    records = f"{most:,} training records" if most else "all training records"
    drawing.label("parameters of the student", records)
    name, begun = _beginning(content, dataset, init)
    source = "" if labels == "gold" else f", {labels} labels"
    found.append(
      drawing.finish(
        f"size_{dataset}_{labels}{name}",
        f"{dataset}: accuracy against student size",
        f"{records}{f', students{begun}' if begun else ''}{source}.",
      )
    )
  if found:
    return found, []
  return [], [Missing(title, "it takes runs of two students on the same data")]


def _least_of_both(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """The smallest students with the least data that beat the teacher."""
  title = "Least data and smallest student that beat the teacher"
  found: list[Drawing] = []
  missing: list[Missing] = []
  for dataset in content.datasets:
    fronts = {
      series: points
      for series, points in content.fronts.items()
      if series.dataset == dataset
    }
    groups = [point.group for points in fronts.values() for point in points]
    if dataset not in content.hardest:
      reason = "the teacher's answers to the test items are not at hand"
    elif not groups:
      reason = (
        "the teacher's answers to the validation items are not at hand, and they"
        " decide"
      )
    elif len({(group.parameters, group.examples) for group in groups}) < 2:
      reason = "it takes two students, or two sizes of the training set"
    else:
      drawing = Chart(content, dataset, content.of_dataset(dataset))
      drawing.fronts(fronts)
      found.append(
        drawing.finish(
          f"least_{dataset}",
          f"{dataset}: least data and smallest student that beat the teacher",
          "A filled mark beats the teacher on validation (paired, adjusted for"
          " the settings compared), a hollow one does not; the line joins the"
          " cheapest"
          f" winners. At a mark: the share of resamples (from"
          f" {100 * LEAST_FREQUENCY:.0f} %) in which it is one of them."
          f" {_without_winner(content, fronts)}".strip(),
        )
      )
      continue
    missing.append(Missing(f"{dataset}: {title.lower()}", reason))
  return found, missing


def _methods(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """Methods side by side, where there is but one setting to draw a curve of."""
  found = []
  for dataset in content.datasets:
    rows = content.of_dataset(dataset)
    settings = {(row.group.student, row.group.examples) for row in rows}
    if len(settings) > 1 or len(rows) < 2:
      continue
    [(student, examples)] = settings
    drawing = Chart(content, dataset, rows)
    drawing.rows()
    records = "all" if examples is None else f"{examples:,}"
    found.append(
      drawing.finish(
        f"methods_{dataset}",
        f"{dataset}: accuracy of each method",
        f"{student}, {records} training records; {rows[0].items:,} test items.",
        legend=False,
      )
    )
  return found, []


def _without_winner(
  content: Content, fronts: Mapping[Series, Sequence[FrontPoint]]
) -> str:
  """How far the methods that never beat the teacher stay behind."""
  return " ".join(
    f"{content.name(series).capitalize()} is not shown to beat it; its best is"
    f" {abs(100 * best):.1f} points {'below' if best < 0 else 'above'} the"
    " teacher on validation."
    for series, points in fronts.items()
    if not any(point.beats for point in points)
    for best in [max(point.gap for point in points)]
  )
