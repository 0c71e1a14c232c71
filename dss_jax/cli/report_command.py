"""`dss-jax report`: tables, figures and one page about finished runs."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

from dss_jax.base import checks, errors
from dss_jax.cli import flags, run_flags

if TYPE_CHECKING:
  from dss_jax.experiments.report.report_content import Content
  from dss_jax.training.train_config import TrainConfig

EPILOG = """\
examples:
  dss-jax report runs/quickstart --output_dir=reports/quickstart
  dss-jax report runs/svamp runs/more --data_dir=data --output_dir=reports/svamp
  dss-jax report runs/mine --teacher data/test.jsonl data/train.jsonl \\
    --output_dir=reports/mine
  dss-jax report runs/mine --measure=200 --costs out/ledger.sqlite \\
    --output_dir=reports/mine
  dss-jax report --compare runs/standard_0 runs/dss_0
"""

_MOST_ITEMS = 1_000_000


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
    measure: let the best student of each method and size answer N test items
      anew, for its time, memory and rationales; what it finds stays beside the
      runs, and later reports show it.
    hourly_price: of the machine that the students ran on when they were
      measured.
    prices: further prices of teachers, a TOML file.
  """

  output_dir: str = "report"
  teacher: tuple[str, ...] = ()
  compare: tuple[str, ...] = ()
  data_dir: str | None = None
  costs: tuple[str, ...] = ()
  measure: int = 0
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
  checks.in_range("ReportFlags.measure", options.measure, 0, _MOST_ITEMS)
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
    hourly_price=options.hourly_price,
    measure=_measuring(options) if options.measure else None,
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


def _measuring(options: ReportFlags) -> Callable[[Content], None]:
  """Measures the students of a report, each in a process of its own."""
  from dss_jax.cli import gin_config
  from dss_jax.experiments.report import student_measuring

  run_flags.keep_off_devices()
  bindings = [f"DATA_DIR = {options.data_dir!r}"] if options.data_dir else []

  def read(folder: pathlib.Path) -> TrainConfig:
    gin_config.parse((), bindings, run_file=str(folder / run_flags.RUN_FILE))
    run_flags.import_modules()
    return gin_config.instance("train.train", model_dir=str(folder))

  def say(text: str) -> None:
    print(errors.printable(text), file=sys.stderr, flush=True)

  return lambda content: student_measuring.measure(
    content, options.measure, read, say
  )
