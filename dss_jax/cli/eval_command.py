"""`dss-jax eval`: score a checkpoint on a task."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib

from dss_jax.base import atomic_files, errors
from dss_jax.cli import flags, run_flags

EPILOG = """\
examples:
  dss-jax eval --model_dir=runs/taxonli_dss
  dss-jax eval --model_dir=runs/taxonli_dss --task=taxonli_rationale \\
    --split=test --checkpoint=latest
"""


@dataclasses.dataclass(frozen=True)
class EvalFlags:
  """What is scored.

  Attributes:
    model_dir: a training run's MODEL_DIR.
    checkpoint: best (by validation), latest, or a step.
    task: a task to score, such as svamp_label; repeat it; default: those that
      the run evaluates.
    split: of the task's data.
    output_dir: predictions go to its eval/ folder; default: MODEL_DIR.
    json: print the scores as JSON.
  """

  model_dir: str
  checkpoint: str = "best"
  task: tuple[str, ...] = ()
  split: str = "test"
  output_dir: str | None = None
  json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  flags.add_flags(parser, EvalFlags, checkpoint={"metavar": "STEP"})
  run_flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
  """Runs the mode."""
  config = run_flags.read_run(args)

  from dss_jax.students import checkpoint_evaluation

  options = flags.build(EvalFlags, args)
  folder = os.path.expanduser(options.output_dir or options.model_dir)
  with errors.writing(folder):
    atomic_files.make_folder(pathlib.Path(folder))
  step, scores = checkpoint_evaluation.evaluate_checkpoint(
    config,
    options.checkpoint,
    tasks=list(options.task) or None,
    split=options.split,
  )
  checkpoint_evaluation.write_predictions(folder, step, scores)
  if options.json:
    print(json.dumps(checkpoint_evaluation.as_json(step, scores), indent=2))
  else:
    checkpoint_evaluation.print_table(step, scores)
    print(f"predictions: {folder}/eval/")
  return 0
