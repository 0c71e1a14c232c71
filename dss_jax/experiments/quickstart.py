"""`dss-jax quickstart`: fine-tuning against distilling step-by-step, now, here.

Trains the same small student on the same labelled records of the built-in
dataset in two ways, with the same number of training tokens and the same
tuning, and shows what came out. Everything shown is computed by runs that
`dss-jax train` would make of the printed flags; each run's folder stays, and a
quickstart started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import shlex
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

from dss_jax.base.errors import UserError

NUM_RECORDS = 500
RECORDS_PER_BATCH = 32
DSS_STEPS = 1200
LONG_DSS_STEPS = 3600
NUM_EVALUATIONS = 12
_WIDTH = 76  # of what is printed
CHANCE = 1 / 3  # three labels, balanced

# Each method's best of the same search: docs/taxonli.md.
LEARNING_RATES = {"standard": 0.02, "dss": 0.04}

METHODS = {
  "standard": "standard fine-tuning",
  "dss": "distilling step-by-step",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the mode's flags."""
  parser.add_argument(
    "--output_dir",
    default="runs/quickstart",
    help="where the runs and the picture go; default: %(default)s",
  )
  parser.add_argument(
    "--seeds",
    type=int,
    default=3,
    help="runs of each method, with seeds 0, 1, ...; default: %(default)s",
  )
  parser.add_argument(
    "--long",
    action="store_true",
    help=f"train {LONG_DSS_STEPS} steps of distilling step-by-step instead of"
    f" {DSS_STEPS}, and fine-tuning by as many tokens",
  )
  parser.add_argument(
    "--steps",
    type=int,
    help="steps of distilling step-by-step, any number you like",
  )


def run(
  args: argparse.Namespace, *, train: Callable[[Sequence[str]], int]
) -> int:
  """The mode: trains what is missing, then shows table and curves.

  Args:
    args: the mode's flags.
    train: runs `dss-jax train` with flags; returns its exit status.
  """
  if args.seeds < 1:
    raise UserError(f"--seeds is {args.seeds}; give at least 1")
  dss_steps = args.steps
  if dss_steps is None:
    dss_steps = LONG_DSS_STEPS if args.long else DSS_STEPS
  if dss_steps < NUM_EVALUATIONS:
    raise UserError(
      f"--steps is {dss_steps}; give at least {NUM_EVALUATIONS}, as many as"
      " there are evaluations"
    )
  started = time.monotonic()
  folder = pathlib.Path(args.output_dir)
  seeds = f"{args.seeds} seed{'s' if args.seeds > 1 else ''}"
  print(_INTRODUCTION.format(records=NUM_RECORDS, seeds=seeds))
  steps = {"dss": dss_steps, "standard": _equal_token_steps(dss_steps)}
  runs = []
  for seed in range(args.seeds):
    for method in METHODS:
      one = Run(
        method, seed, steps[method], folder / f"{method}_{steps[method]}_{seed}"
      )
      number = f"[{len(runs) + 1}/{args.seeds * len(METHODS)}]"
      print(
        f"{number} {METHODS[method]}, seed {seed}, {one.steps} steps",
        flush=True,
      )
      one.train(train)
      runs.append(one)
  _show(runs, folder, minutes=(time.monotonic() - started) / 60)
  return 0


_INTRODUCTION = """\
The built-in dataset taxonli: does one sentence follow from another?
{records} labelled records, {seeds} for each method, the same student and the
same number of training tokens. Each method has the best learning rate of the
same small search. The checkpoint is selected on the validation split; the
test split is read once, at the end.
"""


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run of the comparison."""

  method: str
  seed: int
  steps: int
  folder: pathlib.Path

  def flags(self) -> list[str]:
    """The flags with which `dss-jax train` makes the same run."""
    # Rounded up: no method has one more look at the validation split.
    period = math.ceil(self.steps / NUM_EVALUATIONS)
    bindings = {
      "MODEL_DIR": self.folder,
      "TRAIN_STEPS": self.steps,
      "RANDOM_SEED": self.seed,
      "RECORDS_PER_BATCH": RECORDS_PER_BATCH,
      "BASE_LEARNING_RATE": LEARNING_RATES[self.method],
      "data.DataOptions.taxonli_num_train": NUM_RECORDS,
      "EVAL_PERIOD": period,
      "CHECKPOINT_PERIOD": self.steps,
    }
    return [
      "--gin_file=models/taxonli.gin",
      "--gin_file=runs/taxonli.gin",
      "--gin_file=data/taxonli.gin",
      f"--gin_file=methods/{self.method}.gin",
      *(f"--gin.{name}={value}" for name, value in bindings.items()),
    ]

  def train(self, train: Callable[[Sequence[str]], int]) -> None:
    """Trains, goes on training, or finds the run complete."""
    status = train(self.flags())
    if status == 130:
      raise KeyboardInterrupt
    if status != 0:
      raise UserError(f"the run in {self.folder} failed; see above")

  def rows(self) -> list[dict[str, Any]]:
    """The run's final scores."""
    from dss_jax.training import run_directory

    return run_directory.read_jsonl(self.folder / "results.jsonl")

  def value(self, split: str) -> float:
    """The final accuracy on a split."""
    return next(
      row["value"]
      for row in self.rows()
      if row["split"] == split and row["metric"] == "accuracy"
    )

  @property
  def eval_task(self) -> str:
    return "taxonli_label" if self.method == "dss" else "taxonli_standard"


def _equal_token_steps(dss_steps: int) -> int:
  """Steps of fine-tuning that see as many tokens as `dss_steps` of DSS."""
  from dss_jax import vocabularies
  from dss_jax.data.tokens import tokenization
  from dss_jax.datasets import DataOptions

  vocabulary = vocabularies.from_name("taxonli")
  tokens = {}
  for method in METHODS:
    built = tokenization.build_examples(
      f"taxonli_{method}",
      "train",
      vocabulary,
      DataOptions(taxonli_num_train=NUM_RECORDS),
    )
    tokens[method] = sum(
      side["total"]
      for subtask in built.statistics().values()
      for side in subtask.values()
    )
  return round(dss_steps * tokens["dss"] / tokens["standard"])


def _show(runs: Sequence[Run], folder: pathlib.Path, minutes: float) -> None:
  """Prints the table and the curves, and writes the picture."""
  from rich import box, console, table

  from dss_jax.experiments import curves as curves_lib

  result = table.Table(box=box.SIMPLE_HEAD, title_justify="left")
  result.add_column("method", no_wrap=True)
  for name in ("steps", "tokens", "test"):
    result.add_column(name, justify="right", no_wrap=True)
  result.add_column("each seed")
  curves = {}
  for method, name in METHODS.items():
    of_method = [one for one in runs if one.method == method]
    values = [one.value("test") for one in of_method]
    result.add_row(
      name,
      f"{of_method[0].steps:,}",
      f"{of_method[0].rows()[0]['tokens_seen'] / 1e6:.2f} M",
      f"{100 * statistics.mean(values):.1f} %",
      "  ".join(f"{100 * value:.1f}" for value in values),
    )
    curves[name] = [
      curves_lib.read_curve(one.folder, f"{one.eval_task}/validation/accuracy")
      for one in of_method
    ]
  console.Console().print(result)
  number = len(runs) // len(METHODS)
  test_size = runs[0].rows()[-1]["n"]
  error = 100 * math.sqrt(0.25 / test_size)
  print(
    textwrap.fill(
      f"Accuracy on {test_size} test records, the mean of"
      f" {number} seed{'s' if number > 1 else ''} a method; one run's own"
      f" sampling error is up to {error:.1f} points, guessing gives"
      f" {100 * CHANCE:.1f} %. This is one small task at one size: it says"
      " nothing beyond itself.",
      width=_WIDTH,
    )
    + "\n"
  )
  title = f"taxonli, {NUM_RECORDS} labelled records: validation accuracy"
  picture = folder / "learning_curves.png"
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
  print(f"runs:     {folder}/*/ (config.gin, metrics.jsonl, eval/, ...)")
  command = textwrap.wrap(
    " ".join(["dss-jax train", *map(shlex.quote, runs[-1].flags())]),
    width=_WIDTH,
    subsequent_indent="    ",
    break_long_words=False,
    break_on_hyphens=False,
  )
  print("the last of them again:\n  " + " \\\n".join(command))
  print(f"took {minutes:.1f} minutes")
