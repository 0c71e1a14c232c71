"""Training in processes of its own, one or several, to be killed and told to stop."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

DEADLINE = 600.0  # seconds for anything, on a busy machine


class Run:
  """A training run in one or more processes; each start is a try to end it.

  Attributes:
    folder: of the run; its neighbours hold logs and compiled programs.
    processes: number of processes.
    flags: of `dss-jax train`, but for its folder and its processes.
    devices: simulated, of all processes together.
    logs: what the processes of the last start said.
    started: these processes.
    starts: number of starts.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    processes: int,
    flags: Sequence[str],
    devices: int = 2,
  ):
    self.folder = folder
    self.processes = processes
    self.flags = tuple(flags)
    self.devices = devices
    self.logs: list[pathlib.Path] = []
    self.started: list[subprocess.Popen] = []
    self.starts = 0

  def start(self) -> None:
    self.starts += 1
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(self.folder.parent / "cache"),
      "OMP_NUM_THREADS": "1",
      "PYTHONPATH": os.pathsep.join(sys.path),
      # Of two numbers, the second counts.
      "XLA_FLAGS": os.environ["XLA_FLAGS"]
      + " --xla_force_host_platform_device_count="
      + str(self.devices // self.processes),
    }
    environment.pop("GLIBC_TUNABLES", None)  # as users start them
    self.logs, self.started = [], []
    for index in range(self.processes):
      others = ()
      if self.processes > 1:
        others = (
          f"--coordinator_address={address}",
          f"--process_count={self.processes}",
          f"--process_index={index}",
        )
      log = self.folder.parent / f"{self.folder.name}.{self.starts}.{index}.log"
      self.logs.append(log)
      with log.open("w") as file:
        self.started.append(
          subprocess.Popen(
            [
              *(sys.executable, "-m", "dss_jax.main", "train"),
              *(*self.flags, f"--gin.MODEL_DIR={self.folder}", *others),
            ],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
          )
        )

  def wait_for_checkpoint(self, step: int) -> None:
    """Until there is a checkpoint of `step` or later, and steps after it."""
    end = time.monotonic() + DEADLINE
    steps = None
    while steps is None or self.lines() <= steps:
      if steps is None and (self.saved() or -1) >= step:
        steps = self.lines()
      assert time.monotonic() < end, self.text()
      assert all(each.poll() is None for each in self.started), self.text()
      time.sleep(0.02)

  def wait_for_text(self, text: str) -> None:
    end = time.monotonic() + DEADLINE
    while text not in self.text():
      assert time.monotonic() < end, self.text()
      time.sleep(0.02)

  def lines(self) -> int:
    metrics = self.folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

  def saved(self) -> int | None:
    folder = self.folder / "checkpoints"
    steps = folder.iterdir() if folder.is_dir() else ()
    return max((int(s.name) for s in steps if s.name.isdigit()), default=None)

  def is_saving(self) -> bool:
    """Whether a checkpoint is being written, as its unfinished folder shows."""
    folder = self.folder / "checkpoints"
    return any(not path.name.isdigit() for path in folder.iterdir())

  def end(self, deadline: float = DEADLINE) -> list[int]:
    """Exit statuses, once all processes have ended."""
    end = time.monotonic() + deadline
    return [each.wait(end - time.monotonic()) for each in self.started]

  def text(self) -> str:
    return "\n".join(log.read_text() for log in self.logs)[-4000:]

  def kill(self) -> None:
    for each in self.started:
      each.kill()
      each.wait()
