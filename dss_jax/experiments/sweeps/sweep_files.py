"""What a sweep writes besides its cells: grid.json and results.jsonl."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.base import atomic_files, errors
from dss_jax.experiments.sweeps import cells
from dss_jax.experiments.sweeps.cells import Cell, Settings
from dss_jax.experiments.sweeps.declaration import Sweep
from dss_jax.training import results, run_directory

GRID_FILE = "grid.json"
# Of a run's results, what differs from start to start or folder to folder.
_LEFT_OUT = ("wall_s", "config_sha")


@dataclasses.dataclass(frozen=True)
class GridChange:
  """How a sweep's grid differs from that of its last start.

  Attributes:
    new: cells that are part of it now.
    gone: cells that are no longer part of it; they stay where they are.
  """

  new: int
  gone: int

  def __str__(self) -> str:
    return (
      f"the grid has changed: {self.new} cells are new, {self.gone} are no"
      " longer part of it (their folders stay)"
    )


def write_grid(
  folder: pathlib.Path,
  sweep: Sweep,
  found: Sequence[Cell],
  winners: Sequence[Mapping[str, Any]] = (),
) -> None:
  """Writes grid.json.

  Args:
    folder: of the sweep.
    sweep: its declaration.
    found: its cells in order.
    winners: what the search of learning rates chose.
  """
  grid = {
    "sweep": dataclasses.asdict(sweep),
    "winners": list(winners),
    "cells": [
      {
        "cell": cell.name,
        "stage": cell.stage,
        "axes": dict(cell.axes),
        "steps": cell.steps,
      }
      for cell in found
    ],
  }
  text = json.dumps(grid, indent=2, ensure_ascii=False, default=list) + "\n"
  atomic_files.write_atomically(folder / GRID_FILE, text)


def cells_before(folder: pathlib.Path, stage: str) -> list[Cell]:
  """The cells of a stage that grid.json has; none without one.

  Their settings are not known.

  Raises:
    UserError: grid.json is damaged.
  """
  path = folder / GRID_FILE
  if not path.is_file():
    return []
  with errors.damaged_file(path, "delete it"):
    return [
      Cell(
        str(entry["cell"]),
        dict(entry["axes"]),
        stage,
        Settings(),
        {},
        int(entry["steps"]),
      )
      for entry in json.loads(path.read_text(encoding="utf-8"))["cells"]
      if entry["stage"] == stage
    ]


def grid_change(
  folder: pathlib.Path, found: Sequence[Cell], stage: str
) -> GridChange | None:
  """How the cells of a stage differ from grid.json's; None for no change.

  Raises:
    UserError: grid.json is damaged.
  """
  before = {cell.name for cell in cells_before(folder, stage)}
  now = {cell.name for cell in found if cell.stage == stage}
  if not before or before == now:
    return None
  return GridChange(len(now - before), len(before - now))


def write_results(
  folder: pathlib.Path, output_dir: pathlib.Path, found: Sequence[Cell]
) -> int:
  """Writes results.jsonl, the rows of all cells that are done.

  The same cells give the same bytes, whoever trained them and however often
  they were interrupted.

  Args:
    folder: of the sweep.
    output_dir: of all sweeps.
    found: its cells in order.

  Returns:
    How many cells are done.
  """
  rows: list[dict[str, Any]] = []
  done = 0
  for cell in found:
    own = cells.read_results(cell.folder(output_dir))
    done += bool(own)
    for row in own:
      kept = {key: v for key, v in row.items() if key not in _LEFT_OUT}
      place = {"cell": cell.name, "axes": dict(cell.axes), "stage": cell.stage}
      rows.append(kept | place)
  run_directory.write_jsonl(folder / results.RESULTS_FILE, rows)
  return done
