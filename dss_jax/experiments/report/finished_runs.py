"""Finds the finished runs in folders and reads what a report needs of them.

A run is a folder as `dss-jax train` leaves it. A folder of runs, a sweep's
folder and a sweep's `cells/` all do: whatever lies in them is found. What cannot
be read, or is not finished, is named with the reason and left out.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError, one_line
from dss_jax.datasets import metrics
from dss_jax.training import results, run_directory

CELL_FILE = "cell.json"
GRID_FILE = "grid.json"
DIVERGED_FILE = "diverged.json"
SEARCH = "search"

# A file of answers that is larger is none that `dss-jax train` wrote.
MAX_FILE_BYTES = 1 << 30
# No results.jsonl has so many entries.
_MAX_ENTRIES = 1000
# No number of a run is larger; those beyond it are no 64-bit integers.
_LARGEST = 1 << 62
_MAX_DEPTH = 6
_NOT_RUNS = ("checkpoints", "eval", "__pycache__")

# A binding of config.gin, whose value may go on in indented lines.
_BINDING = re.compile(r"^([\w./@-]+) =[ \t]*\\?\n?(.*(?:\n[ \t]+.*)*)", re.M)


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a run answered to the items of one split, in the order of their ids.

  Attributes:
    ids: of the items.
    inputs: as the student read them, prefix included.
    targets: gold labels.
    predictions: the answers.
    correct: [items] 1.0 where the answer is right, else 0.0.
  """

  ids: tuple[str, ...]
  inputs: tuple[str, ...]
  targets: tuple[str, ...]
  predictions: tuple[str, ...]
  correct: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    folder: where it is.
    entry: its first entry of the test split in results.jsonl.
    metric: the metric that judges its answers.
    test: its answers to the test split.
    validation: its answers to the split that selected its checkpoint; None
      where they are not there any more.
    parameters: of the student; None where nobody wrote it down.
    settings: of config.gin, name -> value as it stands there.
    machine: run.json.
    axes: of the sweep's cell, name -> value; empty for a run of its own.
    sweep: the first of the sweeps in whose folders it was found; "" for none.
  """

  folder: pathlib.Path
  entry: Mapping[str, Any]
  metric: str
  test: Answers
  validation: Answers | None
  parameters: int | None
  settings: Mapping[str, str]
  machine: Mapping[str, Any]
  axes: Mapping[str, Any]
  sweep: str = ""

  @property
  def seed(self) -> int:
    """Of a sweep's cell that of the axis, which may draw anything."""
    seed: Any = self.axes.get("seed")
    return seed if _is_whole(seed) else self.entry["seed"]


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """A run that is not part of a report.

  Attributes:
    folder: where it is.
    kind: a few words, for counting: "not finished", "search", ...
    reason: one line about this run.
  """

  folder: pathlib.Path
  kind: str
  reason: str


class _Unusable(Exception):
  """Says why a run is left out: kind and reason."""


def find(
  folders: Iterable[str | os.PathLike[str]],
) -> tuple[list[Run], list[LeftOut]]:
  """Reads all runs in folders.

  Args:
    folders: runs, folders of runs, sweeps.

  Returns:
    The finished runs, and those left out.

  Raises:
    UserError: a folder is missing, or holds no run at all.
  """
  found: list[Run] = []
  left_out: list[LeftOut] = []
  texts: dict[str, str] = {}
  for place, sweep in run_folders(folders).items():
    try:
      run = _read_run(place, texts)
      found.append(dataclasses.replace(run, sweep=sweep))
    except _Unusable as error:
      left_out.append(LeftOut(place, *error.args))
    except (UserError, OSError) as error:
      left_out.append(LeftOut(place, "unreadable", one_line(error)))
  return found, left_out


def run_folders(
  folders: Iterable[str | os.PathLike[str]],
) -> dict[pathlib.Path, str]:
  """The runs in folders, each once, in order, and the sweep of each, or "".

  Raises:
    UserError: a folder is missing, or holds no run at all.
  """
  found: dict[pathlib.Path, tuple[pathlib.Path, str]] = {}
  for name in folders:
    folder = pathlib.Path(name).expanduser()
    if not folder.is_dir():
      raise UserError(f"no such folder: {folder}", fields="folders")
    here = list(_runs_in(folder))
    if not here:
      raise UserError(
        f"{folder} holds no run: a run is a folder with a run.json, as"
        " `dss-jax train` leaves it",
        fields="folders",
      )
    for place, sweep in here:
      found.setdefault(place.resolve(), (place, sweep))
  return dict(found.values())


def read_run(folder: str | os.PathLike[str]) -> Run:
  """Reads one finished run.

  Raises:
    UserError: it is none, or it cannot be read.
  """
  place = pathlib.Path(folder).expanduser()
  if not _is_run(place):
    raise UserError(f"{place} is no run: it has no run.json", fields="folders")
  try:
    return _read_run(place, {})
  except _Unusable as error:
    raise UserError(f"{place}: {error.args[1]}", fields="folders") from None


def _is_run(folder: pathlib.Path) -> bool:
  return any((folder / name).is_file() for name in ("run.json", "config.gin"))


def _runs_in(
  folder: pathlib.Path, depth: int = 0
) -> Iterator[tuple[pathlib.Path, str]]:
  if _is_run(folder):
    yield folder, ""
  elif (folder / GRID_FILE).is_file():
    yield from _cells_of_grid(folder)
  elif depth < _MAX_DEPTH:
    for inner in sorted(folder.iterdir()):
      if (
        inner.is_dir()
        and not inner.name.startswith(".")
        and inner.name not in _NOT_RUNS
      ):
        yield from _runs_in(inner, depth + 1)


def _cells_of_grid(
  folder: pathlib.Path,
) -> Iterator[tuple[pathlib.Path, str]]:
  """The runs that a sweep consists of, also those that are not there yet."""
  try:
    cells = _read_json(folder / GRID_FILE).get("cells")
  except _Unusable as error:
    raise UserError(f"{folder}: {error.args[1]}", fields="folders") from None
  for cell in cells if isinstance(cells, list) else ():
    name = cell.get("cell") if isinstance(cell, dict) else None
    if isinstance(name, str) and pathlib.PurePath(name).name == name:
      yield folder.parent / "cells" / name, folder.name


# ------------------------------------------------------------------- one run


def _read_run(folder: pathlib.Path, texts: dict[str, str]) -> Run:
  cell = _read_json(folder / CELL_FILE)
  if cell.get("stage") == SEARCH:
    raise _Unusable(SEARCH, "a run of a search, whose seed does not count")
  if diverged := _read_json(folder / DIVERGED_FILE):
    raise _Unusable("diverged", f"it diverged: {diverged.get('reason')}")
  entries = _entries(folder)
  if not entries:
    raise _Unusable("not finished", "it is not finished: no results.jsonl")
  entry, validation = _scored(entries)
  metric = entry["metric"]
  if metric not in metrics.PER_EXAMPLE_METRICS:
    raise _Unusable(
      "no metric of single answers",
      f"its metric {metric} ({entry['value']:.4g}) judges no single answers, so"
      " nothing can be paired",
    )
  machine = _read_json(folder / "run.json")
  test = _answers(folder, entry, texts)
  if not test:
    raise _Unusable("no answers", "its answers to the test split are missing")
  accuracy = float(test.correct.mean())
  if not math.isclose(accuracy, entry["value"], abs_tol=1e-6):
    raise _Unusable(
      "contradictory",
      f"its results.jsonl says {metric} {entry['value']:.4f}, its answers"
      f" {accuracy:.4f}",
    )
  parameters = machine.get("num_parameters")
  return Run(
    folder=folder,
    entry=entry,
    metric=metric,
    test=test,
    validation=_answers(folder, validation, texts) if validation else None,
    parameters=parameters if _is_count(parameters) else None,
    settings=settings_of(folder / "config.gin"),
    machine=machine,
    axes=cell["axes"] if isinstance(cell.get("axes"), dict) else {},
  )


def _entries(folder: pathlib.Path) -> list[dict[str, Any]]:
  path = folder / results.RESULTS_FILE
  _check_size(path)
  entries = run_directory.read_jsonl(path)[:_MAX_ENTRIES]
  for entry in entries:
    for name, kind in _FIELDS.items():
      if not isinstance(entry.get(name), kind) or entry[name] is True:
        raise _Unusable(
          "unreadable",
          f"{path.name}: {name} is {one_line(repr(entry.get(name)), longest=40)}",
        )
    for name, value in entry.items():
      if isinstance(value, int) and abs(value) > _LARGEST:
        raise _Unusable(
          "unreadable", f"{path.name}: {name} is over {_LARGEST:.0e}"
        )
    if not math.isfinite(entry["value"]):
      raise _Unusable("not a number", f"its {entry['metric']} is not a number")
  return entries


# What a report needs of an entry of results.jsonl; versions differ in the rest.
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
  "dataset": str,
  "student": str,
  "seed": int,
  "steps": int,
  "train_examples": (int, type(None)),
  "task": str,
  "split": str,
  "metric": str,
  "value": (int, float),
  "n": int,
  "checkpoint_step": int,
  "selected_by": str,
}


def _scored(
  entries: Sequence[Mapping[str, Any]],
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
  """The entries of the test split and of the one that selected."""
  selecting = entries[0]["selected_by"].split(" ")[0]
  test = [entry for entry in entries if entry["split"] != selecting]
  if not test:
    raise _Unusable(
      "no test scores",
      f"it has no scores but of {selecting!r}, which selected its checkpoint",
    )
  first = test[0]
  validation = [
    entry
    for entry in entries
    if entry["split"] == selecting
    and entry["task"] == first["task"]
    and entry["metric"] == first["metric"]
  ]
  return first, validation[0] if validation else None


def _answers(
  folder: pathlib.Path, entry: Mapping[str, Any], texts: dict[str, str]
) -> Answers | None:
  """The answers that an entry of results.jsonl is about; None without them."""
  suffix = "" if entry["split"] == "validation" else f"-{entry['split']}"
  name = f"{entry['task']}{suffix}"
  if pathlib.PurePath(name).name != name:
    raise _Unusable("unreadable", f"{name!r} is no task's name")
  path = folder / "eval" / name / f"{entry['checkpoint_step']}.jsonl"
  if not path.is_file():
    return None
  _check_size(path)
  items = run_directory.read_jsonl(path)

  def text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    # Equal texts of many runs are one object.
    found = value if isinstance(value, str) else json.dumps(value)
    return texts.setdefault(found, found)

  for number, item in enumerate(items, 1):
    if not isinstance(item.get("correct"), bool):
      raise _Unusable(
        "unreadable", f"{path}:{number}: correct is not a boolean"
      )
    if not isinstance(item.get("id"), str | int):
      # Earlier versions did not write ids: their order is the data's.
      item["id"] = f"{number - 1:09}"
  if len({str(item["id"]) for item in items}) != len(items):
    raise _Unusable("unreadable", f"{path.name}: an id occurs twice")
  if len(items) != entry["n"]:
    raise _Unusable(
      "contradictory",
      f"{path.name} has {len(items)} answers, results.jsonl says {entry['n']}",
    )
  if len(items) < 2:
    raise _Unusable("one item", "one item says nothing about others")
  # The same for every run, and test-2 comes before test-10.
  items.sort(key=lambda item: (len(str(item["id"])), str(item["id"])))
  return Answers(
    tuple(text(item, "id") for item in items),
    tuple(text(item, "input") for item in items),
    tuple(text(item, "target") for item in items),
    tuple(text(item, "prediction") for item in items),
    np.array([item["correct"] for item in items], float),
  )


def settings_of(path: pathlib.Path) -> dict[str, str]:
  """The bindings of a config.gin, as text; empty without one."""
  if not path.is_file():
    return {}
  _check_size(path)
  text = path.read_text(encoding="utf-8", errors="replace")
  return {
    name: " ".join(value.split()) for name, value in _BINDING.findall(text)
  }


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  """A file's JSON object; empty without one."""
  if not path.is_file():
    return {}
  _check_size(path)
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise _Unusable(
      "unreadable", f"{path.name} is damaged: {one_line(error)}"
    ) from None
  if not isinstance(found, dict):
    raise _Unusable("unreadable", f"{path.name} holds no JSON object")
  return found


def _check_size(path: pathlib.Path) -> None:
  if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
    raise _Unusable(
      "unreadable", f"{path.name} has over {MAX_FILE_BYTES} bytes"
    )


def _is_count(value: Any) -> bool:
  return _is_whole(value) and value > 0


def _is_whole(value: Any) -> bool:
  """Whether a file's value is an integer, of a size that fits anywhere."""
  return (
    isinstance(value, int)
    and not isinstance(value, bool)
    and abs(value) <= _LARGEST
  )
