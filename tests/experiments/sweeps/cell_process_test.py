"""A cell's process, and the signals that reach it."""

import pathlib
import signal
import sys
import threading
import time

import command_line

from dss_jax.experiments.sweeps import cell_process
from dss_jax.experiments.sweeps.cell_process import STOPPED, Job

# Stops in good order, as training does, once a second signal may have come.
_CELL = """
import pathlib, sys, time
from dss_jax.base import stop_requests

folder = pathlib.Path(sys.argv[1])
with stop_requests.noticed() as requests:
  (folder / "begun").touch()
  while requests.number is None:
    time.sleep(0.01)
  (folder / "asked").touch()
  while not (folder / "twice").exists():
    time.sleep(0.01)
  time.sleep(0.3)
(folder / "saved").touch()
sys.exit(128 + requests.number)
"""


def test_a_second_sigterm_does_not_keep_a_cell_from_saving(tmp_path):
  """As where a scheduler signals each process, and so does the sweep."""
  folder = tmp_path / "cell"

  def wait_for(name: str) -> None:
    deadline = time.monotonic() + 60
    while not (folder / name).exists():
      assert time.monotonic() < deadline
      time.sleep(0.01)

  def signal_twice(process) -> None:
    for name in ("begun", "asked"):
      wait_for(name)
      process.send_signal(signal.SIGTERM)
    (folder / "twice").touch()

  ended = cell_process.run(
    Job(str(folder), [str(folder)], {}),
    command_line.environment(),
    lambda process: threading.Thread(
      target=signal_twice, args=[process], daemon=True
    ).start(),
    command=(sys.executable, "-c", _CELL),
  )
  assert ended.how == STOPPED
  assert (folder / "saved").exists()
  log = (pathlib.Path(folder) / cell_process.LOG_FILE).read_text()
  assert "stopping after this step" in log
  assert "a second signal" not in log
