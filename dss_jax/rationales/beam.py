"""Stage 1 on many workers: `dss-jax extract` as an Apache Beam transform.

  with beam.Pipeline(options=options) as pipeline:
    (
      pipeline
      | ReadRecords("gs://mine/train-*.jsonl")
      | ExtractRationales(plan, "gs://mine/ledger", num_shards=64)
      | WriteRecords(["gs://mine/out/train.jsonl"], num_shards=8)
    )

or `python -m dss_jax.rationales.beam` with the flags of `dss-jax extract` and
Beam's own. Prompts, requests, parsing and choosing are those of `extraction`;
here is only how records are dealt out. They are grouped by shard of the ledger
(see `ledger_shards`), and whoever has a shard asks about its records,
`concurrency` at a time. A bundle that is tried again, and a pipeline that is
run again, find in the ledger what was answered. API keys are read from the
environment of the worker that asks; the pipeline never holds one.

The only module that imports Apache Beam.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

try:
  import apache_beam as beam
  from apache_beam.io.filesystem import BeamIOError, CompressionTypes
  from apache_beam.io.filesystems import FileSystems
  from apache_beam.metrics import Metrics
except ImportError as error:
  _NEEDS = f"pip install 'dss_jax[beam]', in its own environment ({error})"
  if __name__ == "__main__":
    sys.exit(f"dss_jax.rationales.beam needs Apache Beam: {_NEEDS}")
  raise ImportError(f"needs Apache Beam: {_NEEDS}") from None

from dss_jax import datasets
from dss_jax.data import command as data_command
from dss_jax.datasets import DataOptions
from dss_jax.errors import UserError, one_line
from dss_jax.rationales import choosing, extraction, ledger_shards, outputs
from dss_jax.rationales.extraction import Source
from dss_jax.rationales.plan import Plan
from dss_jax.rationales.prices import Prices
from dss_jax.records import (
  FieldMapping,
  Record,
  SeenTexts,
  iter_rows,
  json_lines,
  strict_json,
)

NAMESPACE = "dss_jax.rationales"

_INTERRUPTED = "interrupted; start it again to go on"

_LOG = logging.getLogger(__name__)


def _count(name: str, number: int = 1) -> None:
  """Adds to a metric of the pipeline."""
  if number:
    Metrics.counter(NAMESPACE, name).inc(number)


# --- reading -----------------------------------------------------------------


class ReadRecords(beam.PTransform):
  """Files of records, of the kinds that `records.iter_records` reads.

  A file is read by one worker; several files, by several.

  Args:
    pattern: a path, perhaps with `*`, in any of Beam's file systems.
    field_mapping: record field -> key of the file.
    skip_malformed: leave out lines that are no record, rather than fail; the
      metric `malformed_lines` counts them.
    limit: only so many records; for one file.

  Raises:
    UserError: when it is applied: nothing matches.
  """

  def __init__(
    self,
    pattern: str,
    *,
    field_mapping: Mapping[str, Any] | FieldMapping | None = None,
    skip_malformed: bool = False,
    limit: int | None = None,
  ):
    super().__init__()
    self._pattern = pattern
    self._mapping = FieldMapping.parse(field_mapping)
    self._skip_malformed = skip_malformed
    self._limit = limit

  def expand(self, pcoll):
    paths = _matching([self._pattern])
    if not paths:
      raise UserError(f"no such file: {self._pattern} (--input)")
    if self._limit is not None and len(paths) > 1:
      raise UserError(
        f"--limit is for one file, and {self._pattern} matches {len(paths)}"
      )
    return (
      pcoll
      | "Files" >> beam.Create(paths)
      | "Deal" >> beam.Reshuffle()
      | "Read"
      >> beam.FlatMap(
        _read_file,
        self._mapping,
        len(paths) > 1,
        self._skip_malformed,
        self._limit,
      ).with_output_types(Record)
    )


def _read_file(
  path: str,
  mapping: FieldMapping,
  is_one_of_many: bool,
  skip_malformed: bool,
  limit: int | None,
) -> Iterator[Record]:
  """The records of a file; those without ids are called after their lines."""
  prefix = f"{path.rpartition('/')[2]}:" if is_one_of_many else ""
  seen = SeenTexts()
  number = 0
  with _local_copy(path) as local:
    for line, row in iter_rows(local, mapping):
      if number == limit:
        return
      try:
        if isinstance(row, UserError):
          raise row
        record = mapping.record(row, default_id=f"{prefix}line-{line}")
        if seen.add(record.id) is not None:
          raise UserError(f"id {record.id[:64]!r} appears twice")
      except UserError as error:
        if not skip_malformed:
          raise UserError(
            f"{path}:{line}: {error} (mend it, or give --skip_malformed)"
          ) from None
        _count("malformed_lines")
        continue
      number += 1
      yield record


class ReadDataset(beam.PTransform):
  """A registered dataset's records, read on a worker.

  Args:
    dataset: its name.
    split: of its source.
    options: how and from where it is read; a folder, as the worker sees it.
    modules: imported before, for datasets that they register.
    limit: only so many records.
  """

  def __init__(
    self,
    dataset: str,
    split: str,
    options: DataOptions,
    *,
    modules: Sequence[str] = (),
    limit: int | None = None,
  ):
    super().__init__()
    self._arguments = (dataset, options, tuple(modules), limit)
    self._split = split

  def expand(self, pcoll):
    return (
      pcoll
      | "Split" >> beam.Create([self._split])
      | "Load"
      >> beam.FlatMap(_load_split, *self._arguments).with_output_types(Record)
    )


def _load_split(
  split: str,
  dataset: str,
  options: DataOptions,
  modules: Sequence[str],
  limit: int | None,
) -> Sequence[Record]:
  data_command.import_modules(modules)
  return datasets.load_source_split(dataset, split, options=options)[:limit]


# --- asking ------------------------------------------------------------------


class ExtractRationales(beam.PTransform):
  """Records -> the same records with the rationales of a plan's teachers.

  Takes `Record`s, or the same as JSON lines, which are called after their hash
  where they have no id. Every one comes out again, in any
  order; why it has no rationale, if so, its statuses say. Metrics of the
  namespace `dss_jax.rationales` count records, statuses, and what asking did.

  Limits are those of the whole pipeline: requests and tokens a minute are
  divided by the shards that may be asked at once, `max_cost` by all shards.
  `concurrency` is each shard's.

  Args:
    plan: prompt, teachers and votes; teachers read their keys on the worker.
    ledger_dir: of the answers, reached under this name by all workers.
    num_shards: pieces in which records are asked, none by two workers at once;
      None takes that of the ledger, or 16. As many workers have work; each
      shard should have many times `concurrency` records.
    parallel_shards: shards that are asked at the same time, at most; None
      means all.
    ledger_kind: "sqlite", "segments" or, by the path, "auto"; see
      `ledger_shards`.
    prices: of models, for `max_cost`; the packaged table if None.
    ask: False asks nothing; records get what the ledger holds.

  Raises:
    UserError: for arguments that do not go together or with the ledger.
  """

  def __init__(
    self,
    plan: Plan,
    ledger_dir: str,
    *,
    num_shards: int | None = None,
    parallel_shards: int | None = None,
    ledger_kind: str = "auto",
    prices: Prices | None = None,
    ask: bool = True,
  ):
    super().__init__()
    folder = os.fspath(ledger_dir).rstrip("/") or "/"
    if set("*?[") & set(folder):
      raise UserError(f"--ledger_dir is {folder!r}; it may not hold *, ? or [")
    kind = ledger_shards.kind_of(ledger_kind, folder)
    names = [os.path.basename(p) for p in _matching([f"{folder}/shard-*"])]
    shards = ledger_shards.check_num_shards(names, num_shards) or 16
    parallel = shards if parallel_shards is None else parallel_shards
    if not 1 <= parallel <= shards:
      raise UserError(
        f"--parallel_shards is {parallel}; allowed: 1 to --num_shards, {shards}"
      )
    self._plan = _with_shares(plan, shards, parallel)
    self._asker = _AskShard(
      self._plan, folder, kind, shards, prices or Prices.load(), ask
    )
    self._num_shards = shards

  def expand(self, pcoll):
    records = pcoll | "Parse" >> beam.Map(_as_record).with_output_types(Record)
    if all(own.knows_records for own in self._plan.teachers):
      return records | "Answer" >> beam.ParDo(_Answer(self._plan))
    return (
      records
      | "ByShard"
      >> beam.Map(_by_shard, self._num_shards).with_output_types(
        tuple[int, bytes]
      )
      | "Shards" >> beam.GroupByKey()
      | "Ask" >> beam.ParDo(self._asker).with_output_types(Record)
    )


def _with_shares(plan: Plan, num_shards: int, parallel_shards: int) -> Plan:
  """The plan with a shard's part of the limits."""

  def part(value: float | None, of: int) -> float | None:
    return None if value is None else value / of

  teachers = []
  for own in plan.teachers:
    ask = dataclasses.replace(
      own.ask,
      requests_per_minute=part(own.ask.requests_per_minute, parallel_shards),
      tokens_per_minute=part(own.ask.tokens_per_minute, parallel_shards),
      max_cost=part(own.ask.max_cost, num_shards),
    )
    teachers.append(dataclasses.replace(own, ask=ask))
  return dataclasses.replace(plan, teachers=tuple(teachers))


def _as_record(element: Record | str | bytes) -> Record:
  if isinstance(element, Record):
    return element
  try:
    text = element.decode() if isinstance(element, bytes) else element
    row = json_lines.as_mapping(strict_json.loads(text))
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return FieldMapping().record(row, default_id=f"line-{digest[:16]}")
  except UnicodeDecodeError:
    raise UserError("an element is not valid UTF-8") from None


def _by_shard(record: Record, num_shards: int) -> tuple[int, bytes]:
  shard = ledger_shards.shard_of(record.input, num_shards)
  return shard, json_lines.dumps(record)


class _Answer(beam.DoFn):
  """Teachers that know records need neither ledger nor network."""

  def __init__(self, plan: Plan):
    self._plan = plan

  def process(self, element):
    source = Source.of_records("", [element])
    yield from _chosen(source, self._plan, None)


class _AskShard(beam.DoFn):
  """Asks about all records of a shard, then chooses."""

  def __init__(
    self,
    plan: Plan,
    folder: str,
    kind: str,
    num_shards: int,
    prices: Prices,
    ask: bool,
  ):
    self._plan = plan
    self._folder = folder
    self._kind = kind
    self._num_shards = num_shards
    self._prices = prices
    self._ask = ask

  def setup(self):
    # A worker's log is shipped; a line for each request is too many.
    for name in ("httpx2", "openai"):
      logging.getLogger(name).setLevel(logging.WARNING)

  def process(self, element):
    shard, lines = element
    source = Source(
      f"shard {shard} of {self._num_shards}",
      lambda: map(_as_record, lines),
      sum(1 for _ in lines),
    )
    with ledger_shards.open_shard(
      self._folder,
      shard,
      self._num_shards,
      kind=self._kind,
      files=BeamFiles(),
    ) as ledger:
      # A shard may by chance hold nothing but records that cannot be asked.
      if self._ask and any(map(self._fits, source.read())):
        self._ask_everything(source, ledger)
      yield from _chosen(source, self._plan, ledger)

  def _fits(self, record: Record) -> bool:
    """Whether the record fits the prompt."""
    try:
      self._plan.prompt.request(record, style="completion", model="")
    except UserError:
      return False
    return True

  def _ask_everything(self, source: Source, ledger: Any) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
      summaries, stopped = extraction.ask_everything(
        source, self._plan, ledger, prices=self._prices, stream=nowhere
      )
    totals: collections.Counter[str] = collections.Counter()
    for rounds in summaries.values():
      for summary in rounds.values():
        for name, value in dataclasses.asdict(summary).items():
          if isinstance(value, int) and name != "stopped":
            totals[name] += value
        for kind, number in summary.faults.items():
          totals[f"fault_{kind}"] += number
    for name, number in totals.items():
      _count(name, number)
    shown = ", ".join(f"{v} {k}" for k, v in totals.items() if v)
    _LOG.info("%s: %d records; %s", source.name, source.count, shown)
    if stopped.startswith("interrupted"):
      raise UserError(_INTERRUPTED)
    if stopped:
      _count("shards_stopped")
      _LOG.warning("%s stopped: %s", source.name, stopped)


def _chosen(source: Source, plan: Plan, ledger: Any) -> Iterator[Record]:
  """The records as the answers make them, counted."""
  for record in extraction.chosen_records(source, plan, ledger):
    _count("records")
    account = cast(Mapping[str, Any], record.meta[choosing.ACCOUNT])
    for teacher in account["teachers"].values():
      for status, number in teacher["statuses"].items():
        _count(f"status_{status}", number)
    yield record


# --- writing -----------------------------------------------------------------


class WriteRecords(beam.PTransform):
  """Records into files, each of them whole or not at all.

  Args:
    paths: one for each format that is wanted, with suffixes of
      `outputs.SUFFIXES`, in any of Beam's file systems.
    num_shards: files of each; with more than one, "train.jsonl" stands for
      "train-00000-of-00004.jsonl" and so on.

  Raises:
    UserError: an unknown suffix; files of another number of shards are there;
      in the pipeline, an id that appears twice.
  """

  def __init__(self, paths: Sequence[str], *, num_shards: int = 1):
    super().__init__()
    if not paths:
      raise UserError("no file to write records to (--output)")
    if not 1 <= num_shards <= ledger_shards.MAX_SHARDS:
      raise UserError(
        f"--output_shards is {num_shards}; allowed: 1 to"
        f" {ledger_shards.MAX_SHARDS}"
      )
    for path in paths:
      stem, suffix = os.path.splitext(path)
      if suffix.lower() not in outputs.SUFFIXES:
        raise UserError(
          f"{path}: unknown suffix {suffix!r}; allowed:"
          f" {', '.join(outputs.SUFFIXES)} (--output)"
        )
      mine = {_sharded(path, i, num_shards) for i in range(num_shards)}
      others = set(_matching([f"{stem}-?????-of-?????{suffix}"])) - mine
      if others:
        raise UserError(
          f"{min(others)} is there already, of another number of shards: remove"
          " those files, or change --output_shards or --output"
        )
    self._paths = tuple(paths)
    self._num_shards = num_shards

  def expand(self, pcoll):
    lines = pcoll | "ById" >> beam.Map(
      _by_id, self._num_shards
    ).with_output_types(tuple[int, bytes])
    # So that a file without records is there as well.
    empty = pcoll.pipeline | "Empty" >> beam.Create(
      [(shard, b"") for shard in range(self._num_shards)]
    ).with_output_types(tuple[int, bytes])
    return (
      (lines, empty)
      | beam.Flatten()
      | "Files" >> beam.GroupByKey()
      | "Write" >> beam.ParDo(_WriteShard(self._paths, self._num_shards))
    )


def _by_id(record: Record, num_shards: int) -> tuple[int, bytes]:
  shard = ledger_shards.shard_of(record.id, num_shards)
  return shard, json_lines.dumps(record)


def _sharded(path: str, shard: int, num_shards: int) -> str:
  if num_shards == 1:
    return path
  stem, suffix = os.path.splitext(path)
  return f"{stem}-{shard:05d}-of-{num_shards:05d}{suffix}"


class _WriteShard(beam.DoFn):
  """Writes one file of each format."""

  def __init__(self, paths: tuple[str, ...], num_shards: int):
    self._paths = paths
    self._num_shards = num_shards

  def process(self, element):
    shard, lines = element
    with tempfile.TemporaryDirectory(prefix="dss_jax-write-") as folder:
      local = [
        pathlib.Path(folder, f"{i}{os.path.splitext(path)[1]}")
        for i, path in enumerate(self._paths)
      ]
      made = (_as_record(line) for line in lines if line)
      _count("written", outputs.write_outputs(local, made))
      for made_here, path in zip(local, self._paths):
        target = _sharded(path, shard, self._num_shards)
        with made_here.open("rb") as file:
          _put(file, target)
        yield target


# --- file systems ------------------------------------------------------------


class BeamFiles:
  """`ledger_shards.Files` in any of Beam's file systems."""

  def beginning_with(self, prefix: str) -> list[str]:
    return _matching([f"{prefix}*"])

  def read(self, path: str) -> bytes:
    with FileSystems.open(
      path, compression_type=CompressionTypes.UNCOMPRESSED
    ) as file:
      return file.read()

  def write(self, path: str, content: bytes) -> None:
    _put(io.BytesIO(content), path)


def _matching(patterns: Sequence[str]) -> list[str]:
  """The paths of all files that match, in order."""
  try:
    results = FileSystems.match(list(patterns))
  except (BeamIOError, ValueError, OSError) as error:
    raise UserError(
      f"cannot look for {patterns[0]}: {one_line(error)}"
    ) from None
  return sorted(found.path for each in results for found in each.metadata_list)


def _put(file: Any, path: str) -> None:
  """Makes a file that is there whole or not at all."""
  folder, name = FileSystems.split(path)
  if folder and not FileSystems.exists(folder):
    # Another worker may be faster.
    with contextlib.suppress(BeamIOError, OSError):
      FileSystems.mkdirs(folder)
  temporary = FileSystems.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
  try:
    with FileSystems.create(
      temporary, compression_type=CompressionTypes.UNCOMPRESSED
    ) as target:
      shutil.copyfileobj(file, target)
    FileSystems.rename([temporary], [path])
  except (BeamIOError, OSError) as error:
    raise UserError(f"cannot write {path}: {one_line(error)}") from None


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[str]:
  """The path itself or, of a remote file, a copy's for as long."""
  if "://" not in path:
    yield path
    return
  with tempfile.TemporaryDirectory(prefix="dss_jax-read-") as folder:
    local = os.path.join(folder, path.rpartition("/")[2])
    with (
      FileSystems.open(
        path, compression_type=CompressionTypes.UNCOMPRESSED
      ) as source,
      open(local, "wb") as target,
    ):
      shutil.copyfileobj(source, target)
    yield local


# --- running -----------------------------------------------------------------


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
    raise UserError(f"unknown argument {unknown[0]!r}; see --help")
  return options.PipelineOptions(list(flags))


def run_pipeline(
  read: beam.PTransform,
  extract: ExtractRationales,
  write: WriteRecords,
  options: Any = None,
) -> dict[str, int]:
  """Runs the three one after the other; waits for the end.

  Args:
    read: `ReadRecords`, `beam.Create` of records, or others.
    extract: see there.
    write: see there.
    options: of Beam; the environment's own flags are not looked at.

  Returns:
    The metrics, by name.

  Raises:
    UserError: of a worker as well, where the runner tells of it.
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
    told = _told_by_worker(error)
    if told is None:
      raise
    if told == _INTERRUPTED:
      raise KeyboardInterrupt from None
    raise UserError(told) from error
  found: dict[str, int] = {}
  for counter in result.metrics().query()["counters"]:
    if counter.key.metric.namespace == NAMESPACE:
      name = counter.key.metric.name
      found[name] = found.get(name, 0) + counter.result
  return dict(sorted(found.items()))


def _told_by_worker(error: Exception) -> str | None:
  """What a UserError on a worker said; None if it was another error."""
  marks = ("UserError: ", "InUseError: ")
  for line in reversed(str(error).splitlines()):
    for mark in marks:
      if mark in line:
        told = line.partition(mark)[2]
        return told.partition(" [while running")[0]
  if isinstance(error, UserError):
    return str(error).partition(" [while running")[0]
  return None


if __name__ == "__main__":
  # Workers import this module by its name, which `__main__` is not.
  from dss_jax.rationales import beam_command

  sys.exit(beam_command.main(sys.argv[1:]))
