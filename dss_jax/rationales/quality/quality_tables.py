"""The quality report on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from dss_jax.base.errors import one_line, printable
from dss_jax.rationales.quality.quality_report import (
  Lengths,
  QualityReport,
  Share,
)

_BAR = 24
# Examples of failures printed per status, and characters of each.
_EXAMPLE_CHARS = 240

_MEANINGS = {
  "no_marker": "nothing says what the answer is",
  "several_markers": "the answer's marker is there more than once",
  "no_label": "no answer where one is announced",
  "truncated": "ends before its answer (a larger max_tokens may help)",
  "multiple_answers": "more than one answer, or one that is taken back",
  "label_not_in_choices": "the answer is none of the choices",
  "letter_text_mismatch": "the answer's letter belongs to another choice",
  "unevaluable": "the answer is no number, or no arithmetic with a value",
  "label_cut": "the answer continues after what was read",
  "empty": "nothing, or an answer without a rationale",
  "markup": "control tokens of a chat template in the rationale",
  "refused": "the teacher will not answer",
  "invalid_text": "nothing that a record can hold",
  "disagrees_with_gold": "the answer is not the gold label",
  "unasked": "the record does not fit the prompt",
  "unanswered": "not asked yet",
  "unknown": "the teacher does not know the record",
  "rejected": "the provider will not answer this request",
  "gave_up": "failed too often (retry_failed asks again)",
}


def print_report(report: QualityReport, console: Console | None = None):
  """Prints headline numbers, teachers, statuses, margins, lengths, failures."""
  out = console or Console(highlight=False)
  out.print(_headline(report))
  if report.teachers:
    out.print(_teachers(report))
  if set(report.statuses) != {"ok"}:
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
  lines: list[tuple[str, str]] = [
    ("records", f"{report.records:,}"),
    (
      "  with a rationale to train on",
      _of(report.with_rationale, report.records),
    ),
    ("  with a gold label", _of(report.with_gold, report.records)),
    ("rationales", f"{report.rationales:,}"),
  ]
  if report.answers:
    lines += _answers(report)
  if report.problems:
    lines.insert(1, ("lines that are no record", f"{report.problems:,}"))
  if report.unanimous.of and report.voted_agreement.of:
    lines.append(("records whose vote is gold", share(report.voted_agreement)))
  if report.unanimous.of:
    lines.append(("records with all votes alike", share(report.unanimous)))
  for name in ("inputs", "requests", "rationales"):
    number = getattr(report, f"duplicate_{name}")
    lines.append((f"repeated {name}", f"{number:,}"))
  if report.prompt_tokens or report.completion_tokens:
    tokens = f"{report.prompt_tokens:,} + {report.completion_tokens:,}"
    lines.append(("tokens, prompt + completion", tokens))
  if report.cost is not None:
    lines.append(("cost", f"{report.cost:,.4f}"))
  table = Table("", Column(justify="right"), show_header=False, box=None)
  for name, value in lines:
    table.add_row(Text(name), Text(value))
  return table


def _answers(report: QualityReport) -> list[tuple[str, str]]:
  """What became of the requests; see `quality_report`."""
  completions = report.parse_rate.of
  rationalised = sum(teacher.rationalised for teacher in report.teachers)
  lines = [("answers", f"{report.answers:,}")]
  if missing := report.answers - rationalised - completions:
    lines.append(("  that never came", _of(missing, report.answers)))
  if rationalised:
    lines.append(("  shown the gold label", _of(rationalised, report.answers)))
  lines += [
    ("label could be read (parse rate)", share(report.parse_rate)),
    ("label can be used", share(report.usable)),
  ]
  if report.agreement.of:
    lines.append(("  and is the gold label", share(report.agreement)))
  return lines


def share(found: Share) -> str:
  """`9,738 of 9,741  99.97 %`."""
  return _of(found.count, found.of)


def _of(count: int, of: int) -> str:
  percent = f"  {100 * count / of:6.2f} %" if of else ""
  return f"{count:,} of {of:,}{percent}"


def _table(name: str, *numbers: str) -> Table:
  """A table with a column of names and columns of numbers."""
  return Table(name, *(Column(title, justify="right") for title in numbers))


def _teachers(report: QualityReport) -> Table:
  with_tokens = bool(report.prompt_tokens or report.completion_tokens)
  titles = ["answers", "parsed", "usable", "= gold"]
  table = _table("teacher", *titles, *["tokens", "cost"] * with_tokens)
  for teacher in report.teachers:
    cells = [
      f"{teacher.answers:,}",
      _percent(teacher.parsed),
      _percent(teacher.usable),
      _percent(teacher.agreement),
    ]
    if with_tokens:
      cells.append(f"{teacher.prompt_tokens + teacher.completion_tokens:,}")
      cells.append("" if teacher.cost is None else f"{teacher.cost:,.4f}")
    table.add_row(Text(printable(teacher.name) or "(unnamed)"), *cells)
  return table


def _percent(found: Share) -> str:
  return "" if found.percent is None else f"{found.percent:.2f} %"


def _bars(counts: Mapping[str, int], name: str, unit: str) -> Table:
  total = sum(counts.values()) or 1
  most = max(counts.values(), default=0) or 1
  table = _table(name, unit, "%")
  table.add_column("")
  for key, count in counts.items():
    table.add_row(
      Text(printable(key)),
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
  table = _table("text", "texts", "mean", "median", "95 %", "longest")
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
    title = printable(status)
    if count := report.statuses.get(status):
      title += f" ({count:,})"
    if status in _MEANINGS:
      title += f": {_MEANINGS[status]}"
    out.print(Text(title, style="bold"))
    for example in examples:
      shown = example.get("completion") or example.get("text")
      shown = shown or example.get("reason") or ""
      shown = one_line(shown, longest=_EXAMPLE_CHARS)
      label = example.get("label")
      answer = "" if label is None else f"  {label[:40]!r}"
      quoted = f"  {shown!r}" if shown else ""
      out.print(Text(f"  {printable(example['id'][:40])}{answer}{quoted}"))
