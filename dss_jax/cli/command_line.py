"""The modes of `dss-jax`: which there are, their parsers, and how one runs.

A mode is a module of this folder, named after it, with `add_arguments(parser)`
and `run(args)`, which returns the exit status. Only the module of the chosen
mode is imported.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from dss_jax import __version__
from dss_jax.cli import failures, quiet_tensorflow

# Groups of modes in the order in which a user needs them.
MODES = {
  "start here": {
    "quickstart": "compare fine-tuning and distilling step-by-step on the"
    " built-in dataset, on this machine",
    "distill": "from your table and a large model to a small student, in one"
    " command",
  },
  "look at data": {"data": "look at datasets and convert them"},
  "let a teacher write rationales": {
    "extract": "let a large model write rationales for a dataset",
  },
  "train a student": {
    "train": "train a student, or resume its training",
    "eval": "score a checkpoint on a task",
  },
  "compare students": {
    "sweep": "train the cells of a grid of methods, sizes and seeds",
    "report": "compare finished runs: figures, tables and one page",
  },
  "use a student": {
    "infer": "let a student answer the lines of a file or a pipe",
    "serve": "answer requests for labels and rationales over HTTP",
    "export": "write a student in the format of another program, and check it",
  },
  "look inside": {
    "checkpoints": "list a run's checkpoints and hash what they hold, or"
    " describe a pretrained checkpoint",
  },
}

_SHELLS = ("bash", "zsh")


class _Parser(argparse.ArgumentParser):
  """A parser that reports mistakes in one line."""

  def error(self, message: str) -> NoReturn:
    self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


class _TopParser(_Parser):
  """The parser of `dss-jax`, whose help groups the modes."""

  def format_help(self) -> str:
    lines = [
      "usage: dss-jax MODE ...",
      "",
      "Distilling step-by-step in JAX: train small T5 students on labels and",
      "rationales, and score them.",
    ]
    for title, modes in MODES.items():
      lines += ["", f"{title}:"]
      for name, summary in modes.items():
        lines += textwrap.wrap(
          f"  {name:12} {summary}", 79, subsequent_indent=" " * 15
        )
    return "\n".join(
      [
        *lines,
        "",
        "options:",
        "  -h, --help   show this help message and exit",
        "  --version    show the version and exit",
        "  --print_completion SHELL",
        f"               print completion for a shell: {', '.join(_SHELLS)}",
        "",
        "`dss-jax MODE --help` shows the flags of a mode.",
        "",
      ]
    )


class _PrintCompletion(argparse.Action):
  """Prints what a shell needs to complete the command line, and exits."""

  def __call__(
    self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any
  ) -> NoReturn:
    try:
      import shtab
    except ImportError:
      parser.error("--print_completion needs shtab: pip install shtab")
    complete = make_parser()
    for command in _all_parsers(complete):
      for action in command._actions:
        kind = {"FILE": shtab.FILE, "FOLDER": shtab.DIRECTORY}
        if isinstance(action.metavar, str) and action.metavar in kind:
          action.complete = kind[action.metavar]  # type: ignore[attr-defined]
    print(shtab.complete(complete, shell=args[1]))
    parser.exit()


def _all_parsers(
  parser: argparse.ArgumentParser,
) -> list[argparse.ArgumentParser]:
  found = [parser]
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for command in action.choices.values():
        found += _all_parsers(command)
  return found


def make_parser(mode: str | None = None) -> argparse.ArgumentParser:
  """The parser of the command line.

  Args:
    mode: gets its flags; None gives all modes theirs.
  """
  parser = _TopParser(prog="dss-jax", allow_abbrev=False)
  parser.add_argument(
    "--version", action="version", version=f"dss_jax {__version__}"
  )
  parser.add_argument(
    "--print_completion", choices=_SHELLS, action=_PrintCompletion
  )
  modes = parser.add_subparsers(
    dest="mode", metavar="MODE", parser_class=_Parser
  )
  for group in MODES.values():
    for name, summary in group.items():
      command = modes.add_parser(
        name,
        help=summary,
        description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", 78),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
      )
      if mode in (None, name):
        _add_mode(command, name)
  return parser


def _add_mode(parser: argparse.ArgumentParser, name: str) -> None:
  module = importlib.import_module(f"dss_jax.cli.{name}_command")
  parser.epilog = getattr(module, "EPILOG", None)
  parser.set_defaults(run_mode=module.run)
  parser.add_argument(
    "--debug", action="store_true", help="show tracebacks of wrong input"
  )
  module.add_arguments(parser)


def main(argv: Sequence[str]) -> int:
  """Runs one mode; returns the exit status (2 for wrong input)."""
  mode = next((word for word in argv if not word.startswith("-")), "")
  parser = make_parser(mode)
  args, rest = parser.parse_known_args(argv)
  unknown = [flag for flag in rest if not flag.startswith("--gin.")]
  if unknown or (rest and not hasattr(args, "gin_flags")):
    names = (args.mode, getattr(args, "data_command", None))
    parser.prog = " ".join(("dss-jax", *filter(None, names)))
    parser.error(f"unknown argument {(unknown or rest)[0]!r}")
  if args.mode is None:
    parser.print_help()
    return 2
  args.gin_flags = rest
  # Orbax and others warn users here of what only their callers can change.
  # Errors in its threads are raised here too, and reported once.
  if not args.debug:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quiet_tensorflow.install()
  logging.getLogger("absl").setLevel(
    logging.ERROR if args.debug else logging.CRITICAL
  )
  return failures.exit_status(
    functools.partial(args.run_mode, args),
    args.mode,
    debug=args.debug,
    flags=args.field_flags,
  )
