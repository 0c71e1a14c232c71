"""What the flags of stage 1 stand for: a source of records, and a plan."""

from __future__ import annotations

import argparse
import itertools
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dss_jax.base.errors import UserError

if TYPE_CHECKING:
  from dss_jax.datasets import DataOptions
  from dss_jax.datasets.records import Record
  from dss_jax.rationales.extraction import RecordSource
  from dss_jax.rationales.extraction_plan import ExtractionPlan


def make_source(args: argparse.Namespace) -> RecordSource:
  """The records that the flags name, `--limit` of them at most.

  Raises:
    UserError: for data that is not there, or not as it should be.
  """
  from dss_jax.rationales.extraction import RecordSource

  if args.dataset:
    from dss_jax import datasets

    records = datasets.load_source_split(
      args.dataset, split_name(args), options=data_options(args)
    )
    name = f"{args.dataset}, {split_name(args)}"
    return RecordSource.of_records(name, records[: args.limit])
  count = _count(args)
  return RecordSource(pathlib.Path(args.input).name, lambda: _read(args), count)


def split_name(args: argparse.Namespace) -> str:
  """Of --dataset's source."""
  return args.split or "train"


def data_options(args: argparse.Namespace) -> DataOptions:
  """How --dataset is read."""
  from dss_jax.datasets import DataOptions

  names = (
    "data_dir",
    "source",
    "taxonli_num_train",
    "taxonli_num_validation",
    "taxonli_num_test",
  )
  given = {name: getattr(args, name) for name in names}
  if args.source in ("tfds", "huggingface"):
    given["rationale_source"] = "human"
  return DataOptions(**{k: v for k, v in given.items() if v is not None})


def _read(args: argparse.Namespace) -> Iterator[Record]:
  """The records of --input, one by one; lines that are none are passed over."""
  from dss_jax.cli import data as data_command
  from dss_jax.datasets import records

  found = records.iter_records(
    args.input, field_mapping=data_command.field_mapping(args)
  )
  good = (item for item in found if isinstance(item, records.Record))
  return itertools.islice(good, args.limit)


def _count(args: argparse.Namespace) -> int:
  """How many records --input gives.

  Raises:
    UserError: it has lines that are none, and they shall not be skipped.
  """
  from dss_jax.cli import data as data_command
  from dss_jax.datasets import records

  count, problems = 0, []
  for item in records.iter_records(
    args.input, field_mapping=data_command.field_mapping(args)
  ):
    if isinstance(item, records.Problem):
      problems.append(item)
    else:
      count += 1
    if count == args.limit:
      break
  if problems and not args.skip_malformed:
    raise UserError(
      f"{len(problems)} of {count + len(problems)} lines of {args.input} cannot"
      f" be used; the first: {problems[0]} (mend them, or give"
      " --skip_malformed)"
    )
  if problems:
    print(
      f"{len(problems)} lines of {args.input} are left out; the first:"
      f" {problems[0]}",
      file=sys.stderr,
    )
  return count


def make_plan(args: argparse.Namespace) -> ExtractionPlan:
  """What the flags ask of which teachers."""
  from dss_jax.rationales import prompt_files, teacher_tables
  from dss_jax.rationales.extraction_plan import ChooseOptions, ExtractionPlan

  if not args.prompt and not args.dataset:
    raise UserError(
      "--input needs a --prompt: copy one of the files in"
      f" {prompt_files.FOLDER} and write exemplars of your own"
    )
  prompt = prompt_files.load(
    args.prompt or prompt_files.for_dataset(args.dataset)
  )
  if args.num_exemplars is not None:
    prompt = prompt.with_exemplars(args.num_exemplars)
  tables: list[dict[str, Any]] = [{}]
  if args.teachers:
    tables = teacher_tables.read_tables(args.teachers)
  teachers = tuple(
    teacher_tables.teacher_plan(
      vars(args) | table,
      dataset=args.dataset,
      split=split_name(args),
      options=data_options(args),
      prompt=prompt,
    )
    for table in tables
  )
  return ExtractionPlan(
    prompt=prompt,
    teachers=teachers,
    parser=args.parser,
    retry_unparsed=args.retry_unparsed,
    retry_temperature=args.retry_temperature,
    choose=ChooseOptions(
      vote=args.vote,
      keep=args.keep,
      gold=args.gold,
      keep_completions=args.keep_completions,
      earlier=args.earlier,
    ),
  )
