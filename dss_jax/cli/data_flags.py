"""The flags of `dss-jax data COMMAND`, and of records."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.cli import flags, run_flags

EPILOG = """\
examples:
  dss-jax data stats --dataset=svamp --data_dir=datasets --json
  dss-jax data stats --input=mine.csv --field_mapping input=question label=answer
  dss-jax data show --task=svamp_dss --data_dir=datasets
  dss-jax data show --model_dir=runs/taxonli_dss
  dss-jax data batches --task=svamp_dss --data_dir=datasets --steps=1000 \\
    --output_dir=batches
  dss-jax data convert --dataset=cqa --data_dir=datasets --output=cqa_{split}.jsonl
  dss-jax data convert --input=mine.csv --output=mine.parquet
  dss-jax data convert --input=mine.csv --output='mine/{split}.jsonl' \\
    --validation_fraction=0.1 --test_fraction=0.2
  dss-jax data vocabulary --input=mine/train.jsonl --output=mine.model
"""

_STATS_EPILOG = """\
Counts are of the source's own splits, before validation data are cut off. Two
readings are compared: "strict" is the official parser of completions (or, for
files, equal labels), "tolerant" ours (or equal up to case and punctuation).
"""

_SHOW_EPILOG = """\
Give the flags of a run (--gin_file=... --gin.NAME=VALUE, as `dss-jax train`
takes them) or its folder to see what that run trains on, or a --task and flags.
What is printed is decoded from a packed batch as the student gets it: </s>
stands for the end-of-sequence token, and text that the vocabulary cannot
write is shown as it will be seen.
"""

_VOCABULARY_EPILOG = """\
Made from inputs, labels and rationales of the training data, for students that
start from random parameters; those that start from a checkpoint need its own.
A run reads it with --gin.VOCABULARY=FILE.
"""

_BATCHES_EPILOG = """\
A run trains on the folder with --gin.train/utils.DatasetConfig.batch_files=FOLDER
and, otherwise, the task, vocabulary, seed and sizes that it was written with.
The machine that trains then reads no data and packs none.
"""

DATA_OPTIONS = "datasets.options.DataOptions"


@dataclasses.dataclass(frozen=True)
class SourceFlags:
  """What is read: a dataset or a file.

  Attributes:
    dataset: taxonli, svamp, cqa, esnli, anli1, anli2, anli3, or one registered
      by --module.
    input: your own records: .jsonl, .ndjson, .json, .csv, .tsv or .parquet;
      text also packed, as .gz, .bz2 or .zst.
    field_mapping: which key of --input holds a field: input=question
      label=answer.text rationale=explanation; 'input={premise}</s>{hypothesis}'
      joins keys, and label= says that no key holds labels.
    skip_malformed: leave out the lines of --input that cannot be used.
    split: of --dataset's source.
    module: a Python module to import first, which registers further datasets;
      repeat it.
  """

  dataset: str | None = None
  input: str | None = None
  field_mapping: tuple[str, ...] = ()
  skip_malformed: bool = False
  split: str | None = None
  module: tuple[str, ...] = ()

  def __post_init__(self):
    if bool(self.dataset) == bool(self.input):
      raise UserError("give either --dataset NAME or --input FILE")
    if self.input and self.split:
      raise UserError(
        "--split is for --dataset; a file of --input is one split"
      )
    if self.dataset and (self.field_mapping or self.skip_malformed):
      raise UserError("--field_mapping and --skip_malformed are for --input")

  @property
  def mapping(self) -> dict[str, Any]:
    """`field_mapping` as `records.FieldMapping` takes it."""
    return parse_field_mapping(self.field_mapping)


@dataclasses.dataclass(frozen=True)
class StatsFlags:
  """What `data stats` counts.

  Attributes:
    prefix: counted in front of every input, such as 'predict: '.
    by_value: the labels of --input are arithmetic: compare their values.
    vocabulary: bytes, taxonli, or the path of a SentencePiece model; default:
      the dataset's own, else bytes.
    limit: count the tokens of N records only.
    json: print one JSON object, not a table.
  """

  prefix: str = ""
  by_value: bool = False
  vocabulary: str | None = None
  limit: int | None = None
  json: bool = False


@dataclasses.dataclass(frozen=True)
class ShowFlags:
  """What `data show` prints.

  Attributes:
    model_dir: a training run; what it trains on is shown.
    limit: packed rows to show.
    step: which batch, from 0.
    ids: show the token ids as well.
    json: print one JSON object, not a table.
  """

  model_dir: str | None = None
  limit: int = 2
  step: int = 0
  ids: bool = False
  json: bool = False


@dataclasses.dataclass(frozen=True)
class WriteFlags:
  """What `data batches` writes.

  Attributes:
    steps: how many batches: the TRAIN_STEPS of the run.
    output_dir: where to write them.
    rows_multiple_of: device shards times NUM_MICROBATCHES of the run.
  """

  steps: int
  output_dir: str
  rows_multiple_of: int = 1


@dataclasses.dataclass(frozen=True)
class BatchFlags:
  """What batches are made of, and how.

  A configuration (gin files, or the run that --model_dir names) says all of it
  but for the split.

  Attributes:
    task: DATASET_METHOD, such as svamp_dss, or any registered SeqIO task;
      needed without a configuration.
    split: of the task's data; default: train.
    vocabulary: bytes, taxonli, or the path of a SentencePiece model; default:
      the dataset's own, else bytes.
    records_per_batch: records in a batch; default: 64, unless --batch_size is
      given.
    batch_size: packed rows in a batch.
    attention_length: what attention costs when row lengths are chosen.
    no_packing: one example a row.
    seed: order of the data.
    inputs_length: cut inputs to so many tokens; default: as gin/data/ says for
      the dataset, else 1024.
    targets_length: cut targets to so many tokens; default: as gin/data/ says
      for the dataset, else 256.
    module: a Python module to import first, which registers further tasks;
      repeat it.
  """

  task: str | None = None
  split: str | None = None
  vocabulary: str | None = None
  records_per_batch: int | None = None
  batch_size: int | None = None
  attention_length: int = 4096
  no_packing: bool = False
  seed: int = 0
  inputs_length: int | None = None
  targets_length: int | None = None
  module: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ConvertFlags:
  """What `data convert` writes.

  Attributes:
    output: .jsonl, .csv, .tsv or .parquet; {split} becomes the split's name.
    limit: write the first N records only.
    as_trained: cut validation data and fractions off, as a run does; else
      write the splits of --dataset's source, from which a run on these files
      cuts the same ones.
    validation_fraction: share of the records of --input to write as validation
      data. Equal inputs stay together, and more records move none.
    test_fraction: share of them to write as test data, likewise.
  """

  output: str
  limit: int | None = None
  as_trained: bool = False
  validation_fraction: float = 0.0
  test_fraction: float = 0.0

  @property
  def held_out(self) -> dict[str, float]:
    """The shares of --input to hold out, by the split's name."""
    shares = {
      "validation": self.validation_fraction,
      "test": self.test_fraction,
    }
    return {split: share for split, share in shares.items() if share}


@dataclasses.dataclass(frozen=True)
class VocabularyFlags:
  """What `data vocabulary` writes.

  Attributes:
    output: the SentencePiece model, such as mine.model.
    vocab_size: pieces at most; small data have fewer.
    limit: look at the first N records only.
  """

  output: str
  vocab_size: int = 2000
  limit: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the sub-commands and their flags to the parser of `dss-jax data`."""
  commands = parser.add_subparsers(
    dest="data_command", metavar="COMMAND", required=True
  )
  for name, summary, epilog, groups in (
    (
      "stats",
      "records, unusable completions, agreement, lengths",
      _STATS_EPILOG,
      (SourceFlags, StatsFlags),
    ),
    (
      "show",
      "exactly what a student will see",
      _SHOW_EPILOG,
      (BatchFlags, ShowFlags),
    ),
    (
      "batches",
      "write packed batches to a folder",
      _BATCHES_EPILOG,
      (BatchFlags, WriteFlags),
    ),
    ("convert", "write a dataset as records", "", (SourceFlags, ConvertFlags)),
    (
      "vocabulary",
      "make a vocabulary of a dataset's own text",
      _VOCABULARY_EPILOG,
      (SourceFlags, VocabularyFlags),
    ),
  ):
    command = commands.add_parser(
      name,
      help=summary,
      description=f"{summary[0].upper()}{summary[1:]}.",
      epilog=epilog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    # Also accepted after the sub-command; the mode's own value holds otherwise.
    command.add_argument(
      "--debug",
      action="store_true",
      default=argparse.SUPPRESS,
      help="show tracebacks of wrong input",
    )
    for group in groups:
      flags.add_flags(command, group)
    if BatchFlags in groups:
      flags.add_flags(
        command,
        "data.pairs.subtasks.MethodOptions",
        *("label_prefix", "rationale_prefix", "rationale_filter"),
        title="method",
      )
      run_flags.add_gin_flags(command, "seqio_additional_cache_dirs")
    # --limit stands for max_records.
    flags.add_flags(
      command, DATA_OPTIONS, title="data options", max_records=None
    )


def parse_field_mapping(items: Sequence[str]) -> dict[str, Any]:
  """`--field_mapping` as `records.FieldMapping` takes it."""
  mapping: dict[str, Any] = {}
  for item in items:
    field, equals, key = item.partition("=")
    if not equals:
      raise UserError(
        f"--field_mapping {item!r}: write FIELD=KEY, such as input=question"
      )
    if field == "rationale" and key and mapping.get(field):
      # Several columns with a rationale each.
      earlier = mapping[field]
      earlier = [earlier] if isinstance(earlier, str) else earlier
      mapping[field] = [*earlier, key]
    elif field in mapping:
      raise UserError(f"--field_mapping names {field!r} twice")
    else:
      mapping[field] = key or None
  return mapping
