"""The process of a command: how it is set up and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
import threading
import warnings
from typing import Any, NoReturn

from dss_jax.base import atomic_files, checks
from dss_jax.base.errors import UserError, lost_process, one_line
from dss_jax.cli import flags

# What JAX calls its ways to find the processes of a cluster.
CLUSTERS = ("slurm", "ompi", "mpi4py", "gcetpu", "gketpu")

_SECONDS_TO_END = 5.0
# Less than the pauses of a busy machine would end runs that are well.
_SHORTEST_HEARTBEAT = 10


@dataclasses.dataclass(frozen=True)
class ProcessFlags:
  """The processes of one run.

  Attributes:
    multiprocess: start jax.distributed; on TPU pods it finds the other hosts
      itself.
    coordinator_address: where the first process listens.
    process_count: how many processes the run has.
    process_index: which of them this one is, from 0.
    cluster: the way in which JAX finds the other processes, where it should
      not choose itself: slurm, ompi, mpi4py, gcetpu or gketpu.
    heartbeat_seconds: how long a process may be silent before the others give
      it up; default: JAX's 100.
  """

  multiprocess: bool = False
  coordinator_address: str | None = None
  process_count: int | None = None
  process_index: int | None = None
  cluster: str | None = None
  heartbeat_seconds: int | None = None

  @property
  def are_several(self) -> bool:
    """Whether any flag asks for more than this process."""
    return self.multiprocess or (
      self.cluster is not None
      or self.coordinator_address is not None
      or self.process_count is not None
      or self.process_index is not None
    )


def set_up(args: argparse.Namespace) -> None:
  """Prepares the process for JAX: caches, flags and other processes.

  Raises:
    UserError: where the flags that name other processes do not fit together.
  """
  from absl import flags as absl_flags

  if not args.debug:
    _quiet_threads()
  # SeqIO and T5X code reads absl flags; argparse has parsed the command line.
  absl_flags.FLAGS.mark_as_parsed()

  _choose_compilation_cache(quiet=not args.debug)
  processes = flags.build(ProcessFlags, args)
  _check(processes)
  if processes.are_several:
    _join(processes)
  if os.environ.get("JAX_PLATFORMS", "cpu") != "cpu":
    _check_platforms()


def _choose_compilation_cache(*, quiet: bool) -> None:
  """Keeps compiled programs in the user's cache, if it can be written."""
  import jax

  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = pathlib.Path(cache).expanduser() / "dss_jax" / "compilation"
    jax.config.update("jax_compilation_cache_dir", str(folder))
  settings: Any = jax.config  # its attributes are made at run time
  path = settings.jax_compilation_cache_dir
  if not path or "://" in path:
    return
  if quiet:  # JAX would say so for each program
    warnings.filterwarnings("ignore", "Error .* persistent compilation cache")
  try:
    atomic_files.make_folder(pathlib.Path(path))
  except OSError as error:
    print(
      f"compiled programs are not kept, since {path} cannot be written"
      f" ({one_line(error.strerror or error)}): JAX_COMPILATION_CACHE_DIR names"
      " another folder",
      file=sys.stderr,
    )


def _check_platforms() -> None:
  """Raises UserError where JAX_PLATFORMS asks for what is not here."""
  import jax

  try:
    jax.devices()
  # JAX asserts that it found some platform.
  except (RuntimeError, AssertionError) as error:
    if lost_process(error):
      raise
    reason = one_line(error).partition(" (set JAX_PLATFORMS")[0]
    raise UserError(
      f"JAX_PLATFORMS is {os.environ['JAX_PLATFORMS']!r}, which JAX cannot use"
      f" here ({reason or 'it finds no such device'}): unset it, or install JAX for that platform"
    ) from error


def _join(processes: ProcessFlags) -> None:
  """Starts jax.distributed.

  Raises:
    UserError: where JAX finds nobody.
  """
  import jax

  options: dict[str, Any] = {}
  if processes.heartbeat_seconds is not None:
    options["heartbeat_timeout_seconds"] = processes.heartbeat_seconds
  # It would say what the error below says.
  logging.getLogger("jax._src.clusters").setLevel(logging.CRITICAL)
  try:
    jax.distributed.initialize(
      processes.coordinator_address,
      processes.process_count,
      processes.process_index,
      cluster_detection_method=processes.cluster,
      **options,
    )
  # Nothing that JAX could ask: no variable, package or server of a cluster.
  except (ValueError, KeyError, ImportError, OSError) as error:
    asked = "--multiprocess"
    if processes.cluster is not None:
      asked = f"--cluster={processes.cluster}"
    raise UserError(
      f"{asked}: JAX does not find the other processes here"
      f" ({one_line(error)}); name them with --coordinator_address,"
      " --process_count and --process_index"
    ) from error


def _check(processes: ProcessFlags) -> None:
  """Raises UserError where a flag is left out, or cannot be."""
  if processes.heartbeat_seconds is not None and not processes.are_several:
    raise UserError(
      "--heartbeat_seconds is for runs of several processes: add --multiprocess,"
      " or leave it out"
    )
  checks.in_range(
    "ProcessFlags.heartbeat_seconds",
    processes.heartbeat_seconds,
    _SHORTEST_HEARTBEAT,
    or_none=True,
  )
  if processes.cluster is not None:
    checks.one_of("ProcessFlags.cluster", processes.cluster, CLUSTERS)
  address = processes.coordinator_address
  count, index = processes.process_count, processes.process_index
  values = {
    "--coordinator_address": address,
    "--process_count": count,
    "--process_index": index,
  }
  missing = [flag for flag, value in values.items() if value is None]
  if missing and len(missing) < len(values):
    raise UserError(
      f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not"
      f" given; {', '.join(values)} belong together, or --multiprocess alone"
      " finds them"
    )
  if address is None or count is None or index is None:
    return
  if processes.cluster is not None:
    raise UserError(
      f"--cluster={processes.cluster} finds the other processes, which"
      f" {', '.join(values)} name: leave out one or the others"
    )
  _, colon, port = address.rpartition(":")
  if not (colon and port.isdecimal() and 1 <= int(port) <= 65535):
    raise UserError(
      f"--coordinator_address is {address!r}; it must be HOST:PORT, such as"
      " 10.0.0.1:1234"
    )
  checks.in_range("ProcessFlags.process_count", count, 1)
  checks.in_range("ProcessFlags.process_index", index, 0, count - 1)


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
