"""`dss-jax train --together=FILE`: several runs by one program."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dss_jax.base import plain_files
from dss_jax.base.errors import UserError, one_line
from dss_jax.cli import run_flags

if TYPE_CHECKING:
  from dss_jax.training.train_config import TrainConfig

_LOG_FILE = "train.log"


def train(path: str) -> int:
  """Trains the runs of a file, each with its progress in its own folder.

  Args:
    path: a file with a `dss-jax train` command in each line.

  Returns:
    The exit status: 3 where training diverged and nothing else went wrong.

  Raises:
    UserError: for runs that do not fit together, or a line that is no such
      command.
    StoppedError: Ctrl-C or SIGTERM; all steps are saved.
  """
  from dss_jax.training import many_students

  configs = [_read(words) for words in _commands(pathlib.Path(path))]
  with contextlib.ExitStack() as stack:
    streams = []
    for config in configs:
      config.folder.mkdir(parents=True, exist_ok=True)
      log = config.folder / _LOG_FILE
      streams.append(stack.enter_context(log.open("a", encoding="utf-8")))
    outcomes = many_students.train_many(configs, streams=streams)
  statuses = set()
  for config, outcome in zip(configs, outcomes, strict=True):
    if isinstance(outcome, Exception):
      statuses.add(3 if isinstance(outcome, FloatingPointError) else 1)
      print(
        f"dss-jax train: {config.model_dir}: {one_line(outcome)}",
        file=sys.stderr,
      )
  return min(statuses, default=0)


def _commands(path: pathlib.Path) -> list[list[str]]:
  """The flags of each line.

  Raises:
    UserError: there is no such file, or a line is another command.
  """
  if not path.is_file():
    raise UserError(f"no such file: {path}", fields="TrainFlags.together")
  found = []
  for number, line in enumerate(plain_files.read_text(path).splitlines(), 1):
    try:
      words = shlex.split(line, comments=True)
    except ValueError as error:
      words = [one_line(error)]
    if words and words[:2] != ["dss-jax", "train"]:
      raise UserError(
        f"{path}:{number}: {one_line(line, longest=60)!r} is no `dss-jax train`"
        " command",
        fields="TrainFlags.together",
      )
    if words:
      found.append(words[2:])
  if not found:
    raise UserError(f"{path} holds no command", fields="TrainFlags.together")
  return found


def _read(words: Sequence[str]) -> TrainConfig:
  """The run of a command, whose text gin will not have any more later."""
  from dss_jax.cli import gin_config

  modules = run_flags.parse_gin(_parsed(words))
  texts: list[str] = []
  config = gin_config.instance("train.train", config_text_fn=lambda: texts[0])
  texts.append(gin_config.operative_config(modules))
  return config


def _parsed(words: Sequence[str]) -> argparse.Namespace:
  from dss_jax.cli import command_line

  parser = command_line.make_parser("train")
  args, rest = parser.parse_known_args(["train", *words])
  for word in rest:
    if not word.startswith("--gin."):
      raise UserError(
        f"unknown argument {word!r}", fields="TrainFlags.together"
      )
  args.gin_flags = rest
  return args
