"""Command-line flags of runs, which several modes share."""

from __future__ import annotations

import argparse


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("configuration, in T5X's dialect")
  group.add_argument(
    "--gin_file",
    action="append",
    default=[],
    metavar="FILE",
    help="a gin file, here or packaged (runs/train.gin); repeat it, later"
    " ones win",
  )
  group.add_argument(
    "--gin.NAME=VALUE",
    dest="_gin_flag_shown",
    action="store_true",  # shown only: `main` takes these flags itself
    help="bind a macro or parameter; plain strings need no quotes; wins over"
    " the files",
  )
  group.add_argument(
    "--gin_bindings",
    action="append",
    default=[],
    metavar="BINDING",
    help='a binding in gin\'s own syntax: "train.train.eval_period = 50"',
  )
  group.add_argument(
    "--gin_search_paths",
    default="",
    metavar="FOLDERS",
    help="folders to look for gin files in, separated by commas",
  )


def add_data_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("data")
  group.add_argument(
    "--data_dir",
    help="folder of the released datasets (also: DATA_DIR in gin, or the"
    " environment variable DSS_DATA_DIR)",
  )
  add_module_flag(group)
  group.add_argument(
    "--seqio_additional_cache_dirs",
    default="",
    metavar="FOLDERS",
    help="folders of SeqIO task caches, separated by commas",
  )


def add_module_flag(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    "--module",
    action="append",
    default=[],
    metavar="MODULE",
    help="a Python module to import first, which registers further tasks",
  )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
  """How the configuration of a finished run is read, without its data."""
  add_gin_flags(parser)
  add_module_flag(parser.add_argument_group("tasks"))
  parser.set_defaults(data_dir=None, seqio_additional_cache_dirs="")


def add_inside_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("looking inside")
  group.add_argument(
    "--profile_steps",
    metavar="A:B",
    help="record the steps A to B - 1 with JAX's profiler, for TensorBoard",
  )
  group.add_argument(
    "--debug_nans",
    action="store_true",
    default=None,
    help="end at the first loss or gradient that is not finite, and say where"
    " it came from; without, such steps are skipped and counted",
  )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("several processes (else: none needed)")
  group.add_argument(
    "--multiprocess",
    action="store_true",
    help="start jax.distributed; on TPU pods it finds the other hosts itself",
  )
  group.add_argument("--coordinator_address", metavar="HOST:PORT")
  group.add_argument("--process_count", type=int)
  group.add_argument("--process_index", type=int)


def add_eval_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--model_dir", required=True, help="folder of a training run"
  )
  parser.add_argument(
    "--checkpoint",
    default="best",
    metavar="STEP",
    help="best (by validation), latest, or a step; default: %(default)s",
  )
  parser.add_argument(
    "--task",
    action="append",
    default=[],
    help="task to score, such as svamp_label; default: those the run evaluates",
  )
  parser.add_argument("--split", default="test", help="default: %(default)s")
  parser.add_argument(
    "--output_dir",
    help="predictions go to its eval/ folder; default: MODEL_DIR",
  )
  parser.add_argument(
    "--json", action="store_true", help="print the scores as JSON"
  )
