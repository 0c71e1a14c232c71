"""Writes a report: tables, figures, and the page that holds all of it.

  written = write(["runs/quickstart"], "reports/quickstart")
  for finding in written.findings:
    print(finding.verdict)

In the output folder:

  report.html          everything, in one file that needs nothing else
  report.json          the findings and the tables' numbers, for programs
  figures/NAME.svg, .png
  tables/NAME.md, .csv, .tex
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

from dss_jax.base import atomic_files, errors
from dss_jax.datasets.records import atomic_file
from dss_jax.experiments.report import (
  content_tables,
  experiment_page,
  figure_files,
  measured_costs,
  measured_students,
  report_answer,
  report_content,
  report_figures,
  report_tables,
)
from dss_jax.experiments.report.figure_files import Drawing
from dss_jax.experiments.report.measured_costs import Cost
from dss_jax.experiments.report.report_answer import Finding
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_figures import Missing


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write` did.

  Attributes:
    content: what the report says.
    findings: what was found on each dataset, in plain words.
    files: those written, the page first.
  """

  content: Content
  findings: Sequence[Finding]
  files: Sequence[pathlib.Path]

  @property
  def left_out(self) -> str:
    """A sentence on the runs that are not part of it; "" if there are none."""
    return report_answer.left_out(self.content)


def write(
  folders: Iterable[str | os.PathLike[str]],
  output_dir: str | os.PathLike[str],
  *,
  teacher_files: Sequence[str | os.PathLike[str]] = (),
  data_dir: str | None = None,
  costs: Sequence[Cost] = (),
  hourly_price: float | None = None,
  measure: Callable[[Content], None] | None = None,
) -> Written:
  """Makes a report of runs.

  Args:
    folders: runs, folders of runs, sweeps.
    output_dir: a folder; made if absent.
    teacher_files: records with a teacher's answers to the items.
    data_dir: folder of the released data, for their teachers' answers.
    costs: what students and teachers were measured to cost, further than what
      lies beside the runs.
    hourly_price: of the machine that students were measured on.
    measure: measures students of the report before it is written.

  Raises:
    UserError: there is no finished run, or a file cannot be read.
  """
  content = report_content.build(
    folders, teacher_files=teacher_files, data_dir=data_dir
  )
  folder = pathlib.Path(output_dir)
  with errors.writing(folder):
    atomic_files.make_folder(folder)
  if measure is not None:
    measure(content)
  measured, problems = measured_students.costs(content, hourly_price)
  if problems:
    content = dataclasses.replace(content, notes=[*content.notes, *problems])
  tables = content_tables.of_content(content)
  if costs := [*measured, *costs]:
    costs = measured_students.with_teachers_accuracy(content, costs)
    tables.append(measured_costs.table(costs))
  findings = report_answer.findings(content)
  drawings, missing = _draw(content)
  page = experiment_page.render(content, findings, tables, drawings, missing)
  numbers = {table.name: table.as_json() for table in tables}
  texts = {
    folder / "report.html": page,
    folder / "report.json": json.dumps(
      {
        "findings": [dataclasses.asdict(each) for each in findings],
        "tables": numbers,
      },
      indent=2,
      ensure_ascii=False,
    )
    + "\n",
  }
  for path, text in texts.items():
    with atomic_file(path) as file:
      file.write(text.encode("utf-8", "backslashreplace"))
  files = [
    *texts,
    *figure_files.write(folder / "figures", drawings),
    *report_tables.write(folder / "tables", tables),
  ]
  return Written(content, findings, files)


def _draw(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """The figures; without matplotlib none, and why."""
  if importlib.util.find_spec("matplotlib") is None:
    reason = "matplotlib is not installed (pip install 'dss_jax[report]')"
    return [], [Missing("all figures", reason)]
  return report_figures.draw(content)
