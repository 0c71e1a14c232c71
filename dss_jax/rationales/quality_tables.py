"""The quality report on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dss_jax.rationales.lengths import Lengths
from dss_jax.rationales.quality import QualityReport, Share

_BAR = 24
# Examples of failures printed per status, and characters of each.
_EXAMPLE_CHARS = 160


def print_report(report: QualityReport, console: Console | None = None):
  """Prints headline numbers, teachers, statuses, margins, lengths, failures."""
  out = console or Console(highlight=False)
  out.print(_headline(report))
  if report.teachers:
    out.print(_teachers(report))
  if len(report.statuses) > 1:
    out.print(Text("What became of answers:", style="bold"))
    out.print(_bars(report.statuses, "status", "answers"))
  if report.left_out:
    out.print(Text("Answers left out of the records:", style="bold"))
    out.print(_bars(report.left_out, "reason", "answers"))
  if report.unanimous.of:
    out.print(Text("Vote margin (first less second label):", style="bold"))
    out.print(_bars(_margins(report.margins), "margin", "records"))
  out.print(Text("Lengths in words:", style="bold"))
  out.print(_lengths(report.lengths))
  _print_examples(out, report)


def _headline(report: QualityReport) -> Table:
  table = Table(show_header=False, box=None)
  table.add_column()
  table.add_column(justify="right")
  rows: list[tuple[str, str]] = [
    ("records", f"{report.records:,}"),
    (
      "  with a rationale to train on",
      _of(report.with_rationale, report.records),
    ),
    ("  with a gold label", _of(report.with_gold, report.records)),
    ("rationales", f"{report.rationales:,}"),
    ("answers with a usable label", share(report.parse_rate)),
  ]
  if report.problems:
    rows.insert(1, ("lines that are no record", f"{report.problems:,}"))
  if report.agreement.of:
    rows.append(("  of these, the gold label", share(report.agreement)))
  if report.unanimous.of and report.voted_agreement.of:
    rows.append(("records whose vote is gold", share(report.voted_agreement)))
  if report.unanimous.of:
    rows.append(("records with all votes alike", share(report.unanimous)))
  for name in ("inputs", "requests", "rationales"):
    rows.append(
      (f"repeated {name}", f"{getattr(report, f'duplicate_{name}'):,}")
    )
  if report.prompt_tokens or report.completion_tokens:
    tokens = f"{report.prompt_tokens:,} + {report.completion_tokens:,}"
    rows.append(("tokens, prompt + completion", tokens))
  if report.cost is not None:
    rows.append(("cost", f"{report.cost:,.4f}"))
  for name, value in rows:
    table.add_row(Text(name), Text(value))
  return table


def share(found: Share) -> str:
  """`9,738 of 9,741  99.97 %`."""
  return _of(found.count, found.of)


def _of(count: int, of: int) -> str:
  percent = f"  {100 * count / of:6.2f} %" if of else ""
  return f"{count:,} of {of:,}{percent}"


def _teachers(report: QualityReport) -> Table:
  table = Table()
  table.add_column("teacher")
  for name in ("answers", "usable label", "= gold", "tokens", "cost"):
    table.add_column(name, justify="right")
  for teacher in report.teachers:
    agreement, parsed = teacher.agreement, teacher.parsed
    table.add_row(
      Text(teacher.name or "(unnamed)"),
      f"{teacher.answers:,}",
      _percent(parsed),
      _percent(agreement),
      f"{teacher.prompt_tokens + teacher.completion_tokens:,}",
      "" if teacher.cost is None else f"{teacher.cost:,.4f}",
    )
  return table


def _percent(found: Share) -> str:
  return "" if found.percent is None else f"{found.percent:.2f} %"


def _bars(counts: Mapping[str, int], name: str, unit: str) -> Table:
  total = sum(counts.values()) or 1
  most = max(counts.values(), default=0) or 1
  table = Table()
  table.add_column(name)
  table.add_column(unit, justify="right")
  table.add_column("%", justify="right")
  table.add_column("")
  for key, count in counts.items():
    table.add_row(
      Text(key),
      f"{count:,}",
      f"{100 * count / total:.2f}",
      "█" * round(_BAR * count / most),
    )
  return table


def _margins(margins: Sequence[int]) -> dict[str, int]:
  width = 1 / len(margins)
  return {
    f"{i * width:.1f} - {(i + 1) * width:.1f}": count
    for i, count in enumerate(margins)
  }


def _lengths(lengths: Mapping[str, Lengths]) -> Table:
  table = Table()
  table.add_column("text")
  for name in ("texts", "mean", "median", "95 %", "longest"):
    table.add_column(name, justify="right")
  for name, found in lengths.items():
    if found.count:
      table.add_row(
        name,
        f"{found.count:,}",
        f"{found.mean:,.1f}",
        f"{found.p50:,}",
        f"{found.p95:,}",
        f"{found.max:,}",
      )
  return table


def _print_examples(out: Console, report: QualityReport):
  for status, examples in report.examples.items():
    count = report.statuses.get(status, len(examples))
    out.print(Text(f"{status} ({count:,}), for example", style="bold"))
    for example in examples:
      shown: Any = example.get("completion") or example.get("text") or ""
      line = " ".join(shown.split())
      if len(line) > _EXAMPLE_CHARS:
        line = f"{line[:_EXAMPLE_CHARS]} ..."
      label = example.get("label")
      answer = "no label" if label is None else repr(label[:40])
      out.print(Text(f"  {example['id'][:40]}  {answer}  {line!r}"))
