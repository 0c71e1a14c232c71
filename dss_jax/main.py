"""The command line: `dss-jax MODE ...` or `python -m dss_jax.main MODE ...`.

Modes are thin: they parse flags, let gin build the objects and call one
function of the library. Nothing heavy is imported before a mode is chosen.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import pathlib
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from dss_jax import __version__
from dss_jax.base import user_modules
from dss_jax.base.errors import UserError
from dss_jax.cli import failures, process, run_flags

if TYPE_CHECKING:
  from dss_jax.students.student import Student
  from dss_jax.training.train_config import TrainConfig

_DESCRIPTION = """\
Distilling step-by-step in JAX: train small T5 students on labels and
rationales, and score them.
"""

_TRAIN_EPILOG = """\
examples:
  dss-jax train --gin_file=models/taxonli.gin --gin_file=runs/train.gin \\
    --gin_file=data/taxonli.gin --gin_file=methods/dss.gin \\
    --gin.MODEL_DIR=runs/taxonli_dss --gin.TRAIN_STEPS=1200

A run started again with the same MODEL_DIR goes on where it stopped.
"""

_EVAL_EPILOG = """\
examples:
  dss-jax eval --model_dir=runs/taxonli_dss
  dss-jax eval --model_dir=runs/taxonli_dss --task=taxonli_rationale \\
    --split=test --checkpoint=latest
"""


class _Parser(argparse.ArgumentParser):
  """A parser that says in one line what is wrong."""

  def error(self, message: str) -> NoReturn:
    self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def run() -> None:
  """Entry point of the `dss-jax` script."""
  # The script has its own folder on the path; --module and gin's imports name
  # modules of the user's. Last, so that none of them hides a library.
  if not {"", os.getcwd()} & set(sys.path):
    sys.path.append(os.getcwd())
  process.end(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
  """Runs one mode; returns the exit status (2 for wrong input)."""
  parser = make_parser()
  args, rest = parser.parse_known_args(argv)
  unknown = [flag for flag in rest if not flag.startswith("--gin.")]
  takes_gin = hasattr(args, "gin_file")
  if unknown or (rest and not takes_gin):
    names = (args.mode, getattr(args, "data_command", None))
    parser.prog = " ".join(("dss-jax", *filter(None, names)))
    parser.error(f"unknown argument {(unknown or rest)[0]!r}")
  if args.mode is None:
    parser.print_help()
    return 2
  args.gin_flags = rest
  # Orbax and others tell users here what only their callers can act on.
  # What fails in its threads is raised here too, and told once.
  logging.getLogger("absl").setLevel(
    logging.ERROR if args.debug else logging.CRITICAL
  )
  run_mode = functools.partial(args.run_mode, args)
  return failures.exit_status(
    run_mode, args.mode, debug=args.debug, flags=vars(args).keys()
  )


def make_parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="dss-jax",
    description=_DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--version", action="version", version=f"dss_jax {__version__}"
  )
  modes = parser.add_subparsers(dest="mode", metavar="MODE")

  def mode(
    name: str, function: Callable[[argparse.Namespace], int], help: str, **kw
  ) -> argparse.ArgumentParser:
    sub = modes.add_parser(
      name,
      help=help,
      description=textwrap.fill(help[0].upper() + help[1:] + ".", 78),
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      **kw,
    )
    sub.set_defaults(run_mode=function)
    sub.add_argument(
      "--debug", action="store_true", help="show tracebacks of wrong input"
    )
    return sub

  from dss_jax.cli import data as data_command
  from dss_jax.cli import export as export_command
  from dss_jax.cli import extract as extract_command
  from dss_jax.cli import infer as infer_command
  from dss_jax.cli import plan as plan_command
  from dss_jax.cli import serve as serve_command
  from dss_jax.experiments import quickstart

  quickstart.add_arguments(
    mode(
      "quickstart",
      functools.partial(
        quickstart.run, train=lambda flags: main(["train", *flags])
      ),
      "compare fine-tuning and distilling step-by-step on the built-in"
      " dataset, on this machine",
    )
  )
  data_command.add_arguments(
    mode("data", data_command.run, "look at datasets and convert them")
  )
  extract_command.add_arguments(
    mode(
      "extract",
      extract_command.run,
      "let a large model write rationales for a dataset",
    )
  )
  train = mode(
    "train", _train, "train a student, or go on training", epilog=_TRAIN_EPILOG
  )
  run_flags.add_gin_flags(train)
  run_flags.add_data_flags(train)
  run_flags.add_inside_flags(train)
  run_flags.add_process_flags(train)
  plan_command.add_arguments(train)
  evaluate = mode(
    "eval", _evaluate, "score a checkpoint on a task", epilog=_EVAL_EPILOG
  )
  run_flags.add_eval_flags(evaluate)
  run_flags.add_gin_flags(evaluate)
  run_flags.add_data_flags(evaluate)
  export = mode(
    "export",
    functools.partial(export_command.run, read_run=_read_run),
    "write a student in the format of another program, and check it",
    epilog=export_command.EPILOG,
  )
  export_command.add_arguments(export)
  run_flags.add_gin_flags(export)
  run_flags.add_data_flags(export)
  infer = mode(
    "infer",
    functools.partial(infer_command.run, open_student=open_student),
    "let a student answer the rows of a file or a pipe",
  )
  infer_command.add_arguments(infer)
  run_flags.add_run_flags(infer)
  serve = mode(
    "serve",
    functools.partial(serve_command.run, open_student=open_student),
    "answer requests for labels and rationales over HTTP",
    epilog=serve_command.EPILOG,
  )
  serve_command.add_arguments(serve)
  run_flags.add_run_flags(serve)
  checkpoints = mode(
    "checkpoints",
    _checkpoints,
    "list a run's checkpoints and hash what they hold, or say what a pretrained"
    " checkpoint is",
  )
  checkpoints.add_argument(
    "model_dir",
    metavar="PATH",
    help="folder of a run; or a Hugging Face or T5X checkpoint, also by hub id"
    " or gs:// path",
  )
  checkpoints.add_argument(
    "--hash",
    action="store_true",
    help="print SHA-256 of parameters, optimizer state and metrics; two runs"
    " of one configuration agree, however often they were interrupted",
  )
  return parser


# --------------------------------------------------------------------- modes


def parse_gin(
  args: argparse.Namespace, first_files: Sequence[str] = ()
) -> list[str]:
  """Sets up JAX and SeqIO's flags, then parses the configuration.

  Returns:
    The modules that were imported for their tasks.
  """
  from dss_jax.cli import gin_utils

  process.set_up(args)
  search_paths = [p for p in args.gin_search_paths.split(",") if p]
  bindings = [
    *args.gin_bindings,
    *map(gin_utils.binding_from_flag, args.gin_flags),
  ]
  if args.data_dir:
    bindings.append(f"DATA_DIR = {args.data_dir!r}")
  gin_utils.parse([*first_files, *args.gin_file], bindings, search_paths)

  named = _as_list(gin_utils.macro("MIXTURE_OR_TASK_MODULE"))
  modules = list(dict.fromkeys([*args.module, *named]))
  user_modules.import_modules(modules)
  cache_dirs = args.seqio_additional_cache_dirs.split(",")
  if any(cache_dirs):
    from dss_jax.data import seqio as seqio_data

    seqio_data.add_cache_dirs([folder for folder in cache_dirs if folder])
  return modules


def _as_list(value: str | Sequence[str] | None) -> list[str]:
  if value is None:
    return []
  return [value] if isinstance(value, str) else list(value)


# Flags that stand for parameters of a run.
_INSIDE = ("profile_steps", "debug_nans")


def _train(args: argparse.Namespace) -> int:
  from dss_jax.cli import gin_utils
  from dss_jax.cli import plan as plan_command

  plan_command.prepare(args)
  modules = parse_gin(args)
  inside = {name: getattr(args, name) for name in _INSIDE}
  config = gin_utils.instance(
    "train.train",
    config_text_fn=functools.partial(gin_utils.operative_config, modules),
    **{name: value for name, value in inside.items() if value is not None},
  )

  if args.plan:
    return plan_command.run(args, config)

  from dss_jax.training import cpu_memory, train

  cpu_memory.keep(config.model.config)
  train.train(config)
  return 0


def _read_run(args: argparse.Namespace) -> TrainConfig:
  """The configuration of the run that --model_dir names."""
  from dss_jax.cli import gin_utils

  config_file = pathlib.Path(args.model_dir).expanduser() / "config.gin"
  if not config_file.is_file():
    raise UserError(
      f"--model_dir: there is no config.gin in {args.model_dir!r}; give the"
      " MODEL_DIR of a training run"
    )
  parse_gin(args, [str(config_file)])
  return gin_utils.instance("train.train", model_dir=args.model_dir)


def open_student(args: argparse.Namespace) -> Student:
  """The student that --model_dir names; handed to the modes that ask one."""
  from dss_jax.cli import student_flags

  process.set_up(args)
  return student_flags.open_student(args, _read_run)


def _evaluate(args: argparse.Namespace) -> int:
  import json

  config = _read_run(args)

  from dss_jax.students import checkpoint_evaluation

  step, scores = checkpoint_evaluation.evaluate_checkpoint(
    config, args.checkpoint, tasks=args.task or None, split=args.split
  )
  folder = os.path.expanduser(args.output_dir or args.model_dir)
  checkpoint_evaluation.write_predictions(folder, step, scores)
  if args.json:
    print(json.dumps(checkpoint_evaluation.as_json(step, scores), indent=2))
  else:
    checkpoint_evaluation.print_table(step, scores)
    print(f"predictions: {folder}/eval/")
  return 0


def _checkpoints(args: argparse.Namespace) -> int:
  from dss_jax.training import checkpoints

  folder = pathlib.Path(args.model_dir).expanduser()
  if args.hash or (folder / checkpoints.FOLDER).is_dir():
    checkpoints.print_summary(str(folder), hashes=args.hash)
    return 0

  from dss_jax.pretrained import opening

  print(opening.describe(opening.open_pretrained(args.model_dir)))
  return 0


if __name__ == "__main__":
  run()
