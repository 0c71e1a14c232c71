"""`dss-jax report`: tables, figures and one page about finished runs."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import textwrap

from dss_jax.base import checks, errors
from dss_jax.cli import flags

EPILOG = """\
examples:
  dss-jax report runs/quickstart --output_dir=reports/quickstart
  dss-jax report runs/svamp runs/more --data_dir=data --output_dir=reports/svamp
  dss-jax report runs/mine --teacher data/test.jsonl data/train.jsonl \\
    --output_dir=reports/mine
  dss-jax report --compare runs/standard_0 runs/dss_0
"""


@dataclasses.dataclass(frozen=True)
class ReportFlags:
  """What a report is about.

  Attributes:
    output_dir: where the page, the figures and the tables go.
    teacher: records with a teacher's answers to the validation and test items,
      as `dss-jax extract` writes them.
    compare: two runs, to be compared by test item in place of a report.
    data_dir: folder of the released data, whose completions are the teacher's
      answers; default: that of the runs, or DSS_DATA_DIR.
    costs: what was measured, OUTPUT.infer.json files of `dss-jax infer` and
      ledgers of `dss-jax extract`.
    hourly_price: of the machine that the students of --costs ran on.
    prices: further prices of teachers, a TOML file.
  """

  output_dir: str = "report"
  teacher: tuple[str, ...] = ()
  compare: tuple[str, ...] = ()
  data_dir: str | None = None
  costs: tuple[str, ...] = ()
  hourly_price: float | None = None
  prices: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  parser.add_argument(
    "folders",
    nargs="*",
    metavar="FOLDER",
    help="a run, a folder of runs, or a sweep's folder; repeat it",
  )
  flags.add_flags(
    parser,
    ReportFlags,
    teacher={"metavar": "FILE"},
    costs={"metavar": "FILE"},
    prices={"metavar": "FILE"},
    compare={"metavar": "RUN", "nargs": 2, "action": "store"},
  )


def run(args: argparse.Namespace) -> int:
  """Runs the mode."""
  options = flags.build(ReportFlags, args)
  if bool(options.compare) == bool(args.folders):
    raise errors.UserError(
      "name the folders of runs that are to be reported, or two runs that are to"
      " be compared",
      fields="compare",
    )
  if options.compare:
    from dss_jax.experiments.report import run_pairs

    pair = run_pairs.compare(*options.compare)
    print(errors.printable("\n".join(run_pairs.describe(pair))))
    return 0
  from dss_jax.experiments.report import measured_costs, report_writer

  checks.positive(
    "ReportFlags.hourly_price", options.hourly_price, or_none=True
  )
  written = report_writer.write(
    args.folders,
    pathlib.Path(options.output_dir).expanduser(),
    teacher_files=options.teacher,
    data_dir=options.data_dir,
    costs=measured_costs.read(
      options.costs,
      hourly_price=options.hourly_price,
      prices=options.prices,
    ),
  )
  for finding in written.findings:
    for text in (finding.verdict, finding.text, finding.cautions):
      if text:
        print(textwrap.fill(errors.printable(text), 79))
    print()
  for text in (written.left_out, *written.content.notes):
    if text:
      print(f"{textwrap.fill(errors.printable(text), 79)}\n")
  print(f"page:     {written.files[0]}")
  print(f"figures:  {options.output_dir}/figures/")
  print(f"tables:   {options.output_dir}/tables/ (Markdown, CSV, LaTeX)")
  return 0
