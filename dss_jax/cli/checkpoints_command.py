"""`dss-jax checkpoints`: list, hash and describe checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pathlib

from dss_jax.base.errors import UserError, damaged_file
from dss_jax.cli import flags


@dataclasses.dataclass(frozen=True)
class CheckpointsFlags:
  """What is looked at.

  Attributes:
    model_dir: folder of a run; or a Hugging Face or T5X checkpoint, also by hub
      id or gs:// path.
    hash: print SHA-256 of parameters, optimizer state and metrics; two runs of
      one configuration agree, however often they were interrupted.
  """

  model_dir: str | None = None
  hash: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  parser.add_argument("path", metavar="PATH", nargs="?", help="--model_dir")
  flags.add_flags(parser, CheckpointsFlags)


def run(args: argparse.Namespace) -> int:
  """Runs the mode."""
  options = flags.build(CheckpointsFlags, args)
  if (options.model_dir is None) == (args.path is None):
    raise UserError("give either --model_dir or PATH")
  model_dir = options.model_dir or args.path

  from dss_jax.training import checkpoints

  folder = pathlib.Path(model_dir).expanduser()
  if options.hash or (folder / checkpoints.FOLDER).is_dir():
    _print_summary(str(folder), hashes=options.hash)
    return 0

  from dss_jax.pretrained import opening

  print(opening.describe(opening.open_pretrained(model_dir)))
  return 0


def _print_summary(model_dir: str, *, hashes: bool = False) -> None:
  """Prints a run's checkpoints and, if asked, what identifies the latest.

  Args:
    model_dir: the run's folder.
    hashes: whether to print the SHA-256 of its parameters, its optimizer state,
      what the loop remembers and metrics.jsonl, the latter two without times.
  """
  from dss_jax.base import named_trees
  from dss_jax.training import checkpoints as checkpoints_lib
  from dss_jax.training import run_directory

  with checkpoints_lib.Checkpoints(model_dir, read_only=True) as checkpoints:
    latest = checkpoints.resolve_step("latest")
    best = checkpoints.loop_state(latest).get("best_step")
    for step in checkpoints.steps():
      loop = checkpoints.loop_state(step)
      marks = [" best"] * (step == best) + [" latest"] * (step == latest)
      with damaged_file(checkpoints.folder / str(step), "delete that folder"):
        tokens = loop["encoder_tokens"] + loop["decoder_tokens"]
        print(f"step {step}:{','.join(marks)} ({tokens:,} tokens seen)")
    if not hashes:
      return
    tree = checkpoints.restore_numpy(latest)
    loop = checkpoints.loop_state(latest)
  loop.pop("wall_s", None)
  print(f"params     {named_trees.tree_hash(tree['params'])}")
  print(f"opt_state  {named_trees.tree_hash(tree['opt_state'])}")
  text = json.dumps(loop, sort_keys=True)
  print(f"loop       {hashlib.sha256(text.encode()).hexdigest()}")
  print(f"metrics    {run_directory.metrics_hash(pathlib.Path(model_dir))}")
