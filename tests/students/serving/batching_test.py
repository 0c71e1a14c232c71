"""The queue and its thread: laws of batching, deadlines, failures, the end."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.students.serving import batching
from dss_jax.students.serving.batching import Batcher
from dss_jax.students.serving.jobs import (
  Expired,
  Failed,
  Job,
  QueueFull,
  Stopped,
  Wanted,
)

LABEL = Wanted(("label",))
BOTH = Wanted(("label", "rationale"))


class Gated:
  """Computes when it is let; raises or ends for some inputs."""

  def __init__(self, *, is_open: bool = True):
    self.gate = threading.Event()
    if is_open:
      self.gate.set()
    self.calls: list[tuple[list[str], tuple[str, ...]]] = []
    self.running = threading.Event()

  def warm_up(self) -> None:
    pass

  def predict(self, inputs, wanted):
    self.calls.append((list(inputs), wanted))
    self.running.set()
    assert self.gate.wait(30)
    if "poison" in inputs:
      raise ValueError("poisoned")
    if "die" in inputs:
      raise SystemExit("dead")
    if "short" in inputs:
      return []
    return [f"{text}!" for text in inputs]


@dataclasses.dataclass
class Seen(batching.Observer):
  batches: list[int] = dataclasses.field(default_factory=list)
  failures: int = 0
  drops: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )

  def batch(self, size, wanted, seconds):
    self.batches.append(size)

  def failure(self, size):
    self.failures += 1

  def dropped(self, reason, size):
    self.drops[reason] += size


async def _started(backend, **options) -> Batcher:
  options = {"max_batch": 4, "max_wait_s": 0.0, "max_queue": 100, **options}
  ready = asyncio.Event()
  batcher = Batcher(backend, on_ready=ready.set, **options)
  batcher.start(asyncio.get_running_loop())
  async with asyncio.timeout(10):
    await ready.wait()
  return batcher


async def _until(condition) -> None:
  async with asyncio.timeout(10):
    while not condition():
      await asyncio.sleep(0.001)


async def _busy(batcher: Batcher, backend: Gated) -> Job:
  """The thread is at a batch, behind a closed gate."""
  job = batcher.submit(["first"], LABEL, 30)
  await _until(backend.running.is_set)
  return job


async def _close(batcher: Batcher, backend: Gated) -> None:
  backend.gate.set()
  batcher.stop()
  assert await asyncio.to_thread(batcher.join, 10)


# --- batches -----------------------------------------------------------------


def test_what_waits_is_computed_together_in_order():
  async def run():
    backend, seen = Gated(is_open=False), Seen()
    batcher = await _started(backend, observer=seen)
    jobs = [await _busy(batcher, backend)]
    jobs += [batcher.submit([c], LABEL, 30) for c in "abcdef"]
    assert batcher.waiting == 6
    backend.gate.set()
    answers = [(await job.future) for job in jobs]
    assert answers == [["first!"], *([f"{c}!"] for c in "abcdef")]
    assert [inputs for inputs, _ in backend.calls] == [
      ["first"],
      ["a", "b", "c", "d"],
      ["e", "f"],
    ]
    assert seen.batches == [1, 4, 2]
    await asyncio.sleep(0)
    assert batcher.waiting == batcher.open_requests == 0
    await _close(batcher, backend)

  asyncio.run(run())


def test_a_long_request_is_spread_over_batches_and_shares_them():
  async def run():
    backend = Gated(is_open=False)
    batcher = await _started(backend)
    await _busy(batcher, backend)
    long = batcher.submit([f"l{i}" for i in range(6)], LABEL, 30)
    short = batcher.submit(["s"], LABEL, 30)
    backend.gate.set()
    assert await long.future == [f"l{i}!" for i in range(6)]
    assert await short.future == ["s!"]
    assert [inputs for inputs, _ in backend.calls[1:]] == [
      ["l0", "l1", "l2", "l3"],
      ["l4", "l5", "s"],
    ]
    await _close(batcher, backend)

  asyncio.run(run())


def test_a_batch_asks_for_one_kind_of_output_the_oldest_first():
  async def run():
    backend = Gated(is_open=False)
    batcher = await _started(backend)
    await _busy(batcher, backend)
    kinds = [BOTH, LABEL, BOTH, LABEL]
    jobs = [batcher.submit([str(i)], k, 30) for i, k in enumerate(kinds)]
    backend.gate.set()
    for job in jobs:
      await job.future
    assert backend.calls[1:] == [(["0", "2"], BOTH), (["1", "3"], LABEL)]
    await _close(batcher, backend)

  asyncio.run(run())


def test_the_first_input_waits_for_others_but_not_for_long():
  async def run():
    backend = Gated()
    batcher = await _started(backend, max_wait_s=0.05)
    jobs = [batcher.submit([c], LABEL, 30) for c in "ab"]
    await asyncio.gather(*(job.future for job in jobs))
    assert backend.calls == [(["a", "b"], LABEL)]
    # A full batch does not wait.
    slow = await _started(backend, max_wait_s=60.0)
    jobs = [slow.submit([c], LABEL, 30) for c in "wxyz"]
    async with asyncio.timeout(5):
      await asyncio.gather(*(job.future for job in jobs))
    assert [inputs for inputs, _ in backend.calls] == [
      ["a", "b"],
      ["w", "x", "y", "z"],
    ]
    await _close(batcher, backend)
    await _close(slow, backend)

  asyncio.run(run())


@settings(max_examples=15, deadline=None)
@given(
  st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([LABEL, BOTH])), max_size=12
  ),
  st.integers(1, 5),
)
def test_every_request_gets_its_own_answers_once(requests, max_batch):
  async def run():
    backend = Gated()
    batcher = await _started(backend, max_batch=max_batch)
    jobs = [
      batcher.submit([f"{i}.{k}" for k in range(size)], wanted, 30)
      for i, (size, wanted) in enumerate(requests)
    ]
    for i, job in enumerate(jobs):
      expected = [f"{i}.{k}!" for k in range(len(job.inputs))]
      assert await job.future == expected
    asked = [text for inputs, _ in backend.calls for text in inputs]
    assert len(asked) == len(set(asked)) == sum(n for n, _ in requests)
    assert all(len(inputs) <= max_batch for inputs, _ in backend.calls)
    await _close(batcher, backend)

  asyncio.run(run())


# --- bounds and deadlines ----------------------------------------------------


def test_the_queue_is_bounded_by_inputs_that_wait():
  async def run():
    backend = Gated(is_open=False)
    batcher = await _started(backend, max_queue=5)
    await _busy(batcher, backend)  # computed, so it does not wait
    batcher.submit(["a"] * 4, LABEL, 30)
    with pytest.raises(QueueFull) as full:
      batcher.submit(["b"] * 2, LABEL, 30)
    assert full.value.retry_after_s > 0
    last = batcher.submit(["c"], LABEL, 30)  # what fits, fits
    assert batcher.waiting == 5
    backend.gate.set()
    assert await last.future == ["c!"]
    assert ["b", "b"] not in [inputs for inputs, _ in backend.calls]
    await _close(batcher, backend)

  asyncio.run(run())


def test_what_could_not_be_answered_in_time_is_refused():
  """Else a slow student computes only for clients that have gone."""

  async def run():
    backend, now = Gated(), [0.0]
    batcher = await _started(backend, clock=lambda: now[0])
    predict = backend.predict

    def slow(inputs, wanted):
      results = predict(inputs, wanted)
      now[0] += 2.0
      return results

    backend.predict = slow
    await batcher.submit(["a"], LABEL, 30).future
    backend.gate.clear()
    backend.running.clear()
    await _busy(batcher, backend)
    batcher.submit(list("bcde"), LABEL, 5)
    # Two seconds for each of: the present batch, the one that waits, its own;
    # and a quarter more.
    with pytest.raises(QueueFull) as full:
      batcher.submit(["f"], LABEL, 5)
    assert full.value.retry_after_s == pytest.approx(2.5)
    batcher.submit(["f"], LABEL, 8)
    await _close(batcher, backend)

  asyncio.run(run())


def test_what_expires_is_answered_at_once_and_not_computed():
  async def run():
    backend, seen = Gated(is_open=False), Seen()
    batcher = await _started(backend, observer=seen)
    await _busy(batcher, backend)
    late = batcher.submit(["late"], LABEL, 0.02)
    with pytest.raises(Expired, match="while it waited"):
      await late.future
    assert batcher.busy_s > 0  # the thread computes still
    assert batcher.waiting == 0
    other = batcher.submit(["other"], LABEL, 30)
    backend.gate.set()
    await other.future
    assert [inputs for inputs, _ in backend.calls] == [["first"], ["other"]]
    assert seen.drops == {"deadline": 1}
    await _close(batcher, backend)

  asyncio.run(run())


def test_a_request_that_expires_while_computed_gets_a_timeout():
  async def run():
    backend = Gated(is_open=False)
    batcher = await _started(backend)
    job = batcher.submit(["a"], LABEL, 0.05)
    await _until(backend.running.is_set)
    with pytest.raises(Expired, match="while it was computed"):
      await job.future
    await _close(batcher, backend)

  asyncio.run(run())


def test_a_late_loop_drops_what_has_expired_before_it_takes_a_batch():
  """A batch holds nothing that expired while the loop was too busy."""

  async def run():
    backend, seen = Gated(is_open=False), Seen()
    batcher = await _started(backend, observer=seen)
    await _busy(batcher, backend)
    late = batcher.submit(["late"], LABEL, 0.01)
    other = batcher.submit(["other"], LABEL, 30)
    threading.Timer(0.03, backend.gate.set).start()
    time.sleep(0.1)  # the loop stands still
    assert await other.future == ["other!"]
    with pytest.raises(Expired):
      await late.future
    assert [inputs for inputs, _ in backend.calls] == [["first"], ["other"]]
    assert seen.drops == {"deadline": 1}
    assert batcher.waiting == 0
    await _close(batcher, backend)

  asyncio.run(run())


def test_what_nobody_waits_for_is_dropped():
  async def run():
    backend, seen = Gated(is_open=False), Seen()
    batcher = await _started(backend, observer=seen)
    await _busy(batcher, backend)
    gone = batcher.submit(["gone"] * 3, LABEL, 30)
    stays = batcher.submit(["stays"], LABEL, 30)
    batcher.abandon(gone)
    batcher.abandon(gone)
    assert (batcher.waiting, gone.future.cancelled()) == (1, True)
    backend.gate.set()
    await stays.future
    assert [inputs for inputs, _ in backend.calls[1:]] == [["stays"]]
    assert seen.drops == {"disconnected": 3}
    await _close(batcher, backend)

  asyncio.run(run())


def test_a_clock_that_is_set_changes_nothing(monkeypatch):
  async def run():
    backend = Gated()
    batcher = await _started(backend)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1e6)
    job = batcher.submit(["a"], LABEL, 30)
    monkeypatch.setattr(time, "time", lambda: real() - 1e6)
    assert await job.future == ["a!"]
    await _close(batcher, backend)

  asyncio.run(run())


# --- failures ----------------------------------------------------------------


@pytest.mark.parametrize("culprit", ["poison", "short"])
def test_one_bad_input_does_not_hurt_its_neighbours(culprit):
  async def run():
    backend, seen = Gated(is_open=False), Seen()
    batcher = await _started(backend, max_batch=8, observer=seen)
    await _busy(batcher, backend)
    jobs = {c: batcher.submit([c], LABEL, 30) for c in "abc"}
    bad = batcher.submit(["fine", culprit], LABEL, 30, "request-7")
    jobs |= {c: batcher.submit([c], LABEL, 30) for c in "def"}
    backend.gate.set()
    for text, job in jobs.items():
      assert await job.future == [f"{text}!"]
    with pytest.raises(Failed):
      await bad.future
    assert [culprit] in [inputs for inputs, _ in backend.calls]
    assert seen.failures == 4  # of 8, 4, 2 and 1 inputs
    assert await batcher.submit(["next"], LABEL, 30).future == ["next!"]
    assert batcher.state is batching.State.READY
    await _close(batcher, backend)

  asyncio.run(run())


def test_a_thread_that_dies_is_noticed_and_fails_what_it_had():
  async def run():
    backend = Gated(is_open=False)
    deaths: list[BaseException] = []
    batcher = await _started(backend, max_batch=1, on_death=deaths.append)
    await _busy(batcher, backend)
    dying = batcher.submit(["die"], LABEL, 30)
    waiting = batcher.submit(["waits"], LABEL, 30)
    backend.gate.set()
    for job in (dying, waiting):
      with pytest.raises(Failed, match="stopped"):
        await job.future
    assert batcher.state is batching.State.FAILED
    assert [type(error) for error in deaths] == [SystemExit]
    with pytest.raises(Stopped, match="failed"):
      batcher.submit(["more"], LABEL, 30)
    await asyncio.sleep(0)
    assert (batcher.waiting, batcher.open_requests) == (0, 0)

  asyncio.run(run())


def test_a_warm_up_that_fails_is_a_death():
  class Cold(Gated):
    def warm_up(self):
      raise MemoryError("no room")

  async def run():
    died = asyncio.get_running_loop().create_future()
    batcher = Batcher(
      Cold(), max_batch=1, max_wait_s=0, max_queue=1, on_death=died.set_result
    )
    with pytest.raises(AssertionError):
      batcher.submit(["a"], LABEL, 1)
    batcher.start(asyncio.get_running_loop())
    assert isinstance(await died, MemoryError)

  asyncio.run(run())


# --- the end -----------------------------------------------------------------


def test_draining_answers_what_was_accepted_and_nothing_more():
  async def run():
    backend = Gated(is_open=False)
    batcher = await _started(backend, max_wait_s=60.0)
    jobs = [batcher.submit(["full"] * 4, LABEL, 30)]
    await _until(backend.running.is_set)
    jobs += [batcher.submit([c], LABEL, 30) for c in "ab"]
    batcher.drain()
    with pytest.raises(Stopped, match="stopping"):
      batcher.submit(["late"], LABEL, 30)
    backend.gate.set()
    async with asyncio.timeout(5):  # and nobody waits for company
      assert await jobs[1].future == ["a!"]
      assert await jobs[2].future == ["b!"]
    assert await asyncio.to_thread(batcher.join, 10)
    assert batcher.state is batching.State.STOPPED

  asyncio.run(run())


def test_stopping_fails_what_is_not_computed():
  async def run():
    backend = Gated(is_open=False)
    batcher = await _started(backend)
    jobs = [await _busy(batcher, backend), batcher.submit(["a"], LABEL, 30)]
    batcher.stop()
    for job in jobs:
      with pytest.raises(Stopped):
        await job.future
    await _close(batcher, backend)
    assert [inputs for inputs, _ in backend.calls] == [["first"]]

  asyncio.run(run())


def test_how_long_the_thread_has_been_busy_is_known():
  async def run():
    now = [100.0]
    backend = Gated(is_open=False)
    batcher = await _started(backend, clock=lambda: now[0])
    assert batcher.busy_s == 0
    await _busy(batcher, backend)
    now[0] += 7
    assert batcher.busy_s == 7
    await _close(batcher, backend)

  asyncio.run(run())
