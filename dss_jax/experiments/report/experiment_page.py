"""The report as one HTML page that needs nothing else.

The answer, figures and tables are in the page as they are; only the browser of
test items takes a script.
"""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Iterable, Sequence

from dss_jax.base import standalone_page
from dss_jax.experiments.report import (
  answered_items,
  label_confusions,
  measured_costs,
  report_answer,
)
from dss_jax.experiments.report.figure_files import Drawing
from dss_jax.experiments.report.label_confusions import Confusion
from dss_jax.experiments.report.report_answer import Finding
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_figures import Missing
from dss_jax.experiments.report.report_tables import Column, Table

_FOLDER = pathlib.Path(__file__).parent / "page"

# Tables of more rows are closed at first.
_OPEN_ROWS = 30
# Most confusion matrices on a page.
_MAX_MATRICES = 40
_HEAT_STEPS = 5


def render(
  content: Content,
  findings: Sequence[Finding],
  tables: Sequence[Table],
  drawings: Sequence[Drawing],
  missing: Sequence[Missing],
) -> str:
  """The page as text.

  Args:
    content: what the report says.
    findings: for its top.
    tables: in the order of the page; those of runs come last.
    drawings: the figures.
    missing: figures that are left out.
  """
  late = ("runs", "left_out")
  early = [table for table in tables if table.name not in late]
  parts = [
    _answer(content, findings),
    _figures(drawings, missing),
    *map(_table_section, early),
    _unmeasured(tables),
    _confusions(content),
    standalone_page.browser("Test items", "input, answer, rationale, id"),
    *(_table_section(table) for table in tables if table.name in late),
    _settings(content),
    _notes(content),
  ]
  return standalone_page.render(
    title=", ".join(content.datasets),
    kind="report",
    subtitle=_subtitle(content),
    noscript="The browser of test items takes JavaScript; all else is here.",
    main="".join(filter(None, parts)),
    data=answered_items.for_page(content),
    style=(_FOLDER / "style.css").read_text(encoding="utf-8"),
    script=(_FOLDER / "script.js").read_text(encoding="utf-8"),
  )


def _answer(content: Content, findings: Sequence[Finding]) -> str:
  parts = [
    f"<p><strong>{_text(each.verdict)}</strong> {_text(each.text)}</p>"
    for each in findings
  ]
  cautions = [each.cautions for each in findings]
  quiet = " ".join(filter(None, [*cautions, report_answer.left_out(content)]))
  if quiet:
    parts.append(f'<p class="quiet">{_text(quiet)}</p>')
  return _section("answer", *parts)


def _subtitle(content: Content) -> str:
  runs = len(content.runs)
  versions = sorted({str(r.machine.get("dss_jax", "?")) for r in content.runs})
  return (
    f"{runs} finished run{'s' if runs != 1 else ''} in {len(content.rows)}"
    f" setting{'s' if len(content.rows) != 1 else ''}; dss_jax"
    f" {', '.join(versions)}"
  )


def _text(text: object) -> str:
  return html.escape(str(text))


def _section(kind: str, *parts: str, title: str = "") -> str:
  heading = f"<h2>{_text(title)}</h2>" if title else ""
  named = f' aria-label="{_text(title)}"' if title else ""
  return f'<section class="{kind}"{named}>{heading}{"".join(parts)}</section>\n'


# -------------------------------------------------------------------- figures


def _figures(drawings: Sequence[Drawing], missing: Sequence[Missing]) -> str:
  figures = "".join(
    f"<figure>{each.svg}<figcaption><strong>{_text(each.title)}</strong>"
    f" {_text(each.caption)}</figcaption></figure>"
    for each in drawings
  )
  absent = "".join(
    f'<p class="missing">Not drawn: {_text(each.title)}: {_text(each.reason)}.'
    "</p>"
    for each in missing
  )
  return _section(
    "drawings", f'<div class="figures">{figures}</div>', absent, title="Figures"
  )


# --------------------------------------------------------------------- tables


def _table_section(table: Table) -> str:
  columns, rows, common = _without_common(table)
  notes = [*common, *table.notes]
  shown = _scrolling(table.title, _table(columns, rows))
  if len(rows) > _OPEN_ROWS:
    shown = f"<details><summary>{len(rows)} rows</summary>{shown}</details>"
  return _section(
    "table",
    shown,
    *(f'<p class="note">{_text(note)}</p>' for note in notes),
    title=table.title,
  )


def _without_common(
  table: Table,
) -> tuple[list[Column], list[list[str]], list[str]]:
  """A table without the columns whose cells are all the same.

  Returns:
    The columns and rows that are left, and a line about the others.
  """
  rows = table.shown()
  if len(rows) < 2:
    return list(table.columns), rows, []
  same = [len(set(cells)) == 1 for cells in zip(*rows, strict=True)]
  listed = "; ".join(
    f"{column.name} {cell}"
    for column, cell, is_same in zip(table.columns, rows[0], same, strict=True)
    if is_same
  )
  return (
    [c for c, is_same in zip(table.columns, same, strict=True) if not is_same],
    [
      [cell for cell, is_same in zip(row, same, strict=True) if not is_same]
      for row in rows
    ],
    [f"In all rows: {listed}."] if listed else [],
  )


def _unmeasured(tables: Sequence[Table]) -> str:
  """How to measure costs, where nobody did."""
  if any(table.name == "costs" for table in tables):
    return ""
  return _section(
    "costs",
    f'<p class="missing">{_text(measured_costs.HOW_TO_MEASURE)}</p>',
    title="Cost, latency and memory",
  )


def _scrolling(name: str, table: str) -> str:
  """A table that scrolls by itself, by keyboard too; the page never does."""
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(name)}">'
    f"{table}</div>"
  )


def _table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
  kinds = [' class="text"' if c.kind == "text" else "" for c in columns]
  head = "".join(
    f'<th scope="col"{kind}>{_text(column.name)}</th>'
    for kind, column in zip(kinds, columns, strict=True)
  )
  body = "".join(
    "<tr>"
    + "".join(
      f"<td{kind}>{_text(cell)}</td>"
      for kind, cell in zip(kinds, row, strict=True)
    )
    + "</tr>"
    for row in rows
  )
  return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# ---------------------------------------------------------- confusion matrices


def _confusions(content: Content) -> str:
  """A matrix for each group whose dataset has few labels."""
  matrices = []
  left = 0
  for dataset in content.datasets:
    groups = [row.group for row in content.of_dataset(dataset)]
    names = answered_items.group_names(content, groups)
    for name, group in zip(names, groups, strict=True):
      confusion = label_confusions.of_group(group)
      if confusion is None:
        break
      if len(matrices) == _MAX_MATRICES:
        left += 1
      else:
        title = name if len(content.datasets) == 1 else f"{dataset}: {name}"
        matrices.append(_matrix(title, confusion))
  if not matrices:
    return ""
  more = f'<p class="note">{left} more are not shown.</p>' if left else ""
  return _section(
    "confusions",
    f"<details><summary>{len(matrices)} matrices, over all seeds; rows are gold"
    f' labels, columns answers</summary><div class="matrices">'
    f"{''.join(matrices)}</div></details>",
    more,
    title="Which labels are taken for which",
  )


def _matrix(title: str, confusion: Confusion) -> str:
  others = any(row[-1] for row in confusion.counts)
  names = [*confusion.labels, *(["other"] if others else [])]
  head = "".join(f'<th scope="col">{_text(name)}</th>' for name in names)
  rows = []
  for index, (label, counts) in enumerate(
    zip(confusion.labels, confusion.counts, strict=True)
  ):
    total = sum(counts) or 1
    cells = []
    for column, number in enumerate(counts[: len(names)]):
      heat = round(_HEAT_STEPS * number / total)
      kinds = [f"h{heat}"] if heat else []
      kinds += ["diagonal"] if column == index else []
      kind = f' class="{" ".join(kinds)}"' if kinds else ""
      cells.append(f"<td{kind}>{number:,}</td>")
    rows.append(f'<tr><th scope="row">{_text(label)}</th>{"".join(cells)}</tr>')
  table = (
    f'<table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>'
    f"{''.join(rows)}</tbody></table>"
  )
  return f"<div><h3>{_text(title)}</h3>{_scrolling(title, table)}</div>"


# ------------------------------------------------------------------- settings


def _settings(content: Content) -> str:
  """Every run's settings: first those in which runs differ."""
  runs = content.runs
  known = [run for run in runs if run.settings]
  if not known:
    return ""
  names = sorted(set().union(*(run.settings for run in known)))
  differing = [
    name for name in names if len({r.settings.get(name) for r in known}) > 1
  ]
  parts = []
  if differing:
    columns = [Column("run"), *(Column(name) for name in differing)]
    rows = [
      [
        _folder(
          run.folder, known[0].folder if len(known) == 1 else _root(runs)
        ),
        *(run.settings.get(name, "(not recorded)") for name in differing),
      ]
      for run in known
    ]
    parts.append(
      f"<details><summary>{len(differing)} settings in which runs differ"
      f"</summary>{_scrolling('Settings', _table(columns, rows))}</details>"
    )
  common = [name for name in names if name not in differing]
  if common:
    rows = [[name, known[0].settings[name]] for name in common]
    table = _table([Column("setting"), Column("value")], rows)
    parts.append(
      f"<details><summary>{len(common)} settings that all runs share</summary>"
      f"{_scrolling('Shared settings', table)}</details>"
    )
  if len(known) < len(runs):
    parts.append(
      f'<p class="note">{len(runs) - len(known)} runs have no config.gin.</p>'
    )
  return _section("settings", *parts, title="Every run's settings")


def _root(runs: Sequence) -> pathlib.Path:
  return pathlib.Path(os.path.commonpath([run.folder.parent for run in runs]))


def _folder(folder: pathlib.Path, root: pathlib.Path) -> str:
  return os.path.relpath(folder, root) if folder != root else folder.name


def _notes(content: Content) -> str:
  if not content.notes:
    return ""
  items = "".join(f"<p>{_text(note)}</p>" for note in content.notes)
  return _section("notes", items, title="Notes")
