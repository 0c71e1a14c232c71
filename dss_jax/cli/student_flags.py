"""Which student a mode asks: the flags, and the folder they name.

Configurations are read by the command line alone, so a run's is read by a
function that it hands in.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from dss_jax.base.errors import UserError

if TYPE_CHECKING:
  from dss_jax.students.student import Student
  from dss_jax.training.train_config import TrainConfig

  # The flags -> the configuration of the run that --model_dir names.
  ReadRun = Callable[[argparse.Namespace], TrainConfig]
  # The flags -> the student that they name; what commands are handed.
  OpenStudent = Callable[[argparse.Namespace], Student]

# What a training run writes, and no other tool.
RUN_FILE = "config.gin"


def add_student_flags(parser: argparse.ArgumentParser) -> None:
  """Declares the flags that name a student."""
  parser.add_argument(
    "--model_dir",
    required=True,
    metavar="PATH",
    help="a training run's MODEL_DIR, or a folder in Hugging Face's layout,"
    " such as `dss-jax export` writes",
  )
  parser.add_argument(
    "--checkpoint",
    metavar="STEP",
    help="of a training run: best (by validation), latest, or a step; default:"
    " best",
  )


def is_run(path: str) -> bool:
  """Whether a path is a training run's folder."""
  return (pathlib.Path(path).expanduser() / RUN_FILE).is_file()


def _has_weights(folder: pathlib.Path) -> bool:
  """Whether there are weights in Hugging Face's layout."""
  names = ("model*.safetensors", "pytorch_model*.bin", "flax_model*.msgpack")
  return any(True for name in names for _ in folder.glob(name))


def open_student(args: argparse.Namespace, read_run: ReadRun) -> Student:
  """The student that the flags name.

  Args:
    args: with what `add_student_flags` declares.
    read_run: reads the configuration of a run.

  Raises:
    UserError: for a path that holds no student, a checkpoint that is not
      there, or a folder that is damaged.
  """
  if is_run(args.model_dir):
    from dss_jax.students import student

    return student.load_run(read_run(args), args.checkpoint or "best")
  from dss_jax.pretrained import student_card

  folder = pathlib.Path(args.model_dir).expanduser()
  if (folder / student_card.FILE).is_file() and not _has_weights(folder):
    raise UserError(
      f"--model_dir: {args.model_dir!r} is a student exported for another"
      " program; give one exported with --format=huggingface, or the training"
      " run"
    )
  if folder.is_dir() and not (folder / "config.json").is_file():
    raise UserError(
      f"--model_dir: {args.model_dir!r} has neither the {RUN_FILE} of a"
      " training run nor the config.json of an exported student"
    )
  if args.checkpoint is not None:
    raise UserError(
      f"--checkpoint is {args.checkpoint!r}, but {args.model_dir!r} is no"
      " training run: leave --checkpoint out"
    )

  from dss_jax.students import pretrained_student

  return pretrained_student.load_pretrained(args.model_dir)
