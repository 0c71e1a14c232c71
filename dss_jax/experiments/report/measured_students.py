"""What students did when they were measured, which lies beside their runs.

In RUN/measured/STEP of the checkpoint STEP that results.jsonl is about:

  items.jsonl          the test items that were asked
  labels.jsonl         the answers, with labels.jsonl.infer.json: time, memory
  rationales.jsonl     what the student wrote where it was asked to explain

`student_measuring` makes them.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from dss_jax.base.errors import UserError, one_line
from dss_jax.experiments.report import measured_costs
from dss_jax.experiments.report.finished_runs import MAX_FILE_BYTES, Run
from dss_jax.experiments.report.measured_costs import Cost
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.run_groups import RunGroup
from dss_jax.training import run_directory

FOLDER = "measured"
ITEMS, LABELS, RATIONALES = "items.jsonl", "labels.jsonl", "rationales.jsonl"
_STATE = ".infer.json"


def folder_of(run: Run) -> pathlib.Path:
  """Where a run's measurements are."""
  return run.folder / FOLDER / str(run.entry["checkpoint_step"])


def rationales(run: Run) -> dict[str, str]:
  """Item id -> the student's own rationale; empty where nobody asked."""
  path = folder_of(run) / RATIONALES
  if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
    return {}
  return {
    str(line["id"]): line["rationale"]
    for line in run_directory.read_jsonl(path)
    if "id" in line and isinstance(line.get("rationale"), str)
  }


def costs(
  content: Content, hourly_price: float | None = None
) -> tuple[list[Cost], list[str]]:
  """What the measured students of a report cost.

  Args:
    content: of the report.
    hourly_price: of the machine that they were measured on.

  Returns:
    The costs, and a line about each measurement that cannot be read.
  """
  found: list[Cost] = []
  problems: list[str] = []
  for group in content.groups:
    for run in group.runs:
      path = folder_of(run) / f"{LABELS}{_STATE}"
      if not path.is_file():
        continue
      try:
        [cost] = measured_costs.read([path], hourly_price=hourly_price)
      except UserError as error:
        problems.append(f"The measurement of {run.folder}: {one_line(error)}.")
        continue
      name = _name(content, group)
      found.append(dataclasses.replace(cost, name=f"{name}, seed {run.seed}"))
  return found, problems


def with_teachers_accuracy(
  content: Content, found: Sequence[Cost]
) -> list[Cost]:
  """Costs in which teachers have the accuracy of their stored answers.

  A ledger knows what a model was asked, and not which answers were right.
  """
  accuracies: dict[str, float] = {}
  for teacher in content.teachers:
    group = content.of_dataset(teacher.dataset)[0].group
    scores = teacher.scores(group.runs[0].test, group.metric)
    if scores is not None:
      accuracies[teacher.name] = float(scores.mean())
  return [
    dataclasses.replace(cost, accuracy=accuracies[cost.name])
    if cost.kind == "teacher" and cost.name in accuracies
    else cost
    for cost in found
  ]


def _name(content: Content, group: RunGroup) -> str:
  parts = [content.name(group.series)]
  if len(content.datasets) > 1:
    parts.insert(0, group.series.dataset)
  if group.examples is not None:
    parts.append(f"{group.examples:,} records")
  return ", ".join([*parts, group.student])
