"""The phases of a run's time, by a clock of the tests."""

from __future__ import annotations

import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.base import compilations
from dss_jax.training.monitoring import time_breakdown


def test_spans_take_their_time_from_the_segments_they_cover():
  segments = [(0.0, 4.0, "host"), (4.0, 6.0, "data"), (6.0, 9.0, "host")]
  spans = [(1.0, 2.0), (3.0, 5.0), (5.5, 7.0), (8.5, 12.0)]
  assert time_breakdown._relabelled(segments, spans, "step") == [
    (0.0, 1.0, "host"),
    (1.0, 2.0, "step"),
    (2.0, 3.0, "host"),
    (3.0, 4.0, "step"),
    (4.0, 5.0, "step"),
    (5.0, 5.5, "data"),
    (5.5, 6.0, "step"),
    (6.0, 7.0, "step"),
    (7.0, 8.5, "host"),
    (8.5, 9.0, "step"),
  ]


def test_cutting_loses_nothing():
  segments = [(0.0, 4.0, "host"), (4.0, 6.0, "data")]
  assert time_breakdown._cut(segments, 5.0) == (
    [(0.0, 4.0, "host"), (4.0, 5.0, "data")],
    [(5.0, 6.0, "data")],
  )


def test_shares_and_their_line():
  seconds = {"step": 3.0, "data": 1.0, "host": 0.0}
  assert time_breakdown.shares(seconds)["data"] == 0.25
  text = time_breakdown.describe(seconds)
  assert text == "4.0 s: step 75.0%, data 25.0%, host 0.0%"


class Clock:
  """A clock that runs only while somebody sleeps by it."""

  def __init__(self):
    self._now = time.monotonic()
    self._steps: list[_Step] = []
    self._read_by_watcher = threading.Event()

  def __call__(self) -> float:
    now = self._now
    if threading.current_thread() is not threading.main_thread():
      self._read_by_watcher.set()
    return now

  def sleep(self, seconds: float) -> None:
    end = self._now + seconds
    for step in self._steps:
      if self._now < step.done <= end + 1e-9:
        self._now = step.done
        self._read_by_watcher.clear()
        step.is_done.set()
        assert self._read_by_watcher.wait(60)  # its end is noted
    self._now = end

  def step(self, seconds: float) -> _Step:
    """The result of a step that takes so long on its device."""
    self._steps.append(_Step(self._now + seconds))
    return self._steps[-1]


class _Step:
  def __init__(self, done: float):
    self.done = done
    self.is_done = threading.Event()

  def is_ready(self) -> bool:
    return self.is_done.is_set()

  def block_until_ready(self):
    assert self.is_done.wait(60)
    return self


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def breakdown(clock):
  made = time_breakdown.TimeBreakdown(clock)
  yield made
  made.close()


def test_what_was_waited_for_is_not_kept(breakdown):
  class Item:
    pass

  def items():
    for _ in range(3):
      assert not alive()
      yield Item()

  def alive() -> bool:
    return bool(made) and made[-1]() is not None

  made: list[weakref.ref[Item]] = []
  for item in breakdown.waiting("data", items()):
    made.append(weakref.ref(item))
    del item
  assert len(made) == 3


def test_waiting_and_nested_phases_add_up(clock, breakdown):
  def slow():
    for i in range(3):
      clock.sleep(0.02)
      yield i

  clock.sleep(0.5)
  breakdown.switch("host")
  assert list(breakdown.waiting("data", slow())) == [0, 1, 2]
  with breakdown.phase("evaluation"):
    clock.sleep(0.02)
    with breakdown.phase("checkpoint"):
      clock.sleep(0.03)
  assert breakdown.take() == pytest.approx(
    {
      "step": 0,
      "compile": 0,
      "data": 0.06,
      "host": 0,
      "evaluation": 0.02,
      "checkpoint": 0.03,
      "setup": 0.5,
    }
  )


def test_steps_hide_what_the_host_does_meanwhile(clock, breakdown):
  """While a step of 0.2 s runs, the loop waits 0.05 s for data, then 0.4 s."""
  breakdown.switch("host")
  for waited, data, host in ((0.05, 0.0, 0.1), (0.4, 0.2, 0.25)):
    breakdown.call_step()
    breakdown.add_step(clock.step(0.2))
    with breakdown.phase("data"):
      clock.sleep(waited)
    clock.sleep(0.25)
    seconds = breakdown.take()
    assert seconds["step"] == pytest.approx(0.2)
    assert seconds["data"] == pytest.approx(data)
    assert seconds["host"] == pytest.approx(host)


def test_a_step_that_is_left_counts_with_the_next(clock, breakdown):
  breakdown.switch("host")
  for _ in range(2):
    breakdown.call_step()
    breakdown.add_step(clock.step(0.2))
    clock.sleep(0.3)
  one = breakdown.take(leaving=1)
  assert one["step"] == pytest.approx(0.2)
  assert one["host"] == 0.0  # what followed the step is left too
  assert breakdown.take(leaving=1) == dict.fromkeys(one, 0.0)
  two = breakdown.take()
  assert two["step"] == pytest.approx(0.2)
  assert two["host"] == pytest.approx(0.2)
  whole = sum(one.values()) + sum(two.values())
  assert whole == pytest.approx(0.6)
  assert sum(breakdown.total.values()) == pytest.approx(whole)


def test_tracing_and_compiling_count_once():
  """Functions traced within others are parts of their time."""
  breakdown = time_breakdown.TimeBreakdown()
  inner = jax.jit(lambda x: jnp.sin(x) * 2)
  breakdown.switch("host")
  with breakdown.phase("evaluation"):
    before = compilations.count()
    jax.jit(lambda x: inner(inner(x) + 3))(jnp.ones(3)).block_until_ready()
    assert compilations.count() > before
  seconds = breakdown.take()
  assert seconds["compile"] > 0
  passed = breakdown._since - breakdown.started
  np.testing.assert_allclose(sum(seconds.values()), passed, rtol=1e-9)
