"""Who trains cells: cores and devices are shared out, one process each."""

import os
import subprocess
import sys
import threading

import pytest

from dss_jax.base.errors import UserError
from dss_jax.experiments.sweeps import workers

_CORES = "import os; print(*sorted(os.sched_getaffinity(0)))"


@pytest.mark.parametrize("number", [None, 1, 2, 3])
def test_cores_are_shared_out(number, monkeypatch):
  monkeypatch.setattr(workers, "_cores", lambda: [0, 2, 4, 6])
  found = workers.local(number)
  assert len(found) == (number or 4)
  assert sorted(core for each in found for core in each.cores) == [0, 2, 4, 6]


def test_more_workers_than_cores_share_them(monkeypatch):
  monkeypatch.setattr(workers, "_cores", lambda: [0, 2])
  assert [set(each.cores) for each in workers.local(3)] == [{0}, {2}, {0}]
  assert len(workers.local(None, most=1)) == 1
  with pytest.raises(UserError, match="workers is 0"):
    workers.local(0)


@pytest.mark.skipif(
  not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here"
)
def test_processes_of_a_worker_keep_to_its_cores():
  before = os.sched_getaffinity(0)
  core = max(before)
  seen = []

  def start():
    workers.Worker("one", frozenset([core])).pin_this_thread()
    seen.append(
      subprocess.run(
        [sys.executable, "-c", _CORES], capture_output=True, check=True
      ).stdout.split()
    )

  thread = threading.Thread(target=start)
  thread.start()
  thread.join()
  assert seen == [[str(core).encode()]]
  assert os.sched_getaffinity(0) == before


def test_each_gpu_has_a_worker(monkeypatch):
  monkeypatch.setattr(workers, "_devices", lambda: ("gpu", 2))
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
  assert [each.environment for each in workers.local()] == [
    {"CUDA_VISIBLE_DEVICES": "3"},
    {"CUDA_VISIBLE_DEVICES": "5"},
  ]
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
  # Several students on a device share its memory.
  assert [each.environment for each in workers.local(3)] == [
    {
      "CUDA_VISIBLE_DEVICES": name,
      "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",
    }
    for name in ("0", "1", "0")
  ]


def test_each_tpu_chip_has_a_worker_and_no_second_one(monkeypatch):
  monkeypatch.setattr(workers, "_devices", lambda: ("tpu", 4))
  found = [each.environment["TPU_VISIBLE_CHIPS"] for each in workers.local(8)]
  assert found == ["0", "1", "2", "3"]
  monkeypatch.setattr(workers, "_devices", lambda: ("tpu", 1))
  assert workers.local() == [workers.Worker("tpu")]


def test_devices_are_asked_for_in_another_process(monkeypatch):
  monkeypatch.setattr(workers, "_may_have_accelerator", lambda: True)
  monkeypatch.setenv("JAX_PLATFORMS", "")
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
  assert workers._devices() == ("cpu", 3)
  monkeypatch.setenv("JAX_PLATFORMS", "nothing_such")
  with pytest.raises(UserError, match="JAX finds no devices here"):
    workers._devices()
