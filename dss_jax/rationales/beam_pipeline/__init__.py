"""Stage 1 on many workers: `dss-jax extract` as an Apache Beam transform.

  with beam.Pipeline(options=options) as pipeline:
    (
      pipeline
      | ReadRecords("gs://mine/train-*.jsonl")
      | ExtractRationales(plan, "gs://mine/ledger", num_shards=64)
      | WriteRecords(["gs://mine/out/train.jsonl"], num_shards=8)
    )

or `python -m dss_jax.cli.apache_beam` with the flags of `dss-jax extract` and
Beam's own. Prompts, requests, parsing and choosing are those of `extraction`;
this folder only distributes the records. They are grouped by shard of the
ledger (see `ledger_shards`), and the worker that has a shard asks about its
records, `concurrency` at a time. A bundle that is tried again, and a pipeline that is
run again, find in the ledger what was answered. API keys are read from the
environment of the worker that asks; the pipeline never holds one.

Only this folder imports Apache Beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

try:
  import apache_beam as beam
except ImportError as error:
  raise ImportError(
    "needs Apache Beam: pip install 'dss_jax[beam]', in its own environment"
    f" ({error})"
  ) from None

from dss_jax.base.errors import UserError
from dss_jax.rationales.beam_pipeline.ask_shards import (
  INTERRUPTED,
  ExtractRationales,
)
from dss_jax.rationales.beam_pipeline.beam_files import BeamFiles
from dss_jax.rationales.beam_pipeline.elements import NAMESPACE
from dss_jax.rationales.beam_pipeline.read_records import (
  ReadDataset,
  ReadRecords,
)
from dss_jax.rationales.beam_pipeline.write_records import WriteRecords

__all__ = [
  "NAMESPACE",
  "BeamFiles",
  "ExtractRationales",
  "ReadDataset",
  "ReadRecords",
  "WriteRecords",
  "pipeline_options",
  "run_pipeline",
]


def pipeline_options(flags: Sequence[str]) -> Any:
  """Beam's options.

  Raises:
    UserError: for a flag that Beam does not know, which it would pass over.
  """
  from apache_beam.options import pipeline_options as options

  parser = options._BeamArgumentParser(allow_abbrev=False, add_help=False)
  for known in set(options.PipelineOptions.__subclasses__()):
    known._add_argparse_args(parser)
  _, unknown = parser.parse_known_args(list(flags))
  if unknown:
    raise UserError(f"unknown argument {unknown[0]!r}")
  return options.PipelineOptions(list(flags))


def run_pipeline(
  read: beam.PTransform,
  extract: ExtractRationales,
  write: WriteRecords,
  options: Any = None,
) -> dict[str, int]:
  """Runs the three transforms as a pipeline and waits for its end.

  Args:
    read: `ReadRecords`, `apache_beam.Create` of records, or another transform.
    extract: records -> records with rationales.
    write: records -> files.
    options: Beam's options; the process's own flags are ignored.

  Returns:
    The metrics, by name.

  Raises:
    UserError: also one of a worker, where the runner passes it on.
    KeyboardInterrupt: Ctrl-C, here or in a worker.
  """
  pipeline = beam.Pipeline(options=options or pipeline_options([]))
  _ = (
    pipeline
    | "ReadRecords" >> read
    | "ExtractRationales" >> extract
    | "WriteRecords" >> write
  )
  try:
    result = pipeline.run()
    result.wait_until_finish()
  except Exception as error:
    message = _worker_error(error)
    if message is None:
      raise
    if message == INTERRUPTED:
      raise KeyboardInterrupt from None
    raise UserError(message) from error
  found: dict[str, int] = {}
  for counter in result.metrics().query()["counters"]:
    if counter.key.metric.namespace == NAMESPACE:
      name = counter.key.metric.name
      found[name] = found.get(name, 0) + counter.result
  return dict(sorted(found.items()))


def _worker_error(error: Exception) -> str | None:
  """The message of a UserError on a worker; None for another error."""
  marks = ("UserError: ", "InUseError: ")
  for line in reversed(str(error).splitlines()):
    for mark in marks:
      if mark in line:
        message = line.partition(mark)[2]
        return message.partition(" [while running")[0]
  if isinstance(error, UserError):
    return str(error).partition(" [while running")[0]
  return None
