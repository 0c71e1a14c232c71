"""The background thread: order, bounds, errors, clean ends."""

import itertools
import threading

import pytest

from dss_jax.data.feeding.prefetching import Prefetcher


class _Squares:
  """Batches that are numbers; remembers what was asked for."""

  def __init__(self, fail_at=None):
    self.asked = []
    self._fail_at = fail_at
    self._asking = threading.Condition()

  def reached(self, step):
    """Waits until `step` has been asked for."""
    with self._asking:
      return self._asking.wait_for(lambda: step in self.asked, timeout=60)

  def __call__(self, step):
    with self._asking:
      self.asked.append(step)
      self._asking.notify_all()
    if step == self._fail_at:
      raise RuntimeError(f"no batch {step}")
    return step * step


def _threads():
  return [t for t in threading.enumerate() if t.name == "dss_jax-prefetch"]


def test_in_order_from_start_to_stop():
  with Prefetcher(_Squares(), start=3, stop=6) as prefetched:
    assert list(prefetched) == [(3, 9), (4, 16), (5, 25)]
    assert list(prefetched) == []  # stays at its end
  assert _threads() == []


def test_nothing_to_do():
  with Prefetcher(_Squares(), start=3, stop=3) as prefetched:
    assert list(prefetched) == []


def test_reads_only_a_few_ahead():
  batches = _Squares()
  with Prefetcher(batches, size=2) as prefetched:
    assert next(prefetched) == (0, 0)
    # One was taken, two wait, one is in the thread's hands.
    assert batches.reached(3)
    assert batches.asked == [0, 1, 2, 3]
    for step, _ in itertools.islice(prefetched, 200):
      assert max(batches.asked) <= step + 3
  assert _threads() == []


def test_batches_are_built_in_the_thread():
  names = set()

  def build(step):
    names.add(threading.current_thread().name)
    return -step * step

  with Prefetcher(build, 1, 3) as prefetched:
    assert list(prefetched) == [(1, -1), (2, -4)]
  assert names == {"dss_jax-prefetch"}


def test_an_error_is_raised_at_its_step():
  with Prefetcher(_Squares(fail_at=2)) as prefetched:
    assert next(prefetched) == (0, 0)
    assert next(prefetched) == (1, 1)
    with pytest.raises(RuntimeError, match="no batch 2"):
      next(prefetched)
    with pytest.raises(StopIteration):
      next(prefetched)
  assert _threads() == []


def test_leaving_early_ends_the_thread():
  with Prefetcher(_Squares()) as prefetched:
    next(prefetched)
    assert len(_threads()) == 1
  assert _threads() == []
  prefetched.close()  # again
  with pytest.raises(StopIteration):
    next(prefetched)


def test_closing_releases_a_waiting_reader():
  release = threading.Event()

  def slow(step):
    release.wait(5)
    return step

  prefetched = Prefetcher(slow)
  found = []
  reader = threading.Thread(target=lambda: found.extend(prefetched))
  reader.start()
  closer = threading.Thread(target=prefetched.close)
  closer.start()
  reader.join(5)
  assert not reader.is_alive()
  release.set()
  closer.join(5)
  assert _threads() == []
  assert found == []


def test_size_must_be_positive():
  with pytest.raises(ValueError, match="size is 0"):
    Prefetcher(_Squares(), size=0)
