"""Computes the requests of many clients together, one batch at a time.

  batcher = Batcher(backend, max_batch=32, max_wait_s=0.005, max_queue=128)
  batcher.start(loop)                    # warms up, then takes work
  job = batcher.submit(inputs, wanted, timeout_s=10)   # or QueueFull
  predictions = await job.future         # or Expired, Failed, Stopped

The unit is an input: the inputs of a request may be spread over batches, and a
batch holds inputs of several requests. The queue is bounded; work that is no
longer wanted (its time is up, its client has left) is dropped before it is
computed. The backend computes in a thread; everything else happens in the
loop. All times are monotonic, so that setting the clock changes nothing.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import enum
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dss_jax.students.serving.jobs import (
  Expired,
  Failed,
  Job,
  QueueFull,
  Stopped,
  Wanted,
)

logger = logging.getLogger(__name__)

# Calls may take this many times as long as those before them.
_SAFETY_FACTOR = 1.25


class Backend(Protocol):
  """Computes predictions; only one thread calls it."""

  def warm_up(self) -> None:
    """Does everything that would delay the first batch."""
    ...

  def predict(self, inputs: Sequence[str], wanted: Wanted) -> Sequence[Any]:
    """Returns one prediction for each input, in their order."""
    ...


class State(enum.Enum):
  """What the batcher does."""

  STARTING = "warming up"
  READY = "ok"
  DRAINING = "stopping"
  FAILED = "failed"
  STOPPED = "stopped"


class Observer:
  """Learns what happens; see `server_metrics`."""

  def batch(self, size: int, wanted: Wanted, seconds: float) -> None:
    """A batch was computed."""

  def failure(self, size: int) -> None:
    """The backend raised."""

  def dropped(self, reason: str, size: int) -> None:
    """Inputs were dropped before they were computed."""


# Inputs of a batch: a job, and the position in its inputs.
_Batch = list[tuple[Job, int]]


class Batcher:
  """A bounded queue before a single thread."""

  def __init__(
    self,
    backend: Backend,
    *,
    max_batch: int,
    max_wait_s: float,
    max_queue: int,
    observer: Observer | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_death: Callable[[BaseException], None] = lambda error: None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts nothing yet.

    Args:
      backend: computes.
      max_batch: the most inputs of a call.
      max_wait_s: how long the first input of a batch waits for others.
      max_queue: the most inputs that wait.
      observer: learns what happens.
      on_ready: called after warming up.
      on_death: called when the backend has died.
      clock: seconds that never run backwards; the loop's clock.
    """
    self._backend = backend
    self._max_batch = max_batch
    self._max_wait_s = max_wait_s
    self._max_queue = max_queue
    self._observer = observer or Observer()
    self._on_ready = on_ready
    self._on_death = on_death
    self._clock = clock
    self._loop: asyncio.AbstractEventLoop | None = None
    self._executor = concurrent.futures.ThreadPoolExecutor(1, "predictor")
    self._thread_idle = threading.Event()
    self._thread_idle.set()
    self._changed = asyncio.Event()
    self._jobs: collections.deque[Job] = collections.deque()
    # Inputs that wait, by what is asked for.
    self._counts: collections.Counter[Wanted] = collections.Counter()
    self._state = State.STARTING
    # The present call of the backend.
    self._busy_since: float | None = None
    self._present = Wanted(())
    # Seconds of the slowest recent calls, by what is asked for.
    self._call_s: dict[Wanted, float] = {}
    # Jobs that are accepted and not answered.
    self._open: set[Job] = set()

  # ---------------------------------------------------------------- requests

  def start(self, loop: asyncio.AbstractEventLoop) -> None:
    """Starts working, with a warm-up first."""
    self._loop = loop
    self._task = loop.create_task(self._run())

  @property
  def state(self) -> State:
    return self._state

  @property
  def waiting(self) -> int:
    """Inputs in the queue."""
    return self._counts.total()

  @property
  def open_requests(self) -> int:
    """Requests accepted and not answered."""
    return len(self._open)

  @property
  def busy_s(self) -> float:
    """For how long the thread has been at its present call; 0 if idle."""
    since = self._busy_since
    return 0.0 if since is None else max(self._clock() - since, 0.0)

  def submit(
    self,
    inputs: Sequence[str],
    wanted: Wanted,
    timeout_s: float,
    name: str = "",
  ) -> Job:
    """Puts a request's inputs into the queue.

    Args:
      inputs: texts.
      wanted: what is asked for; what wants the same is computed together.
      timeout_s: time within which to answer.
      name: the request's name in the log.

    Raises:
      Stopped: if the server is starting, stopping or broken.
      QueueFull: if there is no room for all inputs, or if the work before them
        will take so long that they would be computed for nobody.
    """
    assert self._loop is not None
    now = self._clock()
    if self._state is not State.READY:
      raise Stopped(self._state.value)
    before_s = self._seconds_before(now)
    expected_s = _SAFETY_FACTOR * (before_s + self._call_s.get(wanted, 0.0))
    if self.waiting + len(inputs) > self._max_queue:
      raise QueueFull(before_s or 1.0)
    if before_s and expected_s > timeout_s:
      raise QueueFull(expected_s - timeout_s)
    job = Job(
      inputs, wanted, now, now + timeout_s, self._loop.create_future(), name
    )
    self._jobs.append(job)
    self._counts[wanted] += len(inputs)
    # Other arrivals change nothing for a batch that waits to be full.
    if len(self._jobs) == 1 or self._counts[wanted] >= self._max_batch:
      self._changed.set()
    self._open.add(job)
    timer = self._loop.call_later(timeout_s, self._expire, job)

    def forget(_: Any) -> None:
      timer.cancel()
      self._open.discard(job)

    job.future.add_done_callback(forget)
    return job

  def abandon(
    self,
    job: Job,
    reason: str = "disconnected",
    error: Exception | None = None,
  ) -> None:
    """Drops what is not computed yet of a job that is not answered.

    Args:
      job: the job; nothing happens if it is answered already.
      reason: what the observer hears.
      error: becomes the job's answer; None if nobody waits for one.
    """
    if job.future.done():
      return
    if job.waiting:
      self._observer.dropped(reason, job.waiting)
      self._jobs.remove(job)
      self._counts[job.wanted] -= job.waiting
      job.taken = len(job.inputs)
    if error is None:
      job.future.cancel()
    else:
      job.future.set_exception(error)

  def _expire(self, job: Job) -> None:
    what = "waited" if job.started is None else "was computed"
    self.abandon(job, "deadline", Expired(f"its time was up while it {what}"))

  def drain(self) -> None:
    """Takes no further work; accepted work is computed."""
    if self._state in (State.STARTING, State.READY):
      self._state = State.DRAINING
    self._changed.set()

  def stop(self) -> None:
    """Drains, and answers with an error whatever is not computed yet."""
    self.drain()
    self._fail_all(Stopped(State.DRAINING.value))

  def join(self, timeout_s: float) -> bool:
    """Whether the thread is idle, or becomes so within a time."""
    return self._thread_idle.wait(timeout_s)

  def _fail_all(self, error: Exception) -> None:
    for job in list(self._open):
      self.abandon(job, "stopped", error)

  def _seconds_before(self, now: float) -> float:
    """How long the present batch and the queue will take, as far as known."""
    calls_s = sum(
      math.ceil(count / self._max_batch) * self._call_s.get(wanted, 0.0)
      for wanted, count in self._counts.items()
    )
    if self._busy_since is not None:
      present_s = self._call_s.get(self._present, 0.0)
      calls_s += max(present_s - (now - self._busy_since), 0.0)
    return calls_s

  # ----------------------------------------------------------------- batches

  async def _run(self) -> None:
    try:
      await self._in_thread(self._backend.warm_up)
      if self._state is State.STARTING:
        self._state = State.READY
        self._on_ready()
      while batch := await self._next_batch():
        await self._compute(batch)
      self._state = State.STOPPED
    except asyncio.CancelledError:
      raise
    except BaseException as error:
      self._state = State.FAILED
      self._fail_all(Failed("the predictor has stopped"))
      self._on_death(error)

  async def _in_thread(
    self, function: Callable[..., Any], *args: Any
  ) -> tuple[Any, float]:
    """Returns what the function returns, and the seconds that it took."""

    def call() -> tuple[Any, float]:
      start = self._busy_since = self._clock()
      try:
        return function(*args), self._clock() - start
      finally:
        self._busy_since = None
        self._thread_idle.set()

    assert self._loop is not None
    self._thread_idle.clear()
    return await self._loop.run_in_executor(self._executor, call)

  async def _next_batch(self) -> _Batch:
    """Waits for a batch; it is empty when there is nothing left to do."""
    while True:
      self._changed.clear()
      patience = None
      if self._jobs:
        first = self._jobs[0]
        patience = first.arrived + self._max_wait_s - self._clock()
        if (
          self._counts[first.wanted] >= self._max_batch
          or patience <= 0
          or self._state is not State.READY
        ):
          if batch := self._cut(first.wanted):
            return batch
          continue
      elif self._state is not State.READY:
        return []
      with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
          await self._changed.wait()

  def _cut(self, wanted: Wanted) -> _Batch:
    """Takes the oldest inputs that ask for `wanted` and have time left."""
    batch: _Batch = []
    now = self._clock()
    for job in list(self._jobs):
      if len(batch) == self._max_batch:
        break
      if job.wanted != wanted:
        continue
      if job.deadline <= now:  # its timer would find it a little late
        self._expire(job)
        continue
      count = min(job.waiting, self._max_batch - len(batch))
      batch += [(job, job.taken + i) for i in range(count)]
      if job.started is None:
        job.started = now
      job.taken += count
      self._counts[wanted] -= count
      if not job.waiting:
        self._jobs.remove(job)
    return batch

  async def _compute(self, batch: _Batch) -> None:
    """Computes a batch; halves it if it fails, down to the inputs at fault."""
    parts = [batch]
    while parts:
      part = parts.pop()
      if len(part) < len(batch):  # the other parts may have taken long
        now = self._clock()
        part = [
          (job, index)
          for job, index in part
          if not job.future.done() and job.deadline > now
        ]
        if not part:
          continue
      try:
        results = await self._predict(part)
      except Exception as error:
        self._observer.failure(len(part))
        if len(part) > 1:
          middle = len(part) // 2
          parts += [part[middle:], part[:middle]]
          continue
        job, _ = part[0]
        logger.error(
          "request %s: the predictor failed on an input",
          job.name,
          exc_info=error,
        )
        failed = Failed("the predictor failed on this input")
        self.abandon(job, "failed", failed)
        continue
      for (job, index), result in zip(part, results, strict=True):
        job.results[index] = result
        if len(job.results) == len(job.inputs) and not job.future.done():
          job.future.set_result(
            [job.results[i] for i in range(len(job.inputs))]
          )

  async def _predict(self, part: _Batch) -> Sequence[Any]:
    wanted = self._present = part[0][0].wanted
    inputs = [job.inputs[index] for job, index in part]
    results, seconds = await self._in_thread(
      self._backend.predict, inputs, wanted
    )
    if len(results) != len(part):
      raise RuntimeError(f"{len(part)} inputs gave {len(results)} predictions")
    before = self._call_s.get(wanted, seconds)
    self._call_s[wanted] = max(seconds, before + 0.2 * (seconds - before))
    self._observer.batch(len(part), wanted, seconds)
    return results
