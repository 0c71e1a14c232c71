"""How much less data, or how much smaller a student, is as good."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from dss_jax.experiments import bootstrap_statistics
from dss_jax.experiments.bootstrap_statistics import Reach
from dss_jax.experiments.report import (
  report_statistics,
  run_groups,
  teacher_comparisons,
)
from dss_jax.experiments.report.report_statistics import BASELINE
from dss_jax.experiments.report.run_groups import RunGroup, Series
from dss_jax.experiments.report.stored_teacher import Teacher

_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Saving:
  """How much less a method needs to be as good as a reference.

  Attributes:
    kind: "data" or "model".
    series: the method.
    fixed: the student (for data) or the training records (for a model), which
      stays the same along the curve.
    level: what is to be reached, in words.
    needed: records or parameters at which it is reached.
    smallest: the smallest size of the curve.
    reference_size: what the reference has of them; None for the teacher.
    seeds: number of seeds.
  """

  kind: str
  series: Series
  fixed: str
  level: str
  needed: Reach
  smallest: float
  reference_size: float | None
  seeds: int


def savings(
  groups: Sequence[RunGroup], teachers: Mapping[str, Teacher]
) -> tuple[list[Saving], list[str]]:
  """Data and model savings, for every curve of at least two sizes.

  Those of parameters are with the most training records.

  Args:
    groups: of all datasets.
    teachers: dataset -> the teacher to be reached.

  Returns:
    The savings, and a sentence on each curve of which nothing can be said.
  """
  found: list[Saving] = []
  notes: list[str] = []
  for kind in ("data", "model"):
    for each in _savings_along(groups, teachers, kind):
      if isinstance(each, str):
        notes.append(each)
      else:
        found.append(each)
  return found, list(dict.fromkeys(notes))


def _size(group: RunGroup, kind: str) -> int | None:
  return group.examples if kind == "data" else group.parameters


def _savings_along(
  groups: Sequence[RunGroup], teachers: Mapping[str, Teacher], kind: str
) -> Iterator[Saving | str]:
  curves: dict[tuple, dict[Series, list[RunGroup]]] = collections.defaultdict(
    dict
  )
  most = _most_records(groups)
  for group in groups:
    if not _size(group, kind):
      continue
    if kind == "model" and group.examples != most.get(group.series.dataset):
      continue
    fixed = group.student if kind == "data" else f"{group.examples} records"
    series = group.series
    key = (series.dataset, fixed, series.init, series.label_source)
    curves[key].setdefault(series, []).append(group)
  for (dataset, fixed, *_), by_series in curves.items():
    for series, curve in by_series.items():
      curve = sorted(curve, key=lambda group: _size(group, kind) or 0)
      if len({_size(group, kind) for group in curve}) < 2:
        continue
      for baseline, reference in by_series.items():
        if baseline.method == BASELINE and series.method != BASELINE:
          largest = max(reference, key=lambda group: _size(group, kind) or 0)
          yield _saving(kind, series, fixed, curve, largest)
      if dataset in teachers:
        yield _saving(kind, series, fixed, curve, teachers[dataset])


def _most_records(groups: Iterable[RunGroup]) -> dict[str, int | None]:
  """Dataset -> the most training records with which there are two students."""
  students: dict[tuple[str, int], set[int]] = collections.defaultdict(set)
  for group in groups:
    if group.examples and group.parameters:
      students[group.series.dataset, group.examples].add(group.parameters)
  found: dict[str, int | None] = {}
  for (dataset, examples), parameters in students.items():
    if len(parameters) > 1:
      found[dataset] = max(examples, found.get(dataset) or 0)
  return found


def _saving(
  kind: str,
  series: Series,
  fixed: str,
  curve: Sequence[RunGroup],
  reference: RunGroup | Teacher,
) -> Saving | str:
  """The saving of a curve; a sentence where its runs cannot be paired."""
  along = "training-set sizes" if kind == "data" else "students"
  lacking = (
    f"No saving is told of {run_groups.method_name(series.method)} over {along}"
    f" ({series.dataset}, {fixed}): "
  )
  of_group = isinstance(reference, RunGroup)
  seeds = report_statistics.common_seeds(
    [*curve, reference] if of_group else curve
  )
  groups = [*curve, reference] if isinstance(reference, RunGroup) else curve
  sizes = [float(_size(group, kind) or 0) for group in curve]
  if not seeds:
    return f"{lacking}no seed has a run at each of them."
  if len(set(sizes)) < len(sizes):
    return f"{lacking}several settings have one size."
  if not run_groups.same_items_for_each_seed(groups, seeds):
    return f"{lacking}its runs answered different test items."
  if isinstance(reference, RunGroup):
    level = report_statistics.scores_of(reference, seeds)
    size = _size(reference, kind)
    words = (
      f"{run_groups.method_name(reference.series.method)} with"
      f" {size:,} {'records' if kind == 'data' else 'parameters'}"
    )
  else:
    rows = [
      reference.scores(each, curve[0].metric)
      for each in curve[0].answers(seeds) or ()
    ]
    if not rows or any(row is None for row in rows):
      return f"{lacking}the teacher lacks answers."
    level = np.stack([row for row in rows if row is not None])
    size, words = None, f"the teacher ({reference.name})"
  known = teacher_comparisons.answered(level)
  if known.sum() < 2:
    return f"{lacking}the teacher lacks answers."
  scores = [report_statistics.scores_of(group, seeds) for group in curve]
  needed = bootstrap_statistics.reach(
    sizes,
    np.stack(scores)[:, :, known],
    level[:, known],
    draws=_DRAWS,
  )
  return Saving(kind, series, fixed, words, needed, sizes[0], size, len(seeds))
