"""How a figure of a report is drawn: one pair of axes, for page and paper.

Each is drawn small, so that its text can be read on a phone and on paper. All
runs are there as dots, hollow where they are at chance; what is written at a
point is its number of seeds.
"""

from __future__ import annotations

import collections
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dss_jax.experiments.curves import COLORS
from dss_jax.experiments.report import figure_files
from dss_jax.experiments.report.figure_files import INK, Drawing
from dss_jax.experiments.report.report_content import Content
from dss_jax.experiments.report.report_statistics import GroupRow
from dss_jax.experiments.report.run_groups import Series
from dss_jax.experiments.report.teacher_comparisons import FrontPoint

# Each has a contrast of 3 or more with a white and with a dark page. Shapes tell
# methods apart too.
_COLORS = (*COLORS, "#9467BD", "#B8860B", "#8A8A8A")
_MARKERS = "osD^vP*X"
_STROKES = ("-", "--", "-.", ":")
# Shares of resamples below this are not written.
LEAST_FREQUENCY = 0.05
_SIZE = (4.7, 3.7)  # inches


class Chart:
  """One drawing in the making, within `figure_files.STYLE`.

  Args:
    content: of the report.
    dataset: whose groups are drawn.
    rows: the groups.
    size: what of a group is drawn from left to right; None where there are no
      curves.
  """

  def __init__(
    self,
    content: Content,
    dataset: str,
    rows: Sequence[GroupRow],
    size: Callable[[GroupRow], int] | None = None,
  ):
    from matplotlib import figure

    self._content = content
    self._dataset = dataset
    self._rows = rows
    self._size = size
    self._figure = figure.Figure(figsize=_SIZE, layout="constrained")
    self._axes = self._figure.subplots()
    self._axes.spines[["top", "right"]].set_visible(False)
    self._axes.grid(alpha=0.22, color=INK, linewidth=0.6)

  def _style(self, series: Series) -> dict[str, Any]:
    """The same colour and shape for a method in every figure of a dataset."""
    all_of = [s for s in self._content.series if s.dataset == self._dataset]
    number = all_of.index(series)
    return {
      "color": _COLORS[number % len(_COLORS)],
      "marker": _MARKERS[number % len(_MARKERS)],
      "linestyle": _STROKES[number // len(_COLORS) % len(_STROKES)],
    }

  def curves(self) -> None:
    """A curve for each series: means, intervals, and every run."""
    from matplotlib import ticker

    axes, rows, size = self._axes, self._rows, self._size
    assert size is not None
    by_series: dict[Series, list[GroupRow]] = collections.defaultdict(list)
    for row in rows:
      by_series[row.group.series].append(row)
    sizes = sorted({size(row) for row in rows})
    for number, (series, points) in enumerate(by_series.items()):
      points = sorted(points, key=size)
      style = self._style(series)
      # Side by side, so that intervals do not hide each other.
      shift = _beside(number, len(by_series), sizes, 0.07)
      x = [size(row) * shift for row in points]
      means = [row.summary.mean for row in points]
      axes.errorbar(
        x,
        means,
        yerr=[
          [row.summary.mean - row.summary.low for row in points],
          [row.summary.high - row.summary.mean for row in points],
        ],
        label=self._content.name(series),
        markersize=5,
        linewidth=1.6,
        elinewidth=1,
        capsize=2.5,
        **style,
      )
      for place, row in zip(x, points, strict=True):
        self._runs(place * _beside(1, 1, sizes, 0.05), row, style["color"])
        axes.annotate(
          str(len(row.group.runs)),
          (place, row.summary.mean),
          xytext=(-4, 5),
          textcoords="offset points",
          ha="right",
          color=INK,
          fontsize=7,
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [_short(value) for value in sizes])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    chance = max(row.chance for row in rows)
    axes.axhline(chance, color=INK, alpha=0.35, linewidth=0.8)
    self._note("chance", chance)

  def rows(self) -> None:
    """A line for each group: mean, interval and every run."""
    from matplotlib import ticker

    axes = self._axes
    self._figure.set_size_inches(_SIZE[0], 1.2 + 0.6 * len(self._rows))
    for place, row in enumerate(self._rows):
      style = self._style(row.group.series)
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
      f"{textwrap.fill(self._content.name(row.group.series), 24)}\n"
      f"seeds: {len(row.group.runs)}"
      for row in self._rows
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"test {self._rows[0].group.metric.replace('_', ' ')}")
    chance = max(row.chance for row in self._rows)
    lines = [(chance, "chance", "-")]
    if (accuracy := self._teacher_accuracy()) is not None:
      lines.append((accuracy, "teacher", "--"))
    for x, name, stroke in lines:
      axes.axvline(x, color=INK, alpha=0.5, linewidth=1, linestyle=stroke)
      axes.annotate(
        name,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(2, -2),
        textcoords="offset points",
        va="top",
        color=INK,
        fontsize=7.5,
      )

  def _runs(
    self, place: float, row: GroupRow, color: str, *, across: bool = True
  ) -> None:
    """The runs of a group as dots; those at chance are hollow."""
    for run, at_chance in zip(
      row.group.runs, row.summary.at_chance, strict=True
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

  def level(self, row: GroupRow | None, what: str) -> None:
    """Fine-tuning's mean as a dotted line."""
    if row is None:
      return
    style = self._style(row.group.series)
    self._axes.axhline(
      row.summary.mean, color=style["color"], linestyle=":", linewidth=1.5
    )
    name = self._content.name(row.group.series)
    self._note(f"{name}, {what}", row.summary.mean, above=self._is_above(row))

  def _is_above(self, row: GroupRow) -> bool:
    """Whether there is room above the line for the words about it."""
    teacher = self._teacher_accuracy()
    return teacher is None or not 0 <= teacher - row.summary.mean < 0.06

  def _teacher_accuracy(self) -> float | None:
    teacher = self._content.hardest.get(self._dataset)
    if teacher is None:
      return None
    row = self._rows[0]
    scores = teacher.scores(row.group.runs[0].test, row.group.metric)
    return None if scores is None else float(np.nanmean(scores))

  def teacher(self) -> None:
    """The teacher's accuracy on the test split as a line."""
    accuracy = self._teacher_accuracy()
    if accuracy is None:
      return
    self._axes.axhline(
      accuracy, color=INK, linestyle=(0, (6, 2)), linewidth=1.2
    )
    name = self._content.hardest[self._dataset].name
    self._note(f"teacher: {name}", accuracy)

  def fronts(self, fronts: Mapping[Series, Sequence[FrontPoint]]) -> None:
    """Groups by parameters and records; the front of each series as steps."""
    from matplotlib import ticker

    axes = self._axes
    groups = [p.group for points in fronts.values() for p in points]
    widths = sorted({group.parameters or 0 for group in groups})
    for number, (series, points) in enumerate(fronts.items()):
      style = self._style(series)
      shift = _beside(number, len(fronts), widths, 0.17)
      front = sorted(
        ((p.group.parameters or 0) * shift, p.group.examples or 0)
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
        label=self._content.name(series),
      )
    axes.set(xscale="log", yscale="log")
    for axis, sizes in (
      (axes.xaxis, widths),
      (axes.yaxis, sorted({group.examples or 0 for group in groups})),
    ):
      axis.set_ticks(sizes, [_short(value) for value in sizes])
      axis.set_minor_locator(ticker.NullLocator())
    axes.margins(0.16)
    axes.set_xlabel("parameters of the student")
    axes.set_ylabel("training records")

  def _front_point(
    self, point: FrontPoint, shift: float, style: Mapping[str, Any]
  ) -> None:
    place = (point.group.parameters or 0) * shift, point.group.examples or 0
    self._axes.plot(
      *place,
      marker=style["marker"],
      markersize=6,
      markerfacecolor=style["color"] if point.beats else "none",
      markeredgecolor=style["color"],
      linestyle="none",
    )
    if point.frequency >= LEAST_FREQUENCY:
      self._axes.annotate(
        f"{100 * point.frequency:.0f} %",
        place,
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        color=INK,
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
      color=INK,
      alpha=0.75,
      fontsize=7.5,
    )

  def label(self, x: str, title: str) -> None:
    self._axes.set_xlabel(x)
    items = self._rows[0].items
    self._axes.set_ylabel(
      f"test {self._rows[0].group.metric.replace('_', ' ')}"
    )
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
        labelcolor=INK,
      )
    shown = sum(len(row.group.runs) for row in self._rows)
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
      name,
      title,
      caption,
      figure_files.for_page(self._figure, name, title),
      self._figure,
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


def _short(value: float) -> str:
  """A size in few characters: 250, 1.2k, 220M."""
  for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
    if value >= unit:
      return f"{value / unit:.3g}{name}"
  return f"{value:g}"
