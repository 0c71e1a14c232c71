"""`dss-jax data stats|show|batches|convert`: look at datasets, and convert them.

Each reads a registered dataset (`--dataset`) or one's own file of records
(`--input`). Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from dss_jax.base import user_modules
from dss_jax.base.errors import UserError
from dss_jax.cli.data_flags import DATA_FLAGS, add_arguments

if TYPE_CHECKING:
  from dss_jax.data.pipeline import DatasetConfig
  from dss_jax.datasets import DataOptions
  from dss_jax.datasets.records import Problem, Record

__all__ = ["add_arguments", "run"]

# How many malformed lines are printed one by one.
_SHOWN_PROBLEMS = 20


def run(args: argparse.Namespace) -> int:
  """Runs the chosen sub-command.

  Returns:
    The exit status: 2 if lines of the user's file could not be used.

  Raises:
    UserError: for wrong flags or data.
  """
  limit = getattr(args, "limit", None)
  if limit is not None and limit < 1:
    raise UserError(f"--limit is {limit}; allowed: whole numbers from 1")
  commands = {
    "stats": _stats,
    "show": _show,
    "batches": _batches,
    "convert": _convert,
  }
  try:
    return commands[args.data_command](args)
  except UserError as error:
    flags = _flags_for(str(error), args)
    if not flags:
      raise
    raise UserError(
      f"{str(error).rstrip('.')} (here {' and '.join(flags)})"
    ) from error


# What the library tells users of gin to set, and the flags that set it here.
_FLAGS_OF_BINDINGS = {
  "RECORDS_PER_BATCH": ("records_per_batch",),
  "BATCH_SIZE": ("batch_size",),
  "task_feature_lengths": ("inputs_length", "targets_length"),
  "VOCABULARY": ("vocabulary",),
  "DatasetConfig.attention_length": ("attention_length",),
  "MethodOptions.rationale_filter": ("rationale_filter",),
  "RATIONALE_FILTER": ("rationale_filter",),
}


def _flags_for(message: str, args: argparse.Namespace) -> list[str]:
  """The flags of this command that a message knows by other names only."""
  return [
    f"--{flag}"
    for binding, flags in _FLAGS_OF_BINDINGS.items()
    for flag in flags
    if binding in message and hasattr(args, flag) and f"--{flag}" not in message
  ]


# --- reading the flags ---------------------------------------------------------


def _data_options(args: argparse.Namespace) -> DataOptions:
  from dss_jax.datasets import DataOptions

  given = {name: getattr(args, name) for name in DATA_FLAGS}
  return DataOptions(**{k: v for k, v in given.items() if v is not None})


def field_mapping(args: argparse.Namespace) -> dict[str, Any]:
  """`--field_mapping` as `records.FieldMapping` takes it."""
  mapping: dict[str, Any] = {}
  for item in args.field_mapping:
    field, equals, key = item.partition("=")
    if not equals or not key:
      raise UserError(
        f"--field_mapping {item!r}: write FIELD=KEY, such as input=question"
      )
    if field == "rationale" and field in mapping:
      # Several columns with a rationale each.
      earlier = mapping[field]
      earlier = [earlier] if isinstance(earlier, str) else earlier
      mapping[field] = [*earlier, key]
    elif field in mapping:
      raise UserError(f"--field_mapping names {field!r} twice")
    else:
      mapping[field] = key
  return mapping


def check_source(args: argparse.Namespace) -> None:
  """Raises UserError unless `--dataset` or `--input` is given, with its flags."""
  if bool(args.dataset) == bool(args.input):
    raise UserError("give either --dataset NAME or --input FILE")
  if args.input and args.split:
    raise UserError("--split is for --dataset; a file of --input is one split")
  if args.dataset and (args.field_mapping or args.skip_malformed):
    raise UserError("--field_mapping and --skip_malformed are for --input")


def _read_input(
  args: argparse.Namespace,
) -> tuple[list[Record], list[Problem]]:
  from dss_jax.datasets.records import read_records

  return read_records(args.input, field_mapping=field_mapping(args))


def _problem_line(args: argparse.Namespace, records: int, problems: Any) -> str:
  return (
    f"{len(problems)} of {records + len(problems)} lines of {args.input}"
    f" cannot be used; the first: {problems[0]} (mend them, or give"
    " --skip_malformed)"
  )


# --- stats -------------------------------------------------------------------


def _stats(args: argparse.Namespace) -> int:
  from dss_jax.cli import dataset_tables

  check_source(args)
  user_modules.import_modules(args.module)
  problems: list[Problem] = []
  if args.input:
    report, problems = _file_report(args)
  else:
    report = _dataset_report(args, _data_options(args))
  if args.json:
    print(json.dumps(report, indent=2, ensure_ascii=False))
  else:
    dataset_tables.print_stats(report)
  if problems and not args.skip_malformed:
    count = sum(split["rows"] for split in report["splits"].values())
    print(
      f"dss-jax data stats: {_problem_line(args, count, problems)}",
      file=sys.stderr,
    )
    return 2
  return 0


def _dataset_report(
  args: argparse.Namespace, options: DataOptions
) -> dict[str, Any]:
  """Everything `stats` says about a registered dataset."""
  from dss_jax import datasets, vocabularies
  from dss_jax.datasets import statistics

  spec = datasets.get(args.dataset)
  vocabulary = vocabularies.from_name(
    args.vocabulary or vocabularies.default_name(spec.name)
  )
  splits: dict[str, Any] = {}
  sizes: dict[str, int] = {}
  found_splits = datasets.source_splits(spec, options)
  for split in (args.split,) if args.split else found_splits:
    found, records = statistics.report_split(spec.name, split, options)
    splits[split] = found.to_dict(options.parser)
    splits[split]["tokens"] = statistics.token_lengths(
      records[: args.limit], vocabulary.encode, prefix=args.prefix
    )
    sizes[split] = len(records)
    if split == "train":
      train, validation = datasets.split_positions(
        spec, [record.id for record in records], options
      )
      sizes["train"] = len(train)
      if validation:
        sizes["validation"] = len(validation)
  source = options.source
  if source != "records" and spec.name == "taxonli":
    source = "built in"
  elif spec not in datasets.SHIPPED:
    source = "own records"
  return {
    "dataset": spec.name,
    "source": source,
    "parser": options.parser,
    "rationale_source": datasets.rationale_source(spec.name, options),
    "license": spec.license,
    "vocabulary": vocabulary.name,
    "prefix": args.prefix,
    "splits": splits,
    "after_splitting": {
      "split_policy": options.split_policy,
      "train_fraction": options.train_fraction,
      "rows": {name: sizes[name] for name in datasets.SPLITS if name in sizes},
    },
  }


def _file_report(
  args: argparse.Namespace,
) -> tuple[dict[str, Any], list[Problem]]:
  """Everything `stats` says about a file of records."""
  from dss_jax import vocabularies
  from dss_jax.datasets import statistics

  records, problems = _read_input(args)
  vocabulary = vocabularies.from_name(args.vocabulary or "bytes")
  found = statistics.report_records(
    records, arithmetic_labels=args.by_value
  ).to_dict()
  del found["by_parser"], found["labels"]
  found["malformed"] = len(problems)
  found["malformed_lines"] = [
    dataclasses.asdict(problem) for problem in problems[:_SHOWN_PROBLEMS]
  ]
  found["tokens"] = statistics.token_lengths(
    records[: args.limit], vocabulary.encode, prefix=args.prefix
  )
  return {
    "input": args.input,
    "vocabulary": vocabulary.name,
    "prefix": args.prefix,
    "splits": {"all": found},
  }, problems


# --- show, batches -----------------------------------------------------------


def _dataset_config(args: argparse.Namespace) -> DatasetConfig:
  """The task and its batches, as `show` and `batches` are told of them."""
  from dss_jax.data import pipeline
  from dss_jax.data.pairs import subtasks

  if args.module:
    user_modules.import_modules(args.module)
  else:
    # Without modules no other task can be known: no need to ask SeqIO.
    subtasks.get_task(args.task)
  return pipeline.DatasetConfig(
    args.task,
    {"inputs": args.inputs_length, "targets": args.targets_length},
    split=args.split,
    batch_size=args.batch_size,
    records_per_batch=64
    if args.records_per_batch is None and args.batch_size is None
    else args.records_per_batch,
    attention_length=args.attention_length,
    pack=not args.no_packing,
    data=_data_options(args),
    method=_method_options(args),
  )


def _batches(args: argparse.Namespace) -> int:
  from dss_jax.data.feeding import batch_files, training_data

  for name in ("steps", "rows_multiple_of"):
    if getattr(args, name) < 1:
      raise UserError(
        f"--{name} is {getattr(args, name)}; allowed: whole numbers from 1"
      )
  config = _dataset_config(args)
  data = training_data.load_packed(
    config,
    training_data.vocabulary_of(config, args.vocabulary),
    seed=args.seed,
    rows_multiple_of=args.rows_multiple_of,
  )
  batch_files.write_batches(args.output, data, range(args.steps))
  shape = data.shape
  print(
    f"{args.steps} batches of {shape.rows} rows, {shape.encoder_length} +"
    f" {shape.decoder_length} tokens, {shape.records_per_batch} records ->"
    f" {args.output}"
  )
  return 0


def _show(args: argparse.Namespace) -> int:
  from dss_jax.cli import dataset_tables
  from dss_jax.data.feeding import preview

  shown = preview.preview(
    _dataset_config(args),
    vocabulary=args.vocabulary,
    seed=args.seed,
    step=args.step,
    max_rows=args.limit,
  )
  if args.json:
    print(json.dumps(shown, indent=2, ensure_ascii=False))
  else:
    dataset_tables.print_preview(shown, ids=args.ids)
  return 0


def _method_options(args: argparse.Namespace) -> Any:
  from dss_jax.data.pairs.subtasks import MethodOptions

  names = ("label_prefix", "rationale_prefix", "rationale_filter")
  given = {name: getattr(args, name) for name in names}
  return MethodOptions(**{k: v for k, v in given.items() if v is not None})


# --- convert -----------------------------------------------------------------


def _convert(args: argparse.Namespace) -> int:
  from dss_jax.datasets.records import write_records

  check_source(args)
  user_modules.import_modules(args.module)
  if args.input:
    if "{split}" in args.output:
      raise UserError("--output: {split} is for --dataset; --input has none")
    records, problems = _read_input(args)
    if problems and not args.skip_malformed:
      raise UserError(_problem_line(args, len(records), problems))
    records = records[: args.limit]
    print(f"{write_records(args.output, records)} records -> {args.output}")
    if problems:
      print(f"{len(problems)} malformed lines left out:", file=sys.stderr)
      for problem in problems[:_SHOWN_PROBLEMS]:
        print(f"  {problem}", file=sys.stderr)
    return 0
  from dss_jax import datasets

  options = dataclasses.replace(_data_options(args), max_records=args.limit)
  spec = datasets.get(args.dataset)
  found_splits = datasets.source_splits(spec, options)
  splits = (args.split,) if args.split else datasets.SPLITS
  if len(splits) > 1 and "{split}" not in args.output:
    raise UserError(
      f"--output={args.output} is one file for {len(splits)} splits: give"
      " --split, or write {split} in --output"
    )
  for split in splits:
    if split == "test" and split not in found_splits:
      continue
    path = args.output.replace("{split}", split)
    records = datasets.load_split(args.dataset, split, options=options)
    print(f"{split}: {write_records(path, records)} records -> {path}")
  return 0
