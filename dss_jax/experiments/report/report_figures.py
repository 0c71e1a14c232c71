"""The figures of a report: less data, a smaller student, and both at once.

Each is drawn small, so that its text can be read on a phone and on paper. All
runs are there as dots, hollow where they are at chance; what is written at a
point is its number of seeds. A figure that the runs cannot support is left out,
with the reason.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import math
import pathlib
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from dss_jax.base.atomic_files import atomic_path
from dss_jax.experiments.curves import COLORS
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_statistics import (
  BASELINE,
  CellRow,
  FrontPoint,
)
from dss_jax.experiments.report.run_cells import Family

# Each has a contrast of 3 or more with a white and with a dark page. Shapes tell
# methods apart too.
_COLORS = (*COLORS, "#9467BD", "#B8860B", "#8A8A8A")
_MARKERS = "osD^vP*X"
_STROKES = ("-", "--", "-.", ":")
# Shares of resamples below this are not written.
_LEAST_FREQUENCY = 0.05
_SIZE = (4.7, 3.7)  # inches
_DPI = 200
# What would make equal drawings differ.
_DATE = {".svg": "Date", ".png": "Software"}
# Becomes `currentColor` on a page: the same drawing for light and dark.
_INK = "#010203"

_ATTRIBUTE = re.compile(r"\s*([\w-]+)\s*:\s*([^;]*?)\s*(?:;|$)")


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A figure of a report.

  Attributes:
    name: of its files, without suffix.
    title: what it shows.
    caption: what a reader must know.
    svg: for a page: no style but attributes, and the ink of the text around.
    figure: matplotlib's.
  """

  name: str
  title: str
  caption: str
  svg: str
  figure: Any


@dataclasses.dataclass(frozen=True)
class Missing:
  """A figure that is left out.

  Attributes:
    title: what it would show.
    reason: why it does not.
  """

  title: str
  reason: str


def draw(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """Draws all figures that the runs support.

  Returns:
    The drawings, and those left out.
  """
  drawings: list[Drawing] = []
  missing: list[Missing] = []
  for make in (_less_data, _smaller_student, _least_of_both, _methods):
    found, without = make(content)
    drawings += found
    missing += without
  return drawings, missing


def write(
  folder: pathlib.Path, drawings: Iterable[Drawing]
) -> list[pathlib.Path]:
  """Writes NAME.svg and NAME.png of each drawing."""
  from matplotlib import rc_context

  folder.mkdir(parents=True, exist_ok=True)
  written = []
  for drawing in drawings:
    for suffix in (".svg", ".png"):
      path = folder / f"{drawing.name}{suffix}"
      with atomic_path(path) as temporary, rc_context(_STYLE):
        drawing.figure.savefig(
          temporary, format=suffix[1:], dpi=_DPI, metadata={_DATE[suffix]: None}
        )
      written.append(path)
  return written


# -------------------------------------------------------------- what is drawn


def _less_data(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """Accuracy against the number of training records, for each student."""
  title = "Accuracy against training-set size"
  groups: dict[tuple, list[CellRow]] = collections.defaultdict(list)
  for row in content.rows:
    cell, family = row.cell, row.cell.family
    if cell.examples:
      groups[
        family.dataset, cell.student, family.init, family.label_source
      ].append(row)
  found = []
  for (dataset, student, *_, labels), rows in groups.items():
    if len({row.cell.examples for row in rows}) < 2:
      continue
    drawing = _Axes(content, dataset, rows, lambda r: r.cell.examples or 0)
    drawing.level(_full_data(rows), "all data")
    drawing.teacher()
    drawing.curves()
    drawing.label("training records", student)
    source = "" if labels == "gold" else f", {labels} labels"
    found.append(
      drawing.finish(
        f"data_{dataset}_{student}_{labels}",
        f"{dataset}: accuracy against training-set size",
        f"{student}{source}. {_DOTTED}",
      )
    )
  if found:
    return found, []
  return [], [
    Missing(title, "it takes runs of one student with two sizes or more")
  ]


_DOTTED = (
  "The dotted line is fine-tuning with all its data: where another method"
  " crosses it, it needs less."
)


def _full_data(rows: Sequence[CellRow]) -> CellRow | None:
  """Fine-tuning on the most records."""
  baselines = [r for r in rows if r.cell.family.method == BASELINE]
  return max(baselines, key=lambda r: r.cell.examples or 0, default=None)


def _smaller_student(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """Accuracy against the student's size, at the most data."""
  title = "Accuracy against student size"
  groups: dict[tuple, list[CellRow]] = collections.defaultdict(list)
  for row in content.rows:
    family = row.cell.family
    if row.cell.parameters:
      groups[family.dataset, family.init, family.label_source].append(row)
  found = []
  for (dataset, _, labels), of_dataset in groups.items():
    # The most records with which there are two students.
    sizes: dict[int | None, set[int | None]] = collections.defaultdict(set)
    for row in of_dataset:
      sizes[row.cell.examples].add(row.cell.parameters)
    enough = [n for n, students in sizes.items() if len(students) > 1]
    if not enough:
      continue
    most = max(enough, key=lambda n: n or 0)
    rows = [row for row in of_dataset if row.cell.examples == most]
    drawing = _Axes(content, dataset, rows, lambda r: r.cell.parameters or 0)
    drawing.teacher()
    drawing.curves()
    records = f"{most:,} training records" if most else "all training records"
    drawing.label("parameters of the student", records)
    found.append(
      drawing.finish(
        f"size_{dataset}_{labels}",
        f"{dataset}: accuracy against student size",
        f"{records}.",
      )
    )
  if found:
    return found, []
  return [], [Missing(title, "it takes runs of two students on the same data")]


def _least_of_both(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """The smallest students with the least data that beat the teacher."""
  title = "Least data and smallest student that beat the teacher"
  found: list[Drawing] = []
  missing: list[Missing] = []
  for dataset in content.datasets:
    fronts = {
      family: points
      for family, points in content.fronts.items()
      if family.dataset == dataset
    }
    cells = [point.cell for points in fronts.values() for point in points]
    if dataset not in content.hardest:
      reason = "the teacher's answers to the test items are not at hand"
    elif not cells:
      reason = (
        "the teacher's answers to the validation items are not at hand, and they"
        " decide"
      )
    elif len({(cell.parameters, cell.examples) for cell in cells}) < 2:
      reason = "it takes two students, or two sizes of the training set"
    else:
      drawing = _Axes(content, dataset, content.of_dataset(dataset))
      drawing.fronts(fronts)
      found.append(
        drawing.finish(
          f"least_{dataset}",
          f"{dataset}: least data and smallest student that beat the teacher",
          "A filled mark beats the teacher on validation (paired lower bound"
          " above 0), a hollow one does not; the line joins the cheapest"
          f" winners. At a mark: the share of resamples (from"
          f" {100 * _LEAST_FREQUENCY:.0f} %) in which it is one of them."
          f" {_without_winner(content, fronts)}".strip(),
        )
      )
      continue
    missing.append(Missing(f"{dataset}: {title.lower()}", reason))
  return found, missing


def _methods(content: Content) -> tuple[list[Drawing], list[Missing]]:
  """Methods side by side, where there is but one setting to draw a curve of."""
  found = []
  for dataset in content.datasets:
    rows = content.of_dataset(dataset)
    settings = {(row.cell.student, row.cell.examples) for row in rows}
    if len(settings) > 1 or len(rows) < 2:
      continue
    [(student, examples)] = settings
    drawing = _Axes(content, dataset, rows)
    drawing.rows()
    records = "all" if examples is None else f"{examples:,}"
    found.append(
      drawing.finish(
        f"methods_{dataset}",
        f"{dataset}: accuracy of each method",
        f"{student}, {records} training records; {rows[0].items:,} test items.",
        legend=False,
      )
    )
  return found, []


def _without_winner(
  content: Content, fronts: Mapping[Family, Sequence[FrontPoint]]
) -> str:
  """How far the methods that never beat the teacher stay behind."""
  return " ".join(
    f"{content.name(family).capitalize()} is not shown to beat it; its best is"
    f" {abs(100 * best):.1f} points {'below' if best < 0 else 'above'} the"
    " teacher on validation."
    for family, points in fronts.items()
    if not any(point.beats for point in points)
    for best in [max(point.gap for point in points)]
  )


# ------------------------------------------------------------------- drawing


class _Axes:
  """One drawing in the making.

  Args:
    content: of the report.
    dataset: whose cells are drawn.
    rows: the cells.
    size: what of a cell is drawn from left to right; None where there are no
      curves.
  """

  def __init__(
    self,
    content: Content,
    dataset: str,
    rows: Sequence[CellRow],
    size: Callable[[CellRow], int] | None = None,
  ):
    from matplotlib import figure, rc_context

    self._content = content
    self._dataset = dataset
    self._rows = rows
    self._size = size
    with rc_context(_STYLE):
      self._figure = figure.Figure(figsize=_SIZE, layout="constrained")
      self._axes = self._figure.subplots()
    self._axes.spines[["top", "right"]].set_visible(False)
    self._axes.grid(alpha=0.22, color=_INK, linewidth=0.6)

  def _style(self, family: Family) -> dict[str, Any]:
    """The same colour and shape for a method in every figure of a dataset."""
    all_of = [f for f in self._content.families if f.dataset == self._dataset]
    number = all_of.index(family)
    return {
      "color": _COLORS[number % len(_COLORS)],
      "marker": _MARKERS[number % len(_MARKERS)],
      "linestyle": _STROKES[number // len(_COLORS) % len(_STROKES)],
    }

  def curves(self) -> None:
    """A curve for each family: means, intervals, and every run."""
    from matplotlib import ticker

    axes, rows, size = self._axes, self._rows, self._size
    assert size is not None
    families: dict[Family, list[CellRow]] = collections.defaultdict(list)
    for row in rows:
      families[row.cell.family].append(row)
    sizes = sorted({size(row) for row in rows})
    for number, (family, points) in enumerate(families.items()):
      points = sorted(points, key=size)
      style = self._style(family)
      # Side by side, so that intervals do not hide each other.
      shift = _beside(number, len(families), sizes, 0.07)
      x = [size(row) * shift for row in points]
      means = [row.summary.mean for row in points]
      axes.errorbar(
        x,
        means,
        yerr=[
          [row.summary.mean - row.summary.low for row in points],
          [row.summary.high - row.summary.mean for row in points],
        ],
        label=self._content.name(family),
        markersize=5,
        linewidth=1.6,
        elinewidth=1,
        capsize=2.5,
        **style,
      )
      for place, row in zip(x, points, strict=True):
        self._runs(place * _beside(1, 1, sizes, 0.05), row, style["color"])
        axes.annotate(
          str(len(row.cell.runs)),
          (place, row.summary.mean),
          xytext=(-4, 5),
          textcoords="offset points",
          ha="right",
          color=_INK,
          fontsize=7,
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [_short(value) for value in sizes])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    chance = max(row.chance for row in rows)
    axes.axhline(chance, color=_INK, alpha=0.35, linewidth=0.8)
    self._note("chance", chance)

  def rows(self) -> None:
    """A line for each cell: mean, interval and every run."""
    from matplotlib import ticker

    axes = self._axes
    for place, row in enumerate(self._rows):
      style = self._style(row.cell.family)
      summary = row.summary
      axes.errorbar(
        [summary.mean],
        [place],
        xerr=[[summary.mean - summary.low], [summary.high - summary.mean]],
        markersize=6,
        elinewidth=1.4,
        capsize=3,
        **style,
      )
      self._runs(place + 0.22, row, style["color"], across=False)
    names = [
      f"{textwrap.fill(self._content.name(row.cell.family), 24)}\n"
      f"seeds: {len(row.cell.runs)}"
      for row in self._rows
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"test {self._rows[0].cell.metric.replace('_', ' ')}")
    chance = max(row.chance for row in self._rows)
    lines = [(chance, "chance", "-")]
    if (accuracy := self._teacher_accuracy()) is not None:
      lines.append((accuracy, "teacher", "--"))
    for x, name, stroke in lines:
      axes.axvline(x, color=_INK, alpha=0.5, linewidth=1, linestyle=stroke)
      axes.annotate(
        name,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(2, -2),
        textcoords="offset points",
        va="top",
        color=_INK,
        fontsize=7.5,
      )

  def _runs(
    self, place: float, row: CellRow, color: str, *, across: bool = True
  ) -> None:
    """The runs of a cell as dots; those at chance are hollow."""
    for run, at_chance in zip(
      row.cell.runs, row.summary.at_chance, strict=True
    ):
      accuracy = float(run.test.correct.mean())
      self._axes.plot(
        [place if across else accuracy],
        [accuracy if across else place],
        marker="o",
        markersize=4 if at_chance else 2.4,
        markerfacecolor="none" if at_chance else color,
        markeredgecolor=color,
        markeredgewidth=1 if at_chance else 0,
        linestyle="none",
        alpha=1 if at_chance else 0.6,
      )

  def level(self, row: CellRow | None, what: str) -> None:
    """Fine-tuning's mean as a dotted line."""
    if row is None:
      return
    style = self._style(row.cell.family)
    self._axes.axhline(
      row.summary.mean, color=style["color"], linestyle=":", linewidth=1.5
    )
    name = self._content.name(row.cell.family)
    self._note(f"{name}, {what}", row.summary.mean, above=self._is_above(row))

  def _is_above(self, row: CellRow) -> bool:
    """Whether there is room above the line for the words about it."""
    teacher = self._teacher_accuracy()
    return teacher is None or not 0 <= teacher - row.summary.mean < 0.06

  def _teacher_accuracy(self) -> float | None:
    teacher = self._content.hardest.get(self._dataset)
    if teacher is None:
      return None
    row = self._rows[0]
    scores = teacher.scores(row.cell.runs[0].test, row.cell.metric)
    return None if scores is None else float(scores.mean())

  def teacher(self) -> None:
    """The teacher's accuracy on the test split as a line."""
    accuracy = self._teacher_accuracy()
    if accuracy is None:
      return
    self._axes.axhline(
      accuracy, color=_INK, linestyle=(0, (6, 2)), linewidth=1.2
    )
    name = self._content.hardest[self._dataset].name
    self._note(f"teacher: {name}", accuracy)

  def fronts(self, fronts: Mapping[Family, Sequence[FrontPoint]]) -> None:
    """Cells by parameters and records; the front of each family as steps."""
    from matplotlib import ticker

    axes = self._axes
    cells = [p.cell for points in fronts.values() for p in points]
    widths = sorted({cell.parameters or 0 for cell in cells})
    for number, (family, points) in enumerate(fronts.items()):
      style = self._style(family)
      shift = _beside(number, len(fronts), widths, 0.17)
      front = sorted(
        ((p.cell.parameters or 0) * shift, p.cell.examples or 0)
        for p in points
        if p.on_front
      )
      axes.plot(
        [x for x, _ in front],
        [y for _, y in front],
        color=style["color"],
        linestyle=style["linestyle"],
        drawstyle="steps-post",
        linewidth=1.4,
      )
      for point in points:
        self._front_point(point, shift, style)
      # For the legend.
      axes.plot(
        [],
        [],
        **style,
        markersize=6,
        linewidth=1.4,
        label=self._content.name(family),
      )
    axes.set(xscale="log", yscale="log")
    for axis, sizes in (
      (axes.xaxis, widths),
      (axes.yaxis, sorted({cell.examples or 0 for cell in cells})),
    ):
      axis.set_ticks(sizes, [_short(value) for value in sizes])
      axis.set_minor_locator(ticker.NullLocator())
    axes.margins(0.16)
    axes.set_xlabel("parameters of the student")
    axes.set_ylabel("training records")

  def _front_point(
    self, point: FrontPoint, shift: float, style: Mapping[str, Any]
  ) -> None:
    place = (point.cell.parameters or 0) * shift, point.cell.examples or 0
    self._axes.plot(
      *place,
      marker=style["marker"],
      markersize=6,
      markerfacecolor=style["color"] if point.beats else "none",
      markeredgecolor=style["color"],
      linestyle="none",
    )
    if point.frequency >= _LEAST_FREQUENCY:
      self._axes.annotate(
        f"{100 * point.frequency:.0f} %",
        place,
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        color=_INK,
        fontsize=7,
      )

  def _note(self, text: str, y: float, *, above: bool = True) -> None:
    """A few words at that end of a line where curves are far from it."""
    assert self._size is not None
    places = [self._size(row) for row in self._rows]
    near = [
      min(
        abs(row.summary.mean - y)
        for row, place in zip(self._rows, places, strict=True)
        if place == end
      )
      for end in (min(places), max(places))
    ]
    left = near[0] >= near[1]
    self._axes.annotate(
      text,
      (0 if left else 1, y),
      xycoords=("axes fraction", "data"),
      xytext=(3 if left else -3, 2 if above else -2),
      textcoords="offset points",
      ha="left" if left else "right",
      va="bottom" if above else "top",
      color=_INK,
      alpha=0.75,
      fontsize=7.5,
    )

  def label(self, x: str, title: str) -> None:
    self._axes.set_xlabel(x)
    items = self._rows[0].items
    self._axes.set_ylabel(f"test {self._rows[0].cell.metric.replace('_', ' ')}")
    self._axes.set_title(f"{title}; {items:,} test items", loc="left")

  def finish(
    self, name: str, title: str, caption: str, *, legend: bool = True
  ) -> Drawing:
    """Adds the legend below and makes the drawing for a page."""
    handles, labels = self._axes.get_legend_handles_labels()
    # A line for each name that is long.
    columns = 2 if all(len(label) < 26 for label in labels) else 1
    if legend:
      self._figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        labelcolor=_INK,
      )
    shown = sum(len(row.cell.runs) for row in self._rows)
    collapsed = sum(sum(row.summary.at_chance) for row in self._rows)
    count = (
      f"Small dots: single runs; {collapsed} of {shown} are at chance (hollow)."
      f"{' Numbers: seeds at each point.' if legend else ''}"
      " Bars: 95 % interval over seeds and items."
    )
    if not name.startswith("least"):
      caption = f"{caption} {count}"
    name = re.sub(r"[^\w.+-]+", "_", name)
    return Drawing(
      name, title, caption, for_page(self._figure, name, title), self._figure
    )


def _beside(
  number: int, of: int, sizes: Sequence[float], share: float
) -> float:
  """What a size is multiplied by, to lie next to others of the same size.

  Args:
    number: which one, from 0.
    of: how many there are.
    sizes: all sizes, ascending.
    share: of the least distance of two sizes on the logarithmic axis.
  """
  gaps = [math.log(b / a) for a, b in itertools.pairwise(sizes)]
  return math.exp(min(gaps, default=1.0) * share * (number - (of - 1) / 2))


_STYLE: Any = {
  "font.size": 9,
  "axes.titlesize": 9,
  "axes.labelsize": 9,
  "legend.fontsize": 8.5,
  "text.color": _INK,
  "axes.edgecolor": _INK,
  "axes.labelcolor": _INK,
  "xtick.color": _INK,
  "ytick.color": _INK,
  "svg.fonttype": "path",
  "svg.hashsalt": "dss_jax",
}


def _short(value: float) -> str:
  """A size in few characters: 250, 1.2k, 220M."""
  for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
    if value >= unit:
      return f"{value / unit:.3g}{name}"
  return f"{value:g}"


def for_page(figure: Any, name: str, title: str) -> str:
  """The figure as an SVG element that a strict page can hold.

  Styles become attributes, which a page's Content-Security-Policy need not
  allow, and the ink becomes the colour of the text around.

  Args:
    figure: matplotlib's.
    name: begins the ids, which must differ from those of other drawings.
    title: read out in place of the drawing.
  """
  from matplotlib import rc_context

  text = io.StringIO()
  with rc_context(_STYLE):
    figure.savefig(
      text, format="svg", transparent=True, metadata={"Date": None}
    )
  root = ElementTree.fromstring(text.getvalue())
  for element in root.iter():
    element.tag = element.tag.rpartition("}")[2]
    for key in list(element.attrib):
      if key.startswith("{"):
        value = element.attrib.pop(key)
        if key.endswith("}href"):
          element.set("href", value)
    for key, value in _ATTRIBUTE.findall(element.attrib.pop("style", "")):
      element.set(key, value)
    for key, value in element.attrib.items():
      if value.lower() == _INK:
        element.set(key, "currentColor")
      elif key == "id":
        element.set(key, f"{name}-{value}")
      elif key in ("href", "clip-path"):
        element.set(key, value.replace("#", f"#{name}-", 1))
  for parent in list(root.iter()):
    for child in list(parent):
      if child.tag in ("metadata", "style"):
        parent.remove(child)
  width, height = (float(x) for x in root.attrib["viewBox"].split()[2:])
  root.attrib = {
    "viewBox": f"0 0 {width:g} {height:g}",
    "role": "img",
    "aria-label": title,
    "stroke-linejoin": "round",
    "stroke-linecap": "butt",
  }
  return ElementTree.tostring(root, encoding="unicode")
