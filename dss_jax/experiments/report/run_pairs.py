"""Two runs, item by item: which answers only one of them has right."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.experiments import paired_statistics
from dss_jax.experiments.paired_statistics import Comparison
from dss_jax.experiments.report import common_items, finished_runs, run_groups
from dss_jax.experiments.report.finished_runs import Run


@dataclasses.dataclass(frozen=True)
class PairedItem:
  """A test item that one of two runs has right.

  Attributes:
    id: the item's.
    input: as the first run read it.
    target: the gold label.
    first: the first run's answer.
    second: the second run's answer.
  """

  id: str
  input: str
  target: str
  first: str
  second: str


@dataclasses.dataclass(frozen=True)
class RunPair:
  """Two runs compared on the same test items.

  Attributes:
    first: a run.
    second: another.
    both: items that both have right.
    only_first: items that the first has right and the second wrong.
    only_second: the other way round.
    neither: items that both have wrong.
    result: first minus second; its interval is over items alone.
    p_value: McNemar's exact test, two-sided.
  """

  first: Run
  second: Run
  both: int
  only_first: Sequence[PairedItem]
  only_second: Sequence[PairedItem]
  neither: int
  result: Comparison
  p_value: float


def compare(
  first: str | os.PathLike[str], second: str | os.PathLike[str]
) -> RunPair:
  """Compares two finished runs.

  Args:
    first: a run's folder.
    second: another's.

  Raises:
    UserError: one is not finished, or they answered different test items or
      are judged by different metrics.
  """
  runs = finished_runs.read_run(first), finished_runs.read_run(second)
  one, other = (run.test for run in runs)
  if runs[0].metric != runs[1].metric:
    raise UserError(
      f"{first} is judged by {runs[0].metric} and {second} by"
      f" {runs[1].metric}; only runs with one metric can be compared",
      fields="compare",
    )
  if not common_items.same_items(one, other):
    raise UserError(
      f"{first} and {second} answered different test items; only answers to the"
      " same items can be compared",
      fields="compare",
    )
  right = one.correct > 0, other.correct > 0

  def items(where: np.ndarray) -> list[PairedItem]:
    return [
      PairedItem(
        one.ids[i],
        one.inputs[i],
        one.targets[i],
        one.predictions[i],
        other.predictions[i],
      )
      for i in np.flatnonzero(where)
    ]

  return RunPair(
    *runs,
    both=int(np.sum(right[0] & right[1])),
    only_first=items(right[0] & ~right[1]),
    only_second=items(right[1] & ~right[0]),
    neither=int(np.sum(~right[0] & ~right[1])),
    result=paired_statistics.compare(one.correct, other.correct),
    p_value=paired_statistics.mcnemar_p_value(*right),
  )


def describe(pair: RunPair, *, examples: int = 5) -> list[str]:
  """Lines for a terminal.

  Args:
    pair: of `compare`.
    examples: how many items that only one has right are shown of each kind.
  """
  result, items = pair.result, pair.result.items
  accuracies = [run.test.correct.mean() for run in (pair.first, pair.second)]
  lines = [
    f"A: {pair.first.folder}  {_what(pair.first)}",
    f"B: {pair.second.folder}  {_what(pair.second)}",
    "",
    f"{pair.first.metric} on {items:,} test items: A"
    f" {100 * accuracies[0]:.1f} %, B {100 * accuracies[1]:.1f} %; A - B"
    f" {100 * result.difference:+.1f} points (95 % interval over items"
    f" {100 * result.low:+.1f} to {100 * result.high:+.1f})",
    f"both right {pair.both:,}, only A {len(pair.only_first):,}, only B"
    f" {len(pair.only_second):,}, neither {pair.neither:,}; McNemar's exact test:"
    f" p = {pair.p_value:.4g}",
    "This is about these two checkpoints; other seeds may differ otherwise.",
  ]
  for name, found in (("A", pair.only_first), ("B", pair.only_second)):
    if found and examples:
      lines += ["", f"only {name} is right ({len(found):,}):"]
    for item in found[:examples]:
      lines += [
        f"  {item.id}  {_short(item.input)}",
        f"    gold {_short(item.target)!r}  A {_short(item.first)!r}  B"
        f" {_short(item.second)!r}",
      ]
  return lines


def _what(run: Run) -> str:
  entry = run.entry
  method = run_groups.method_name(entry.get("method") or "other")
  return (
    f"{entry['dataset']}, {method}, {entry['student']},"
    f" {entry['train_examples']} records, seed {run.seed}"
  )


def _short(text: str, longest: int = 100) -> str:
  text = " ".join(text.split())
  return text if len(text) <= longest else f"{text[: longest - 1]}…"
