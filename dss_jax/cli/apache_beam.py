"""`python -m dss_jax.cli.apache_beam`: stage 1 as a pipeline, from flags.

The flags are those of `dss-jax extract`, some of its own, and Beam's
(`--runner`, `--direct_num_workers`, `--region`, ...).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from dss_jax.base import user_modules
from dss_jax.base.errors import UserError
from dss_jax.cli import extract_flags, flag_hints, flags
from dss_jax.cli.data_flags import SourceFlags, parse_field_mapping

_PROGRAM = "python -m dss_jax.cli.apache_beam"

_EPILOG = """\
examples:
  # on this machine, two processes
  python -m dss_jax.cli.apache_beam --input=train.jsonl --prompt=cqa \\
    --model=my-model --base_url=http://127.0.0.1:8000/v1 \\
    --output=out/train.jsonl --num_shards=8 \\
    --runner=FnApiRunner --direct_running_mode=multi_processing \\
    --direct_num_workers=2
  # on many
  python -m dss_jax.cli.apache_beam --input='gs://mine/train-*.jsonl' \\
    --prompt=cqa --model=my-model --base_url=https://models.example/v1 \\
    --output=gs://mine/out/train.jsonl --output_shards=16 --num_shards=64 \\
    --requests_per_minute=6000 --runner=DataflowRunner --region=... \\
    --sdk_container_image=...

A pipeline that is run again asks nothing that was answered. Keys are read from
the workers' environment. All other flags are Beam's.
"""

# Flags of `dss-jax extract` that do not extract.
_ELSEWHERE = (
  "show_prompt",
  "dry_run",
  "batch",
  "write_batch",
  "read_batch",
  "batch_dir",
)


@dataclasses.dataclass(frozen=True)
class PipelineFlags:
  """The pipeline.

  Attributes:
    output: of records, in any of Beam's file systems; instead of --output_dir
      and --formats.
    output_shards: files of each format, FILE-00000-of-0000N.
    ledger_dir: for the answers, reached by all workers; default: ledger, in the
      output's folder.
    ledger_kind: sqlite (a local disk), segments (anything else), or auto (by
      the path).
    num_shards: pieces that are asked at the same time, at most; kept for the
      life of a ledger; default: the ledger's, or 16.
    parallel_shards: how many of the pieces there are workers for; limits a
      minute are divided by it; default: --num_shards.
  """

  output: str | None = None
  output_shards: int = 1
  ledger_dir: str | None = None
  ledger_kind: str = "auto"
  num_shards: int | None = None
  parallel_shards: int | None = None


def main(argv: Sequence[str]) -> int:
  """Runs the pipeline.

  Returns:
    The exit status: 0 when everything was asked and answered, 1 when shards
    stopped before, 2 for wrong input, 3 when answers were given up or rejected,
    130 after Ctrl-C.
  """
  # Abbreviations would swallow flags of Beam's.
  parser = argparse.ArgumentParser(
    prog=_PROGRAM,
    allow_abbrev=False,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  extract_flags.add_arguments(parser)
  flags.add_flags(parser, PipelineFlags, title="the pipeline")
  args, beam_flags = parser.parse_known_args(argv)
  # What a worker raises for the user is printed once, below.
  logging.getLogger("apache_beam.runners.common").addFilter(_is_news)
  try:
    return _run(args, beam_flags)
  except UserError as error:
    message = flag_hints.with_hints(error, args.field_flags)
    print(f"{_PROGRAM}: {message}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(f"{_PROGRAM}: interrupted; start it again to resume", file=sys.stderr)
    return 130


def _is_news(record: logging.LogRecord) -> bool:
  return not (record.exc_info and isinstance(record.exc_info[1], UserError))


def _run(args: argparse.Namespace, beam_flags: Sequence[str]) -> int:
  try:
    from dss_jax.rationales import beam_pipeline as beam
  except ImportError as error:
    raise UserError(str(error)) from None
  from dss_jax.rationales.prices import Prices

  for name in _ELSEWHERE:
    if getattr(args, name):
      raise UserError(f"--{name} is for `dss-jax extract`")
  flags.build(extract_flags.RecordFlags, args)
  flags.build(SourceFlags, args)
  user_modules.import_modules(args.module)
  paths = _paths(args)
  counters = beam.run_pipeline(
    _reader(args),
    beam.ExtractRationales(
      extract_flags.make_plan(args),
      args.ledger_dir or _sibling(paths[0], "ledger"),
      num_shards=args.num_shards,
      parallel_shards=args.parallel_shards,
      ledger_kind=args.ledger_kind,
      prices=Prices.load(args.prices),
      ask=not args.no_ask,
    ),
    beam.WriteRecords(paths, num_shards=args.output_shards),
    beam.pipeline_options(beam_flags),
  )
  if args.json:
    print(json.dumps({"files": paths, "counters": counters}, indent=2))
  else:
    for name, number in counters.items():
      print(f"{name:24} {number:12,}")
  if counters.get("shards_stopped"):
    print(
      f"{_PROGRAM}: {counters['shards_stopped']} shards stopped before"
      " everything was asked; start it again to resume",
      file=sys.stderr,
    )
    return 1
  if any(counters.get(f"status_{name}") for name in ("rejected", "gave_up")):
    print(
      f"{_PROGRAM}: answers were rejected or given up; --retry_failed asks for"
      " them again",
      file=sys.stderr,
    )
    return 3
  return 0


def _paths(args: argparse.Namespace) -> list[str]:
  if args.output and args.output_dir:
    raise UserError("--output and --output_dir exclude each other")
  if args.output:
    return [args.output]
  if not args.output_dir:
    raise UserError("where shall the records go? give --output")
  split = args.output_split or extract_flags.split_name(args)
  folder = args.output_dir.rstrip("/")
  return [f"{folder}/{split}.{name}" for name in args.formats]


def _sibling(path: str, name: str) -> str:
  folder, slash, _ = path.rpartition("/")
  return f"{folder}{slash}{name}"


def _reader(args: argparse.Namespace) -> Any:
  from dss_jax.rationales import beam_pipeline as beam

  if args.input:
    return beam.ReadRecords(
      args.input,
      field_mapping=parse_field_mapping(args.field_mapping),
      skip_malformed=args.skip_malformed,
      limit=args.limit,
    )
  from dss_jax import datasets

  datasets.get(args.dataset)
  return beam.ReadDataset(
    args.dataset,
    extract_flags.split_name(args),
    extract_flags.data_options(args),
    modules=args.module,
    limit=args.limit,
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
