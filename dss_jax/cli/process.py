"""The process of a command: how it is set up and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import sys
import threading
from typing import NoReturn

from dss_jax.base.errors import UserError, one_line

_SECONDS_TO_END = 5.0


def set_up(args: argparse.Namespace) -> None:
  """Prepares the process for JAX: caches, flags and other processes.

  Raises:
    UserError: where the flags that name other processes do not fit together.
  """
  from absl import flags

  if not args.debug:
    _quiet_threads()
  # SeqIO and T5X code reads absl flags; argparse has parsed the command line.
  flags.FLAGS.mark_as_parsed()

  import jax

  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = pathlib.Path(cache).expanduser() / "dss_jax" / "compilation"
    jax.config.update("jax_compilation_cache_dir", str(folder))
  several = ("coordinator_address", "process_count", "process_index")
  if getattr(args, "multiprocess", False) or any(
    getattr(args, name, None) is not None for name in several
  ):
    _check_process_flags(args)
    try:
      jax.distributed.initialize(
        args.coordinator_address, args.process_count, args.process_index
      )
    except ValueError as error:  # nothing around that JAX could ask
      raise UserError(
        f"--multiprocess: JAX does not find the other processes here"
        f" ({one_line(error)}); name them with --coordinator_address,"
        " --process_count and --process_index"
      ) from error


def _check_process_flags(args: argparse.Namespace) -> None:
  """Raises UserError where one is left out, or cannot be."""
  values = {
    "--coordinator_address": args.coordinator_address,
    "--process_count": args.process_count,
    "--process_index": args.process_index,
  }
  missing = [flag for flag, value in values.items() if value is None]
  if missing and len(missing) < len(values):
    raise UserError(
      f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not"
      f" given; {', '.join(values)} belong together, or --multiprocess alone"
      " finds them"
    )
  if missing:
    return
  _, _, port = args.coordinator_address.rpartition(":")
  if ":" not in args.coordinator_address or not (
    port.isdecimal() and 1 <= int(port) <= 65535
  ):
    raise UserError(
      f"--coordinator_address is {args.coordinator_address!r}; it must be"
      " HOST:PORT, such as 10.0.0.1:1234"
    )
  if args.process_count < 1:
    raise UserError(
      f"--process_count is {args.process_count}; it must be at least 1"
    )
  if not 0 <= args.process_index < args.process_count:
    raise UserError(
      f"--process_index is {args.process_index}; of --process_count="
      f"{args.process_count} it must be a number from 0 to"
      f" {args.process_count - 1}"
    )


def _quiet_threads() -> None:
  """Keeps threads from printing tracebacks of what is raised here as well.

  TensorStore's threads print dozens when a save fails and nobody waits for
  its parts any more.
  """
  shown = sys.unraisablehook

  def show(unraisable: sys.UnraisableHookArgs) -> None:
    if threading.current_thread() is threading.main_thread():
      shown(unraisable)

  sys.unraisablehook = show


def end(status: int) -> NoReturn:
  """Exits; soon, where the command failed.

  Orbax's threads wait ten minutes for what a failed save never sends them,
  and Python waits for its threads.
  """
  if status:
    with contextlib.suppress(OSError, AttributeError):  # full, or closed
      sys.stdout.flush()
    timer = threading.Timer(_SECONDS_TO_END, os._exit, [status])
    timer.daemon = True
    timer.start()
  sys.exit(status)
