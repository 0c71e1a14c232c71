"""Cells as tasks of a Ray cluster: each starts the same process as here.

Ray says where and when; locks, retries and results are the sweep's own. All
machines see the output folder under the same path, and have dss_jax.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

from dss_jax.base.errors import UserError, one_line
from dss_jax.experiments.sweeps import cell_process
from dss_jax.experiments.sweeps.cell_process import Ended, Job
from dss_jax.experiments.sweeps.workers import Worker

_MOST_WORKERS = 1000
_POLL_S = 0.5


class RayEngine:
  """Makes attempts at cells on the cluster that RAY_ADDRESS names, or here.

  Args:
    number: cells at a time; None takes one for each GPU of the cluster, or
      each core where it has none.

  Raises:
    UserError: Ray is not installed, or there is no such cluster.
  """

  def __init__(self, number: int | None = None):
    try:
      import ray
    except ImportError as error:
      raise UserError(
        "engine is 'ray', which is not installed: pip install 'dss_jax[ray]',"
        " in an environment of its own",
        fields="SweepFlags.engine",
      ) from error
    self._ray: Any = ray
    try:
      ray.init(
        address=os.environ.get("RAY_ADDRESS"),
        log_to_driver=False,
        ignore_reinit_error=True,
      )
    except (ConnectionError, RuntimeError, ValueError) as error:
      raise UserError(
        f"engine is 'ray', which does not start ({one_line(error)}); RAY_ADDRESS"
        " names a cluster",
        fields="SweepFlags.engine",
      ) from error
    resources = ray.cluster_resources()
    self._gpus = int(resources.get("GPU", 0) > 0)
    have = int(resources.get("GPU", 0) or resources.get("CPU", 1))
    count = number or max(1, min(have, _MOST_WORKERS))
    self.workers = [Worker(f"Ray task {i}") for i in range(count)]
    self._task = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(
      _attempt
    )

  def attempt(
    self,
    job: Job,
    worker: Worker,
    started: Callable[[Any], None],
  ) -> Ended:
    """Trains a cell somewhere."""
    reference = self._task.remote(
      job, cell_process.COMMAND, os.getcwd(), _passed_on()
    )
    started(_Cancelled(self._ray, reference))
    try:
      return self._ray.get(reference)
    except self._ray.exceptions.TaskCancelledError:
      return Ended(cell_process.STOPPED)
    except self._ray.exceptions.RayError as error:  # a machine went away
      return Ended(cell_process.CRASHED, one_line(error))


def _passed_on() -> dict[str, str]:
  """Variables that a cell is to have wherever it is trained."""
  prefixes = ("DSS_", "JAX_", "XLA_", "HF_", "PYTHONPATH")
  return {
    name: value
    for name, value in os.environ.items()
    if name.startswith(prefixes)
  }


def _attempt(
  job: Job,
  command: tuple[str, ...],
  folder: str,
  environment: Mapping[str, str],
) -> Ended:
  """What a task does: the process of the cell, on the task's machine."""
  processes: list[subprocess.Popen[bytes]] = []
  os.chdir(folder)
  with futures.ThreadPoolExecutor(1) as pool:
    ended = pool.submit(
      cell_process.run, job, environment, processes.append, command=command
    )
    # Ray cancels a task by an interrupt, which a thread that waits for a
    # process would notice only when that has ended.
    while True:
      try:
        return ended.result(timeout=_POLL_S)
      except futures.TimeoutError:
        continue
      except KeyboardInterrupt:
        for process in processes:
          process.terminate()
        ended.result()
        return Ended(cell_process.STOPPED)


class _Cancelled:
  """Stands for a task's process where the queue would stop one of its own."""

  def __init__(self, ray: Any, reference: Any):
    self._ray, self._reference = ray, reference

  def poll(self) -> None:
    return None

  def send_signal(self, number: int) -> None:
    del number
    self._ray.cancel(self._reference)
