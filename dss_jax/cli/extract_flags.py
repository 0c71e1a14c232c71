"""The flags of `dss-jax extract`."""

from __future__ import annotations

import argparse

from dss_jax.cli.data_flags import add_source

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
  # your own data, with your own exemplars
  dss-jax extract --input=tickets.csv --field_mapping input=text label=team \\
    --prompt=tickets.toml --model=gpt-4.1-mini --output_dir=runs/tickets
  # without a model: the paper's own completions, or taxonli's rules
  dss-jax extract --dataset=cqa --data_dir=datasets --teacher=replay \\
    --output_dir=runs/cqa_palm
  # train on what came out; test on the released records
  dss-jax data convert --dataset=cqa --data_dir=datasets --split=test \\
    --output=runs/cqa/test.jsonl
  dss-jax train --gin_file=models/t5_1_1/small.gin --gin_file=runs/train.gin \\
    --gin_file=data/cqa.gin --gin_file=methods/dss.gin --data_dir=runs/cqa \\
    --gin.data.DataOptions.source=records --gin.MODEL_DIR=runs/cqa_student

Started again, a run goes on: nothing that was answered is asked again. Ctrl-C
lets what is under way finish; twice stops at once. API keys come from the
environment (OPENAI_API_KEY, or --api_key_env) and are written nowhere.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags of the mode."""
  parser.usage = (
    "dss-jax extract (--dataset NAME | --input FILE) --output_dir FOLDER ..."
  )
  parser.epilog = EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  add_source(parser)
  _add_records(parser)
  _add_teacher(parser)
  _add_prompt(parser)
  _add_sampling(parser)
  _add_asking(parser)
  _add_batch_files(parser)
  _add_choosing(parser)
  _add_output(parser)


def _add_records(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("which records")
  group.add_argument(
    "--split",
    metavar="NAME",
    help="of --dataset's source; names the files (default: train)",
  )
  group.add_argument(
    "--limit", type=int, metavar="N", help="only the first N records"
  )
  group.add_argument(
    "--data_dir", help="the released datasets (else: DSS_DATA_DIR)"
  )
  group.add_argument(
    "--source",
    help="of --dataset: release (default), tfds, huggingface or records",
  )
  for split in ("train", "validation", "test"):
    group.add_argument(
      f"--taxonli_num_{split}",
      type=int,
      metavar="N",
      help=f"{split} records of taxonli",
    )


def _add_teacher(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("who is asked")
  group.add_argument(
    "--model", help="as the endpoint names it; asks that endpoint"
  )
  group.add_argument(
    "--base_url",
    metavar="URL",
    help="of the OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1"
    " (default: OpenAI's)",
  )
  group.add_argument(
    "--api_key_env",
    default="OPENAI_API_KEY",
    metavar="NAME",
    help="environment variable with the key; a server on this machine needs"
    " none. Default: %(default)s",
  )
  group.add_argument("--api_version", metavar="VERSION", help="for Azure")
  group.add_argument(
    "--name", help="source of the rationales (default: the model's name)"
  )
  group.add_argument(
    "--weight",
    type=float,
    default=1.0,
    metavar="W",
    help="of its rationales beside other teachers'; default: %(default)s",
  )
  group.add_argument(
    "--teacher",
    choices=("endpoint", "replay", "rules"),
    help="replay: the released completions; rules: taxonli's (default:"
    " endpoint)",
  )
  group.add_argument(
    "--rationale_source",
    metavar="NAME",
    help="whose completions --teacher=replay gives: palm (default), gpt-neox",
  )
  group.add_argument(
    "--error_rate",
    type=float,
    default=0.0,
    metavar="P",
    help="share of records that --teacher=rules answers wrongly",
  )
  group.add_argument(
    "--teachers",
    metavar="FILE",
    help="several teachers: a TOML file of [[teacher]] tables, whose keys are"
    " these flags' names; the flags are their defaults",
  )


def _add_prompt(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("prompt")
  group.add_argument(
    "--prompt",
    metavar="NAME_OR_FILE",
    help="shipped: anli, cqa, esnli, svamp, taxonli; or a TOML file (default:"
    " --dataset's)",
  )
  group.add_argument(
    "--num_exemplars",
    type=int,
    metavar="N",
    help="only the first N, for short contexts (default: all)",
  )
  group.add_argument(
    "--style",
    default="chat",
    metavar="HOW",
    help="chat (exemplars as turns) or completion (one text); default:"
    " %(default)s",
  )
  group.add_argument(
    "--show_prompt",
    action="store_true",
    help="print what would be sent for the first record, and ask nothing",
  )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("sampling")
  group.add_argument(
    "--samples",
    type=int,
    default=1,
    metavar="N",
    help="answers per record, which vote; default: %(default)s",
  )
  group.add_argument(
    "--temperature",
    type=float,
    default=0.0,
    metavar="T",
    help="default: %(default)s",
  )
  group.add_argument(
    "--top_p", type=float, default=1.0, metavar="P", help="default: %(default)s"
  )
  group.add_argument(
    "--max_tokens",
    type=int,
    default=256,
    metavar="N",
    help="longest answer; default: %(default)s",
  )
  group.add_argument(
    "--seed", type=int, metavar="N", help="sent where it is given"
  )
  group.add_argument(
    "--stop",
    action="append",
    metavar="TEXT",
    help=r"ends an answer, \n is a line's end; repeat it (default: the"
    " prompt's, in completion style)",
  )
  group.add_argument(
    "--extra_body",
    default="{}",
    metavar="JSON",
    help="further fields of requests: '{\"top_k\": 20}'",
  )
  group.add_argument(
    "--max_tokens_field",
    default="max_tokens",
    metavar="NAME",
    help="max_completion_tokens for endpoints that ask for it",
  )
  group.add_argument(
    "--omit_fields",
    default="",
    metavar="NAMES",
    help="fields that the endpoint does not take: temperature,stop",
  )


def _add_asking(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("asking")
  group.add_argument(
    "--concurrency",
    type=int,
    default=8,
    metavar="N",
    help="requests under way at once; default: %(default)s",
  )
  for what in ("requests", "tokens"):
    group.add_argument(
      f"--{what}_per_minute",
      type=float,
      metavar="N",
      help="the provider's limit, if there is one",
    )
  group.add_argument(
    "--timeout_s",
    type=float,
    default=120.0,
    metavar="S",
    help="for one answer; default: %(default)s",
  )
  group.add_argument(
    "--max_attempts",
    type=int,
    default=8,
    metavar="N",
    help="failures after which a request is given up; default: %(default)s",
  )
  group.add_argument(
    "--give_up_after_s",
    type=float,
    default=1800.0,
    metavar="S",
    help="stop when nothing was answered for so long; default: %(default)s",
  )
  group.add_argument(
    "--retry_failed",
    action="store_true",
    help="ask again what earlier runs gave up or saw rejected",
  )
  group.add_argument(
    "--no_ask",
    action="store_true",
    help="ask nothing; write what the ledger holds, perhaps chosen otherwise",
  )
  group.add_argument(
    "--dry_run",
    action="store_true",
    help="ask nothing; say how many requests and tokens it would take, and"
    " what they would cost",
  )
  group.add_argument(
    "--prices",
    metavar="FILE",
    help="a TOML file of prices, before the packaged table",
  )
  group.add_argument(
    "--max_cost",
    type=float,
    metavar="USD",
    help="stop before the ledger's answers have cost more",
  )


def _add_batch_files(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group(
    "batch files, for the providers' batch interfaces and vLLM's run-batch"
  )
  group.add_argument(
    "--write_batch",
    metavar="FOLDER",
    help="write the requests that would be sent to files, and ask nothing",
  )
  group.add_argument(
    "--read_batch",
    nargs="+",
    metavar="FILE",
    help="take results into the ledger, then write the records",
  )
  group.add_argument(
    "--batch_dir",
    metavar="FOLDER",
    help="with --read_batch: only results of requests that this folder holds",
  )


def _add_choosing(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("reading and choosing")
  group.add_argument(
    "--parser",
    default="tolerant",
    metavar="HOW",
    help="of answers: tolerant, or official for released completions",
  )
  group.add_argument(
    "--retry_unparsed",
    type=int,
    default=0,
    metavar="N",
    help="further samples in place of an answer that cannot be read",
  )
  group.add_argument(
    "--retry_temperature",
    type=float,
    default=0.7,
    metavar="T",
    help="lowest temperature of those; default: %(default)s",
  )
  group.add_argument(
    "--vote",
    default="majority",
    metavar="HOW",
    help="majority (weights are shares of the votes; default) or none",
  )
  group.add_argument(
    "--keep",
    default="all",
    metavar="HOW",
    help="rationales of all answers (default), of the majority's, or one",
  )
  group.add_argument(
    "--gold",
    default="keep",
    metavar="HOW",
    help="rationales that argue against the gold label: keep (default), drop,"
    " or rationalise: ask the teacher, told that label, for another",
  )
  group.add_argument(
    "--keep_completions",
    default="unparsed",
    metavar="HOW",
    help="the raw texts in the records: unparsed (default), all or none; the"
    " ledger has them all",
  )
  group.add_argument(
    "--earlier",
    default="drop",
    metavar="HOW",
    help="rationales that the records come with: drop (default) or keep",
  )


def _add_output(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("output")
  group.add_argument(
    "--output_dir",
    metavar="FOLDER",
    help="of the ledger, the records and the report",
  )
  group.add_argument(
    "--output_split",
    metavar="NAME",
    help="names the files, if not after --split",
  )
  group.add_argument(
    "--formats",
    default="jsonl",
    metavar="NAMES",
    help="jsonl, parquet, csv, tsv, tfrecord, array_record, separated by"
    " commas; default: %(default)s",
  )
  group.add_argument(
    "--json", action="store_true", help="print one JSON object, not tables"
  )
