"""The flags of `dss-jax train --plan`, and what it does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dss_jax.base.errors import UserError
from dss_jax.planning import sizes

if TYPE_CHECKING:
  from dss_jax.training.train_config import TrainConfig

_MOST_DEVICES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  group = parser.add_argument_group(
    "planning",
    "what a run would take, instead of training; see docs/mesh.md",
  )
  group.add_argument(
    "--plan",
    action="store_true",
    help="print the memory that a new run takes on each device, the largest"
    " batch that fits, and what devices send each other; nothing is written",
  )
  group.add_argument(
    "--plan_devices",
    type=int,
    metavar="N",
    help="plan for N devices that are not here, simulated on this CPU",
  )
  group.add_argument(
    "--plan_memory",
    metavar="SIZE",
    help="memory of a device, such as 80GiB; default: what the device says,"
    " or on CPUs this machine's",
  )
  group.add_argument(
    "--plan_uncompiled",
    action="store_true",
    help="do not compile the step: exact bytes and formulas only, in seconds",
  )
  group.add_argument(
    "--plan_json", action="store_true", help="print the plan as JSON"
  )


def prepare(args: argparse.Namespace) -> None:
  """Checks the flags, and simulates devices where asked; before JAX starts.

  Raises:
    UserError: for flags that do not fit together.
  """
  given = {
    "--plan_devices": args.plan_devices is not None,
    "--plan_memory": args.plan_memory is not None,
    "--plan_uncompiled": args.plan_uncompiled,
    "--plan_json": args.plan_json,
  }
  if not args.plan:
    for flag in (flag for flag, is_given in given.items() if is_given):
      raise UserError(f"{flag} says how to plan: add --plan")
    return
  if args.plan_memory is not None:
    sizes.parse(args.plan_memory, "--plan_memory")
  number = args.plan_devices
  if number is None:
    return
  if not 1 <= number <= _MOST_DEVICES:
    raise UserError(
      f"--plan_devices is {number}; it must be a number from 1 to"
      f" {_MOST_DEVICES}"
    )
  if args.multiprocess or args.process_count is not None:
    raise UserError(
      "--plan_devices simulates all devices in one process: leave out"
      " --multiprocess and the flags that name other processes"
    )
  import jax

  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", number)


def run(args: argparse.Namespace, config: TrainConfig) -> int:
  """Prints the plan of a run."""
  import json

  import jax

  from dss_jax.planning import abstract_run, plan_tables, run_plan

  size = args.plan_memory
  found = run_plan.make_plan(
    abstract_run.abstract_run(config),
    device_memory=None if size is None else sizes.parse(size, "--plan_memory"),
    compiling=not args.plan_uncompiled,
    simulated=args.plan_devices is not None,
  )
  if jax.process_index() == 0:
    if args.plan_json:
      print(json.dumps(plan_tables.as_json(found), indent=2))
    else:
      print(plan_tables.as_text(found))
  return 0
