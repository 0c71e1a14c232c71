"""Which cells a sweep has, as far as its search of learning rates is known.

All of it follows from the declaration and from what lies in the folder, so a
sweep that is started again, anywhere, has the same cells.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.experiments.sweeps import budgets, cells, rate_search
from dss_jax.experiments.sweeps.cells import Cell, Reader
from dss_jax.experiments.sweeps.declaration import Sweep
from dss_jax.experiments.sweeps.rate_search import Winner


@dataclasses.dataclass(frozen=True)
class SearchState:
  """How far a search is.

  Attributes:
    trials: the cells of all trials so far.
    winners: None while trials are missing.
    widenings: how often the values were widened.
    tried: binding -> values, those that were added included.
  """

  trials: Sequence[Cell] = ()
  winners: Sequence[Winner] | None = ()
  widenings: int = 0
  tried: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)


class SweepPlan:
  """The cells of a sweep.

  Args:
    sweep: its declaration.
    output_dir: where the cells of all sweeps lie.
    reader: reads configurations.
    search_paths: folders in which cells look for gin files, as the reader does.

  Raises:
    UserError: for a configuration that cannot be read.
  """

  def __init__(
    self,
    sweep: Sweep,
    output_dir: pathlib.Path,
    reader: Reader,
    search_paths: Sequence[str] = (),
  ):
    self.sweep, self.output_dir = sweep, output_dir
    self._reader, self._search_paths = reader, tuple(search_paths)
    self._budget = budgets.Budget(sweep, reader)
    self._cells: dict[str, Cell] = {}
    if sweep.search:
      rate_search.check_can_widen(sweep)

  def is_settled(self, cell: Cell) -> bool:
    """Whether a cell is done, or has diverged, which it would again.

    A trial of a search that was given up is settled too.
    """
    folder = cell.folder(self.output_dir)
    return (
      cells.is_done(folder)
      or cells.has_diverged(folder)
      or (cell.stage == cells.SEARCH and cells.has_failed(folder))
    )

  def search_state(self) -> SearchState:
    """How far the search is.

    While trials are missing, the cells of the grid are read too, as far as they
    are known: what is wrong with them is told before a trial is trained.

    Raises:
      UserError: for a cell that cannot be read, or when all trials of a method
        failed.
    """
    sweep = self.sweep
    if not sweep.search:
      return SearchState()
    tried: Mapping[str, Sequence[Any]] = sweep.search
    for widenings in range(sweep.max_widenings + 1):
      trials = self._unique(
        self._cell(axes, cells.SEARCH)
        for axes in rate_search.trials(sweep, tried)
      )
      if not all(map(self.is_settled, trials)):
        self.final_cells(rate_search.first_settings(sweep))
        return SearchState(trials, None, widenings, tried)
      found = rate_search.winners(sweep, tried, self._validation_value)
      is_last = widenings == sweep.max_widenings
      if is_last or not any(winner.is_at_edge for winner in found):
        break
      tried = rate_search.widened(tried, found)
    return SearchState(trials, found, widenings, tried)

  def final_cells(self, winners: Sequence[Winner] = ()) -> list[Cell]:
    """The cells of the grid.

    Args:
      winners: of the search, if there is one.
    """
    found = []
    for axes in cells.grid(self.sweep):
      chosen = (
        rate_search.chosen_for(self.sweep, axes, winners) if winners else {}
      )
      found.append(self._cell({**axes, **chosen}, cells.FINAL))
    return self._unique(found)

  def forget_failures(self) -> None:
    """Lets trials that were given up be tried again."""
    for cell in self._cells.values():
      if cell.stage == cells.SEARCH:
        path = cell.folder(self.output_dir) / cells.FAILED_FILE
        path.unlink(missing_ok=True)

  def _unique(self, found: Iterable[Cell]) -> list[Cell]:
    """Cells of the same bindings once, as they are called first."""
    return list({cell.name: cell for cell in reversed([*found])}.values())[::-1]

  def _cell(self, axes: Mapping[str, Any], stage: str) -> Cell:
    key = repr((stage, sorted(axes.items(), key=repr)))
    if key not in self._cells:
      try:
        self._cells[key] = self._read_cell(axes, stage)
      except UserError as error:
        raise UserError(
          f"cell {cells.label(axes)}: {error}",
          details=error.details,
          fields=error.fields,
        ) from error
    return self._cells[key]

  def _read_cell(self, axes: Mapping[str, Any], stage: str) -> Cell:
    steps = self._budget.steps(axes)
    settings = cells.settings_of(self.sweep, axes)
    settings = settings.with_bindings(
      self._budget.bindings(steps, settings.bindings)
    )
    settings = dataclasses.replace(settings, search_paths=self._search_paths)
    if stage == cells.SEARCH:  # the test split is not for searching
      settings = settings.with_bindings(
        {"evaluation.EvaluationConfig.test_split": None}
      )
    return Cell.of(axes, stage, settings, steps, self._reader)

  def _validation_value(self, axes: Mapping[str, Any]) -> float | None:
    """What the selected checkpoint of a trial reached on validation."""
    folder = self._cell(axes, cells.SEARCH).folder(self.output_dir)
    for row in cells.read_results(folder):
      if f"{row['split']} {row['metric']}" == row["selected_by"]:
        return float(row["value"])
    return None


def shard_of(found: Sequence[Cell], index: int, count: int) -> list[Cell]:
  """Every `count`-th cell from `index` on, the same wherever it is asked."""
  if not 0 <= index < count:
    raise UserError(
      f"shard is {index}/{count}; the number before the slash must be from 0 to"
      f" {count - 1}",
      fields="shard",
    )
  return list(found[index::count])
