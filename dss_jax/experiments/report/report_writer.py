"""Writes a report: tables, figures, and the page that holds all of it.

  written = write(["runs/quickstart"], "reports/quickstart")
  print(written.summary)

In the output folder:

  report.html          everything, in one file that needs nothing else
  report.json          the tables' numbers, for programs
  tables/NAME.md, .csv, .tex
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Sequence

from dss_jax.base import atomic_files, errors
from dss_jax.base.atomic_files import write_atomically
from dss_jax.experiments.report import (
  content_tables,
  report_content,
  report_tables,
)
from dss_jax.experiments.report.report_content import Content


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write` did.

  Attributes:
    content: what the report says.
    files: those written, the most important first.
    summary: some lines for a terminal.
  """

  content: Content
  files: Sequence[pathlib.Path]
  summary: str


def write(
  folders: Iterable[str | os.PathLike[str]],
  output_dir: str | os.PathLike[str],
  *,
  teacher_files: Sequence[str | os.PathLike[str]] = (),
  data_dir: str | None = None,
) -> Written:
  """Makes a report of runs.

  Args:
    folders: runs, folders of runs, sweeps.
    output_dir: a folder; made if absent.
    teacher_files: records with a teacher's answers to the items.
    data_dir: folder of the released data, for their teachers' answers.

  Raises:
    UserError: there is no finished run, or a file cannot be read.
  """
  content = report_content.build(
    folders, teacher_files=teacher_files, data_dir=data_dir
  )
  folder = pathlib.Path(output_dir)
  with errors.writing(folder):
    atomic_files.make_folder(folder)
  tables = content_tables.of_content(content)
  files = report_tables.write(folder / "tables", tables)
  numbers = {table.name: table.as_json() for table in tables}
  write_atomically(
    folder / "report.json",
    json.dumps(numbers, indent=2, ensure_ascii=False) + "\n",
  )
  return Written(content, files, f"report: {folder}")
