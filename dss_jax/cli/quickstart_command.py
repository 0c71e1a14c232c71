"""`dss-jax quickstart`: compare the two methods on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from dss_jax.cli import flags
from dss_jax.experiments import quickstart


@dataclasses.dataclass(frozen=True)
class QuickstartFlags:
  """How much is trained.

  Attributes:
    output_dir: where the runs and the picture go.
    seeds: runs of each method, with seeds 0, 1, ....
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
  from dss_jax.cli import command_line

  options = flags.build(QuickstartFlags, args)
  steps = options.steps
  if steps is None:
    steps = quickstart.LONG_DSS_STEPS if options.long else quickstart.DSS_STEPS
  quickstart.compare(
    pathlib.Path(options.output_dir),
    lambda train_flags: command_line.main(["train", *train_flags]),
    num_seeds=options.seeds,
    dss_steps=steps,
  )
  return 0
