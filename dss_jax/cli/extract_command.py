"""`dss-jax extract`: let a large model write rationales for a dataset.

Nothing heavy is imported before it is needed; TensorFlow and JAX never are.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dss_jax.base import user_modules
from dss_jax.base.errors import UserError, printable
from dss_jax.cli import extract_flags, flags
from dss_jax.cli.data_flags import SourceFlags
from dss_jax.cli.extract_flags import EPILOG, OutputFlags, add_arguments

if TYPE_CHECKING:
  from dss_jax.rationales.asking.request_loop import Summary
  from dss_jax.rationales.extraction import ExtractionResult
  from dss_jax.rationales.extraction_plan import ExtractionPlan
  from dss_jax.rationales.ledger import Ledger
  from dss_jax.rationales.prices import Prices
  from dss_jax.rationales.quality.quality_report import QualityReport
  from dss_jax.rationales.record_source import RecordSource

__all__ = ["EPILOG", "add_arguments", "run"]

# Flags that replace asking; one of them at most.
_WAYS = (
  *("draft_prompt", "show_prompt", "dry_run"),
  *("batch", "write_batch", "read_batch"),
  "completions",
)


def run(args: argparse.Namespace) -> int:
  """Runs the mode.

  Returns:
    The exit status: 0 when everything was asked and answered, 3 when answers
    were given up or rejected, 130 after Ctrl-C or SIGTERM, 1 when the run
    stopped for another reason and something is left to ask.

  Raises:
    UserError: for wrong flags, data or answers of the endpoint.
  """
  from dss_jax.rationales.prices import Prices

  _check(args)
  if args.show_prompt:
    args.limit = 1
  user_modules.import_modules(args.module)
  prices = Prices.load(args.prices)
  source = extract_flags.make_source(args)
  if args.draft_prompt:
    return _draft_prompt(args, source)
  if args.completions:
    return _extract_stored(args, source, prices)
  plan = extract_flags.make_plan(args)
  if args.show_prompt:
    return _show_prompt(args, source, plan)
  if args.dry_run:
    with _ledger_to_read(args) as ledger:
      return _dry_run(args, source, plan, ledger, prices)
  if args.write_batch:
    with _ledger_to_read(args) as ledger:
      return _write_batch(args, source, plan, ledger)
  if args.batch:
    from dss_jax.cli import batch_command

    status = batch_command.run(args, source, plan, prices)
    if status is not None:
      return status
  if args.read_batch:
    _read_batch(args)
  return _extract(args, source, plan, prices)


def _check(args: argparse.Namespace) -> None:
  """Raises UserError for flags that do not fit together."""
  flags.build(SourceFlags, args)
  flags.build(extract_flags.RecordFlags, args)
  output = flags.build(OutputFlags, args)
  ways = [name for name in _WAYS if getattr(args, name)]
  if len(ways) > 1:
    raise UserError(f"--{ways[0]} and --{ways[1]} exclude each other")
  if not output.output_dir and ways in (
    [],
    ["read_batch"],
    ["batch"],
    ["completions"],
  ):
    raise UserError("where shall the records go? give --output_dir")
  split = output.output_split
  if split and pathlib.Path(split).name != split:
    raise UserError(
      f"--output_split is {split!r}; it must be a name, not a path"
    )
  args.formats = [name for name in output.formats if name]
  _check_formats(args.formats)
  if args.batch_dir and not args.read_batch:
    raise UserError("--batch_dir is for --read_batch")
  if args.completion_field and not args.completions:
    raise UserError("--completion_field is for --completions")
  if args.completions and (args.teachers or args.teacher):
    raise UserError(
      "--completions is a file of one model's answers; name it with --model, and"
      " leave out --teacher and --teachers"
    )


def _check_formats(formats: Sequence[str]) -> None:
  from dss_jax.rationales.record_writers import SUFFIXES

  allowed = [suffix[1:] for suffix in SUFFIXES]
  for name in formats:
    if name not in allowed:
      raise UserError(
        f"--formats names {name!r}; allowed: {', '.join(allowed)}"
      )
    if formats.count(name) > 1:
      raise UserError(f"--formats names {name!r} twice")
  if not formats:
    raise UserError("--formats names no format")


@contextlib.contextmanager
def _ledger_to_read(args: argparse.Namespace) -> Iterator[Ledger | None]:
  """The ledger of --output_dir, if there is one yet."""
  from dss_jax.rationales.extraction import LEDGER_FILE
  from dss_jax.rationales.ledger import Ledger

  path = pathlib.Path(args.output_dir or "") / LEDGER_FILE
  if not args.output_dir or not path.exists():
    yield None
    return
  with Ledger(path, read_only=True) as ledger:
    yield ledger


def _draft_prompt(args: argparse.Namespace, source: RecordSource) -> int:
  """Writes a prompt file for the records; one that is there is the user's."""
  from dss_jax.base import atomic_files
  from dss_jax.rationales import prompt_drafting, prompt_files

  path = pathlib.Path(args.draft_prompt)
  if path.suffix != ".toml":
    raise UserError(f"--draft_prompt is {str(path)!r}; it must end in .toml")
  if path.exists():
    raise UserError(f"{path} is there already; delete it, or name another file")
  atomic_files.write_atomically(
    path, prompt_drafting.draft(list(source.read()))
  )
  prompt = prompt_files.load(path)
  shown = f", {len(prompt.labels)} labels" if prompt.labels else ""
  print(f"answers of kind {prompt.answer_kind}{shown} -> {path}")
  return 0


def _show_prompt(
  args: argparse.Namespace, source: RecordSource, plan: ExtractionPlan
) -> int:
  """Prints the very body of the request about the first record."""
  record = next(source.read(), None)
  if record is None:
    raise UserError(f"{source.name} has no records")
  asked = [own for own in plan.teachers if not own.knows_records]
  labels: list[str | None] = [None]
  if plan.choose.gold == "rationalise" and record.label is not None:
    labels.append(record.label)
  for own, label in itertools.product(asked, labels):
    request = plan.prompt.request(
      record,
      style=own.style,
      model=own.teacher.model,
      sampling=own.sampling,
      label=label,
    )
    hint = "" if label is None else ", with the gold label as a hint"
    body = own.body(request)
    if args.json:
      print(json.dumps(body, ensure_ascii=False))
      continue
    print(f"--- POST {request.url}, for record {printable(record.id)}{hint}")
    _show_body(body)
  if not asked:
    print("no teacher of this plan is asked in words")
  return 0


def _show_body(body: dict[str, Any]) -> None:
  """The settings in one line, then the prompt as it reads."""
  prompt = body.pop("prompt", None) or body.pop("messages")
  print("--- " + printable(json.dumps(body, ensure_ascii=False)))
  if isinstance(prompt, str):
    print(printable(prompt))
    return
  for message in prompt:
    print(f"--- {message['role']}")
    print(printable(message["content"]))


def _dry_run(
  args: argparse.Namespace,
  source: RecordSource,
  plan: ExtractionPlan,
  ledger: Ledger | None,
  prices: Prices,
) -> int:
  from dss_jax.rationales import estimates

  found = estimates.estimate(source, plan, ledger, prices)
  if args.json:
    print(json.dumps({k: dataclasses.asdict(v) for k, v in found.items()}))
    return 0
  print(f"{source.name}: {source.count:,} records")
  for name, each in found.items():
    print(f"{name}:")
    print(f"  requests to send        {each.requests:>14,}")
    print(f"  answered already        {each.answered:>14,}")
    print(f"  tokens read, about      {each.prompt_tokens:>14,}")
    print(f"  tokens written, about   {each.completion_tokens:>14,}")
    print(f"                 at most  {each.most_completion_tokens:>14,}")
    if each.cost is None:
      print("  cost: no table has the model's price; give one with --prices")
    else:
      print(f"  cost, about             {_money(each.cost):>14}")
      print(f"        at most           {_money(each.most_cost):>14}")
      print(f"        at most, in batches {_money(each.batch_cost):>12}")
    if not each.is_measured:
      print(
        "  no answer of this model is known: what is written is judged by the"
        "\n  exemplars. If it thinks before it answers, its thoughts are paid"
        " for too,\n  how long they are cannot be known, and only `at most`"
        " holds (a trial with\n  --limit=20 measures them)."
      )
  if not found:
    print("no teacher of this plan is asked in words")
  print("Retries and rationalisations are not counted. Nothing was asked.")
  return 0


def _money(cost: float | None) -> str:
  return "?" if cost is None else f"${cost:,.2f}"


def _write_batch(
  args: argparse.Namespace,
  source: RecordSource,
  plan: ExtractionPlan,
  ledger: Ledger | None,
) -> int:
  from dss_jax.rationales import extraction
  from dss_jax.rationales.teachers import batch_requests

  written = batch_requests.write_requests(
    extraction.batch_lines(source, plan, ledger),
    args.write_batch,
    ledger,
  )
  for file in written.files:
    print(file.path)
  print(
    f"{written.requests:,} requests in {len(written.files)} files;"
    f" {written.answered:,} are answered already, {written.repeated:,} were"
    " equal to others"
  )
  return 0


def _read_batch(args: argparse.Namespace) -> None:
  from dss_jax.cli import batch_command
  from dss_jax.rationales.extraction import LEDGER_FILE
  from dss_jax.rationales.ledger import Ledger
  from dss_jax.rationales.teachers import batch_results

  folder = pathlib.Path(args.output_dir)
  with Ledger(folder / LEDGER_FILE) as ledger:
    report = batch_results.read_results(
      args.read_batch,
      ledger,
      asked=args.batch_dir,
    )
  batch_command.print_results(report)


def _extract_stored(
  args: argparse.Namespace, source: RecordSource, prices: Prices
) -> int:
  """Writes the records that the completions of a file give."""
  from dss_jax.rationales import stored_completions
  from dss_jax.rationales.extraction import LEDGER_FILE
  from dss_jax.rationales.ledger import Ledger

  stored = stored_completions.read(
    args.completions, field=args.completion_field
  )
  args.model = args.model or pathlib.Path(args.completions).stem
  args.samples = stored_completions.most_per_record(stored)
  # Several answers to one question were drawn, at whatever temperature.
  args.temperature = 1.0 if args.samples > 1 else 0.0
  plan = extract_flags.make_plan(args)
  with Ledger(pathlib.Path(args.output_dir) / LEDGER_FILE) as ledger:
    added = stored_completions.add(stored, source, plan, ledger)
  parts = [f"{added.answers:,} completions"]
  for name, words in (
    ("blank", "without a text"),
    ("strangers", "of no record"),
    ("misfits", "of records that do not fit the prompt"),
    ("repeated", "of inputs that occurred before"),
  ):
    if count := getattr(added, name):
      parts.append(f"{count:,} {words}")
  print(f"{args.completions}: {', '.join(parts)}", file=sys.stderr)
  return _extract(args, source, plan, prices)


def _extract(
  args: argparse.Namespace,
  source: RecordSource,
  plan: ExtractionPlan,
  prices: Prices,
) -> int:
  from dss_jax.rationales import extraction
  from dss_jax.rationales.asking import stop_signals

  ask = not (args.no_ask or args.read_batch or args.batch or args.completions)
  if ask:
    from dss_jax.cli import batch_command

    batch_command.check_none_under_way(args.output_dir)
  with stop_signals.sigterm_as_ctrl_c():
    result = extraction.extract(
      source,
      plan,
      args.output_dir,
      split=args.output_split or extract_flags.split_name(args),
      formats=args.formats,
      prices=prices,
      ask=ask,
    )
  if args.json:
    print(json.dumps(_as_json(result), indent=2, ensure_ascii=False))
  else:
    _print_result(result)
  if result.report is not None and not result.stopped:
    return _status_of(result.report)
  print(
    f"dss-jax extract: {result.stopped}; start it again to resume, or with"
    " --no_ask to write the records as they are",
    file=sys.stderr,
  )
  return 130 if result.stopped == "interrupted" else 1


def _status_of(report: QualityReport) -> int:
  """3, and why, where answers were given up or rejected; else 0."""
  from dss_jax.rationales.teacher_requests import GAVE_UP, REJECTED

  lost = {
    status: report.statuses[status]
    for status in (REJECTED, GAVE_UP)
    if report.statuses.get(status)
  }
  if not lost:
    return 0
  shown = ", ".join(f"{count:,} {status}" for status, count in lost.items())
  print(
    f"dss-jax extract: {sum(lost.values()):,} of {report.answers:,} answers never"
    f" came ({shown}); --retry_failed asks for them again",
    file=sys.stderr,
  )
  return 3


def _as_json(result: ExtractionResult) -> dict[str, Any]:
  return {
    "report": result.report.to_dict() if result.report else None,
    "files": [str(path) for path in result.files],
    "asked": {
      name: {k: dataclasses.asdict(v) for k, v in rounds.items()}
      for name, rounds in result.summaries.items()
    },
    "stopped": result.stopped,
  }


def _summary_line(summary: Summary) -> str:
  """What asking did, in one line."""
  parts = [f"{summary.answered:,} answered"]
  for name, words in (
    ("already", "answered before"),
    ("duplicates", "equal to others"),
    ("rejected", "rejected"),
    ("gave_up", "given up"),
    ("retries", "sent again after a fault"),
  ):
    if count := getattr(summary, name):
      parts.append(f"{count:,} {words}")
  cost = "" if summary.cost is None else f", {_money(summary.cost)}"
  return f"{', '.join(parts)}; {summary.seconds:.0f} s{cost}"


def _print_result(result: ExtractionResult) -> None:
  from dss_jax.rationales.quality import quality_tables

  for name, rounds in result.summaries.items():
    for round_name, summary in rounds.items():
      title = name if round_name == "first" else f"{name}, {round_name}"
      print(f"{title}: {_summary_line(summary)}")
  if result.report is not None:
    quality_tables.print_report(result.report)
  for path in result.files:
    print(path)
