"""The flags that name a configuration, a run or a student, and what they name.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from dss_jax.base import user_modules
from dss_jax.base.errors import UserError
from dss_jax.cli import flags, process

if TYPE_CHECKING:
  from dss_jax.data.pipeline import DatasetConfig
  from dss_jax.students.student import Student
  from dss_jax.training.train_config import TrainConfig
  from dss_jax.vocabularies import Vocabulary

# A training run writes it, and no other tool does.
RUN_FILE = "config.gin"


@dataclasses.dataclass(frozen=True)
class GinFlags:
  """A configuration, in T5X's dialect.

  Attributes:
    gin_file: a gin file, here or packaged (runs/train.gin); repeat it, later
      ones win.
    gin_bindings: a binding in gin's own syntax: "train.train.eval_period = 50".
    gin_search_paths: folders to look for gin files in, separated by commas.
  """

  gin_file: tuple[str, ...] = ()
  gin_bindings: tuple[str, ...] = ()
  gin_search_paths: str = ""


@dataclasses.dataclass(frozen=True)
class TaskFlags:
  """Where tasks and their data come from.

  Attributes:
    module: a Python module to import first, which registers further datasets
      or tasks; repeat it.
    data_dir: the released datasets (also: DATA_DIR in gin, or the environment
      variable DSS_DATA_DIR).
    seqio_additional_cache_dirs: folders of SeqIO task caches, separated by
      commas.
  """

  module: tuple[str, ...] = ()
  data_dir: str | None = None
  seqio_additional_cache_dirs: str = ""


@dataclasses.dataclass(frozen=True)
class StudentFlags:
  """Which student answers.

  Attributes:
    model_dir: a training run's MODEL_DIR, or a folder in Hugging Face's layout,
      such as `dss-jax export` writes.
    checkpoint: the step of a training run: best (by validation), latest, or a
      number; default: best.
  """

  model_dir: str
  checkpoint: str | None = None


def add_gin_flags(parser: argparse.ArgumentParser, *task_flags: str) -> None:
  """Adds what configures a run, and fields of `TaskFlags`, or all of them."""
  group = flags.add_flags(
    parser,
    GinFlags,
    title="configuration, in T5X's dialect",
    gin_file={"metavar": "FILE"},
    gin_bindings={"metavar": "BINDING"},
    gin_search_paths={"metavar": "FOLDERS"},
  )
  _add_shown_gin_flag(parser, group)
  flags.add_flags(parser, TaskFlags, *task_flags, title="tasks and their data")


def _add_shown_gin_flag(
  parser: argparse.ArgumentParser, group: argparse._ActionsContainer
) -> None:
  parser.set_defaults(gin_flags=[])
  group.add_argument(
    "--gin.NAME=VALUE",
    dest="_gin_flag_shown",
    action="store_true",  # shown only: `main` takes these flags itself
    help="bind a macro or parameter; plain strings need no quotes; wins over"
    " the files",
  )


def add_override_flags(parser: argparse.ArgumentParser) -> None:
  """Adds flags that change a gin file which is named otherwise."""
  group = flags.add_flags(
    parser,
    GinFlags,
    "gin_search_paths",
    title="configuration",
    gin_search_paths={"metavar": "FOLDERS"},
  )
  _add_shown_gin_flag(parser, group)


def search_paths(args: argparse.Namespace) -> list[str]:
  """The folders of --gin_search_paths."""
  return _folders(args.gin_search_paths)


def import_modules(modules: Sequence[str] = ()) -> list[str]:
  """Imports the modules of tasks that flags and the configuration name.

  Args:
    modules: those of the flags.

  Returns:
    All of them.
  """
  from dss_jax.cli import gin_config

  named = gin_config.macro("MIXTURE_OR_TASK_MODULE") or []
  named = [named] if isinstance(named, str) else named
  found = list(dict.fromkeys([*modules, *named]))
  user_modules.import_modules(found)
  return found


def keep_off_devices() -> None:
  """Lets this process read configurations on the processor.

  A device that it held could not be used by the processes that it starts.
  """
  import jax
  from absl import flags as absl_flags

  # SeqIO reads absl flags; argparse has parsed the command line.
  absl_flags.FLAGS.mark_as_parsed()
  if os.environ.get("JAX_PLATFORMS") != "cpu":
    jax.config.update("jax_platforms", "cpu")


def parse_gin(
  args: argparse.Namespace, run_file: str | None = None
) -> list[str]:
  """Sets up JAX and SeqIO's flags, then parses the configuration.

  Args:
    args: the command line.
    run_file: what a run was configured with, which the flags may change.

  Returns:
    The modules that were imported for their tasks.
  """
  from dss_jax.cli import gin_config

  process.set_up(args)
  configuration = flags.build(GinFlags, args)
  tasks = flags.build(TaskFlags, args)
  bindings = [
    *configuration.gin_bindings,
    *map(gin_config.binding_from_flag, args.gin_flags),
  ]
  if tasks.data_dir:
    bindings.append(f"DATA_DIR = {tasks.data_dir!r}")
  gin_config.parse(
    configuration.gin_file,
    bindings,
    _folders(configuration.gin_search_paths),
    run_file=run_file,
  )
  _check_given_once(args, bindings)
  modules = import_modules(tasks.module)
  if cache_dirs := _folders(tasks.seqio_additional_cache_dirs):
    from dss_jax.data import seqio as seqio_data

    seqio_data.add_cache_dirs(cache_dirs)
  return modules


# Flags that set a macro.
_MACROS = {"MODEL_DIR": "model_dir", "DATA_DIR": "data_dir"}


def _check_given_once(args: argparse.Namespace, bindings: list[str]) -> None:
  """Raises UserError where a macro's flag and its binding say two things."""
  from dss_jax.cli import gin_statements

  for binding in bindings:
    for each in gin_statements.of_text(binding):
      flag = _MACROS.get(each.name) if each.is_macro else None
      value = getattr(args, flag, None) if flag else None
      if value is not None and each.value != value:
        raise UserError(
          f"--{flag} is {value!r}, and {each.name} is bound to {each.value!r}:"
          " leave out one of them"
        )


def _folders(text: str) -> list[str]:
  return [folder for folder in text.split(",") if folder]


def read_run(args: argparse.Namespace) -> TrainConfig:
  """The configuration of the run that --model_dir names.

  Raises:
    UserError: there is no run, or its configuration is wrong.
  """
  from dss_jax.cli import gin_config

  if not is_run(args.model_dir):
    raise UserError(
      f"--model_dir: there is no {RUN_FILE} in {args.model_dir!r}; give the"
      " MODEL_DIR of a training run"
    )
  folder = pathlib.Path(args.model_dir).expanduser()
  parse_gin(args, str(folder / RUN_FILE))
  return gin_config.instance("train.train", model_dir=args.model_dir)


class Configuration(NamedTuple):
  """What a run reads."""

  data: DatasetConfig
  vocabulary: Vocabulary
  seed: int


def read_configuration(args: argparse.Namespace) -> Configuration:
  """What the run reads that gin's flags describe, or that --model_dir names.

  --split takes another split of its data. Neither MODEL_DIR nor TRAIN_STEPS
  need be set.

  Raises:
    UserError: there is no run, or the configuration is wrong.
  """
  from dss_jax.cli import gin_config

  if args.data_dir:
    args.gin_flags = [*args.gin_flags, f"--gin.DATA_DIR={args.data_dir!r}"]
  if getattr(args, "model_dir", None):
    config = read_run(args)
  else:
    parse_gin(args)
    gin_config.set_defaults({"MODEL_DIR": "unused", "TRAIN_STEPS": 1})
    config = gin_config.instance("train.train")
  data = config.train_dataset_cfg
  if args.split:
    data = dataclasses.replace(data, split=args.split)
  return Configuration(data, config.vocabulary, config.random_seed)


def packaged_lengths(dataset: str | None) -> dict[str, int]:
  """The TASK_FEATURE_LENGTHS of a packaged gin file, or long ones.

  Args:
    dataset: which gin/data/ may have a file for.
  """
  from dss_jax.cli import gin_registry

  file = gin_registry.PACKAGED_FOLDER / "data" / f"{dataset}.gin"
  if dataset and file.is_file():
    text = file.read_text(encoding="utf-8")
    found = re.search(r"^TASK_FEATURE_LENGTHS = (.*)$", text, re.MULTILINE)
    if found:
      return ast.literal_eval(found.group(1))
  return {"inputs": 1024, "targets": 256}


def is_run(path: str) -> bool:
  """Whether a path is a training run's folder."""
  return (pathlib.Path(path).expanduser() / RUN_FILE).is_file()


def open_student(args: argparse.Namespace) -> Student:
  """The student that --model_dir names.

  Raises:
    UserError: for a path that holds no student, a checkpoint that is not
      there, or a folder that is damaged.
  """
  if is_run(args.model_dir):
    from dss_jax.students import student

    return student.load_run(read_run(args), args.checkpoint or "best")
  process.set_up(args)
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


def _has_weights(folder: pathlib.Path) -> bool:
  """Whether there are weights in Hugging Face's layout."""
  names = ("model*.safetensors", "pytorch_model*.bin", "flax_model*.msgpack")
  return any(True for name in names for _ in folder.glob(name))
