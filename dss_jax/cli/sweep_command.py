"""`dss-jax sweep`: train the cells of a declared grid, and collect results."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import re
import shlex
import sys
from typing import TYPE_CHECKING

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.base.stop_requests import StoppedError
from dss_jax.cli import flags, run_flags

if TYPE_CHECKING:
  from dss_jax.experiments.sweeps.cells import Cell, Reader
  from dss_jax.experiments.sweeps.declaration import Sweep
  from dss_jax.experiments.sweeps.sweep_plan import SweepPlan
  from dss_jax.experiments.sweeps.sweep_run import Shard, SweepResult

EPILOG = """\
examples:
  dss-jax sweep --preset=small
  dss-jax sweep my_sweep.gin --output_dir=runs/sweeps --dry_run
  dss-jax sweep my_sweep.gin --gin.sweep.Sweep.steps=3600
  dss-jax sweep my_sweep.gin --shard=$SLURM_ARRAY_TASK_ID/8

A sweep that is started again goes on where it stopped; cells that another sweep
of the same --output_dir has trained are not trained again. See docs/sweeps.md.
"""

_STAGES = ("all", "search")
_ENGINES = ("local", "ray")
_MOST_TOGETHER = 1024
_NAMED_WORKERS = 8  # more are only counted
_UNUSED = "unused"  # the folder of a cell whose configuration is read


@dataclasses.dataclass(frozen=True)
class SweepFlags:
  """What is swept, and by whom.

  Attributes:
    preset: a packaged sweep instead of FILE: small or claim.
    output_dir: where the cells of all sweeps go, and a folder for this one.
    dry_run: count cells, steps and time, and train nothing.
    print_commands: print a command for each cell that is not trained yet, and
      train nothing.
    stage: search ends after the search of learning rates.
    shard: I/N trains every N-th cell from cell I on (from 0), for job arrays.
    retries: further attempts at a cell that crashed.
    workers: cells trained side by side; default: one for each device, or core.
    students_per_program: train up to N cells of one shape by one program, on
      each worker: for accelerators, which a small student leaves idle.
    engine: local, or ray for the machines of a Ray cluster.
  """

  preset: str | None = None
  output_dir: str = "runs/sweeps"
  dry_run: bool = False
  print_commands: bool = False
  stage: str = "all"
  shard: str | None = None
  retries: int = 2
  workers: int | None = None
  students_per_program: int = 1
  engine: str = "local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  parser.add_argument(
    "file", nargs="?", metavar="FILE", help="a gin file that binds sweep.Sweep"
  )
  flags.add_flags(
    parser,
    SweepFlags,
    print_commands={"flag": "print"},
    shard={"metavar": "I/N"},
    stage={"choices": _STAGES, "metavar": None},
    engine={"choices": _ENGINES, "metavar": None},
  )
  run_flags.add_override_flags(parser)


def run(args: argparse.Namespace) -> int:
  """Runs the mode."""
  options = flags.build(SweepFlags, args)
  shard = _shard(options.shard)
  checks.in_range("SweepFlags.retries", options.retries, 0)
  checks.in_range("SweepFlags.workers", options.workers, 1, or_none=True)
  together = options.students_per_program
  checks.in_range(
    "SweepFlags.students_per_program", together, 1, _MOST_TOGETHER
  )
  if together > 1 and options.engine != "local":
    raise UserError(
      f"students_per_program is {together}, which is for the engine 'local'",
      fields=("SweepFlags.students_per_program", "SweepFlags.engine"),
    )
  path = _path(args.file, options.preset)
  name = pathlib.PurePath(path).stem
  output_dir = pathlib.Path(options.output_dir).expanduser()

  from dss_jax.experiments.sweeps import cells

  if name == cells.FOLDER:
    raise UserError(
      f"a sweep cannot be called {name}, as the folder of all cells is: rename"
      f" {path}"
    )
  search_paths = run_flags.search_paths(args)
  sweep = read_sweep(path, args.gin_flags, search_paths)
  plan = make_plan(sweep, output_dir, search_paths)
  if options.dry_run:
    _print_plan(plan, options, shard)
    return 0
  if options.print_commands:
    _print_commands(plan, shard)
    return 0
  found = train(plan, name, options, shard)
  if found.search.winners is None and shard:
    print(
      "the search is not complete: run its other shards, then this one again,"
      " which may widen it",
      file=sys.stderr,
    )
  print(f"results: {output_dir / name / 'results.jsonl'}")
  return tell_failures(plan, found)


def _path(file: str | None, preset: str | None) -> str:
  if (file is None) == (preset is None):
    raise UserError("give either FILE or --preset")
  if file is not None:
    return file
  from dss_jax.cli import gin_config

  folder = pathlib.Path(gin_config.PACKAGED_FOLDER) / "sweeps"
  packaged = sorted(path.stem for path in folder.glob("*.gin"))
  if preset not in packaged:
    raise UserError(
      f"--preset is {preset!r}; it must be one of {', '.join(packaged)}"
    )
  return f"sweeps/{preset}.gin"


def _shard(text: str | None) -> Shard | None:
  if text is None:
    return None
  found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
  if found is None or not int(found[1]) < int(found[2]):
    raise UserError(
      f"--shard is {text!r}; it must be I/N with I from 0 to N - 1, such as 0/8"
    )
  return int(found[1]), int(found[2])


def read_sweep(
  path: str, gin_flags: list[str], search_paths: list[str]
) -> Sweep:
  """The sweep that a gin file declares, and `--gin.NAME=VALUE` changes.

  Raises:
    UserError: for a file that is not there, or declares no sweep.
  """
  from dss_jax.cli import gin_config

  bindings = [gin_config.binding_from_flag(flag) for flag in gin_flags]
  gin_config.parse([path], bindings, search_paths, root="sweep.Sweep")
  if not gin_config.configures("sweep.Sweep"):
    raise UserError(
      f"{path} declares no sweep: it must bind sweep.Sweep.axes and"
      " sweep.Sweep.steps, as sweeps/small.gin does"
    )
  return gin_config.instance("sweep.Sweep")


def make_reader(search_paths: list[str]) -> Reader:
  """Reads the configurations of cells, on the processor."""
  from dss_jax.cli import gin_config
  from dss_jax.experiments.sweeps.cells import Configuration, Settings

  run_flags.keep_off_devices()

  def read(settings: Settings) -> Configuration:
    bindings = [*settings.texts(), f"MODEL_DIR = {_UNUSED!r}"]
    gin_config.parse(settings.gin_files, bindings, search_paths)
    run_flags.import_modules()
    config = gin_config.instance("train.train")
    if config.model_dir != _UNUSED:
      raise UserError(
        f"model_dir is bound to {config.model_dir!r}, in place of MODEL_DIR: a"
        " sweep gives each cell a folder of its own; take it out"
      )
    return Configuration(gin_config.canonical_bindings(), config)

  return read


def make_plan(
  sweep: Sweep, output_dir: pathlib.Path, search_paths: list[str]
) -> SweepPlan:
  """The cells of a sweep."""
  from dss_jax.experiments.sweeps import sweep_plan

  return sweep_plan.SweepPlan(
    sweep, output_dir, make_reader(search_paths), search_paths
  )


def train(
  plan: SweepPlan,
  name: str,
  options: SweepFlags | None = None,
  shard: Shard | None = None,
) -> SweepResult:
  """Trains what is missing of a sweep.

  Args:
    plan: its cells.
    name: of its own folder.
    options: by whom, and what of it.
    shard: its share of the cells.

  Raises:
    StoppedError: Ctrl-C or SIGTERM; says how to continue.
  """
  from dss_jax.experiments.sweeps import cell_queue, sweep_run, workers

  options = options or SweepFlags()
  if options.engine == "ray":
    from dss_jax.experiments.sweeps import ray_engine

    engine = ray_engine.RayEngine(options.workers)
    found, attempt = engine.workers, engine.attempt
  else:
    found = workers.local(options.workers)
    attempt = cell_queue.attempt_here
  queue = cell_queue.CellQueue(
    found,
    retries=options.retries,
    attempt=attempt,
    together=options.students_per_program,
  )
  print(
    f"{len(found)} worker{'s' if len(found) > 1 else ''}:"
    f" {'; '.join(worker.name for worker in found[:_NAMED_WORKERS])}"
    + ("; ..." if len(found) > _NAMED_WORKERS else ""),
    file=sys.stderr,
  )
  sweep = sweep_run.SweepRun(
    plan,
    name,
    queue,
    num_workers=len(found) * options.students_per_program,
  )
  try:
    return sweep.run(shard=shard, search_only=options.stage == "search")
  except StoppedError as stopped:
    again = shlex.join(["dss-jax", *sys.argv[1:]])
    raise StoppedError(
      f"what was trained is saved; continue with: {again}", stopped.number
    ) from None


def tell_failures(plan: SweepPlan, found: SweepResult) -> int:
  """Names the cells without results; returns the exit status."""
  if not found.failed:
    return 0
  print(
    f"{len(found.failed)} of {len(found.found)} cells have no results; started"
    " again, those that did not diverge are tried once more:",
    file=sys.stderr,
  )
  for cell in found.failed:
    print(f"  {cell.label}  {cell.folder(plan.output_dir)}", file=sys.stderr)
  return 1


def _to_do(plan: SweepPlan, shard: Shard | None) -> tuple[list[Cell], bool]:
  """The cells that are known to be part of the sweep.

  Returns:
    The cells of the search, and of the grid once that is complete; and whether
    it is.
  """
  from dss_jax.experiments.sweeps import sweep_plan

  state = plan.search_state()
  found = list(state.trials)
  if state.winners is not None:
    found += plan.final_cells(state.winners)
  return (sweep_plan.shard_of(found, *shard) if shard else found), (
    state.winners is not None
  )


def _print_commands(plan: SweepPlan, shard: Shard | None) -> None:
  found, is_complete = _to_do(plan, shard)
  for cell in found:
    if not plan.is_settled(cell):
      print(shlex.join(["dss-jax", "train", *cell.flags(plan.output_dir)]))
  if not is_complete:
    print(
      "these are the trials of the search; print again when they are done",
      file=sys.stderr,
    )


def _print_plan(
  plan: SweepPlan, options: SweepFlags, shard: Shard | None
) -> None:
  """Counts cells and steps, and estimates the time."""
  from dss_jax.experiments.sweeps import cells, sweep_progress, workers

  found, is_complete = _to_do(plan, shard)
  if not is_complete:
    # As many cells as the grid will have, whatever the search chooses.
    number = len(cells.grid(plan.sweep))
    print(f"grid: {number} cells, whose settings the search has yet to choose")
  pace = sweep_progress.Pace(plan.output_dir)
  for cell in found:
    pace.note(cell)
  for stage in (cells.SEARCH, cells.FINAL):
    of_stage = [cell for cell in found if cell.stage == stage]
    to_do = [cell for cell in of_stage if not plan.is_settled(cell)]
    if not of_stage:
      continue
    number = options.workers or len(workers.local(None, len(to_do)))
    seconds = pace.seconds(to_do)
    time = (
      "time unknown before the first cell is done"
      if seconds is None
      else f"{sweep_progress.minutes(seconds / number)} with {number} workers"
    )
    what = "grid" if stage == cells.FINAL else "search"
    print(
      f"{what}: {len(of_stage)} cells, {len(of_stage) - len(to_do)} done,"
      f" {len(to_do)} to do; {sum(c.steps for c in to_do):,} steps to do"
      + (f", {time}" if to_do else "")
    )
