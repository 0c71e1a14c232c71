"""Learning curves of runs: read from metrics.jsonl, drawn as PNG and text."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from dss_jax.training import run_directory

# Colour-blind safe (Okabe and Ito), readable in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclasses.dataclass(frozen=True)
class Curve:
  """One run's metric while it trains.

  Attributes:
    x: [points] what was spent so far, ascending.
    y: [points] the metric there.
  """

  x: np.ndarray
  y: np.ndarray


def read_curve(
  model_dir: pathlib.Path, metric: str, x: str = "tokens_seen"
) -> Curve:
  """The curve of `metric` over `x` in a run's metrics.jsonl.

  Args:
    model_dir: the run.
    metric: such as `taxonli_label/validation/accuracy`.
    x: a name that stands on the same lines, or `step`.
  """
  points = [
    (line[x], line[metric])
    for line in run_directory.read_jsonl(model_dir / run_directory.METRICS_FILE)
    if metric in line and x in line
  ]
  array = np.asarray(points, np.float64).reshape(-1, 2)
  return Curve(array[:, 0], array[:, 1])


def mean_curve(curves: Sequence[Curve], points: int = 60) -> Curve:
  """The mean of several runs, where all of them have values."""
  start = max(curve.x[0] for curve in curves)
  end = min(curve.x[-1] for curve in curves)
  x = np.linspace(start, end, points)
  y = np.mean([np.interp(x, curve.x, curve.y) for curve in curves], axis=0)
  return Curve(x, y)


def draw_png(
  path: pathlib.Path,
  curves: Mapping[str, Sequence[Curve]],
  *,
  title: str,
  x_label: str,
  y_label: str,
  chance: float | None = None,
) -> None:
  """Draws each run as a thin line and the mean of each name as a thick one.

  Args:
    path: the PNG file.
    curves: name -> the curves of its seeds, with y as a fraction.
    title: above the picture.
    x_label: below it.
    y_label: next to it.
    chance: what guessing reaches, drawn as a dotted line.
  """
  from matplotlib import figure, ticker

  drawing = figure.Figure(figsize=(7, 4.2), layout="constrained")
  axes = drawing.subplots()
  for (name, runs), color in zip(curves.items(), COLORS, strict=False):
    for run in runs:
      axes.plot(run.x, run.y, color=color, alpha=0.3, linewidth=1)
    mean = mean_curve(runs)
    seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
    axes.plot(
      mean.x, mean.y, color=color, linewidth=2.2, label=f"{name} ({seeds})"
    )
  if chance is not None:
    axes.axhline(chance, color="0.5", linestyle=":", linewidth=1)
    axes.annotate(
      "chance",
      (1, chance),
      xycoords=("axes fraction", "data"),
      xytext=(-4, 3),
      textcoords="offset points",
      ha="right",
      color="0.4",
      fontsize=8,
    )
  axes.set(xlabel=x_label, ylabel=y_label)
  axes.set_title(title, loc="left", fontsize=11)
  axes.set_xlim(left=0)
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
  axes.xaxis.set_major_formatter(ticker.EngFormatter())
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, loc="best")
  path.parent.mkdir(parents=True, exist_ok=True)
  drawing.savefig(path, dpi=150)


def draw_text(
  curves: Mapping[str, Sequence[Curve]],
  *,
  title: str,
  x_label: str,
  width: int = 72,
  height: int = 16,
) -> str:
  """The mean curves as text, for a terminal; y is shown in percent."""
  import plotext

  plotext.clear_figure()
  plotext.theme("clear")
  plotext.plotsize(width, height)
  plotext.title(title)
  plotext.xlabel(x_label)
  markers = ("x", "o", "*", "+")
  for (name, runs), marker in zip(curves.items(), markers, strict=False):
    mean = mean_curve(runs)
    plotext.plot(
      (mean.x / 1e6).tolist(),
      (100 * mean.y).tolist(),
      label=name,
      marker=marker,
    )
  plotext.ylim(0, 100)
  plotext.yticks(range(0, 101, 20))
  text = plotext.uncolorize(plotext.build())
  plotext.clear_figure()
  return "\n".join(line.rstrip() for line in text.splitlines())
