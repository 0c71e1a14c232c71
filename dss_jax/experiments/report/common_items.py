"""Runs of a data set must have answered the same test items.

Runs that do not fit the others are named and left out.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Sequence
from typing import Any

from dss_jax.experiments.report.finished_runs import Answers, LeftOut, Run


def keep(
  runs: Iterable[Run],
) -> tuple[list[Run], list[LeftOut]]:
  """Leaves out runs whose test items or metric are not those of the others."""
  by_dataset: dict[str, list[Run]] = collections.defaultdict(list)
  for run in runs:
    by_dataset[run.entry["dataset"]].append(run)
  kept: list[Run] = []
  left_out: list[LeftOut] = []
  for dataset, members in by_dataset.items():
    metric = _most(run.metric for run in members)
    number = _most(len(run.test.ids) for run in members)
    for run in members:
      if run.metric != metric:
        reason = f"its metric is {run.metric}; {dataset} has {metric} elsewhere"
        left_out.append(LeftOut(run.folder, "another metric", reason))
      elif len(run.test.ids) != number:
        reason = (
          f"it answered {len(run.test.ids)} test items; other runs on {dataset}"
          f" answered {number}"
        )
        left_out.append(LeftOut(run.folder, "other test items", reason))
      else:
        kept.append(run)
  same, others = _same_for_each_seed(kept)
  return same, left_out + others


def _same_for_each_seed(
  runs: Sequence[Run],
) -> tuple[list[Run], list[LeftOut]]:
  """Runs of one seed must have the same items; seeds may have their own.

  A seed may draw the data too. If most seeds of a dataset share their items,
  all must.
  """
  by_dataset: dict[str, list[Run]] = collections.defaultdict(list)
  for run in runs:
    by_dataset[run.entry["dataset"]].append(run)
  kept: list[Run] = []
  left_out: list[LeftOut] = []
  for dataset, members in by_dataset.items():
    by_seed: dict[int, list[Run]] = collections.defaultdict(list)
    for run in members:
      by_seed[run.seed].append(run)
    usual = {
      seed: _most(items_of(run.test) for run in same)
      for seed, same in by_seed.items()
    }
    shared = _most(usual.values())
    if sum(items == shared for items in usual.values()) > len(usual) / 2:
      usual = dict.fromkeys(usual, shared)
    for seed, same in by_seed.items():
      first = next(
        (r for r in members if items_of(r.test) == usual[seed]), same[0]
      )
      for run in same:
        if items_of(run.test) == usual[seed] and same_items(
          run.test, first.test
        ):
          kept.append(run)
        else:
          reason = f"its test items are not those of other runs on {dataset}"
          left_out.append(LeftOut(run.folder, "other test items", reason))
  return kept, left_out


def _most(values: Iterable[Any]) -> Any:
  """The most frequent value; of equals the one that came first."""
  return collections.Counter(values).most_common(1)[0][0]


def items_of(answers: Answers) -> tuple:
  return answers.ids, answers.targets


def same_items(first: Answers, second: Answers) -> bool:
  """Whether two runs answered the same items."""
  return items_of(first) == items_of(second) and _same_inputs(first, second)


def _same_inputs(first: Answers, second: Answers) -> bool:
  """Whether inputs are the same but for what a method puts around them."""
  return all(
    a in b or b in a
    for a, b in zip(cores(first.inputs), cores(second.inputs), strict=True)
  )


def cores(inputs: Sequence[str]) -> list[str]:
  """Inputs without what all of them begin with, such as a prefix."""
  # Of characters, which is what is wanted here.
  common = len(os.path.commonprefix(list(inputs)))  # noqa: RUF071
  return [text[common:] for text in inputs]
