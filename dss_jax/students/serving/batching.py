"""Requests of many clients, computed together by one thread.

  batcher = Batcher(backend, max_batch=32, max_wait_s=0.005, max_queue=128)
  batcher.start(loop)                    # warms up, then takes work
  job = batcher.submit(inputs, ("label",), timeout_s=10)   # or QueueFull
  predictions = await job.future         # or Expired, Failed, Stopped

Inputs are the unit: those of a request may be spread over batches, a batch
holds inputs of several requests. What waits is bounded; what is no longer
wanted (its time is up, its client is gone) is dropped before it is computed.
All times are monotonic: a clock that is set changes nothing.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import enum
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

logger = logging.getLogger(__name__)

Outputs = tuple[str, ...]

# By how much calls may take longer than those before them.
_CAUTION = 1.25


class Backend(Protocol):
  """What computes; called by one thread only."""

  def warm_up(self) -> None:
    """Does before the first batch what would delay it."""
    ...

  def predict(self, inputs: Sequence[str], outputs: Outputs) -> Sequence[Any]:
    """One prediction for each input, in their order."""
    ...


class QueueFull(Exception):
  """Too much is waiting already: for the queue, or to be answered in time.

  Attributes:
    retry_after_s: when there may be room again.
  """

  def __init__(self, retry_after_s: float):
    super().__init__("the queue is full")
    self.retry_after_s = retry_after_s


class Stopped(Exception):
  """The server takes no work: not yet, or no longer."""


class Expired(Exception):
  """The request's time was up before it was computed."""


class Failed(Exception):
  """The backend failed on this request's inputs, or altogether."""


class State(enum.Enum):
  """What the thread is at."""

  STARTING = "warming up"
  READY = "ok"
  DRAINING = "stopping"
  FAILED = "failed"
  STOPPED = "stopped"


class Observer:
  """Is told what happens; see `metrics`. All but `dropped` in the thread."""

  def batch(self, size: int, outputs: Outputs, seconds: float) -> None:
    """A batch was computed."""

  def failure(self, size: int) -> None:
    """The backend raised."""

  def dropped(self, reason: str, size: int) -> None:
    """Inputs were dropped before they were computed."""


@dataclasses.dataclass(eq=False)
class Job:
  """A request's inputs on their way.

  Attributes:
    inputs: texts.
    outputs: what is asked for.
    arrived: when, by the batcher's clock.
    deadline: when its time is up.
    future: becomes the predictions, in the order of `inputs`.
    name: of the request, for the log.
    started: when its first input was taken; None before.
    taken: how many inputs the thread has taken.
    done: how many are computed.
    gone: nobody waits for it any more.
  """

  inputs: Sequence[str]
  outputs: Outputs
  arrived: float
  deadline: float
  future: asyncio.Future[list[Any]]
  name: str = ""
  results: list[Any] = dataclasses.field(init=False)
  started: float | None = None
  taken: int = 0
  done: int = 0
  gone: bool = False

  def __post_init__(self):
    self.results = [None] * len(self.inputs)

  @property
  def waiting(self) -> int:
    return len(self.inputs) - self.taken


@dataclasses.dataclass(frozen=True)
class _Entry:
  """One input of a batch."""

  job: Job
  index: int


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
      backend: what computes.
      max_batch: most inputs of a call.
      max_wait_s: how long the first input of a batch waits for others.
      max_queue: most inputs that wait.
      observer: is told what happens.
      on_ready: called in the loop after warming up.
      on_death: called in the loop when the thread has died.
      clock: seconds, never backwards; the loop's.
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
    self._thread: threading.Thread | None = None
    # Below: under the condition's lock.
    self._changed = threading.Condition()
    self._jobs: collections.deque[Job] = collections.deque()
    self._counts: collections.Counter[Outputs] = collections.Counter()
    self._waiting = 0
    self._state = State.STARTING
    self._busy_since: float | None = None
    self._present: Outputs = ()
    # Of the slowest calls of late, by what is asked for.
    self._call_s: dict[Outputs, float] = {}
    # Accepted and not answered; the loop's own.
    self._open: set[Job] = set()

  # ------------------------------------------------------------- in the loop

  def start(self, loop: asyncio.AbstractEventLoop) -> None:
    """Starts the thread, which warms up first."""
    self._loop = loop
    # A daemon: a computation that never ends must not keep the process.
    self._thread = threading.Thread(
      target=self._run, name="predictor", daemon=True
    )
    self._thread.start()

  @property
  def state(self) -> State:
    return self._state

  @property
  def waiting(self) -> int:
    """Inputs in the queue."""
    return self._waiting

  @property
  def open_requests(self) -> int:
    """Requests accepted and not answered."""
    return len(self._open)

  @property
  def busy_s(self) -> float:
    """For how long the thread has been at its present call; 0 if at none."""
    since = self._busy_since
    return 0.0 if since is None else max(self._clock() - since, 0.0)

  def submit(
    self,
    inputs: Sequence[str],
    outputs: Outputs,
    timeout_s: float,
    name: str = "",
  ) -> Job:
    """Puts a request's inputs into the queue.

    Args:
      inputs: texts.
      outputs: what is asked for.
      timeout_s: within which to answer.
      name: of the request, for the log.

    Raises:
      Stopped: the server is starting, stopping or broken.
      QueueFull: there is no room for all of them, or what is before them will
        take so long that they would be computed for nobody.
    """
    assert self._loop is not None
    now = self._clock()
    with self._changed:
      if self._state is not State.READY:
        raise Stopped(self._state.value)
      before_s = self._before_s(now)
      expected_s = _CAUTION * (before_s + self._call_s.get(outputs, 0.0))
      if self._waiting + len(inputs) > self._max_queue:
        raise QueueFull(before_s or 1.0)
      if before_s and expected_s > timeout_s:
        raise QueueFull(expected_s - timeout_s)
      job = Job(
        inputs, outputs, now, now + timeout_s, self._loop.create_future(), name
      )
      self._jobs.append(job)
      self._count(job, len(inputs))
      # The thread sleeps through what changes nothing for it.
      if len(self._jobs) == 1 or self._counts[outputs] >= self._max_batch:
        self._changed.notify()
    self._open.add(job)
    timer = self._loop.call_later(timeout_s, self._expire, job)

    def forget(_: Any) -> None:
      timer.cancel()
      self._open.discard(job)

    job.future.add_done_callback(forget)
    return job

  def abandon(self, job: Job, reason: str = "disconnected") -> None:
    """Drops what is not computed yet of a job that nobody waits for."""
    with self._changed:
      if job.gone:
        return
      job.gone = True
      dropped = job.waiting
      if dropped:
        self._jobs.remove(job)
        self._count(job, -dropped)
    if dropped:
      self._observer.dropped(reason, dropped)
    job.future.cancel()

  def _expire(self, job: Job) -> None:
    if not job.future.done():
      computing = job.started is not None
      job.future.set_exception(
        Expired(
          "its time was up while it was computed"
          if computing
          else "its time was up while it waited"
        )
      )
      self.abandon(job, "deadline")

  def drain(self) -> None:
    """Takes no further work; what was accepted is computed."""
    with self._changed:
      if self._state in (State.STARTING, State.READY):
        self._state = State.DRAINING
      self._changed.notify()

  def stop(self, error: Exception | None = None) -> None:
    """Drains, and answers with an error whatever is not computed yet."""
    self.drain()
    self._fail_all(error or Stopped(State.DRAINING.value))

  def join(self, timeout_s: float) -> bool:
    """Whether the thread has ended, within a time."""
    if self._thread is not None:
      self._thread.join(timeout_s)
      return not self._thread.is_alive()
    return True

  def _fail_all(self, error: Exception) -> None:
    for job in list(self._open):
      if not job.future.done():
        job.future.set_exception(error)
      self.abandon(job, "stopped")

  def _deliver(
    self, entries: Sequence[_Entry], results: Sequence[Any] | Failed
  ) -> None:
    """Hands results to those who wait."""
    for position, entry in enumerate(entries):
      job = entry.job
      if job.future.done():
        continue
      if isinstance(results, Failed):
        job.future.set_exception(results)
        self.abandon(job, "failed")
        continue
      job.results[entry.index] = results[position]
      job.done += 1
      if job.done == len(job.inputs):
        job.future.set_result(job.results)

  # ----------------------------------------------------------- in the thread

  def _run(self) -> None:
    try:
      self._busy_since = self._clock()
      self._backend.warm_up()
      self._busy_since = None
      with self._changed:
        if self._state is State.STARTING:
          self._state = State.READY
          self._in_loop(self._on_ready)
      while (batch := self._take()) is not None:
        self._compute(batch)
      with self._changed:
        self._state = State.STOPPED
    except BaseException as error:
      with self._changed:
        self._state = State.FAILED
      self._in_loop(self._died, error)

  def _died(self, error: BaseException) -> None:
    self._fail_all(Failed("the predictor has stopped"))
    self._on_death(error)

  def _in_loop(self, function: Callable[..., None], *args: Any) -> None:
    assert self._loop is not None
    # A loop that is closed has nobody left who waits.
    with contextlib.suppress(RuntimeError):
      self._loop.call_soon_threadsafe(function, *args)

  def _before_s(self, now: float) -> float:
    """How long what is computed and what waits will take, so far as known."""
    calls_s = sum(
      math.ceil(count / self._max_batch) * self._call_s.get(outputs, 0.0)
      for outputs, count in self._counts.items()
    )
    since = self._busy_since
    if since is not None:
      present_s = self._call_s.get(self._present, 0.0)
      calls_s += max(present_s - (now - since), 0.0)
    return calls_s

  def _count(self, job: Job, inputs: int) -> None:
    self._waiting += inputs
    self._counts[job.outputs] += inputs

  def _take(self) -> list[_Entry] | None:
    """Waits for a batch; None when there is nothing left to do."""
    with self._changed:
      while True:
        if self._jobs:
          head = self._jobs[0]
          patience = head.arrived + self._max_wait_s - self._clock()
          if (
            self._counts[head.outputs] >= self._max_batch
            or patience <= 0
            or self._state is not State.READY
          ):
            if batch := self._cut(head.outputs):
              return batch
            continue
          self._changed.wait(patience)
        elif self._state is not State.READY:
          return None
        else:
          self._changed.wait()

  def _cut(self, outputs: Outputs) -> list[_Entry]:
    """The oldest inputs that ask for the same, less those whose time is up."""
    batch: list[_Entry] = []
    now = self._clock()
    for job in list(self._jobs):
      if len(batch) == self._max_batch:
        break
      if job.outputs != outputs:
        continue
      if job.deadline <= now:
        # Its timer answers it; the loop may only be late.
        self._jobs.remove(job)
        self._count(job, -job.waiting)
        self._in_loop(self._observer.dropped, "deadline", job.waiting)
        job.taken = len(job.inputs)
        continue
      count = min(job.waiting, self._max_batch - len(batch))
      batch += [_Entry(job, job.taken + i) for i in range(count)]
      if job.started is None:
        job.started = now
      job.taken += count
      self._count(job, -count)
      if not job.waiting:
        self._jobs.remove(job)
    return batch

  def _compute(self, batch: list[_Entry]) -> None:
    """Computes a batch; halves it where it fails, down to the culprits."""
    parts = [batch]
    while parts:
      part = parts.pop()
      if len(part) < len(batch):  # others may have waited for long
        now = self._clock()
        part = [e for e in part if not e.job.gone and e.job.deadline > now]
        if not part:
          continue
      try:
        results = self._predict(part)
      except Exception as error:
        self._observer.failure(len(part))
        if len(part) > 1:
          middle = len(part) // 2
          parts += [part[middle:], part[:middle]]
          continue
        logger.error(
          "request %s: the predictor failed on an input",
          part[0].job.name,
          exc_info=error,
        )
        results = Failed("the predictor failed on this input")
      self._in_loop(self._deliver, part, results)

  def _predict(self, part: list[_Entry]) -> Sequence[Any]:
    outputs = self._present = part[0].job.outputs
    start = self._busy_since = self._clock()
    try:
      results = self._backend.predict(
        [entry.job.inputs[entry.index] for entry in part], outputs
      )
    finally:
      self._busy_since = None
    if len(results) != len(part):
      raise RuntimeError(f"{len(part)} inputs gave {len(results)} predictions")
    seconds = self._clock() - start
    before = self._call_s.get(outputs, seconds)
    self._call_s[outputs] = max(seconds, before + 0.2 * (seconds - before))
    self._observer.batch(len(part), outputs, seconds)
    return results
