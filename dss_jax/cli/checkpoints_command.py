"""`dss-jax checkpoints`: list, hash and describe checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from dss_jax.base.errors import UserError
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
    checkpoints.print_summary(str(folder), hashes=options.hash)
    return 0

  from dss_jax.pretrained import opening

  print(opening.describe(opening.open_pretrained(model_dir)))
  return 0
