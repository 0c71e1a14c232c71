"""The flags of `dss-jax data stats|show|batches|convert`."""

from __future__ import annotations

import argparse
from typing import Any

_EPILOG = """\
examples:
  dss-jax data stats --dataset=svamp --data_dir=datasets --json
  dss-jax data stats --input=mine.csv --field_mapping input=question label=answer
  dss-jax data show --task=svamp_dss --data_dir=datasets
  dss-jax data batches --task=svamp_dss --data_dir=datasets --steps=1000 --output=batches
  dss-jax data convert --dataset=cqa --data_dir=datasets --output=cqa_{split}.jsonl
  dss-jax data convert --input=mine.csv --output=mine.parquet
"""

_STATS_EPILOG = """\
Counts are of the source's own splits, before validation data are cut off. Two
readings are compared: "strict" is the official parser of completions (or, for
files, equal labels), "tolerant" ours (or equal up to case and punctuation).
"""

_SHOW_EPILOG = """\
What is printed is decoded from a packed batch as the student gets it: </s>
stands for the end-of-sequence token, and text that the vocabulary cannot
write is shown as it will be seen.
"""


_BATCHES_EPILOG = """\
A run trains on the folder with --gin.train/utils.DatasetConfig.batch_files=FOLDER
and, otherwise, the task, vocabulary, seed and sizes that it was written with.
Data and packing are then no work of the machine that trains.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the sub-commands and their flags to the parser of `dss-jax data`."""
  parser.epilog = _EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  commands = parser.add_subparsers(
    dest="data_command", metavar="COMMAND", required=True
  )
  stats = _command(
    commands, "stats", "rows, unusable completions, agreement, lengths"
  )
  stats.epilog = _STATS_EPILOG
  add_source(stats)
  stats.add_argument(
    "--split", help="only this split of the source (default: all it has)"
  )
  stats.add_argument(
    "--prefix",
    default="",
    metavar="TEXT",
    help="counted in front of every input, such as 'predict: ' (default: none)",
  )
  stats.add_argument(
    "--by_value",
    action="store_true",
    help="the labels of --input are arithmetic: compare their values",
  )
  _add_vocabulary(stats)
  stats.add_argument(
    "--limit", type=int, metavar="N", help="count the tokens of N records only"
  )
  _add_json(stats)
  _add_data_options(stats)

  show = _command(commands, "show", "exactly what a student will see")
  show.epilog = _SHOW_EPILOG
  show.add_argument(
    "--limit",
    type=int,
    default=2,
    metavar="N",
    help="packed rows to show (default: 2)",
  )
  show.add_argument(
    "--step", type=int, default=0, metavar="N", help="which batch (from 0)"
  )
  show.add_argument(
    "--ids", action="store_true", help="show the token ids as well"
  )
  _add_batch_flags(show)
  _add_json(show)
  _add_data_options(show)

  batches = _command(commands, "batches", "write packed batches to a folder")
  batches.epilog = _BATCHES_EPILOG
  batches.add_argument(
    "--steps",
    type=int,
    required=True,
    metavar="N",
    help="how many batches: the TRAIN_STEPS of the run",
  )
  batches.add_argument(
    "--output", required=True, metavar="FOLDER", help="where to write them"
  )
  batches.add_argument(
    "--rows_multiple_of",
    type=int,
    default=1,
    metavar="N",
    help="device shards times NUM_MICROBATCHES of the run (default: 1)",
  )
  _add_batch_flags(batches)
  _add_data_options(batches)

  convert = _command(commands, "convert", "write a dataset as records")
  add_source(convert)
  convert.add_argument(
    "--split",
    help="train, validation or test (default: all; --output then needs"
    " {split})",
  )
  convert.add_argument(
    "--output",
    required=True,
    metavar="FILE",
    help=".jsonl, .csv, .tsv or .parquet; {split} becomes the split's name",
  )
  convert.add_argument(
    "--limit", type=int, metavar="N", help="write the first N records only"
  )
  _add_data_options(convert)


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
  parser = commands.add_parser(
    name,
    help=summary,
    description=summary[0].upper() + summary[1:] + ".",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  # Also accepted behind the sub-command; the parent's value stays otherwise.
  parser.add_argument(
    "--debug",
    action="store_true",
    default=argparse.SUPPRESS,
    help="show tracebacks of wrong input",
  )
  return parser


def add_source(parser: argparse.ArgumentParser) -> None:
  """Declares `--dataset`, `--input` and what goes with them."""
  group = parser.add_argument_group("what to read (one of the two)")
  group.add_argument(
    "--dataset",
    help="taxonli, svamp, cqa, esnli, anli1, anli2, anli3, or one registered"
    " by --module",
  )
  group.add_argument(
    "--input",
    metavar="FILE",
    help="your own records: .jsonl, .json, .csv, .tsv or .parquet",
  )
  group.add_argument(
    "--field_mapping",
    nargs="+",
    default=[],
    metavar="FIELD=KEY",
    help="which key of --input holds a field: input=question label=answer"
    " rationale=explanation; 'input={premise}</s>{hypothesis}' joins keys",
  )
  group.add_argument(
    "--skip_malformed",
    action="store_true",
    help="go on without the lines of --input that cannot be used",
  )
  _add_module(group)


def _add_module(parser: Any) -> None:
  parser.add_argument(
    "--module",
    action="append",
    default=[],
    metavar="MODULE",
    help="a Python module to import first, which registers further datasets",
  )


def _add_vocabulary(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--vocabulary",
    metavar="NAME",
    help="bytes, taxonli, or the path of a SentencePiece model (default: the"
    " dataset's own, else bytes)",
  )


def _add_json(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--json", action="store_true", help="print one JSON object, not a table"
  )


def _add_batch_flags(parser: argparse.ArgumentParser) -> None:
  """Declares what batches are made of and how."""
  parser.add_argument(
    "--task",
    required=True,
    help="DATASET_METHOD, such as svamp_dss, or any registered SeqIO task",
  )
  parser.add_argument("--split", default="train", help="default: train")
  _add_vocabulary(parser)
  group = parser.add_argument_group("batches")
  group.add_argument(
    "--records_per_batch",
    type=int,
    metavar="N",
    help="records in a batch (default: 64, unless --batch_size is given)",
  )
  group.add_argument(
    "--batch_size", type=int, metavar="N", help="packed rows in a batch"
  )
  group.add_argument(
    "--attention_length",
    type=int,
    default=4096,
    metavar="N",
    help="what attention costs when row lengths are chosen (default: 4096, as"
    " runs/train.gin)",
  )
  group.add_argument(
    "--no_packing", action="store_true", help="one example a row"
  )
  group.add_argument(
    "--seed", type=int, default=0, metavar="N", help="order of the data"
  )
  group.add_argument(
    "--inputs_length",
    type=int,
    default=1024,
    metavar="N",
    help="cut inputs to so many tokens (default: 1024, as officially)",
  )
  group.add_argument(
    "--targets_length",
    type=int,
    default=256,
    metavar="N",
    help="cut targets to so many tokens (default: 256, as officially)",
  )
  group = parser.add_argument_group("method")
  group.add_argument("--label_prefix", metavar="TEXT", help="'[label] '")
  group.add_argument(
    "--rationale_prefix", metavar="TEXT", help="'[rationale] '"
  )
  group.add_argument(
    "--rationale_filter",
    metavar="NAME",
    help="non_empty (default), agrees or all",
  )
  _add_module(parser)


# Fields of DataOptions, which checks their values: flag -> (type, placeholder,
# what it says).
DATA_FLAGS: dict[str, tuple[Any, str, str]] = {
  "data_dir": (str, "FOLDER", "where the data lies (else: DSS_DATA_DIR)"),
  "source": (
    str,
    "NAME",
    "release (default), tfds, huggingface, or records: {split}.jsonl, ... in"
    " --data_dir",
  ),
  "parser": (str, "NAME", "of completions: official (default) or tolerant"),
  "rationale_source": (str, "NAME", "palm (default), gpt-neox or human"),
  "label_spelling": (
    str,
    "NAME",
    "as_is (default), or normalized: one spelling of arithmetic labels",
  ),
  "split_policy": (str, "NAME", "fixed (default) or official"),
  "train_fraction": (float, "F", "share of the training data (default: 1)"),
  "split_seed": (int, "N", "seed of the split (default: 0)"),
  "taxonli_num_train": (int, "N", "training records (default: 4000)"),
  "taxonli_num_validation": (int, "N", "validation records (default: 500)"),
  "taxonli_num_test": (int, "N", "test records (default: 1000)"),
  "taxonli_seed": (int, "N", "which records taxonli draws (default: 0)"),
  "taxonli_control": (
    str,
    "NAME",
    "none (default), facts_only, shuffled or copy",
  ),
}


def _add_data_options(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("data options")
  for name, (kind, placeholder, summary) in DATA_FLAGS.items():
    group.add_argument(
      f"--{name}", type=kind, metavar=placeholder, help=summary
    )
