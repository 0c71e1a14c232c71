"""`dss-jax train`: train a student, or plan what that would take."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.base.stop_requests import StoppedError
from dss_jax.cli import flags, process, run_flags

if TYPE_CHECKING:
  from dss_jax.training.train_config import TrainConfig

EPILOG = """\
examples:
  dss-jax train --gin_file=models/taxonli.gin --gin_file=runs/train.gin \\
    --gin_file=data/taxonli.gin --gin_file=methods/dss.gin \\
    --gin.MODEL_DIR=runs/taxonli_dss --gin.TRAIN_STEPS=1200

A run that is started again with the same MODEL_DIR resumes where it stopped;
its folder alone says how it was configured:

  dss-jax train --model_dir=runs/taxonli_dss
"""

_MAX_DEVICES = 4096
_MAX_ATTEMPTS = 100
_A_YEAR = 365 * 24 * 3600


@dataclasses.dataclass(frozen=True)
class TrainFlags:
  """Where the run lies, and how long it may stand still.

  Attributes:
    model_dir: the run's folder (MODEL_DIR in gin); without a --gin_file, a run
      there resumes as it was configured, but for what --gin.NAME=VALUE changes.
    watchdog_seconds: end with status 75, to be started again, when no step is
      done for so long or for ten usual steps, whichever is longer; 0 never
      does.
    together: a file with a `dss-jax train` command in each line, as `dss-jax
      sweep --print` writes them; trains these runs by one program, on an
      accelerator, where they differ in rates, weights, seeds and data only.
  """

  model_dir: str | None = None
  watchdog_seconds: float = 900.0
  together: str | None = None


@dataclasses.dataclass(frozen=True)
class InsideFlags:
  """Flags that stand for parameters of the run.

  Attributes:
    profile_steps: record the steps A to B - 1 with JAX's profiler, for
      TensorBoard.
    debug_nans: end at the first loss or gradient that is not finite, and say
      where it came from; without, such steps are skipped and counted.
  """

  profile_steps: str | None = None
  debug_nans: bool = False


@dataclasses.dataclass(frozen=True)
class PlanFlags:
  """What a run would take, instead of training.

  Attributes:
    plan: print the memory that a new run takes on each device, the largest
      batch that fits, and what devices send each other; nothing is written.
    plan_devices: plan for N devices that are not here, simulated on this CPU.
    plan_topology: plan for TPU slices that are not here, such as v5e:4x4 or
      2*v5e:4x4, by the TPU compiler (pip install libtpu); no TPU is needed.
    plan_memory: memory of a device, such as 80GiB; default: what the device
      says, or on CPUs this machine's.
    plan_attempts: batches to compile for in search of the largest, after the
      run's own; 0 does not search (default: 3).
    plan_uncompiled: do not compile the step: exact bytes only, in seconds.
    plan_json: print the plan as JSON.
  """

  plan: bool = False
  plan_devices: int | None = None
  plan_topology: str | None = None
  plan_memory: str | None = None
  plan_attempts: int | None = None
  plan_uncompiled: bool = False
  plan_json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  flags.add_flags(parser, TrainFlags, together={"metavar": "FILE"})
  run_flags.add_gin_flags(parser)
  flags.add_flags(
    parser,
    InsideFlags,
    title="looking inside",
    profile_steps={"metavar": "A:B"},
  )
  flags.add_flags(
    parser,
    process.ProcessFlags,
    title="several processes (else: none needed)",
    coordinator_address={"metavar": "HOST:PORT"},
  )
  flags.add_flags(
    parser,
    PlanFlags,
    title="planning, instead of training; see docs/mesh.md",
    plan_topology={"metavar": "SLICE"},
    plan_memory={"metavar": "SIZE"},
  )


def run(args: argparse.Namespace) -> int:
  """Runs the mode."""
  from dss_jax.cli import gin_config, train_together

  if args.together is not None:
    if args.gin_file or args.gin_flags or args.gin_bindings or args.model_dir:
      raise UserError(
        "--together names a file whose lines configure the runs: leave out what"
        " configures one"
      )
    return train_together.train(args.together)
  plan = flags.build(PlanFlags, args)
  watchdog_seconds = flags.build(TrainFlags, args).watchdog_seconds
  checks.in_range("TrainFlags.watchdog_seconds", watchdog_seconds, 0, _A_YEAR)
  _prepare_plan(plan, flags.build(process.ProcessFlags, args))
  modules = run_flags.parse_gin(args, _named_run(args))
  # Where a flag is not given, gin's value holds.
  inside = dataclasses.asdict(flags.build(InsideFlags, args))
  config = gin_config.instance(
    "train.train",
    config_text_fn=functools.partial(gin_config.operative_config, modules),
    **{name: value for name, value in inside.items() if value},
  )
  if plan.plan:
    _print_plan(plan, config)
    return 0

  from dss_jax.training import cpu_memory, train

  cpu_memory.keep(config.model.config)
  try:
    train.train(config, watchdog_seconds=watchdog_seconds or None)
  except StoppedError as stopped:
    again = f"dss-jax train --model_dir={shlex.quote(config.model_dir)}"
    raise StoppedError(
      f"{stopped}; continue with: {again}", stopped.number
    ) from None
  return 0


def _named_run(args: argparse.Namespace) -> str | None:
  """Binds MODEL_DIR to --model_dir; returns the run's file if it resumes.

  Raises:
    UserError: there is neither a run nor a configuration of one.
  """
  folder = flags.build(TrainFlags, args).model_dir
  if folder is None:
    return None
  args.gin_flags = [*args.gin_flags, f"--gin.MODEL_DIR={folder!r}"]
  if args.gin_file:
    return None
  if not run_flags.is_run(folder):
    raise UserError(
      f"--model_dir: there is no run in {folder!r} to resume; a new one needs"
      " --gin_file=models/..., --gin_file=runs/train.gin and what it trains on"
    )
  return str(pathlib.Path(folder).expanduser() / run_flags.RUN_FILE)


def _prepare_plan(plan: PlanFlags, processes: process.ProcessFlags) -> None:
  """Checks the flags, and simulates devices if asked to; before JAX starts.

  Raises:
    UserError: for flags that do not fit together.
  """
  if not plan.plan:
    for name, value in dataclasses.asdict(plan).items():
      if value is not None and value is not False:
        raise UserError(f"--{name} says how to plan: add --plan")
    return
  if plan.plan_memory is not None:
    from dss_jax.planning import byte_sizes

    byte_sizes.parse(plan.plan_memory, "plan_memory")
  checks.in_range(
    "plan_attempts", plan.plan_attempts, 0, _MAX_ATTEMPTS, or_none=True
  )
  number, topology = plan.plan_devices, plan.plan_topology
  if number is None and topology is None:
    return
  if number is not None and topology is not None:
    raise UserError(
      "--plan_devices simulates devices and --plan_topology describes a TPU"
      " slice: leave out one of them"
    )
  checks.in_range("plan_devices", number, 1, _MAX_DEVICES, or_none=True)
  if processes.are_several:
    raise UserError(
      "--plan_devices and --plan_topology plan for all devices in one process:"
      " leave out --multiprocess and the flags that name other processes"
    )
  import jax

  jax.config.update("jax_platforms", "cpu")
  if number is not None:
    jax.config.update("jax_num_cpu_devices", number)
  if topology is not None:
    from dss_jax.planning import tpu_topology

    # The cache cannot read programs for devices that are not here.
    jax.config.update("jax_enable_compilation_cache", False)
    tpu_topology.devices(topology)  # before the data are read


def _print_plan(flags: PlanFlags, config: TrainConfig) -> None:
  import jax

  from dss_jax.planning import (
    abstract_run,
    byte_sizes,
    plan_tables,
    run_plan,
    tpu_topology,
  )

  memory = flags.plan_memory
  if flags.plan_topology is not None:
    devices = tuple(tpu_topology.devices(flags.plan_topology))
    partitioner = dataclasses.replace(config.partitioner, devices=devices)
    config = dataclasses.replace(config, partitioner=partitioner)
  plan = run_plan.make_plan(
    abstract_run.abstract_run(config),
    device_memory=None
    if memory is None
    else byte_sizes.parse(memory, "plan_memory"),
    attempts=3 if flags.plan_attempts is None else flags.plan_attempts,
    compiling=not flags.plan_uncompiled,
    simulated=flags.plan_devices is not None,
    progress=lambda rows: print(
      f"compiling the step for {rows} rows", file=sys.stderr, flush=True
    ),
  )
  if jax.process_index() == 0:
    if flags.plan_json:
      print(json.dumps(plan_tables.as_json(plan), indent=2))
    else:
      print(plan_tables.as_text(plan))
