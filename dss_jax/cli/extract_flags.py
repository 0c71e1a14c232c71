"""The flags of stage 1, and the records and the plan that they describe."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.cli import flags
from dss_jax.cli.data_flags import (
  DATA_OPTIONS,
  SourceFlags,
  parse_field_mapping,
)

if TYPE_CHECKING:
  from dss_jax.datasets import DataOptions
  from dss_jax.datasets.records import Record
  from dss_jax.rationales.extraction_plan import ExtractionPlan
  from dss_jax.rationales.record_source import RecordSource

EPILOG = """\
examples:
  # what would be sent, and what it would cost
  dss-jax extract --dataset=cqa --data_dir=datasets --model=gpt-4.1-mini \\
    --show_prompt
  dss-jax extract --dataset=cqa --data_dir=datasets --model=gpt-4.1-mini \\
    --dry_run
  # ask a model of your own (vLLM, llama.cpp, Ollama, ...); five samples vote
  dss-jax extract --dataset=cqa --data_dir=datasets --output_dir=runs/cqa \\
    --base_url=http://127.0.0.1:8000/v1 --model=my-model \\
    --samples=5 --temperature=0.7
  # your own data, with a prompt drafted from them, which you then improve
  dss-jax extract --input=tickets.csv --field_mapping input=text label=team \\
    --draft_prompt=tickets.toml
  dss-jax extract --input=tickets.csv --field_mapping input=text label=team \\
    --prompt=tickets.toml --model=gpt-4.1-mini --output_dir=runs/tickets
  # without a model: the paper's own completions, or taxonli's rules
  dss-jax extract --dataset=cqa --data_dir=datasets --teacher=replay \\
    --output_dir=runs/cqa_palm
  # completions that you have already, of whatever model
  dss-jax extract --dataset=cqa --data_dir=datasets --model=my-model \\
    --completions=answers.jsonl --output_dir=runs/cqa_mine
  # train on what came out; test on the released records
  dss-jax data convert --dataset=cqa --data_dir=datasets --split=test \\
    --output=runs/cqa/test.jsonl
  dss-jax train --gin_file=models/t5_1_1/small.gin --gin_file=runs/train.gin \\
    --gin_file=data/cqa.gin --gin_file=methods/dss.gin --data_dir=runs/cqa \\
    --gin.data.DataOptions.source=records --gin.MODEL_DIR=runs/cqa_student \\
    --gin.TRAIN_STEPS=1000

A run that is started again resumes: nothing that was answered is asked again.
Ctrl-C lets the requests under way finish; twice stops at once. API keys come
from the environment (OPENAI_API_KEY, or --api_key_env) and are written nowhere.
"""

USAGE = (
  "dss-jax extract (--dataset NAME | --input FILE) --output_dir FOLDER ..."
)


@dataclasses.dataclass(frozen=True)
class RecordFlags:
  """Which records are asked about.

  Attributes:
    limit: only the first N records.
  """

  limit: int | None = None

  def __post_init__(self):
    checks.in_range("RecordFlags.limit", self.limit, 1, or_none=True)


@dataclasses.dataclass(frozen=True)
class TeacherFlags:
  """Who is asked.

  Attributes:
    model: as the endpoint names it; asks that endpoint.
    base_url: of the OpenAI-compatible endpoint, such as
      http://127.0.0.1:8000/v1; default: OpenAI's.
    api_key_env: environment variable with the key; a server on this machine
      needs none.
    api_key_command: prints the key, in place of a variable; run again when the
      key has expired: 'gcloud auth print-access-token'.
    api_key_header: that holds the key; api-key for Azure.
    api_version: for Azure.
    header: further headers of every request: 'X-Team: mine'.
    name: source of the rationales; default: the model's name.
    weight: of its rationales, relative to those of other teachers.
    teacher: replay: the released completions; rules: taxonli's; default:
      endpoint.
    rationale_source: whose completions --teacher=replay gives: palm (default),
      gpt-neox.
    error_rate: share of records that --teacher=rules answers wrongly.
    teachers: several teachers: a TOML file of [[teacher]] tables, whose keys
      are these flags' names; the flags are their defaults.
    extra_body: further fields of requests: '{"top_k": 20}'.
    max_tokens_field: max_completion_tokens for endpoints that ask for it.
    omit_fields: fields that the endpoint does not take: temperature,stop.
  """

  model: str | None = None
  base_url: str | None = None
  api_key_env: str = "OPENAI_API_KEY"
  api_key_command: str | None = None
  api_key_header: str = "Authorization"
  api_version: str | None = None
  header: tuple[str, ...] = ()
  name: str | None = None
  weight: float = 1.0
  teacher: str | None = None
  rationale_source: str | None = None
  error_rate: float = 0.0
  teachers: str | None = None
  extra_body: str = "{}"
  max_tokens_field: str = "max_tokens"
  omit_fields: str = ""


@dataclasses.dataclass(frozen=True)
class PromptFlags:
  """What teachers read.

  Attributes:
    prompt: shipped: anli, cqa, esnli, svamp, taxonli; or a TOML file; default:
      --dataset's.
    num_exemplars: only the first N, for short contexts; default: all.
    draft_prompt: write a prompt file for these records, made from their labels,
      to start from; asks nothing.
    show_prompt: print what would be sent for the first record, and ask nothing.
  """

  prompt: str | None = None
  num_exemplars: int | None = None
  draft_prompt: str | None = None
  show_prompt: bool = False


@dataclasses.dataclass(frozen=True)
class RunFlags:
  """What is done.

  Attributes:
    no_ask: ask nothing; write what the ledger holds, perhaps chosen otherwise.
    dry_run: ask nothing; print how many requests and tokens a run would take,
      and what they would cost.
    prices: a TOML file of prices, read before the packaged table.
  """

  no_ask: bool = False
  dry_run: bool = False
  prices: str | None = None


BATCH_STEPS = ("submit", "poll", "fetch", "cancel")


@dataclasses.dataclass(frozen=True)
class BatchFileFlags:
  """Requests and answers as files.

  Attributes:
    batch: submit what would be asked to the provider's batch interface; poll
      how far it is; fetch results and write the records; cancel it.
    write_batch: write the requests that would be sent to files in this folder,
      and ask nothing.
    read_batch: take results into the ledger, then write the records.
    batch_dir: with --read_batch: only results of requests that this folder
      holds.
  """

  batch: str | None = None
  write_batch: str | None = None
  read_batch: tuple[str, ...] = ()
  batch_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class StoredFlags:
  """Completions that are there already.

  Attributes:
    completions: a file of completions that some model wrote (JSON lines, a JSON
      list, CSV, Parquet): read as its answers, and nothing is asked. They belong
      to the records by "id", or in order.
    completion_field: the field of their texts; default: completion, text,
      response, output, ...
  """

  completions: str | None = None
  completion_field: str | None = None


@dataclasses.dataclass(frozen=True)
class OutputFlags:
  """Where records go.

  Attributes:
    output_dir: for the ledger, the records and the report.
    output_split: names the files, if not after --split.
    formats: jsonl, parquet, csv, tsv, array_record, separated by commas.
    json: print one JSON object, not tables.
  """

  output_dir: str | None = None
  output_split: str | None = None
  formats: tuple[str, ...] = ("jsonl",)
  json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  records = "which records"
  flags.add_flags(
    parser, SourceFlags, title=records, field_mapping={"metavar": "FIELD=KEY"}
  )
  flags.add_flags(parser, RecordFlags, title=records)
  flags.add_flags(
    parser,
    DATA_OPTIONS,
    *("data_dir", "source"),
    *(f"taxonli_num_{split}" for split in ("train", "validation", "test")),
    title=records,
  )
  plan = "rationales.extraction_plan"
  flags.add_flags(
    parser,
    TeacherFlags,
    title="who is asked",
    teacher={"choices": ("endpoint", "replay", "rules"), "metavar": None},
    base_url={"metavar": "URL"},
    api_key_command={"metavar": "COMMAND"},
    header={"metavar": "'NAME: VALUE'"},
    teachers={"metavar": "FILE"},
    extra_body={"metavar": "JSON"},
    omit_fields={"metavar": "A,B,..."},
  )
  prompt = "what is asked"
  flags.add_flags(
    parser, PromptFlags, title=prompt, prompt={"metavar": "NAME_OR_FILE"}
  )
  flags.add_flags(
    parser, f"{plan}.TeacherPlan", "style", "samples", title=prompt
  )
  flags.add_flags(
    parser,
    "rationales.teacher_requests.Sampling",
    *("temperature", "top_p", "max_tokens", "stop", "seed"),
    title=prompt,
    stop={"metavar": "TEXT"},
  )
  asking = "how it is asked"
  flags.add_flags(
    parser,
    "rationales.extraction_plan.AskOptions",
    *("concurrency", "requests_per_minute", "tokens_per_minute", "timeout_s"),
    *("max_attempts", "give_up_after_s", "retry_failed", "max_cost"),
    title=asking,
  )
  flags.add_flags(parser, RunFlags, title=asking, prices={"metavar": "FILE"})
  flags.add_flags(
    parser,
    BatchFileFlags,
    title="batches: by the provider's interface, or as files for others and"
    " for vLLM's run-batch",
    batch={"choices": BATCH_STEPS, "metavar": None},
    write_batch={"metavar": "FOLDER"},
    read_batch={"metavar": "FILE"},
  )
  flags.add_flags(
    parser,
    StoredFlags,
    title="completions that are there already",
    completions={"metavar": "FILE"},
  )
  choosing = "reading and choosing"
  flags.add_flags(
    parser,
    f"{plan}.ExtractionPlan",
    *("parser", "rationale_from", "retry_unparsed", "retry_temperature"),
    *("check_first", "min_yield"),
    title=choosing,
  )
  flags.add_flags(parser, f"{plan}.ChooseOptions", title=choosing)
  flags.add_flags(parser, OutputFlags, title="output", formats=flags.NAMES)


def make_source(args: argparse.Namespace) -> RecordSource:
  """The records that the flags name.

  Raises:
    UserError: for data that is not there, or not as it should be.
  """
  from dss_jax.rationales.record_source import RecordSource

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
  """The split of --dataset's source."""
  return args.split or "train"


def data_options(args: argparse.Namespace) -> DataOptions:
  """How --dataset is read."""
  from dss_jax.datasets import DataOptions

  if args.source in ("tfds", "huggingface"):
    return flags.build(DataOptions, args, rationale_source="human")
  return flags.build(DataOptions, args)


def _read(args: argparse.Namespace) -> Iterator[Record]:
  """The records of --input, without the lines that are no records."""
  from dss_jax.datasets import records

  found = records.iter_records(
    args.input, field_mapping=parse_field_mapping(args.field_mapping)
  )
  good = (item for item in found if isinstance(item, records.Record))
  return itertools.islice(good, args.limit)


def _count(args: argparse.Namespace) -> int:
  """How many records --input gives.

  Raises:
    UserError: for lines that are no records, unless they are to be skipped.
  """
  from dss_jax.datasets import records

  count, problems = 0, []
  for item in records.iter_records(
    args.input, field_mapping=parse_field_mapping(args.field_mapping)
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
  """The teachers that the flags name, and what each is asked."""
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
  return flags.build(
    ExtractionPlan,
    args,
    prompt=prompt,
    teachers=teachers,
    choose=flags.build(ChooseOptions, args),
  )
