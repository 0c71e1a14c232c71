"""`dss-jax data` on the screen: tables for people, from the JSON values."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Columns where the output is no terminal: wide enough for three splits.
_FILE_WIDTH = 100

# Labels that a sentence names.
_SHOWN_LABELS = 12

_PARSER_ROWS = {
  "unparsed": "no label read",
  "unusable_labels": "label is no answer",
  "blank_rationales": "blank rationale",
  "teacher_equals_gold": "teacher = gold",
}


def console() -> Console:
  """Standard output; a fixed width where it is no terminal."""
  width = None if sys.stdout.isatty() else _FILE_WIDTH
  return Console(width=width, highlight=False)


def print_stats(report: Mapping[str, Any]):
  """Prints what `dss-jax data stats` found; `report` is what `--json` prints."""
  out = console()
  title = report.get("dataset") or report["input"]
  if "source" in report:
    title += f" ({report['source']}"
    if report["rationale_source"]:
      title += f", rationales: {report['rationale_source']}"
    title += ")"
  splits = report["splits"]
  out.print(Text(title, style="bold"))
  table = Table()
  table.add_column("")
  for split in splits:
    table.add_column(split, justify="right")
  labels = dict.fromkeys(
    label for s in splits.values() for label in s["labels"]
  )
  for key, title in (
    ("rows", "records"),
    ("gold_labels", "with a gold label"),
    ("labels", ""),
    ("malformed", "malformed lines"),
    ("rationales", "rationales"),
    ("sources", ""),
    ("duplicate_inputs", "repeated inputs"),
    ("duplicate_rationales", "repeated rationales"),
  ):
    if key == "labels":
      for label in labels:
        counts = (split["labels"].get(label, 0) for split in splits.values())
        is_plain = label == label.strip() and label.isprintable()
        shown = label if is_plain else repr(label)
        table.add_row(Text(f"  {shown}"), *(f"{count:,}" for count in counts))
    elif key == "sources":
      sources = {source for s in splits.values() for source in s["sources"]}
      for source in sorted(sources) if len(sources) > 1 else ():
        counts = (s["sources"].get(source, 0) for s in splits.values())
        table.add_row(
          Text(f"  of {source}"), *(f"{count:,}" for count in counts)
        )
    elif all(key in split for split in splits.values()):
      table.add_row(title, *(f"{split[key]:,}" for split in splits.values()))
  first = next(iter(splits.values()))
  if "by_parser" in first and _readings_differ(splits):
    for reading in ("official", "tolerant"):
      _add_reading(table, reading, splits)
  else:
    table.add_section()
    _add_agreement(table, splits)
  out.print(table)
  _print_labels(out, splits, list(labels))
  for split, reason in report.get("missing", {}).items():
    out.print(Text(f"{split} is missing: {reason}"))
  _print_statuses(out, splits, report.get("parser"))
  _print_malformed(out, splits)
  _print_tokens(out, report)
  after = report.get("after_splitting")
  if after:
    sizes = ", ".join(f"{k} {v:,}" for k, v in after["rows"].items())
    out.print(
      f"After the {after['split_policy']} split (training fraction"
      f" {after['train_fraction']:g}): {sizes}"
    )
  if extra := report.get("extra_records"):
    out.print(
      Text(
        f"Extra training records of {extra['of']}: {extra['rows']:,}; labels:"
        f" {extra['gold_labels']:,} gold, {extra['teacher_labels']:,} the"
        f" teacher's, {extra['no_label']:,} missing; left out because their"
        f" inputs are validated or tested on: {extra['held_out_inputs']:,}"
      )
    )
  if report.get("license"):
    out.print(Text(f"Licences: {report['license']}"))


def _print_labels(
  out: Console, splits: Mapping[str, Any], labels: Sequence[str]
):
  """Says what a closed set of labels is good for, and what is outside it."""
  number = next(iter(splits.values()))["listed_labels"]
  if number is None and labels:
    shown = ", ".join(repr(label) for label in labels[:_SHOWN_LABELS])
    more = ", ..." if len(labels) > _SHOWN_LABELS else ""
    out.print(
      Text(
        f"{len(labels)} labels. If these are all there are, say so where the"
        f" dataset is registered: labels=({shown}{more}). Students then answer"
        " with one of them only, and give the probability of each"
        " (label_scores)."
      )
    )
  elif number is not None and (others := labels[number:]):
    shown = ", ".join(repr(label) for label in others[:_SHOWN_LABELS])
    out.print(
      Text(
        f"{len(others)} labels are not among the dataset's labels={tuple(labels[:number])!r}:"
        f" {shown}. A student that answers with one of those never gives them."
      )
    )


def _readings_differ(splits: Mapping[str, Any]) -> bool:
  return any(
    split["by_parser"]["official"] != split["by_parser"]["tolerant"]
    for split in splits.values()
  )


def _add_reading(table: Table, reading: str, splits: Mapping[str, Any]):
  table.add_section()
  table.add_row(Text(f"read by the {reading} parser", style="bold"))
  for key, label in _PARSER_ROWS.items():
    cells = []
    for split in splits.values():
      count = split["by_parser"][reading][key]
      of = split["rationales"]
      if key == "teacher_equals_gold":
        of = split["teacher_equals_gold"]["of"]
        if split["teacher_equals_gold"]["compared_by"] == "value":
          label = "teacher = gold (by value)"
      cells.append(_count(count, of))
    table.add_row(f"  {label}", *cells)


def _add_agreement(table: Table, splits: Mapping[str, Any]):
  if not any(s["teacher_equals_gold"]["of"] for s in splits.values()):
    return  # rationales without labels of their own
  for reading in ("strict", "tolerant"):
    cells = [
      _count(
        split["teacher_equals_gold"][reading],
        split["teacher_equals_gold"]["of"],
      )
      for split in splits.values()
    ]
    table.add_row(f"teacher = gold ({reading})", *cells)


def _count(count: int, of: int) -> str:
  return f"{count:,}  {100 * count / of:6.2f} %" if of else f"{count:,}"


def _print_statuses(
  out: Console, splits: Mapping[str, Any], parser: str | None
):
  names = [name for split in splits.values() for name in split["statuses"]]
  names = [name for name in dict.fromkeys(names) if name != "ok"]
  if not names:
    return
  read = f", by the {parser} parser" if parser else ""
  out.print(f"How rationales were read{read}:")
  table = Table()
  table.add_column("status")
  for split in splits:
    table.add_column(split, justify="right")
  for name in ("ok", *names):
    counts = (split["statuses"].get(name, 0) for split in splits.values())
    table.add_row(name, *(f"{count:,}" for count in counts))
  out.print(table)


def _print_malformed(out: Console, splits: Mapping[str, Any]):
  for split in splits.values():
    for line in split.get("malformed_lines", ()):
      out.print(Text(f"{line['file']}:{line['line']}: {line['reason']}"))
    rest = split.get("malformed", 0) - len(split.get("malformed_lines", ()))
    if rest:
      out.print(f"... and {rest} more malformed lines")


def _print_tokens(out: Console, report: Mapping[str, Any]):
  prefix = f", inputs with {report['prefix']!r}" if report["prefix"] else ""
  out.print(
    Text(f"Tokens, the end token included{prefix}, in {report['vocabulary']}:")
  )
  table = Table()
  table.add_column("split")
  table.add_column("field")
  for name in ("texts", "mean", "p95", "max", "unknown"):
    table.add_column(name, justify="right")
  lacking: dict[str, None] = {}
  for split, found in report["splits"].items():
    table.add_section()
    for field, lengths in found["tokens"].items():
      table.add_row(
        split,
        field,
        f"{lengths['count']:,}",
        f"{lengths['mean']:.1f}",
        f"{lengths['p95']:.0f}",
        f"{lengths['max']:.0f}",
        f"{lengths['unknown_percent']:g} %" if lengths["unknown"] else "0",
      )
      lacking |= dict.fromkeys(lengths["lacking"])
  out.print(table)
  if lacking:
    shown = " ".join(map(repr, lacking))
    out.print(
      Text(
        f"The vocabulary cannot write {shown}: each is the unknown token. Take"
        ' another, or add them: --vocabulary \'PATH+["{", "\\n"]\', and'
        " VOCABULARY in gin"
      )
    )


def _left_out(reasons: Mapping[str, int]) -> str:
  """`; left out: 3 no label, ...`, or nothing."""
  if not reasons:
    return ""
  return "; left out: " + ", ".join(
    f"{n:,} {why}" for why, n in reasons.items()
  )


def print_preview(shown: Mapping[str, Any], *, ids: bool = False):
  """Prints what `dss-jax data show` found.

  Args:
    shown: as `--json` prints it.
    ids: whether token ids are printed below each text.
  """
  out = console()
  batch = shown["batch"]
  out.print(Text(f"{shown['task']}, {shown['split']}", style="bold"))
  out.print(Text(f"vocabulary: {shown['vocabulary']}"))
  lengths = shown["task_feature_lengths"]
  out.print(
    f"longest inputs {lengths['inputs']} tokens, targets {lengths['targets']}"
    " (TASK_FEATURE_LENGTHS)"
  )
  for subtask in shown["subtasks"]:
    out.print(
      f"sub-task {subtask['name']}: {subtask['examples']:,} examples, rate"
      f" {subtask['rate']:g}{_left_out(subtask['left_out'])}"
    )
  for line in shown["texts"]:
    out.print(Text(line))
  if shown["paired"]:
    out.print("all examples of a record are in the same batch")
  counts = ", ".join(f"{n} {name}" for name, n in batch["examples"].items())
  out.print(
    f"batch {batch['step']}: {counts} examples"
    f" (about {batch['records_per_batch']} records a batch) in"
    f" {batch['rows']} rows of"
    f" {batch['encoder_length']} + {batch['decoder_length']} tokens,"
    f" {100 * batch['padding']:.1f} % padding"
  )
  for row in shown["rows"]:
    out.print()
    out.rule(
      f"row {row['row']}: {len(row['examples'])} examples,"
      f" {row['encoder_tokens']} of {batch['encoder_length']} encoder and"
      f" {row['decoder_tokens']} of {batch['decoder_length']} decoder tokens",
      align="left",
    )
    for example in row["examples"]:
      head = Text(f"segment {example['segment']}: ")
      head.append(example["subtask"], style="bold")
      head.append(f", record {example['record']}, weight {example['weight']:g}")
      out.print(head)
      for name, key in (("reads", "input"), ("writes", "target")):
        tokens = example[f"{key}_ids"]
        out.print(
          Text(f"  {name:6} ({len(tokens)} tokens)  {example[key + 's']!r}")
        )
        if ids:
          out.print(Text(f"         {' '.join(map(str, tokens))}"))
