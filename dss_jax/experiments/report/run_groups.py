"""Groups runs that differ in nothing but their seed.

Readers of a report know such a group as a setting.

Groups of one dataset are compared item by item, so all their runs must have
answered the same test items. Runs that do not fit are named and left out.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dss_jax.experiments.report import common_items, run_variants
from dss_jax.experiments.report.finished_runs import Answers, LeftOut, Run

# Sizes this close are one size: a method that cannot use every rationale has a
# few records less.
_SAME_SIZE = 1.05


@dataclasses.dataclass(frozen=True)
class Series:
  """What the groups along a curve over sizes or students have in common.

  Attributes:
    dataset: its name.
    method: its name; "other" for a task that is none of ours.
    label_source: "gold", "teacher", or "gold+teacher" where extra records have
      the teacher's.
    rationale_source: who wrote the rationales; "" for none.
    init: "random", or the checkpoint that training began from.
    variant: further settings that tell series apart, name and value.
  """

  dataset: str
  method: str
  label_source: str
  rationale_source: str
  init: str
  variant: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class RunGroup:
  """Runs that differ in nothing but their seed.

  Attributes:
    series: method, dataset and so on.
    student: the student's name.
    parameters: of the student; None if nobody wrote it down.
    examples: training records, the same number for groups to be compared.
    fraction: of the training data; None if unknown.
    runs: by ascending seed, each seed once.
  """

  series: Series
  student: str
  parameters: int | None
  examples: int | None
  fraction: float | None
  runs: tuple[Run, ...]

  @property
  def seeds(self) -> tuple[int, ...]:
    return tuple(run.seed for run in self.runs)

  @property
  def metric(self) -> str:
    return self.runs[0].metric

  def scores(
    self, seeds: Iterable[int] | None = None, *, split: str = "test"
  ) -> np.ndarray | None:
    """[seeds, items] of 0 and 1; None where the answers are not all there.

    Args:
      seeds: some of the group's; None for all.
      split: "test" or "validation".
    """
    answers = self.answers(seeds, split=split)
    if answers is None or len({len(a.ids) for a in answers}) != 1:
      return None
    return np.stack([a.correct for a in answers])

  def answers(
    self, seeds: Iterable[int] | None = None, *, split: str = "test"
  ) -> list[Answers] | None:
    """The answers of each seed; None where a seed's are missing."""
    wanted = self.seeds if seeds is None else tuple(seeds)
    by_seed = {run.seed: run for run in self.runs}
    found = [
      by_seed[seed].test if split == "test" else by_seed[seed].validation
      for seed in wanted
    ]
    return None if None in found or not found else found  # type: ignore


def method_name(name: str) -> str:
  """A method's name as people say it."""
  known = {"standard": "fine-tuning", "dss": "distilling step-by-step"}
  return known.get(name, name.replace("_", " "))


def series_name(series: Series, others: Iterable[Series] = ()) -> str:
  """A series' name: the method, and what tells it from others.

  Args:
    series: to be named.
    others: of the same figure or table; what all of them share is left out.
  """
  others = list(others)
  parts = [method_name(series.method)]
  notes = []
  if _differ(others, "rationale_source") and series.rationale_source:
    same = [each for each in others if each.method == series.method]
    if _differ(same, "rationale_source"):
      notes.append(f"rationales: {series.rationale_source}")
  if _differ(others, "label_source") or series.label_source != "gold":
    notes.append(f"{series.label_source} labels")
  if _differ(others, "init"):
    notes.append(f"from {os.path.basename(series.init.rstrip('/'))}")
  notes += [f"{name} {value}" for name, value in series.variant]
  return parts[0] + (f" ({', '.join(notes)})" if notes else "")


def _differ(several: Sequence[Series], field: str) -> bool:
  return len({getattr(series, field) for series in several}) > 1


# ------------------------------------------------------------------- grouping


def group_runs(runs: Iterable[Run]) -> tuple[list[RunGroup], list[LeftOut]]:
  """Groups runs by all but their seed.

  Args:
    runs: any.

  Returns:
    The groups, by dataset, student, size and method; and the runs that fit
    nowhere.
  """
  fitting, left_out = common_items.keep(runs)
  fitting, repeated = _each_once(fitting)
  sizes = _sizes(fitting)
  by_fields: dict[tuple, list[Run]] = collections.defaultdict(list)
  for run in fitting:
    by_fields[_fields(run, sizes)].append(run)
  variants = run_variants.variants(by_fields)
  groups = []
  for (series, student, examples), members in by_fields.items():
    by_variant: dict[tuple, list[Run]] = collections.defaultdict(list)
    for run in members:
      by_variant[variants[series](run)].append(run)
    for variant, same in by_variant.items():
      same.sort(key=lambda run: run.seed)
      groups.append(
        RunGroup(
          dataclasses.replace(series, variant=variant),
          student,
          same[0].parameters,
          examples,
          same[0].entry.get("train_fraction"),
          tuple(same),
        )
      )
  groups.sort(key=_order)
  return groups, left_out + repeated


def _order(group: RunGroup) -> tuple:
  series = group.series
  return (
    series.dataset,
    group.parameters or 0,
    group.student,
    series.label_source,
    group.examples or 0,
    series.method != "standard",
    dataclasses.astuple(series),
  )


def _fields(
  run: Run, sizes: Mapping[tuple[str, int | None], int | None]
) -> tuple[Series, str, int | None]:
  entry = run.entry
  series = Series(
    dataset=entry["dataset"],
    method=entry.get("method") or "other",
    label_source=entry.get("label_source") or "gold",
    rationale_source=entry.get("rationale_source") or "",
    init=entry.get("init") or "random",
  )
  return (
    series,
    entry["student"],
    sizes[series.dataset, entry["train_examples"]],
  )


def _sizes(
  runs: Iterable[Run],
) -> dict[tuple[str, int | None], int | None]:
  """(dataset, training records) -> the size that these count as."""
  found: dict[tuple[str, int | None], int | None] = {}
  by_dataset: dict[str, set[int]] = collections.defaultdict(set)
  for run in runs:
    count = run.entry["train_examples"]
    found[run.entry["dataset"], count] = count
    if count is not None:
      by_dataset[run.entry["dataset"]].add(count)
  for dataset, counts in by_dataset.items():
    largest = 0
    for count in sorted(counts, reverse=True):
      if largest > count * _SAME_SIZE or not largest:
        largest = count
      found[dataset, count] = largest
  return found


def _each_once(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut]]:
  """Leaves out runs that repeat another one, or only have its seed."""
  kept: dict[tuple, Run] = {}
  repeated = []
  for run in runs:
    settings = tuple(sorted(run_variants.settings(run).items()))
    entry = run.entry
    key = (
      *(entry.get(name) for name in ("dataset", "method", "student", "init")),
      *(entry.get(name) for name in ("label_source", "rationale_source")),
      *(entry["train_examples"], entry["steps"], run.seed, settings),
    )
    if key in kept:
      other = kept[key]
      reason = f"it repeats {other.folder}"
      if run_variants.seeds(run) != run_variants.seeds(other):
        reason = (
          f"it has the seed {run.seed}, as {other.folder} has, and differs only"
          " in what other seeds draw: an axis `seed` of a sweep tells them apart"
        )
      repeated.append(LeftOut(run.folder, "repeated", reason))
    else:
      kept[key] = run
  return list(kept.values()), repeated


# ---------------------------------------------------------------- common items


def same_items_for_each_seed(
  groups: Iterable[RunGroup], seeds: Iterable[int], *, split: str = "test"
) -> bool:
  """Whether the groups can be put side by side, item by item.

  Seeds may have items of their own, as many as other seeds.
  """
  seeds = list(seeds)
  by_seed: dict[int, set[tuple]] = collections.defaultdict(set)
  for group in groups:
    answers = group.answers(seeds, split=split)
    if answers is None:
      return False
    for seed, each in zip(seeds, answers, strict=True):
      by_seed[seed].add(common_items.items_of(each))
  numbers = {len(ids) for items in by_seed.values() for ids, _ in items}
  return all(len(items) == 1 for items in by_seed.values()) and len(numbers) < 2


def has_own_items(groups: Iterable[RunGroup]) -> bool:
  """Whether seeds differ in their test items."""
  runs = [run for group in groups for run in group.runs]
  return len({common_items.items_of(run.test) for run in runs}) > 1
