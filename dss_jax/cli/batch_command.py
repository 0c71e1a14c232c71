"""`dss-jax extract --batch submit|poll|fetch|cancel`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dss_jax.base.errors import UserError

if TYPE_CHECKING:
  from dss_jax.rationales.extraction_plan import Endpoint, ExtractionPlan
  from dss_jax.rationales.ledger import Ledger
  from dss_jax.rationales.prices import Prices
  from dss_jax.rationales.record_source import RecordSource
  from dss_jax.rationales.teachers.batch_results import ReadReport
  from dss_jax.rationales.teachers.provider_batches import ProviderBatch


def run(
  args: argparse.Namespace,
  source: RecordSource,
  plan: ExtractionPlan,
  prices: Prices,
) -> int | None:
  """Does one step with the batches of `--output_dir`.

  Returns:
    The exit status: 0 when the step is done, 1 when the provider still works;
    None when all results are in the ledger and the records are to be written.

  Raises:
    UserError: there is no such batch, or the provider refuses.
  """
  from dss_jax.rationales.extraction import LEDGER_FILE
  from dss_jax.rationales.ledger import Ledger
  from dss_jax.rationales.teachers import provider_batches

  folder = pathlib.Path(args.output_dir)
  batches = provider_batches.batches_in(folder)
  under_way = [batch for batch in batches if not batch.is_over]
  endpoints = _endpoints(plan, under_way)
  if args.batch == "submit":
    with Ledger(folder / LEDGER_FILE) as ledger:
      return _submit(args, source, plan, prices, ledger, under_way)
  if not batches:
    raise UserError(f"{folder} holds no batch; --batch submit makes one")
  if args.batch == "poll":
    for batch in under_way:
      batch.poll(endpoints)
  else:
    with Ledger(folder / LEDGER_FILE) as ledger:
      for batch in under_way:
        if args.batch == "fetch":
          _fetch(batch, endpoints, ledger)
        else:
          batch.cancel(endpoints, ledger)
  if args.batch == "fetch" and all(batch.is_over for batch in under_way):
    return None
  _print_state(under_way or batches[-1:], as_json=args.json)
  if args.batch == "cancel":
    return 0
  return int(any(f.is_under_way for batch in under_way for f in batch.files))


def _endpoints(
  plan: ExtractionPlan, batches: Sequence[ProviderBatch]
) -> dict[str, Endpoint]:
  """The endpoints of a plan by the names of their teachers.

  Raises:
    UserError: one is no endpoint, or a batch is for none of them.
  """
  from dss_jax.rationales.extraction_plan import Endpoint

  found = {}
  for own in plan.prompted_teachers:
    if not isinstance(own.teacher, Endpoint):
      raise UserError(f"{own.teacher.name!r} is no endpoint with batches")
    found[own.teacher.name] = own.teacher
  for batch in batches:
    for file in batch.files:
      if file.teacher not in found:
        raise UserError(
          f"{batch.folder} was made for the teacher {file.teacher!r}, and these"
          f" flags name {', '.join(map(repr, found)) or 'none'}",
          fields=("Endpoint.name", "Endpoint.model", "teachers"),
        )
  return found


def _submit(
  args: argparse.Namespace,
  source: RecordSource,
  plan: ExtractionPlan,
  prices: Prices,
  ledger: Ledger,
  under_way: Sequence[ProviderBatch],
) -> int:
  from dss_jax.rationales import extraction
  from dss_jax.rationales.teachers import provider_batches

  folder = pathlib.Path(args.output_dir)
  for batch in under_way:
    if batch.is_submitted:
      raise _is_under_way(batch)
  if under_way:
    [batch] = under_way  # the process that began it was killed
  else:
    for own in plan.prompted_teachers:
      ledger.add_limit(own.sampling.max_tokens)
    batch = provider_batches.ProviderBatch.create(
      provider_batches.next_folder(folder),
      extraction.batch_lines(source, plan, ledger),
      ledger,
    )
    try:
      for own in plan.prompted_teachers:
        batch.check_cost(prices, ledger, own.ask.max_cost)
    except UserError:
      batch.discard()
      raise
  if not batch.files:
    batch.discard()
    print("nothing is left to ask")
    return 0
  batch.submit(_endpoints(plan, [batch]), ledger)
  _print_state([batch], as_json=args.json)
  return 0


def _fetch(
  batch: ProviderBatch, endpoints: dict[str, Endpoint], ledger: Ledger
) -> None:
  """Takes the results of what has ended into the ledger."""
  from dss_jax.rationales.teachers import batch_results

  files = batch.fetch(endpoints)
  report = batch_results.read_results(files, ledger, asked=batch.folder)
  ledger.flush()
  batch.mark_fetched(ledger)
  if files:
    print_results(report)


def check_none_under_way(output_dir: str) -> None:
  """Raises UserError if a provider has requests that would be asked again."""
  from dss_jax.rationales.teachers import provider_batches

  for batch in provider_batches.batches_in(pathlib.Path(output_dir)):
    if not batch.is_over:
      raise _is_under_way(batch)


def _is_under_way(batch: ProviderBatch) -> UserError:
  return UserError(
    f"{batch.folder} is a batch under way, whose requests would be paid for"
    " twice: wait for it and --batch fetch it, or --batch cancel it and fetch"
    " what was done"
  )


def print_results(report: ReadReport) -> None:
  """Prints what became of a batch's results on standard error."""
  for problem in report.problems:
    print(problem, file=sys.stderr)
  counts = dataclasses.asdict(report)
  del counts["problems"]
  shown = [f"{count:,} {name}" for name, count in counts.items() if count]
  print("results: " + (", ".join(shown) or "none"), file=sys.stderr)


def _print_state(batches: Sequence[ProviderBatch], *, as_json: bool) -> None:
  if as_json:
    state = {
      str(batch.folder): [dataclasses.asdict(file) for file in batch.files]
      for batch in batches
    }
    print(json.dumps(state, indent=2))
    return
  for batch in batches:
    for file in batch.files:
      counts = (
        f"{file.done:,} done, {file.failed:,} failed of {file.requests:,}"
      )
      print(
        f"{batch.folder / file.name}: {file.batch_id or 'no batch yet'},"
        f" {file.status}; {counts}"
        + (f"; {file.problem}" if file.problem else "")
      )
