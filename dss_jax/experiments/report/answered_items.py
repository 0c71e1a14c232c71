"""The test items of a report for the browser of its page.

Each item comes with what each group answered: the distinct answers of its
seeds, the most frequent first; with the students' own rationales, where they
were asked for them; and with the teachers' answers and rationales.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dss_jax.base.standalone_page import cut
from dss_jax.experiments.report import (
  measured_students,
  run_groups,
  stored_teacher,
)
from dss_jax.experiments.report.finished_runs import Run
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.run_groups import RunGroup
from dss_jax.experiments.report.stored_teacher import Teacher

# What groups make of an item, in the order in which items are preferred.
DIFFER = "differ"  # some groups are right, others wrong
SEEDS = "seeds"  # the seeds of a group differ
WRONG = "wrong"
RIGHT = "right"
KINDS = (DIFFER, SEEDS, WRONG, RIGHT)

_MAX_ANSWER = 300
_MAX_RATIONALE = 1500
_MAX_ANSWERS = 5


def for_page(content: Content, *, max_bytes: int = 8 << 20) -> dict[str, Any]:
  """What the page's script needs, as JSON values.

  Args:
    content: of the report.
    max_bytes: of the items' JSON. Where they do not fit, those on which groups
      differ come first, and of equal ones a sample that depends on their ids
      alone.
  """
  items: list[tuple[tuple[int, bytes], int, dict[str, Any]]] = []
  names: list[str] = []
  for dataset in content.datasets:
    groups = [row.group for row in content.of_dataset(dataset)]
    first = len(names)
    names += group_names(content, groups)
    teachers = [t for t in content.teachers if t.dataset == dataset]
    for item in _items(dataset, groups, teachers, first):
      digest = hashlib.blake2b(item["id"].encode(), digest_size=8).digest()
      order = KINDS.index(item["kind"]), digest
      items.append((order, len(items), item))
  kept, size = [], 0
  for order in sorted(items, key=lambda each: each[0]):
    size += len(json.dumps(order[2]))
    if size > max_bytes:
      break
    kept.append(order)
  kept.sort(key=lambda each: each[1])
  return {
    "records": [item for _, _, item in kept],
    "settings": names,
    "total": len(items),
    "datasets": content.datasets,
  }


def group_names(content: Content, groups: Sequence[RunGroup]) -> list[str]:
  """Names of a dataset's groups, without what all of them share."""
  students = {group.student for group in groups}
  sizes = {group.examples for group in groups}
  names = []
  for group in groups:
    parts = [content.name(group.series)]
    if len(sizes) > 1 and group.examples is not None:
      parts.append(f"{group.examples:,} records")
    if len(students) > 1:
      parts.append(group.student)
    names.append(", ".join(parts))
  return names


def _items(
  dataset: str,
  groups: Sequence[RunGroup],
  teachers: Sequence[Teacher],
  first: int,
) -> Iterable[dict[str, Any]]:
  """The items in order, with the answers of groups number `first` and on."""
  reasons = {
    run.folder: measured_students.rationales(run)
    for group in groups
    for run in group.runs
  }
  own_items = run_groups.has_own_items(groups)
  metric = groups[0].metric
  # Where each seed has items of its own, so has the browser.
  seeds: Iterable[int | None] = [None]
  if own_items:
    seeds = sorted({seed for group in groups for seed in group.seeds})
  for seed in seeds:
    runs = [
      [r for r in group.runs if seed is None or r.seed == seed]
      for group in groups
    ]
    some = next(each[0] for each in runs if each)
    inputs = _inputs(run for each in runs for run in each)
    known = [t for t in teachers if t.scores(some.test, metric) is not None]
    for number, item in enumerate(some.test.ids):
      target = some.test.targets[number]
      answers = [
        [first + i, _answers(of_group, number)]
        for i, of_group in enumerate(runs)
        if of_group
      ]
      explained = [
        [first + i, run.seed, cut(text, _MAX_RATIONALE)]
        for i, of_group in enumerate(runs)
        for run in of_group
        if (text := reasons[run.folder].get(item)) is not None
      ]
      yield {
        "id": item if seed is None else f"{item}, seed {seed}",
        "dataset": dataset,
        "input": cut(inputs[number]),
        "label": cut(target, _MAX_ANSWER),
        "kind": _kind([a for _, a in answers]),
        "answers": answers,
        "explained": explained,
        "teachers": [
          _of_teacher(teacher, item, target, metric)
          for teacher in known
          if item in teacher.answers
        ],
      }


def _inputs(runs: Iterable[Run]) -> Sequence[str]:
  """The inputs as the run reads them that adds the least to them."""
  return min(
    (run.test.inputs for run in runs),
    key=lambda inputs: sum(map(len, inputs)),
  )


def _answers(runs: Sequence[Run], number: int) -> list[list[Any]]:
  """[answer, seeds, whether it is right], the most frequent first."""
  counts: collections.Counter[tuple[str, bool]] = collections.Counter(
    (
      cut(run.test.predictions[number], _MAX_ANSWER),
      bool(run.test.correct[number]),
    )
    for run in runs
  )
  found = [[text, n, right] for (text, right), n in counts.most_common()]
  more = sum(n for _, n, _ in found[_MAX_ANSWERS:])
  if more:
    rights = {right for _, _, right in found[_MAX_ANSWERS:]}
    found = [*found[:_MAX_ANSWERS], ["(other answers)", more, rights == {True}]]
  return found


def _kind(answers: Sequence[Sequence[Sequence[Any]]]) -> str:
  shares = [
    sum(n for _, n, right in each if right) / sum(n for _, n, _ in each)
    for each in answers
  ]
  if len({share > 0.5 for share in shares}) > 1:
    return DIFFER
  if any(0 < share < 1 for share in shares):
    return SEEDS
  return RIGHT if shares[0] == 1 else WRONG


def _of_teacher(
  teacher: Teacher, item: str, target: str, metric: str
) -> Mapping[str, Any]:
  answer = teacher.answers[item]
  return {
    "name": teacher.name,
    "label": None if answer.label is None else cut(answer.label, _MAX_ANSWER),
    "right": stored_teacher.is_right(metric, target, answer),
    "rationale": cut(answer.rationale, _MAX_RATIONALE),
  }
