"""`dss-jax quickstart`: fine-tuning against distilling step-by-step, now, here.

Trains the same small student on the same labelled records of the built-in
dataset in two ways, with the same number of training tokens and the same
tuning, and shows what came out. Everything shown is computed by runs that
`dss-jax train` would make of the printed flags; each run's folder stays, and a
quickstart that is started again resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shlex
import signal
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.base.stop_requests import StoppedError

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


def compare(
  folder: pathlib.Path,
  train: Callable[[Sequence[str]], int],
  *,
  num_seeds: int,
  dss_steps: int = DSS_STEPS,
) -> None:
  """Trains the runs that are missing, then shows the table and the curves.

  Args:
    folder: where the runs and the picture go.
    train: runs `dss-jax train` with flags; returns its exit status.
    num_seeds: runs of each method.
    dss_steps: steps of distilling step-by-step; fine-tuning gets as many
      tokens.
  """
  checks.in_range("seeds", num_seeds, 1)
  checks.in_range("steps", dss_steps, NUM_EVALUATIONS)
  started = time.monotonic()
  seeds = f"{num_seeds} seed{'s' if num_seeds > 1 else ''}"
  minutes = math.ceil(num_seeds * len(METHODS) * _minutes(dss_steps))
  print(_INTRODUCTION.format(records=NUM_RECORDS, seeds=seeds, minutes=minutes))
  steps = {"dss": dss_steps, "standard": _equal_token_steps(dss_steps)}
  runs: list[Run] = []
  longest = 0.0
  for seed in range(num_seeds):
    for method in METHODS:
      name = f"{method}_{steps[method]}_{seed}"
      run = Run(method, seed, steps[method], folder / name)
      left = num_seeds * len(METHODS) - len(runs)
      print(
        f"[{len(runs) + 1}/{num_seeds * len(METHODS)}] {METHODS[method]}, seed"
        f" {seed}, {run.steps} steps{_time_left(longest * left)}",
        flush=True,
      )
      run_started = time.monotonic()
      run.train(train)
      longest = max(longest, time.monotonic() - run_started)
      runs.append(run)
  _show(runs, folder, minutes=(time.monotonic() - started) / 60)


def _minutes(dss_steps: int) -> float:
  """What a run takes on two CPU cores that do nothing else."""
  return 0.3 + 0.7 * dss_steps / DSS_STEPS


def _time_left(seconds: float) -> str:
  """How long the runs to come take, if one is known; all see as many tokens."""
  minutes = round(seconds / 60)
  return f" (about {minutes} min left for all runs)" if minutes else ""


_INTRODUCTION = """\
The built-in dataset taxonli: does one sentence follow from another?
{records} labelled records, {seeds} for each method, the same student and the
same number of training tokens. Each method has the best learning rate of the
same small search. The checkpoint is selected on the validation split; the
test split is read once, at the end. All of it takes about {minutes} min on two CPU
cores; started again, it resumes where it stopped.
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
    """Trains, resumes training, or finds the run complete."""
    status = train(self.flags())
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
      raise StoppedError("start it again to continue", status - 128)
    if status != 0:
      raise UserError(f"the run in {self.folder} failed; see above")

  def results(self) -> list[dict[str, Any]]:
    """The run's final scores."""
    from dss_jax.training import run_directory

    return run_directory.read_jsonl(self.folder / "results.jsonl")

  def value(self, split: str) -> float:
    """The final accuracy on a split."""
    return next(
      result["value"]
      for result in self.results()
      if result["split"] == split and result["metric"] == "accuracy"
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
    of_method = [run for run in runs if run.method == method]
    values = [run.value("test") for run in of_method]
    result.add_row(
      name,
      f"{of_method[0].steps:,}",
      f"{of_method[0].results()[0]['tokens_seen'] / 1e6:.2f} M",
      f"{100 * statistics.mean(values):.1f} %",
      "  ".join(f"{100 * value:.1f}" for value in values),
    )
    curves[name] = [
      curves_lib.read_curve(run.folder, f"{run.eval_task}/validation/accuracy")
      for run in of_method
    ]
  console.Console().print(result)
  number = len(runs) // len(METHODS)
  test_size = runs[0].results()[-1]["n"]
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
