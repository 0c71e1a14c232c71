"""`dss-jax distill`: from a table and a large model to a small student."""

from __future__ import annotations

import argparse
import sys

from dss_jax.cli import flags

EPILOG = """\
example:
  dss-jax distill --input=tickets.csv --field_mapping input=text label=team \\
    --model=gpt-4.1-mini --max_cost=20 --output_dir=runs/tickets

Cuts the table into training, validation and test records; lets the large model
explain all of them; trains a small student by fine-tuning and by distilling
step-by-step, with equal trials; reports whether the rationales helped, and
whether the student beats the large model; exports the better student. Every
step is a command of its own, shown and kept in commands.sh. Stopped anywhere,
the same command continues.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  flags.add_flags(
    parser,
    "experiments.distill.project.DistillOptions",
    base_url={"metavar": "URL"},
    prompt={"metavar": "FILE"},
  )


def run(args: argparse.Namespace) -> int:
  """Runs the mode."""
  from dss_jax.experiments.distill import distillation
  from dss_jax.experiments.distill.project import DistillOptions

  distillation.distill(flags.build(DistillOptions, args), _agreed)
  return 0


def _agreed(question: str) -> bool:
  """Asks on the terminal; where there is none, nobody agrees."""
  if not sys.stdin.isatty():
    return False
  try:
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
  except EOFError:  # Ctrl-D
    print()
    return False
