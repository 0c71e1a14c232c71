"""`dss-jax data COMMAND`: look at datasets, and convert them.

Each sub-command reads a registered dataset (`--dataset`) or a file of records
(`--input`). Nothing heavy is imported before a sub-command runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from dss_jax.base import checks, user_modules
from dss_jax.base.errors import UserError
from dss_jax.cli import flags, run_flags
from dss_jax.cli.data_flags import (
  EPILOG,
  BatchFlags,
  ConvertFlags,
  ShowFlags,
  SourceFlags,
  StatsFlags,
  VocabularyFlags,
  WriteFlags,
  add_arguments,
)

if TYPE_CHECKING:
  from dss_jax.data.pipeline import DatasetConfig
  from dss_jax.datasets import DataOptions
  from dss_jax.datasets.records import Problem, Record

__all__ = ["EPILOG", "add_arguments", "run"]

# How many malformed lines are printed one by one.
_SHOWN_PROBLEMS = 20


def run(args: argparse.Namespace) -> int:
  """Runs the chosen sub-command.

  Returns:
    The exit status: 2 if lines of the user's file could not be used.

  Raises:
    UserError: for wrong flags or data.
  """
  checks.in_range("limit", getattr(args, "limit", None), 1, or_none=True)
  user_modules.import_modules(args.module)
  commands = {
    "stats": _stats,
    "show": _show,
    "batches": _batches,
    "convert": _convert,
    "vocabulary": _vocabulary,
  }
  return commands[args.data_command](args)


def _data_options(args: argparse.Namespace, **values: Any) -> DataOptions:
  from dss_jax.datasets import DataOptions

  return flags.build(DataOptions, args, **values)


def _read_input(source: SourceFlags) -> tuple[list[Record], list[Problem]]:
  from dss_jax.datasets.records import read_records

  return read_records(source.input or "", field_mapping=source.mapping)


def _problem_line(source: SourceFlags, records: int, problems: Any) -> str:
  return (
    f"{len(problems)} of {records + len(problems)} lines of {source.input}"
    f" cannot be used; the first: {problems[0]} (mend them, or give"
    " --skip_malformed)"
  )


# --- stats -------------------------------------------------------------------


def _stats(args: argparse.Namespace) -> int:
  from dss_jax.cli import dataset_reports, dataset_tables

  source = flags.build(SourceFlags, args)
  stats = flags.build(StatsFlags, args)
  problems: list[Problem] = []
  if source.input:
    records, problems = _read_input(source)
    report = dataset_reports.of_file(source, stats, records, problems)
  else:
    report = dataset_reports.of_dataset(source, stats, _data_options(args))
  if stats.json:
    print(json.dumps(report, indent=2, ensure_ascii=False))
  else:
    dataset_tables.print_stats(report)
  if problems and not source.skip_malformed:
    count = sum(split["rows"] for split in report["splits"].values())
    print(
      f"dss-jax data stats: {_problem_line(source, count, problems)}",
      file=sys.stderr,
    )
    return 2
  return 0


# --- show, batches -----------------------------------------------------------


def _configuration(args: argparse.Namespace) -> run_flags.Configuration:
  """The task, its batches, the vocabulary and the seed.

  Raises:
    UserError: for neither a configuration nor a task, or for both.
  """
  has_gin = args.gin_file or args.gin_bindings or args.gin_flags
  if has_gin or getattr(args, "model_dir", None):
    _check_configuration_alone(args)
    return run_flags.read_configuration(args)
  from dss_jax.data.feeding import training_data

  config = _dataset_config(args)
  vocabulary = training_data.vocabulary_of(config, args.vocabulary)
  return run_flags.Configuration(config, vocabulary, args.seed or 0)


def _check_configuration_alone(args: argparse.Namespace) -> None:
  """Raises UserError for a flag whose value a configuration holds."""
  from dss_jax.data.pairs import subtasks
  from dss_jax.datasets import DataOptions

  for options in (BatchFlags, DataOptions, subtasks.MethodOptions):
    found, default = flags.build(options, args), options()
    for field in dataclasses.fields(options):
      value = getattr(found, field.name)
      if value == getattr(default, field.name):
        continue
      if field.name not in ("split", "module", "data_dir"):
        raise UserError(
          f"--{field.name} is {value!r}, which a configuration says: leave it"
          " out, or bind it with --gin.NAME=VALUE"
        )


def _dataset_config(args: argparse.Namespace) -> DatasetConfig:
  """The task and its batches, by flags."""
  from dss_jax.data import pipeline
  from dss_jax.data.pairs import subtasks, task_names

  batch = flags.build(BatchFlags, args)
  if batch.task is None:
    raise UserError(
      "give a task (--task=svamp_dss), or the flags of a run (--gin_file=...)"
    )
  if not batch.module:
    # Without modules no other task can be known: no need to ask SeqIO.
    task_names.get_task(batch.task)
  records_per_batch = batch.records_per_batch
  if records_per_batch is None and batch.batch_size is None:
    records_per_batch = 64
  ours = task_names.parse_task_name(batch.task)
  lengths = run_flags.packaged_lengths(ours.dataset if ours else None)
  for name, length in (
    ("inputs", batch.inputs_length),
    ("targets", batch.targets_length),
  ):
    if length is not None:
      lengths[name] = length
  return pipeline.DatasetConfig(
    batch.task,
    lengths,
    split=batch.split or "train",
    batch_size=batch.batch_size,
    records_per_batch=records_per_batch,
    attention_length=batch.attention_length,
    pack=not batch.no_packing,
    data=_data_options(args),
    method=flags.build(subtasks.MethodOptions, args),
  )


def _batches(args: argparse.Namespace) -> int:
  from dss_jax.data.feeding import batch_files, training_data

  write = flags.build(WriteFlags, args)
  for name in ("steps", "rows_multiple_of"):
    checks.in_range(f"WriteFlags.{name}", getattr(write, name), 1)
  config = _configuration(args)
  data = training_data.load_packed(
    config.data,
    config.vocabulary,
    seed=config.seed,
    rows_multiple_of=write.rows_multiple_of,
  )
  for line in training_data.text_report(
    config.data, config.vocabulary, data.example_set
  ):
    print(line)
  batch_files.write_batches(write.output_dir, data, range(write.steps))
  shape = data.shape
  print(
    f"{write.steps} batches of {shape.rows} rows, {shape.encoder_length} +"
    f" {shape.decoder_length} tokens, {shape.records_per_batch} records ->"
    f" {write.output_dir}"
  )
  return 0


def _show(args: argparse.Namespace) -> int:
  from dss_jax.cli import dataset_tables
  from dss_jax.data.feeding import preview

  show = flags.build(ShowFlags, args)
  config = _configuration(args)
  shown = preview.preview(
    config.data,
    vocabulary=config.vocabulary,
    seed=config.seed,
    step=show.step,
    max_rows=show.limit,
  )
  if show.json:
    print(json.dumps(shown, indent=2, ensure_ascii=False))
  else:
    dataset_tables.print_preview(shown, ids=show.ids)
  return 0


# --- convert -----------------------------------------------------------------


def _check_cuts(
  source: SourceFlags,
  convert: ConvertFlags,
  options: DataOptions,
  is_cut: bool,
) -> None:
  """Raises UserError for flags after which validation data are cut twice.

  Args:
    source: what is read.
    convert: what is written.
    options: may take a fraction of the training data.
    is_cut: whether a run cuts validation data from the training data.
  """
  if not convert.as_trained:
    plain = dataclasses.replace(
      options, train_fraction=1.0, split_policy="fixed", extra_records=None
    )
    if options != plain:
      raise UserError(
        "train_fraction and split_policy cut the training data, and"
        " extra_records add to them, as a run does: give them to the run, or add"
        " --as_trained",
        fields=(
          "DataOptions.train_fraction",
          "DataOptions.split_policy",
          "DataOptions.extra_records",
        ),
      )
    if source.split == "validation" and is_cut:
      raise UserError(
        f"dataset {source.dataset!r} has no 'validation' data: a run cuts them"
        " from the training data; --as_trained writes them"
      )
  elif source.split == "train" and is_cut:
    raise UserError(
      "--as_trained --split=train leaves the validation records out, and a run"
      " on the file would cut others off: write all splits (leave out --split,"
      " and write {split} in --output)"
    )


def _usable_records(source: SourceFlags, limit: int | None) -> list[Record]:
  """The records of --input; what is left out is named on standard error.

  Raises:
    UserError: lines cannot be used, and --skip_malformed is not given.
  """
  records, problems = _read_input(source)
  if problems and not source.skip_malformed:
    raise UserError(_problem_line(source, len(records), problems))
  if problems:
    print(f"{len(problems)} malformed lines left out:", file=sys.stderr)
    for problem in problems[:_SHOWN_PROBLEMS]:
      print(f"  {problem}", file=sys.stderr)
  return records[:limit]


def _convert_file(source: SourceFlags, convert: ConvertFlags) -> int:
  """Writes the records of --input, held-out ones to files of their own."""
  from dss_jax.datasets import splits
  from dss_jax.datasets.records import write_records

  shares = convert.held_out
  if shares and "{split}" not in convert.output:
    raise UserError(
      f"--output={convert.output} is one file for {1 + len(shares)} splits:"
      " write {split} in --output"
    )
  if not shares and "{split}" in convert.output:
    raise UserError(
      "--output: {split} is for --dataset, or for --input with"
      " --validation_fraction or --test_fraction"
    )
  records = _usable_records(source, convert.limit)
  if not shares:
    count = write_records(convert.output, records)
    print(f"{count} records -> {convert.output}")
    return 0
  found = splits.held_out([record.input for record in records], shares)
  for split, positions in found.items():
    path = _path_of(convert, split)
    count = write_records(path, [records[i] for i in positions])
    print(f"{split}: {count} records -> {path}")
  return 0


def _path_of(convert: ConvertFlags, split: str) -> str:
  """The file of a split; a folder of several files is made."""
  from dss_jax.base.errors import writing

  path = convert.output.replace("{split}", split)
  if path != convert.output:
    folder = pathlib.Path(path).parent
    with writing(folder):
      folder.mkdir(parents=True, exist_ok=True)
  return path


def _convert(args: argparse.Namespace) -> int:
  from dss_jax.datasets.records import write_records

  source = flags.build(SourceFlags, args)
  convert = flags.build(ConvertFlags, args)
  if source.input:
    return _convert_file(source, convert)
  if convert.held_out:
    raise UserError(
      "--validation_fraction and --test_fraction are for --input; datasets have"
      " their splits"
    )
  from dss_jax import datasets

  options = _data_options(args, max_records=convert.limit)
  spec = datasets.get(source.dataset or "")
  found_splits = datasets.source_splits(spec, options)
  splits = found_splits
  if convert.as_trained:
    splits = tuple(
      s for s in datasets.SPLITS if s != "test" or s in found_splits
    )
  _check_cuts(source, convert, options, "validation" not in found_splits)
  if source.split:
    splits = (source.split,)
  elif len(splits) > 1 and "{split}" not in convert.output:
    raise UserError(
      f"--output={convert.output} is one file for {len(splits)} splits: give"
      " --split, or write {split} in --output"
    )
  for split in splits:
    path = _path_of(convert, split)
    if convert.as_trained:
      records = datasets.load_split(spec.name, split, options=options)
    else:
      records = datasets.load_source_split(spec.name, split, options=options)
    count = write_records(path, records[: convert.limit])
    print(f"{split}: {count} records -> {path}")
  left_out = datasets.num_held_out_extra_records(spec.name, options)
  if left_out and "train" in splits:
    print(
      "extra records left out, whose inputs are validated or tested on:"
      f" {left_out}"
    )
  if convert.as_trained and "validation" not in found_splits:
    print(
      "validation data are cut: train on all of these files, or a run cuts"
      " others off"
    )
  return 0


# --- vocabulary --------------------------------------------------------------


def _vocabulary(args: argparse.Namespace) -> int:
  from dss_jax import datasets, vocabularies
  from dss_jax.base import atomic_files
  from dss_jax.data.tokens import vocabulary_training

  source = flags.build(SourceFlags, args)
  write = flags.build(VocabularyFlags, args)
  if source.input:
    records = _usable_records(source, write.limit)
  else:
    records = datasets.load_split(
      source.dataset or "",
      source.split or "train",
      options=_data_options(args, max_records=write.limit),
    )[: write.limit]
  model = vocabulary_training.train(
    vocabulary_training.texts_of(records), write.vocab_size
  )
  atomic_files.write_atomically(pathlib.Path(write.output), model)
  vocabulary = vocabularies.from_name(write.output)
  pieces = vocabulary.vocab_size - vocabulary.extra_ids
  print(f"{pieces} pieces of {len(records)} records -> {write.output}")
  return 0
