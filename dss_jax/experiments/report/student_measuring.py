"""Lets students answer test items anew, for their time, memory and reasons.

Training decodes many items together, with the trainer's memory around it, and
never the rationales. So the best student of each method and size is asked again
by `dss-jax infer`, in a process of its own: what it measures is that of the
student at work. Killed anywhere, the same measurement continues.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

from dss_jax import datasets
from dss_jax.base.errors import UserError, one_line, writing
from dss_jax.data.pairs import task_names
from dss_jax.datasets.records import Rationale, Record, write_records
from dss_jax.experiments import child_commands
from dss_jax.experiments.report import measured_students
from dss_jax.experiments.report.finished_runs import Run
from dss_jax.experiments.report.measured_students import (
  ITEMS,
  LABELS,
  RATIONALES,
)
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.run_groups import RunGroup
from dss_jax.training.train_config import TrainConfig

# Reads the configuration of a run's folder, the command line's business.
Reader = Callable[[pathlib.Path], TrainConfig]
# Enough for a median, and for a guess at the slowest twentieth.
TIMED_REQUESTS = 50


def chosen(content: Content) -> list[Run]:
  """The student that is measured for each method and size.

  It is one of those with the most training records, the best on validation.
  """
  most: dict[tuple, RunGroup] = {}
  for group in content.groups:
    key = group.series, group.student
    if key not in most or (group.examples or 0) > (most[key].examples or 0):
      most[key] = group
  return [_best(group.runs) for group in most.values()]


def _best(runs: Sequence[Run]) -> Run:
  def value(run: Run) -> float:
    answers = run.validation
    return -1.0 if answers is None else float(answers.correct.mean())

  return max(runs, key=value)  # the first of equals


def measure(
  content: Content, number: int, reader: Reader, say: Callable[[str], None]
) -> None:
  """Measures the chosen students, unless they are measured already.

  A student that cannot be measured is told, and the others are measured.

  Args:
    content: of the report.
    number: test items, at most; those of a sample that depends on their ids.
    reader: reads configurations.
    say: gets lines for the user.

  Raises:
    StoppedError: Ctrl-C or SIGTERM.
  """
  runs = chosen(content)
  say(
    f"measuring {len(runs)} students, of each method and size the best one on"
    f" validation, on at most {number} test items"
  )
  for run in runs:
    try:
      _measure(run, number, reader, say)
    except UserError as error:
      say(f"{run.folder} is not measured: {one_line(error)}")


def _measure(
  run: Run, number: int, reader: Reader, say: Callable[[str], None]
) -> None:
  """Has `dss-jax infer` ask one student.

  Raises:
    UserError: its items are no longer there, or it cannot be asked.
  """
  config = reader(run.folder)
  task = task_names.parse_task_name(
    config.train_dataset_cfg.mixture_or_task_name
  )
  if task is None:
    raise UserError(
      f"{config.train_dataset_cfg.mixture_or_task_name} is a task of another"
      " project, whose records are not known here"
    )
  records = datasets.load_split(
    task.dataset, run.entry["split"], options=config.train_dataset_cfg.data
  )
  items = _items(run, records, number)
  folder = measured_students.folder_of(run)
  with writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  _write_items(folder / ITEMS, items)
  outputs = {LABELS: ["--outputs=label", f"--time_requests={TIMED_REQUESTS}"]}
  if any(subtask.writes_rationale for subtask in task.method.subtasks):
    outputs[RATIONALES] = ["--outputs=rationale"]
  for name, flags in outputs.items():
    command = [
      *("infer", f"--model_dir={run.folder}"),
      f"--checkpoint={run.entry['checkpoint_step']}",
      *(f"--input={folder / ITEMS}", f"--output={folder / name}"),
      *(*flags, "--no_input"),
    ]
    say(f"$ dss-jax {' '.join(command)}")
    status = child_commands.run(command)
    if status:
      raise UserError(f"`dss-jax infer` ended with status {status}; see above")


def _items(run: Run, records: Sequence[Record], number: int) -> list[Record]:
  """A sample of a run's test items, with what a student may read of them."""
  known = {record.id: record for record in records}
  missing = sum(
    item not in known or known[item].label != target
    for item, target in zip(run.test.ids, run.test.targets, strict=True)
  )
  if missing:
    raise UserError(
      f"{missing} of its {len(run.test.ids)} test items are no longer in the"
      " data"
    )
  sample = set(sorted(run.test.ids, key=_digest)[:number])
  return [
    dataclasses.replace(
      known[item],
      rationales=_first_with_text(known[item]),
      meta={},
      extra={},
    )
    for item in run.test.ids
    if item in sample
  ]


def _first_with_text(record: Record) -> tuple[Rationale, ...]:
  """What a student reads that reads a rationale."""
  return tuple(r for r in record.rationales if r.text.strip())[:1]


def _digest(item: str) -> bytes:
  return hashlib.blake2b(item.encode(), digest_size=8).digest()


def _write_items(path: pathlib.Path, items: Sequence[Record]) -> None:
  """Writes the items; where they are others than before, answers go first."""
  new = path.with_name(f"new_{path.name}")
  write_records(new, items)
  if path.is_file() and path.read_bytes() == new.read_bytes():
    new.unlink()
    return
  for name in (LABELS, RATIONALES):
    for old in path.parent.glob(f"{name}*"):
      old.unlink()
  os.replace(new, path)
