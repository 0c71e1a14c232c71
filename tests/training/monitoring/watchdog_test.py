"""When training has come to a halt, and how its process ends."""

import subprocess
import sys
import threading
import types
from typing import Any

import pytest
import small_runs

from dss_jax.data.feeding import batches
from dss_jax.training import train
from dss_jax.training.monitoring import watchdog
from dss_jax.training.monitoring.time_breakdown import PHASES, TimeBreakdown


def _breakdown(**changes) -> Any:
  values = {
    "current": "host",
    "steps_done": 5,
    "intervals": [1.0, 2.0, 900.0],  # an evaluation lay in the last
    "longest": dict.fromkeys(PHASES, 0.0),
  }
  return types.SimpleNamespace(**(values | changes))


@pytest.mark.parametrize(
  ("changes", "limit"),
  [
    ({}, 60.0),
    ({"current": "data"}, 60.0),
    ({"intervals": [20.0, 30.0, 40.0]}, 300.0),
    ({"steps_done": 1, "intervals": []}, 60.0),
    ({"steps_done": 0, "intervals": []}, 240.0),  # compiles
    ({"current": "evaluation"}, None),  # the first one, of unknown length
    ({"current": "evaluation", "longest": {"evaluation": 2.0}}, 60.0),
    ({"current": "evaluation", "longest": {"evaluation": 50.0}}, 500.0),
    ({"current": "checkpoint", "longest": {"checkpoint": 1.0}}, None),
    ({"current": "setup", "steps_done": 0}, None),
  ],
)
def test_how_long_nothing_may_happen(changes, limit):
  dog = watchdog.Watchdog(_breakdown(**changes), 60.0)
  if limit is None:
    assert not any(dog.passed(1e6) for _ in range(3))
    return
  assert not dog.passed(limit / 2)
  assert not dog.passed(limit / 2)
  assert dog.passed(1.0)


def test_steps_and_other_work_begin_anew():
  breakdown = _breakdown()
  dog = watchdog.Watchdog(breakdown, 60.0)
  assert not dog.passed(50.0)
  breakdown.steps_done += 1
  assert not dog.passed(50.0)
  breakdown.current = "checkpoint"
  assert not dog.passed(5000.0)
  breakdown.current = "host"
  assert not dog.passed(50.0)
  breakdown.current = "data"  # waiting here and there is no progress
  assert dog.passed(50.0)


def test_the_breakdown_counts_steps_and_remembers_their_pace():
  now = 0.0
  breakdown = TimeBreakdown(lambda: now)
  assert breakdown.current == "setup"

  class Result:
    def __init__(self, at):
      self.at = at

    def is_ready(self):
      return False

    def block_until_ready(self):
      nonlocal now
      now = self.at
      return self

  now = 3.0
  with breakdown.phase("evaluation"):
    assert breakdown.current == "evaluation"
    now = 10.0
  for at in (20.0, 21.0, 23.0):
    breakdown.add_step(Result(at))
    breakdown.take()
  breakdown.close()
  assert breakdown.steps_done == 3
  assert list(breakdown.intervals) == [
    1.0,
    2.0,
  ]  # not the first, which compiles
  assert breakdown.longest["evaluation"] == 7.0


STUCK = """
import threading, types
from dss_jax.training.monitoring import watchdog

breakdown = types.SimpleNamespace(
  current="data", steps_done=3, intervals=[0.001], longest={}
)

def waits_for_ever():
  threading.Event().wait()

with watchdog.watching(breakdown, 0.1):
  waits_for_ever()
"""


def test_a_process_at_a_halt_shows_its_threads_and_asks_for_a_restart(
  repository,
):
  ended = subprocess.run(
    [sys.executable, "-c", STUCK],
    cwd=repository,
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert ended.returncode == watchdog.STATUS == 75
  assert "no step for 0 s: this process ends with status 75" in ended.stderr
  assert "in waits_for_ever" in ended.stderr


def test_training_is_watched_until_its_last_step(tmp_path, monkeypatch):
  """A batch comes only after the watchdog would have ended the process."""
  original = batches.PackedBatches.__getitem__
  is_stuck, ended = threading.Event(), threading.Event()

  def getitem(self, step):
    if step == 5:
      is_stuck.set()
      assert ended.wait(120)
    return original(self, step)

  def end(idle):
    assert idle > 0
    if is_stuck.is_set():
      ended.set()

  monkeypatch.setattr(batches.PackedBatches, "__getitem__", getitem)
  monkeypatch.setattr(watchdog, "_end", end)
  result = train.train(small_runs.config(tmp_path), watchdog_seconds=0.1)
  assert result.step == 8
  assert ended.is_set()
  names = [thread.name for thread in threading.enumerate()]
  assert "dss_jax-watchdog" not in names
