"""Checkpoints that are to be deleted, or replaced by others of their step.

Deleting a folder takes many steps, and between two of them a process may be
killed: half a checkpoint would be left, under its name. So one that has to go
is renamed into a folder of such first, which takes one step, and is deleted
there. One that is replaced stays there until the new one is whole, and comes
back where that never happens.
"""

from __future__ import annotations

import pathlib
import shutil

FOLDER = "outgoing"


def put_back(folder: pathlib.Path) -> None:
  """Puts back what was not replaced, and deletes what else was to go.

  Args:
    folder: of checkpoints, which nobody else writes to.

  Raises:
    OSError: where the disk refuses.
  """
  outgoing = folder / FOLDER
  if not outgoing.is_dir():
    return
  newest = max(_steps(folder), default=-1)
  for step in _steps(outgoing):
    # Older ones had to go because there are newer ones.
    if step > newest:
      (outgoing / str(step)).rename(folder / str(step))
  delete(folder)


def delete(folder: pathlib.Path) -> None:
  """Deletes what was to go.

  Args:
    folder: of checkpoints, of which the newest is whole.

  Raises:
    OSError: where the disk refuses.
  """
  outgoing = folder / FOLDER
  if outgoing.is_dir():
    shutil.rmtree(outgoing)


def _steps(folder: pathlib.Path) -> list[int]:
  return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
