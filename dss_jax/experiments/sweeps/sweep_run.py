"""Running a sweep: search, grid, results; killed anywhere, it goes on there."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from dss_jax.base.errors import UserError
from dss_jax.base.stop_requests import StoppedError
from dss_jax.experiments.sweeps import (
  cell_process,
  cells,
  sweep_files,
  sweep_plan,
)
from dss_jax.experiments.sweeps.cell_process import Ended, Job
from dss_jax.experiments.sweeps.cell_queue import CellQueue
from dss_jax.experiments.sweeps.cells import Cell
from dss_jax.experiments.sweeps.rate_search import Winner
from dss_jax.experiments.sweeps.sweep_plan import SearchState, SweepPlan
from dss_jax.experiments.sweeps.sweep_progress import Pace, SweepProgress

Shard = tuple[int, int]  # this one's index, and how many there are
_COLLECT_S = 10.0  # between writes of what there is so far


@dataclasses.dataclass(frozen=True)
class SweepResult:
  """How a sweep ended.

  Attributes:
    found: its cells in order, trials of the search first.
    failed: those without results, but for trials that diverged.
    search: how far the search is.
  """

  found: Sequence[Cell]
  failed: Sequence[Cell]
  search: SearchState


class SweepRun:
  """Trains what is missing of a sweep, and collects the results.

  Args:
    plan: its cells.
    name: of the sweep's own folder.
    queue: who trains them.
    num_workers: cells trained side by side.
    stream: where progress is written; None is standard error.
  """

  def __init__(
    self,
    plan: SweepPlan,
    name: str,
    queue: CellQueue,
    *,
    num_workers: int,
    stream: TextIO | None = None,
  ):
    self._plan, self._queue, self._num_workers = plan, queue, num_workers
    self._stream = sys.stderr if stream is None else stream
    self._folder = plan.output_dir / name
    self._failed: dict[str, Cell] = {}  # crashed, refused or diverged
    # While a search goes on, those that the sweep had before stay in its files.
    self._earlier = sweep_files.cells_before(self._folder, cells.FINAL)
    self._pace = Pace(plan.output_dir)

  def run(
    self, *, shard: Shard | None = None, search_only: bool = False
  ) -> SweepResult:
    """Trains the search's cells, then those of the grid.

    Args:
      shard: trains only its share of the cells. The shares of a search must be
        trained before those of the grid.
      search_only: ends after the search.

    Raises:
      UserError: the search is not complete, and this is a shard of the grid.
      StoppedError: Ctrl-C or SIGTERM; what was at work is saved.
      StorageError: the disk is full, or cannot be written to.
    """
    state = self._search(shard, search_only)
    found = list(state.trials)
    if state.winners is not None and not search_only:
      final = self._plan.final_cells(state.winners)
      found += final
      self._tell_change(found, cells.FINAL)
      self._collect(found, state)
      collect = functools.partial(self._collect, found, state)
      self._train(final, shard, collect)
      self._collect(found, state)
    else:
      self._collect([*found, *self._earlier], state)
    failed = [c for c in self._failed.values() if not self._is_bad_trial(c)]
    return SweepResult(found, failed, state)

  def _is_bad_trial(self, cell: Cell) -> bool:
    """Whether a cell says that a setting does not work: a search's result."""
    folder = cell.folder(self._plan.output_dir)
    return cell.stage == cells.SEARCH and (
      cells.has_diverged(folder) or cells.has_failed(folder)
    )

  def _search(self, shard: Shard | None, search_only: bool) -> SearchState:
    """Trains the trials of the search, rounds of widening included."""
    state = self._search_state()
    if state.trials:
      self._tell_change(state.trials, cells.SEARCH)
    if shard and not search_only and state.winners is None:
      missing = sum(not self._plan.is_settled(c) for c in state.trials)
      raise UserError(
        f"the search lacks {missing} of {len(state.trials)} trials, and a shard"
        " of the grid needs its winners: run the stage 'search' first, whole or"
        " in shards",
        fields="SweepFlags.stage",
      )
    widenings = 0
    while state.winners is None:
      if state.widenings > widenings:
        widenings = state.widenings
        name, values = next(iter(state.tried.items()))
        self._say(
          f"the best {name} lies at the edge of what was tried: all methods get"
          f" {', '.join(map(str, values))}"
        )
      found = [*state.trials, *self._earlier]
      self._collect(found, state)
      collect = functools.partial(self._collect, found, state)
      self._train(state.trials, shard, collect)
      state = self._search_state()
      if shard:
        break
    for winner in state.winners or ():
      self._say(_describe(winner))
    for cell in state.trials:
      folder = cell.folder(self._plan.output_dir)
      if cells.has_failed(folder):
        self._say(
          f"search, {cell.label}: given up; delete {folder / cells.FAILED_FILE}"
          " to try it again"
        )
    return state

  def _search_state(self) -> SearchState:
    """How far the search is; where nothing worked, all may be tried again."""
    try:
      return self._plan.search_state()
    except UserError:
      self._plan.forget_failures()
      raise

  def _train(
    self,
    found: Sequence[Cell],
    shard: Shard | None,
    collect: Callable[[], None],
  ) -> None:
    """Trains the cells of a stage that are not settled."""
    own = sweep_plan.shard_of(found, *shard) if shard else list(found)
    for cell in own:
      self._pace.note(cell)
      if cells.has_diverged(cell.folder(self._plan.output_dir)):
        self._failed.setdefault(cell.name, cell)
    to_do = [
      cell
      for cell in own
      if not self._plan.is_settled(cell) and cell.name not in self._failed
    ]
    if not to_do:
      return
    progress = SweepProgress(
      own,
      to_do,
      self._pace,
      self._plan.output_dir,
      num_workers=min(self._num_workers, len(to_do)),
      stream=self._stream,
    )
    jobs = [
      Job(
        str(cell.folder(self._plan.output_dir)),
        cell.flags(self._plan.output_dir),
        cell.description(),
        cell.program,
      )
      for cell in to_do
    ]
    collected = time.monotonic()
    try:
      for event in self._queue.run(jobs):
        cell = to_do[event.index]
        progress.note(cell, event)
        if event.is_final and event.ended.how != cell_process.DONE:
          self._note_failure(cell, event.ended)
        if time.monotonic() - collected > _COLLECT_S:
          collect()
          collected = time.monotonic()
    except StoppedError:
      collect()
      raise
    finally:
      progress.close()

  def _note_failure(self, cell: Cell, ended: Ended) -> None:
    self._failed[cell.name] = cell
    if cell.stage == cells.SEARCH and ended.how != cell_process.DIVERGED:
      cells.give_up(cell.folder(self._plan.output_dir), ended.reason)

  def _collect(self, found: Sequence[Cell], state: SearchState) -> None:
    """Writes what the sweep has so far."""
    for cell in found:
      # Trained by a printed command, a cell does not know its axes.
      folder = cell.folder(self._plan.output_dir)
      if cell.bindings and cells.is_done(folder):
        cell_process.describe(folder, cell.description())
    winners = [winner.as_json() for winner in state.winners or ()]
    sweep_files.write_grid(self._folder, self._plan.sweep, found, winners)
    sweep_files.write_results(self._folder, self._plan.output_dir, found)

  def _tell_change(self, found: Sequence[Cell], stage: str) -> None:
    if change := sweep_files.grid_change(self._folder, found, stage):
      self._say(str(change))

  def _say(self, text: str) -> None:
    print(text, file=self._stream, flush=True)


def _describe(winner: Winner) -> str:
  chosen = " ".join(f"{name}={value}" for name, value in winner.chosen.items())
  place = " ".join(map(str, winner.place.values())) or "all"
  edge = ", at the edge of what was tried" if winner.is_at_edge else ""
  return (
    f"search, {place}: {chosen} (validation {winner.value:.3f}, {winner.trials}"
    f" trials{edge})"
  )
