"""Who trains the cells: cores or devices of this machine, one process each."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from dss_jax.base import checks, errors
from dss_jax.base.errors import UserError

_PROBE = (
  "import jax; found = jax.local_devices();"
  " print('devices:', found[0].platform, len(found))"
)
_PROBE_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Worker:
  """A place where one cell at a time is trained.

  Attributes:
    name: for the user.
    cores: what its processes may use; none for no limit.
    environment: variables of its processes.
  """

  name: str
  cores: frozenset[int] = frozenset()
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def pin_this_thread(self) -> None:
    """Keeps this thread, and the processes that it starts, to the cores.

    XLA makes a thread for each core that it may use.
    """
    if self.cores and hasattr(os, "sched_setaffinity"):
      os.sched_setaffinity(0, self.cores)


def local(number: int | None = None, most: int | None = None) -> list[Worker]:
  """The workers of this machine: one for each accelerator, or each core.

  A small student gains little from a second core, and two of them side by side
  all there is.

  Args:
    number: how many; None takes as many as there are devices or cores.
    most: no more than are of use, where `number` is None.

  Raises:
    UserError: JAX finds no devices.
  """
  checks.in_range("workers", number, 1, or_none=True, whole=True)
  platform, devices = _devices()
  if platform == "cpu":
    cores = _cores()
    count = number or max(1, min(len(cores), most or len(cores)))
    return [_on_cores(i, count, cores) for i in range(count)]
  count = number or max(1, min(devices, most or devices))
  if platform in ("gpu", "cuda", "rocm"):
    return [_on_gpu(i, count, devices) for i in range(count)]
  if platform == "tpu" and devices > 1:
    return [_on_tpu(i) for i in range(min(count, devices))]
  return [Worker(platform)]


def _cores() -> Sequence[int]:
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return range(os.cpu_count() or 1)


def _on_cores(index: int, count: int, cores: Sequence[int]) -> Worker:
  """A worker's share of the cores; with more workers than cores they share."""
  own = cores[index::count] or [cores[index % len(cores)]]
  return Worker(f"core {','.join(map(str, own))}", frozenset(own))


def _on_gpu(index: int, count: int, devices: int) -> Worker:
  visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
  names = visible.split(",") if visible else list(map(str, range(devices)))
  environment = {"CUDA_VISIBLE_DEVICES": names[index % devices]}
  if count > devices:
    # JAX takes most of a device's memory when it starts.
    share = 0.9 / -(-count // devices)
    environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{share:.2f}"
  return Worker(f"GPU {names[index % devices]}", environment=environment)


def _on_tpu(index: int) -> Worker:
  return Worker(
    f"TPU chip {index}",
    environment={
      "TPU_VISIBLE_CHIPS": str(index),
      "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
      "TPU_PROCESS_BOUNDS": "1,1,1",
    },
  )


def _devices() -> tuple[str, int]:
  """The platform of this machine's devices, and how many there are.

  Another process asks JAX: the one that asks holds the devices.
  """
  if os.environ.get("JAX_PLATFORMS") == "cpu" or not _may_have_accelerator():
    return "cpu", 0
  found = subprocess.run(
    [sys.executable, "-c", _PROBE],
    capture_output=True,
    text=True,
    timeout=_PROBE_SECONDS,
    check=False,
  )
  for line in found.stdout.splitlines():
    if line.startswith("devices: "):
      _, platform, number = line.split()
      return platform, int(number)
  said = [line for line in found.stderr.splitlines() if line.strip()]
  raise UserError(
    f"JAX finds no devices here ({errors.one_line(said[-1] if said else '')}):"
    " JAX_PLATFORMS=cpu trains on the processor"
  )


def _may_have_accelerator() -> bool:
  """Whether a package for devices other than the processor is installed."""
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  return bool(plugins) or importlib.util.find_spec("libtpu") is not None
