"""`dss-jax quickstart`: fine-tuning against distilling step-by-step, now, here.

The sweep of sweeps/small.gin, with the same number of training tokens and the
same tuning for both methods, and what came out of it. Everything shown is
computed by runs that `dss-jax train` would make of the printed flags.
"""

from __future__ import annotations

import math
import pathlib
import shlex
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.experiments.sweeps import cells
from dss_jax.experiments.sweeps.cells import Cell
from dss_jax.experiments.sweeps.declaration import METHOD, Sweep

DSS_STEPS = 1200
LONG_DSS_STEPS = 3600
_WIDTH = 76  # of what is printed
CHANCE = 1 / 3  # three labels, balanced
_NUM_RECORDS = "data.DataOptions.taxonli_num_train"
# What a run takes on one core that does nothing else.
_MINUTES_TO_START, _MINUTES_OF_DSS_STEPS = 0.2, 0.5

METHODS = {
  "standard": "standard fine-tuning",
  "dss": "distilling step-by-step",
}
_INTRODUCTION = """\
The built-in dataset taxonli: does one sentence follow from another?
{records} labelled records, {seeds} for each method, the same student and the
same number of training tokens. Each method has the best learning rate of the
same small search. The checkpoint is selected on the validation split; the
test split is read once, at the end. All of it takes about {minutes} min on two CPU
cores; started again, it resumes where it stopped.
"""


def introduction(sweep: Sweep) -> str:
  """What is compared, and how long that takes."""
  number = len(sweep.seeds())
  run = _MINUTES_TO_START + _MINUTES_OF_DSS_STEPS * sweep.steps / DSS_STEPS
  return _INTRODUCTION.format(
    records=sweep.bindings[_NUM_RECORDS],
    seeds=_count(number, "seed"),
    minutes=math.ceil(number * len(METHODS) * run / 2),
  )


def _count(number: int, name: str) -> str:
  return f"{number} {name}{'s' if number != 1 else ''}"


def show(
  found: Sequence[Cell],
  output_dir: pathlib.Path,
  picture: pathlib.Path,
  *,
  minutes: float,
) -> None:
  """Prints the table and the curves, and writes the picture.

  Args:
    found: the cells of the sweep, all done.
    output_dir: where they lie.
    picture: the PNG file to write.
    minutes: what all of it took.
  """
  by_method = {
    method: [cell for cell in found if cell.axes[METHOD] == method]
    for method in METHODS
  }
  _show_table(by_method, output_dir)
  _show_curves(by_method, output_dir, picture)
  last = found[-1]
  print(
    f"runs:     {last.folder(output_dir).parent}/*/ (config.gin, eval/, ...)"
  )
  command = textwrap.wrap(
    " ".join(["dss-jax train", *map(shlex.quote, last.flags(output_dir))]),
    width=_WIDTH,
    subsequent_indent="    ",
    break_long_words=False,
    break_on_hyphens=False,
  )
  print("the last of them again:\n  " + " \\\n".join(command))
  print(f"took {minutes:.1f} minutes")


def _test_row(cell: Cell, output_dir: pathlib.Path) -> dict[str, Any]:
  """A run's accuracy on test, and what it was trained with."""
  return next(
    row
    for row in cells.read_results(cell.folder(output_dir))
    if row["split"] == "test" and row["metric"] == "accuracy"
  )


def _show_table(
  by_method: Mapping[str, Sequence[Cell]], output_dir: pathlib.Path
) -> None:
  from rich import box, console, table

  result = table.Table(box=box.SIMPLE_HEAD, title_justify="left")
  result.add_column("method", no_wrap=True)
  for name in ("steps", "tokens", "test"):
    result.add_column(name, justify="right", no_wrap=True)
  result.add_column("each seed")
  rows: list[dict[str, Any]] = []
  for method, name in METHODS.items():
    rows = [_test_row(cell, output_dir) for cell in by_method[method]]
    values = [row["value"] for row in rows]
    result.add_row(
      name,
      f"{rows[0]['steps']:,}",
      f"{rows[0]['tokens_seen'] / 1e6:.2f} M",
      f"{100 * statistics.mean(values):.1f} %",
      "  ".join(f"{100 * value:.1f}" for value in values),
    )
  console.Console().print(result)
  test_size = rows[0]["n"]
  error = 100 * math.sqrt(0.25 / test_size)
  print(
    textwrap.fill(
      f"Accuracy on {test_size} test records, the mean of"
      f" {_count(len(rows), 'seed')} a method; one run's own sampling error is"
      f" up to {error:.1f} points, guessing gives {100 * CHANCE:.1f} %. This is"
      " one small task at one size: it says nothing beyond itself.",
      width=_WIDTH,
    )
    + "\n"
  )


def _show_curves(
  by_method: Mapping[str, Sequence[Cell]],
  output_dir: pathlib.Path,
  picture: pathlib.Path,
) -> None:
  from dss_jax.experiments import curves as curves_lib

  curves = {
    METHODS[method]: [
      curves_lib.read_curve(
        cell.folder(output_dir),
        f"{_test_row(cell, output_dir)['task']}/validation/accuracy",
      )
      for cell in of_method
    ]
    for method, of_method in by_method.items()
  }
  records = _test_row(by_method["dss"][0], output_dir)["train_examples"]
  title = f"taxonli, {records} labelled records: validation accuracy"
  try:
    print(
      curves_lib.draw_text(
        curves, title=title + ", %", x_label="million training tokens"
      )
    )
    curves_lib.draw_png(
      picture,
      curves,
      title=title,
      x_label="training tokens (encoder and decoder, all sub-tasks)",
      y_label="validation accuracy",
      chance=CHANCE,
    )
    print(f"\npicture:  {picture}")
  except ImportError as error:
    print(
      f"no picture: {error.name} is not installed (pip install"
      " 'dss_jax[report]')",
      file=sys.stderr,
    )
