"""The cells of a sweep: their configurations, names and folders.

A cell's name is the hash of all that is bound in it, whatever files, flags and
sweeps say so. Its folder is that of an ordinary run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax.base import atomic_files
from dss_jax.base.errors import UserError
from dss_jax.experiments.sweeps.declaration import FILE_AXES, Sweep
from dss_jax.training import results, run_directory
from dss_jax.training.train_config import TrainConfig

FOLDER = "cells"
CELL_FILE = "cell.json"
DIVERGED_FILE = "diverged.json"
FAILED_FILE = "failed.json"
SEARCH, FINAL = "search", "final"
# What a sweep binds by macros, and the field of a run's configuration in which it
# must arrive: full names, and files, could say otherwise.
_BOUND = {
  "TRAIN_STEPS": "total_steps",
  "EVAL_PERIOD": "eval_period",
  "EARLY_STOPPING_PATIENCE": "early_stopping_patience",
  "EARLY_STOPPING_MIN_IMPROVEMENT": "early_stopping_min_improvement",
}
# Bindings that are arguments of the compiled step, or say which records and
# parameters it gets: cells that differ in no others may share a program.
_STEP_ARGUMENTS = re.compile(
  r"(^|[/.])(RANDOM_SEED|random_seed|taxonli_seed|generated_seed|split_seed"
  r"|BASE_LEARNING_RATE|base_learning_rate|ALPHA|alpha)$"
)
# A string that gin's flags take as it is.
_PLAIN = re.compile(r"(?!(True|False|None)$)[A-Za-z_/][\w./-]*")


@dataclasses.dataclass(frozen=True)
class Settings:
  """The gin files and bindings of a run.

  Attributes:
    gin_files: in order; later ones win.
    bindings: gin name -> value; they win over the files.
    search_paths: folders in which the files are looked for, before others.
  """

  gin_files: tuple[str, ...] = ()
  bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  search_paths: tuple[str, ...] = ()

  def with_bindings(self, bindings: Mapping[str, Any]) -> Settings:
    """The settings with further bindings, which win."""
    return dataclasses.replace(self, bindings={**self.bindings, **bindings})

  def texts(self) -> list[str]:
    """The bindings as gin reads them."""
    return [f"{name} = {gin_text(v)}" for name, v in self.bindings.items()]

  def flags(self) -> list[str]:
    """The settings as flags of `dss-jax train`."""
    paths = ",".join(self.search_paths)
    return [
      *([f"--gin_search_paths={paths}"] if paths else []),
      *(f"--gin_file={path}" for path in self.gin_files),
      *(f"--gin.{name}={_flag_text(v)}" for name, v in self.bindings.items()),
    ]


class Configuration(NamedTuple):
  """What settings come to.

  Attributes:
    bindings: all that is bound, by full names, but for MODEL_DIR.
    config: the run.
  """

  bindings: Mapping[str, str]
  config: TrainConfig


# Reads configurations, which is the command line's business.
Reader = Callable[[Settings], Configuration]


def gin_text(value: Any) -> str:
  """A value as gin reads it; strings that begin with @ or % are references."""
  if isinstance(value, str) and value[:1] in ("@", "%"):
    return value
  return repr(value)


def _flag_text(value: Any) -> str:
  plain = isinstance(value, str) and _PLAIN.fullmatch(value)
  return value if plain else gin_text(value)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A run of a sweep.

  Attributes:
    name: the hash of its bindings.
    axes: axis -> value.
    stage: `SEARCH` or `FINAL`.
    settings: what it is configured by.
    bindings: all that is bound then, by full names.
    steps: updates, at most.
  """

  name: str
  axes: Mapping[str, Any]
  stage: str
  settings: Settings
  bindings: Mapping[str, str]
  steps: int

  @classmethod
  def of(
    cls,
    axes: Mapping[str, Any],
    stage: str,
    settings: Settings,
    steps: int,
    reader: Reader,
  ) -> Cell:
    """The cell of these settings.

    Raises:
      UserError: for settings that cannot be read, or that bind in another way
        what the sweep binds by a macro.
    """
    bindings, config = reader(settings)
    for macro, field in _BOUND.items():
      wanted, found = settings.bindings.get(macro), getattr(config, field)
      if macro in settings.bindings and found != wanted:
        raise UserError(
          f"{field} is {found!r} where the sweep binds {macro} to {wanted!r}:"
          f" something binds {field} itself, or in place of {macro}; take it out"
        )
    return cls(cell_name(bindings), axes, stage, settings, bindings, steps)

  @property
  def label(self) -> str:
    """Its axes in a line."""
    return label(self.axes)

  @property
  def program(self) -> str:
    """Names the program that trains it; others of the same name may share it."""
    bindings = self.bindings.items()
    return cell_name(
      {name: v for name, v in bindings if not _STEP_ARGUMENTS.search(name)}
    )

  def folder(self, output_dir: pathlib.Path) -> pathlib.Path:
    """Where it is trained."""
    return output_dir / FOLDER / self.name

  def flags(self, output_dir: pathlib.Path) -> list[str]:
    """The flags with which `dss-jax train` makes it."""
    folder = {"MODEL_DIR": str(self.folder(output_dir))}
    return self.settings.with_bindings(folder).flags()

  def description(self) -> dict[str, Any]:
    """What cell.json holds."""
    return {
      "axes": dict(self.axes),
      "stage": self.stage,
      "steps": self.steps,
      "bindings": dict(self.bindings),
      "flags": self.settings.flags(),
    }


def label(axes: Mapping[str, Any]) -> str:
  """Axes in a line: `dss seed=0 BASE_LEARNING_RATE=0.04`."""
  return " ".join(
    str(value) if name in FILE_AXES else f"{name.split('.')[-1]}={value}"
    for name, value in axes.items()
  )


def cell_name(bindings: Mapping[str, str]) -> str:
  """The name of the cell with these bindings."""
  text = json.dumps(dict(sorted(bindings.items())))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_done(folder: pathlib.Path) -> bool:
  """Whether a cell's results are there; they are written whole."""
  return (folder / results.RESULTS_FILE).is_file()


def has_diverged(folder: pathlib.Path) -> bool:
  """Whether a cell's training ended without a student, as it would again."""
  return (folder / DIVERGED_FILE).is_file()


def has_failed(folder: pathlib.Path) -> bool:
  """Whether a trial of a search was given up: it counts as one all the same."""
  return (folder / FAILED_FILE).is_file()


def give_up(folder: pathlib.Path, reason: str) -> None:
  """Notes that a trial is not tried again, here or in another shard."""
  text = json.dumps({"reason": reason}) + "\n"
  atomic_files.write_atomically(folder / FAILED_FILE, text)


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a cell's results; none while it is not done."""
  return run_directory.read_jsonl(folder / results.RESULTS_FILE)


def combinations(
  axes: Mapping[str, Sequence[Any]],
) -> Iterator[dict[str, Any]]:
  """Every combination of the values of axes, the first axis outermost."""
  for values in itertools.product(*axes.values()):
    yield dict(zip(axes, values, strict=True))


def grid(sweep: Sweep) -> list[dict[str, Any]]:
  """The axes of the sweep's cells in order, each combination once."""
  found: dict[str, dict[str, Any]] = {}
  for changes in ({}, *sweep.also):
    for axes in combinations({**sweep.axes, **changes}):
      found.setdefault(json.dumps(axes, sort_keys=True, default=repr), axes)
  return list(found.values())


def settings_of(sweep: Sweep, axes: Mapping[str, Any]) -> Settings:
  """What a sweep binds at a place of its grid, but for the budget."""
  files = {
    axis: value if value.endswith(".gin") else f"{folder}/{value}.gin"
    for axis, folder in FILE_AXES.items()
    if (value := axes.get(axis)) is not None
  }
  student = [files.pop("student")] if "student" in files else []
  bindings = dict(sweep.bindings)
  for axis, by_value in sweep.per_value.items():
    for value, bound in by_value.items():
      bindings |= bound if axes.get(axis) == value else {}
  for axis, value in axes.items():
    if axis not in FILE_AXES:
      bindings |= dict.fromkeys(sweep.binds.get(axis, (axis,)), value)
  return Settings((*student, *sweep.gin_files, *files.values()), bindings)
