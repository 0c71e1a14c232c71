"""What a distillation came to: the better student, and what to try next."""

from __future__ import annotations

import dataclasses
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.experiments.distill.project import Project
from dss_jax.experiments.report import (
  finished_runs,
  report_answer,
  report_content,
  report_statistics,
  run_groups,
)
from dss_jax.experiments.report.report_answer import Finding
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_statistics import GroupRow

METHODS = ("standard", "dss")
_WIDTH = 76
# Nothing much is left to learn above this accuracy.
_NEARLY_ALL = 0.97


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The result of a distillation.

  Attributes:
    run: folder of the student to use: of the better method on validation
      records, and of its best seed there.
    method: of that student.
    finding: what the report says first.
    missing: a sentence on runs that there should be, and are not; or "".
    advice: what to try next.
  """

  run: pathlib.Path
  method: str
  finding: Finding
  missing: str
  advice: Sequence[str]

  def describe(self) -> str:
    """The finding and the advice, as lines for a terminal."""
    finding = self.finding
    said = [finding.verdict, finding.text, finding.cautions, self.missing]
    return "\n\n".join(
      [
        *(textwrap.fill(text, _WIDTH) for text in said if text),
        "What to try next:",
        *(
          textwrap.fill(
            text, _WIDTH, initial_indent="- ", subsequent_indent="  "
          )
          for text in self.advice
        ),
      ]
    )


def read(project: Project) -> Outcome:
  """Compares the runs of a project, with each other and with the large model.

  Raises:
    UserError: there is no finished run of either method.
  """
  content = report_content.build(
    [project.runs_folder],
    teacher_files=teacher_files(project),
  )
  rows = {row.group.series.method: row for row in content.rows}
  for name in METHODS:
    if name not in rows:
      raise UserError(f"{project.runs_folder} has no finished run of {name!r}")
  scores = {name: _validation(rows[name]) for name in METHODS}
  method = max(METHODS, key=lambda name: float(scores[name].mean()))
  best = int(scores[method].mean(axis=1).argmax())
  [finding] = report_answer.findings(content)
  return Outcome(
    rows[method].group.runs[best].folder,
    method,
    finding,
    _missing(content),
    _advice(finding, rows, project),
  )


def teacher_files(project: Project) -> list[pathlib.Path]:
  """Held-out records with the large model's answers, as far as it gave any."""
  files = [project.records(split) for split in ("validation", "test")]
  return [path for path in files if path.exists()]


def _missing(content: Content) -> str:
  """A sentence on the runs that have no results."""
  lost = [e for e in content.left_out if e.kind != finished_runs.SEARCH]
  if not lost:
    return ""
  reasons = dict.fromkeys(each.reason for each in lost)
  return (
    f"{len(lost)} of {len(lost) + len(content.runs)} runs have no results"
    f" ({'; '.join(reasons)}): the methods are compared on the seeds that both"
    " have."
  )


def _validation(row: GroupRow) -> np.ndarray:
  """[seeds, items] of 0 and 1."""
  scores = row.group.scores(split="validation")
  if scores is None:
    raise UserError(
      "the answers to the validation records are missing in"
      f" {row.group.runs[0].folder}"
    )
  return scores


def _was_rising(row: GroupRow) -> bool:
  """Whether most runs were best at their last look at the validation data."""
  entries = [run.entry for run in row.group.runs]
  last = sum(each["checkpoint_step"] >= each["steps"] for each in entries)
  return 2 * last > len(entries)


def _advice(
  finding: Finding, rows: Mapping[str, GroupRow], project: Project
) -> list[str]:
  """What is worth a try, by what was seen."""
  options = project.options
  advice = []
  best = max(rows.values(), key=lambda row: row.summary.mean)
  if report_statistics.is_chance(best.summary.mean, best.chance, best.items):
    return [
      f"No student has learned anything in {best.steps:,.0f} steps: give training"
      f" more time (--minutes is {options.minutes:g}), or begin with a student that"
      " has read text already (--student)."
    ]
  rising = [name for name in METHODS if _was_rising(rows[name])]
  if rising:
    names = " and of ".join(run_groups.method_name(name) for name in rising)
    advice.append(
      f"The students of {names} were still getting better when training ended: a"
      f" longer one (--minutes is {options.minutes:g}), in another --output_dir,"
      " may turn the comparison."
    )
  if best.summary.mean > _NEARLY_ALL:
    advice.append("Nearly all is right: a smaller student or less data may do.")
  elif options.student == "small":
    advice.append(
      "This student began with random parameters. One that has read text already"
      " needs far less data: --student=google/flan-t5-small (needs the network"
      " once), on an accelerator a larger one."
    )
  if finding.helps is None:
    advice.append(
      "More labelled records, more seeds (--seeds) and more time (--minutes)"
      " narrow the interval, in another --output_dir."
    )
  elif not finding.helps:
    advice.append(
      "Look at some rationales in the report: are they true, short, and do they"
      " name the facts that decide? Where labels alone say all, none help."
    )
  advice.append(
    "How accuracy grows with data and with the student's size, for methods of"
    " your choice: dss-jax sweep, then dss-jax report."
  )
  return advice
