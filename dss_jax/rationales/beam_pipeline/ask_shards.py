"""Records -> records with rationales, each shard of the records by itself."""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

import apache_beam as beam

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record, json_lines
from dss_jax.rationales import (
  asking_rounds,
  extraction,
  ledger_shards,
  rationale_selection,
)
from dss_jax.rationales.beam_pipeline import beam_files, elements
from dss_jax.rationales.extraction_plan import ExtractionPlan
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.record_source import RecordSource

INTERRUPTED = "interrupted; start it again to continue"

_LOG = logging.getLogger(__name__)


class ExtractRationales(beam.PTransform):
  """Records -> the same records with the rationales of a plan's teachers.

  Takes `Record`s, or the same as JSON lines, which are named by their hash where
  they have no id. Every record comes out again, in any order; its statuses say
  why it has no rationale, if it has none. Metrics of the namespace
  `dss_jax.rationales` count records, statuses, and what asking did.

  Limits are those of the whole pipeline: requests and tokens a minute are
  divided by the shards that may be asked at once, `max_cost` by all shards.
  `concurrency` is that of each shard.

  Args:
    plan: prompt, teachers and votes; teachers read their keys on the worker.
    ledger_dir: folder of the answers, which all workers reach by this name.
    num_shards: pieces in which records are asked, none by two workers at once;
      None takes the number of the ledger, or 16. At most so many workers have
      work; each shard should have many times `concurrency` records.
    parallel_shards: most shards that are asked at the same time; None means
      all.
    ledger_kind: "sqlite", "segments" or, by the path, "auto"; see
      `ledger_shards`.
    prices: prices of models, for `max_cost`; the packaged table if None.
    ask: False asks nothing; records get what the ledger holds.

  Raises:
    UserError: for arguments that do not go together or with the ledger.
  """

  def __init__(
    self,
    plan: ExtractionPlan,
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
      raise UserError(
        f"ledger_dir is {folder!r}; it may not hold *, ? or [",
        fields="ledger_dir",
      )
    kind = ledger_shards.kind_of(ledger_kind, folder)
    names = [
      os.path.basename(p) for p in beam_files.matching([f"{folder}/shard-*"])
    ]
    shards = ledger_shards.check_num_shards(names, num_shards) or 16
    parallel = shards if parallel_shards is None else parallel_shards
    if not 1 <= parallel <= shards:
      raise UserError(
        f"parallel_shards is {parallel}; it must be from 1 to num_shards,"
        f" {shards}",
        fields=("parallel_shards", "num_shards"),
      )
    self._plan = _with_shares(plan, shards, parallel)
    self._asker = _AskShard(
      self._plan, folder, kind, shards, prices or Prices.load(), ask
    )
    self._num_shards = shards

  def expand(self, pcoll):
    records = pcoll | "Parse" >> beam.Map(elements.as_record).with_output_types(
      Record
    )
    if not self._plan.prompted_teachers:
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


def _with_shares(
  plan: ExtractionPlan, num_shards: int, parallel_shards: int
) -> ExtractionPlan:
  """The plan with a shard's part of the limits."""

  def part(value: float | None, of: int) -> float | None:
    return None if value is None else value / of

  teachers = []
  for teacher_plan in plan.teachers:
    ask = teacher_plan.ask
    ask = dataclasses.replace(
      ask,
      requests_per_minute=part(ask.requests_per_minute, parallel_shards),
      tokens_per_minute=part(ask.tokens_per_minute, parallel_shards),
      max_cost=part(ask.max_cost, num_shards),
    )
    teachers.append(dataclasses.replace(teacher_plan, ask=ask))
  return dataclasses.replace(plan, teachers=tuple(teachers))


def _by_shard(record: Record, num_shards: int) -> tuple[int, bytes]:
  shard = ledger_shards.shard_of(record.input, num_shards)
  return shard, json_lines.dumps(record)


class _Answer(beam.DoFn):
  """Teachers that know records need neither ledger nor network."""

  def __init__(self, plan: ExtractionPlan):
    self._plan = plan

  def process(self, element):
    source = RecordSource.of_records("", [element])
    yield from _chosen(source, self._plan, None)


class _AskShard(beam.DoFn):
  """Asks about all records of a shard, then chooses."""

  def __init__(
    self,
    plan: ExtractionPlan,
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
    source = RecordSource(
      f"shard {shard} of {self._num_shards}",
      lambda: map(elements.as_record, lines),
      sum(1 for _ in lines),
    )
    with ledger_shards.open_shard(
      self._folder,
      shard,
      self._num_shards,
      kind=self._kind,
      files=beam_files.BeamFiles(),
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

  def _ask_everything(self, source: RecordSource, ledger: Any) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
      summaries, stopped = asking_rounds.ask_everything(
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
      elements.count(name, number)
    shown = ", ".join(f"{v} {k}" for k, v in totals.items() if v)
    _LOG.info("%s: %d records; %s", source.name, source.count, shown)
    if stopped.startswith("interrupted"):
      raise UserError(INTERRUPTED)
    if stopped:
      elements.count("shards_stopped")
      _LOG.warning("%s stopped: %s", source.name, stopped)


def _chosen(
  source: RecordSource, plan: ExtractionPlan, ledger: Any
) -> Iterator[Record]:
  """The records as the answers make them, counted."""
  for record in extraction.chosen_records(source, plan, ledger):
    elements.count("records")
    account = cast(Mapping[str, Any], record.meta[rationale_selection.ACCOUNT])
    for teacher in account["teachers"].values():
      for status, number in teacher["statuses"].items():
        elements.count(f"status_{status}", number)
    yield record
