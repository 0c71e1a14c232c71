"""The phases of a run's time, by hand and under the real clock."""

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


@pytest.fixture
def breakdown():
  made = time_breakdown.TimeBreakdown()
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


def test_waiting_and_nested_phases_add_up(breakdown):
  def slow():
    for i in range(3):
      time.sleep(0.02)
      yield i

  breakdown.switch("host")
  assert list(breakdown.waiting("data", slow())) == [0, 1, 2]
  with breakdown.phase("evaluation"):
    time.sleep(0.02)
    with breakdown.phase("checkpoint"):
      time.sleep(0.03)
  seconds = breakdown.take()
  assert seconds["data"] >= 0.06
  assert seconds["evaluation"] >= 0.02
  assert seconds["checkpoint"] >= 0.03
  assert seconds["step"] == 0.0
  passed = breakdown._since - breakdown.started
  np.testing.assert_allclose(sum(seconds.values()), passed, rtol=1e-9)


class _Later:
  """The result of a step that takes 0.2 s on its device."""

  def __init__(self):
    self._done = time.monotonic() + 0.2

  def is_ready(self) -> bool:
    return time.monotonic() >= self._done

  def block_until_ready(self):
    time.sleep(max(self._done - time.monotonic(), 0))
    return self


def test_steps_hide_what_the_host_does_meanwhile(breakdown):
  """While one is computed, the loop waits 0.05 s for data, then 0.4 s."""
  breakdown.switch("host")
  for pause, beyond in ((0.05, 0.0), (0.4, 0.2)):
    breakdown.add_step(time.monotonic(), _Later())
    with breakdown.phase("data"):
      time.sleep(pause)
    seconds = breakdown.take()
    assert seconds["step"] == pytest.approx(0.2, abs=0.1)
    assert seconds["data"] == pytest.approx(beyond, abs=0.1)


def test_a_step_left_is_told_of_with_the_next(breakdown):
  first, second = jnp.zeros(()), jnp.zeros(())
  breakdown.add_step(time.monotonic(), first)
  time.sleep(0.02)
  breakdown.add_step(time.monotonic(), second)
  one = breakdown.take(leaving=1)
  assert breakdown.take(leaving=1) == dict.fromkeys(one, 0.0)
  two = breakdown.take()
  passed = breakdown._since - breakdown.started
  whole = sum(one.values()) + sum(two.values())
  np.testing.assert_allclose(whole, passed, rtol=1e-9)
  assert sum(breakdown.total.values()) == pytest.approx(whole)


def test_tracing_and_compiling_count_once(breakdown):
  """Functions traced within others are parts of their time."""
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
