"""How far a sweep is, and how long it will take."""

from __future__ import annotations

import math
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import TextIO

from dss_jax.base.progress import Progress
from dss_jax.experiments.sweeps import cell_process, cells
from dss_jax.experiments.sweeps.cell_queue import Event
from dss_jax.experiments.sweeps.cells import Cell
from dss_jax.experiments.sweeps.declaration import FILE_AXES


class Pace:
  """Seconds of a step, as the cells that are done have taken.

  Args:
    output_dir: of the cells.
  """

  def __init__(self, output_dir: pathlib.Path):
    self._output_dir = output_dir
    self._seconds: dict[str, list[float]] = {}
    self._noted: set[str] = set()

  def note(self, cell: Cell) -> None:
    """Takes in what a cell took, if it is done."""
    rows = cells.read_results(cell.folder(self._output_dir))
    if rows and cell.name not in self._noted:
      self._noted.add(cell.name)
      seconds = rows[0]["wall_s"] / max(1, rows[0]["steps"])
      self._seconds.setdefault(_kind(cell), []).append(seconds)

  def seconds(self, found: Sequence[Cell]) -> float | None:
    """Seconds of these cells, one after another; None where none is done.

    Cells of a method, student and data that none is done of count as the mean
    of the others.
    """
    every = [s for of_kind in self._seconds.values() for s in of_kind]
    if not every:
      return None
    return sum(
      cell.steps * statistics.fmean(self._seconds.get(_kind(cell), every))
      for cell in found
    )


def _kind(cell: Cell) -> str:
  return repr([cell.axes.get(axis) for axis in FILE_AXES])


def minutes(seconds: float) -> str:
  """`about 4 min`, or hours."""
  whole = max(1, math.ceil(seconds / 60))
  if whole < 120:
    return f"about {whole} min"
  return f"about {whole / 60:.1f} h"


class SweepProgress:
  """A line for each cell that ends; on a terminal also a bar of their steps.

  Args:
    found: the cells of this stage.
    to_do: those that are trained now.
    pace: what cells take.
    output_dir: of the cells.
    num_workers: cells trained side by side.
    stream: where it is written; None is standard error.
  """

  def __init__(
    self,
    found: Sequence[Cell],
    to_do: Sequence[Cell],
    pace: Pace,
    output_dir: pathlib.Path,
    *,
    num_workers: int,
    stream: TextIO | None = None,
  ):
    self._left = {cell.name: cell for cell in to_do}
    self._total, self._pace, self._output_dir = len(found), pace, output_dir
    self._num_workers = num_workers
    steps = sum(cell.steps for cell in found)
    done = steps - sum(cell.steps for cell in to_do)
    self._steps = done
    self._stream = sys.stderr if stream is None else stream
    self._bar = None
    if self._stream.isatty():
      self._bar = Progress(
        steps, done, description="sweep", waiting="", stream=self._stream
      )

  def note(self, cell: Cell, event: Event) -> None:
    """Says what happened to a cell."""
    ended = event.ended
    if ended.how == cell_process.ELSEWHERE:
      self._say(f"{cell.label}: another process is at it, and is waited for")
      return
    if not event.is_final:
      # Those that were trained together are then trained alone.
      again = "tried again" if event.attempts else "each is trained alone"
      self._say(f"{cell.label}: {ended.reason}; {again}")
      return
    self._left.pop(cell.name)
    self._steps += cell.steps
    number = self._total - len(self._left)
    left = self._pace.seconds(list(self._left.values()))
    time_left = (
      f" ({minutes(left / self._num_workers)} left)"
      if left and self._left
      else ""
    )
    if ended.how == cell_process.DONE:
      self._pace.note(cell)
      outcome = (
        f"{_scores(cell.folder(self._output_dir))}, {event.seconds:.0f} s"
      )
    else:
      log = cell.folder(self._output_dir) / cell_process.LOG_FILE
      tried = f" after {event.attempts} attempts" if event.attempts > 1 else ""
      outcome = f"{ended.how}{tried}: {ended.reason} (all of it: {log})"
    self._say(f"[{number}/{self._total}] {cell.label}: {outcome}{time_left}")
    if self._bar:
      self._bar.update(self._steps, f"{number} of {self._total} cells")

  def _say(self, text: str) -> None:
    if self._bar:
      self._bar.say(text)
    else:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    """Ends the bar."""
    if self._bar:
      self._bar.close()


def _scores(folder: pathlib.Path) -> str:
  """`validation 0.712, test 0.703` of a cell that is done."""
  scores: dict[str, float] = {}
  for row in cells.read_results(folder):
    if row["selected_by"].endswith(f" {row['metric']}"):
      scores.setdefault(row["split"], row["value"])
  return ", ".join(f"{split} {value:.3f}" for split, value in scores.items())
