"""`dss-jax quickstart`: compare the two methods on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import time

from dss_jax.base import checks
from dss_jax.cli import flags, sweep_command

_SWEEP, _NAME = "sweeps/small.gin", "quickstart"


@dataclasses.dataclass(frozen=True)
class QuickstartFlags:
  """How much is trained.

  Attributes:
    output_dir: where the runs and the picture go.
    seeds: runs of each method, with seeds 0, 1 and so on.
    long: train 3600 steps of distilling step-by-step instead of 1200, and
      fine-tuning by as many tokens.
    steps: steps of distilling step-by-step, any number you like.
  """

  output_dir: str = "runs/quickstart"
  seeds: int = 3
  long: bool = False
  steps: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  flags.add_flags(parser, QuickstartFlags)


def run(args: argparse.Namespace) -> int:
  """Runs the mode."""
  from dss_jax.experiments import quickstart

  options = flags.build(QuickstartFlags, args)
  checks.in_range("QuickstartFlags.seeds", options.seeds, 1)
  steps = options.steps
  if steps is None:
    steps = quickstart.LONG_DSS_STEPS if options.long else quickstart.DSS_STEPS
  started = time.monotonic()
  seeds = list(range(options.seeds))
  changes = [f"--gin.STEPS={steps}", f"--gin.SEEDS={seeds}"]
  sweep = sweep_command.read_sweep(_SWEEP, changes, [])
  print(quickstart.introduction(sweep), flush=True)
  output_dir = pathlib.Path(options.output_dir).expanduser()
  plan = sweep_command.make_plan(sweep, output_dir, [])
  found = sweep_command.train(plan, _NAME)
  if found.failed:
    return sweep_command.tell_failures(plan, found)
  quickstart.show(
    found.found,
    output_dir,
    output_dir / "learning_curves.png",
    minutes=(time.monotonic() - started) / 60,
  )
  return 0
