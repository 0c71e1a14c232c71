"""Tables as Markdown, CSV and LaTeX.

A table holds values; how they are written depends on the format: CSV has full
numbers, the other two are for reading. Texts may be anybody's and are escaped.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dss_jax.base.atomic_files import write_atomically

# How a column's numbers are written for reading.
KINDS = ("text", "percent", "percent.2", "points", "count", "p", "number")

_MAX_TEXT = 200

UNKNOWN = "\u2013"  # a dash
MINUS = "\u2212"


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of a table.

  Attributes:
    name: its heading.
    kind: one of KINDS. "percent" and "points" hold fractions, which are shown
      times 100, "percent.2" with two decimals.
  """

  name: str
  kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of a report.

  Attributes:
    name: of its files, without suffix.
    title: one line.
    columns: from left to right.
    rows: a value for each column; None for one that is not known.
    notes: what a reader must know, each a sentence or more.
  """

  name: str
  title: str
  columns: Sequence[Column]
  rows: Sequence[Sequence[Any]]
  notes: Sequence[str] = ()

  def shown(self) -> list[list[str]]:
    """The cells as texts for reading."""
    return [
      [
        shown(value, column.kind)
        for value, column in zip(row, self.columns, strict=True)
      ]
      for row in self.rows
    ]

  def as_json(self) -> dict[str, Any]:
    """Its content as JSON values; what is no number becomes null."""
    return {
      "title": self.title,
      "columns": [column.name for column in self.columns],
      "kinds": [column.kind for column in self.columns],
      "rows": [[_plain(value) for value in row] for row in self.rows],
      "notes": list(self.notes),
    }


def shown(value: Any, kind: str) -> str:
  """A value as text for reading; a dash for what is not known."""
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return UNKNOWN
  if kind == "text" or isinstance(value, str):
    text = " ".join(str(value).split())
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
  if math.isinf(value):
    return "∞" if value > 0 else f"{MINUS}∞"
  return _WRITERS[kind](value).replace("-", MINUS)


def _p_value(value: float) -> str:
  return "<.0001" if value < 0.0001 else f"{value:.4f}".lstrip("0")


_WRITERS: Mapping[str, Callable[[Any], str]] = {
  "percent": lambda value: f"{100 * value:.1f}",
  "percent.2": lambda value: f"{100 * value:.2f}",
  "points": lambda value: f"{100 * value:+.1f}",
  "count": lambda value: f"{value:,.0f}",
  "p": lambda value: _p_value(value) if value < 1 else "1",
  "number": lambda value: f"{value:.4g}",
}


def _plain(value: Any) -> Any:
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


# ------------------------------------------------------------------- formats


def to_csv(table: Table) -> str:
  """Full numbers, fractions as fractions; unknown values are empty."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow([column.name for column in table.columns])
  for row in table.rows:
    writer.writerow(["" if _plain(v) is None else _one_line(v) for v in row])
  return text.getvalue()


def _one_line(value: Any) -> Any:
  return " ".join(value.split()) if isinstance(value, str) else value


def to_markdown(table: Table) -> str:
  """A pipe table under its title, with the notes below."""

  def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape_markdown, cells))} |"

  rules = [
    "---" if column.kind == "text" else "---:" for column in table.columns
  ]
  lines = [
    f"**{_escape_markdown(table.title)}**",
    "",
    line([column.name for column in table.columns]),
    f"| {' | '.join(rules)} |",
    *map(line, table.shown()),
  ]
  for note in table.notes:
    lines += ["", _escape_markdown(note)]
  return "\n".join(lines) + "\n"


def _escape_markdown(text: str) -> str:
  return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", text)


def to_latex(table: Table) -> str:
  """A `table` for the package booktabs."""
  places = "".join("l" if c.kind == "text" else "r" for c in table.columns)

  def line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"

  caption = escape_latex(" ".join([f"{table.title}.", *table.notes]))
  return "\n".join(
    [
      r"\begin{table}",
      r"\centering",
      rf"\caption{{{caption}}}",
      rf"\label{{tab:{table.name}}}",
      rf"\begin{{tabular}}{{{places}}}",
      r"\toprule",
      line([column.name for column in table.columns]),
      r"\midrule",
      *map(line, table.shown()),
      r"\bottomrule",
      r"\end{tabular}",
      r"\end{table}",
      "",
    ]
  )


_LATEX = {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  MINUS: "$-$",
  UNKNOWN: "--",
  "∞": r"$\infty$",
  "…": r"\dots{}",
  "≥": r"$\geq$",
  "<": r"\textless{}",
  ">": r"\textgreater{}",
  "|": r"\textbar{}",
  **{character: "\\" + character for character in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
  """A text that LaTeX sets as it is."""
  return "".join(_LATEX.get(character, character) for character in text)


def write(folder: pathlib.Path, tables: Sequence[Table]) -> list[pathlib.Path]:
  """Writes NAME.md, NAME.csv and NAME.tex of each table."""
  written = []
  for table in tables:
    for suffix, text in (
      (".md", to_markdown(table)),
      (".csv", to_csv(table)),
      (".tex", to_latex(table)),
    ):
      path = folder / f"{table.name}{suffix}"
      write_atomically(path, text)
      written.append(path)
  return written
