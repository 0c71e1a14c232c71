"""Tables in three formats, whatever texts they hold."""

import csv
import io
import math

from dss_jax.experiments.report import report_tables
from dss_jax.experiments.report.report_tables import Column, Table

HOSTILE = "</script>|`x`\n\\end{table} & 5% $x_1$ #{~^} \u202e"

TABLE = Table(
  "mine",
  "A title",
  [
    Column("name"),
    Column("share %", "percent"),
    Column("difference", "points"),
    Column("p", "p"),
    Column("count", "count"),
  ],
  [
    [HOSTILE, 0.51234, -0.0123, 0.03125, 12345],
    ["nothing", math.nan, None, math.nan, None],
    ["ends", 1.0, math.inf, 1.0, 0],
  ],
  ["A note with 5 %."],
)


def test_values_are_written_for_reading():
  minus, dash = "\u2212", "\u2013"
  assert TABLE.shown()[0][1:] == ["51.2", f"{minus}1.2", ".0312", "12,345"]
  assert TABLE.shown()[1][1:] == [dash] * 4
  assert TABLE.shown()[2][1:] == ["100.0", "∞", "1", "0"]
  assert report_tables.shown(1e-6, "p") == "<.0001"
  assert len(report_tables.shown("x" * 10_000, "text")) == 200


def test_csv_holds_full_numbers():
  head, *rows = csv.reader(io.StringIO(report_tables.to_csv(TABLE)))
  assert head == ["name", "share %", "difference", "p", "count"]
  assert rows[0] == [
    HOSTILE.replace("\n", " "), "0.51234", "-0.0123", "0.03125", "12345"
  ]  # fmt: skip
  assert rows[1][1:] == [""] * 4
  assert [len(row) for row in rows] == [5] * 3


def test_markdown_has_as_many_cells_in_every_row():
  lines = report_tables.to_markdown(TABLE).splitlines()
  rows = [line for line in lines if line.startswith("|")]
  assert len(rows) == 5
  bare = [row.replace("\\|", "") for row in rows]
  assert {row.count("|") for row in bare} == {6}
  assert "\\<" in rows[2]
  assert lines[-1] == "A note with 5 %."


def test_latex_specials_are_set_as_they_are():
  text = report_tables.to_latex(TABLE)
  [row] = [line for line in text.splitlines() if "script" in line]
  cells = row.replace("\\&", "")
  assert cells.count("&") == 4
  assert cells.endswith(" \\\\")
  assert "\\textbackslash{}end\\{table\\} \\& 5\\% \\$x\\_1\\$" in row
  assert "\\#\\{\\textasciitilde{}\\textasciicircum{}\\}" in row
  assert text.count("\\end{table}") == 1
  assert text.count("\\begin{tabular}{lrrrr}") == 1
  assert "$\\infty$" in text
  assert "$-$1.2" in text
  assert "note with 5 \\%." in text


def test_json_has_no_nan():
  assert TABLE.as_json()["rows"][1] == ["nothing", None, None, None, None]
