"""Where the wall time of a run goes, without holding the devices up.

The loop passes steps to the devices and continues; it waits for them only where
it looks at metrics. So the time that a call takes on the host says little. Here
a thread waits for the loss of each step in the loop's place and notes when it
is there. The devices work on a step from when it is passed to them, or when the
step before it is done, until its loss is there. All other time is named by what
the host did while the devices had no step:

step        the devices worked on training steps
compile     the host traced, compiled, or read programs from the cache
data        the loop waited for the next batch
host        anything else between steps: calls, metrics, progress
evaluation  decoding, scoring, losses of the validation split
checkpoint  copying the state off the devices, waiting for the disk
setup       from the start of `train` to the loop: data, parameters

Each moment is in one phase, the first of these where several fit, so that they
add up to the wall time. What the host does while the devices work, such as
reading data, costs nothing and is not counted.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

from dss_jax.base import compilations

PHASES = (
  "step",
  "compile",
  "data",
  "host",
  "evaluation",
  "checkpoint",
  "setup",
)

# How long to wait for a step that may never be done.
_SECONDS_TO_END = 10.0

# How many of the latest steps are remembered for their pace.
_RECENT_STEPS = 100

# (start, end) and (start, end, phase), in seconds of `time.monotonic`.
Span = tuple[float, float]
Segment = tuple[float, float, str]
T = TypeVar("T")


class TimeBreakdown:
  """Takes in what the loop does, and measures how long the phases took.

  It counts only what the thread that made it compiles.

  Args:
    clock: returns the time in seconds.

  Attributes:
    total: seconds of each phase that were taken.
    longest: seconds that the host stayed in a phase at most, by phase.
    steps_done: how many steps the devices have done.
    intervals: seconds from the end of a step to the end of the next, of the
      latest ones.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self.started = self._called = clock()
    self.total: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    self.longest: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    self.steps_done = 0
    self.intervals: collections.deque[float]
    self.intervals = collections.deque(maxlen=_RECENT_STEPS)
    self._phase, self._since = "setup", self.started
    self._segments: list[Segment] = []
    self._busy: list[Span] = []
    self._compiled: list[Span] = []
    # (begun, loss) of the steps that the thread has to wait for.
    self._to_watch: queue.SimpleQueue[tuple[float, Any] | None]
    self._to_watch = queue.SimpleQueue()
    self._num_untaken = 0  # steps added that `take` has not returned yet
    self._seen = threading.Semaphore(0)
    compilations.take_spans()  # drops those from before
    self._thread: threading.Thread | None = None

  # --------------------------------------------------------- what the host does

  def switch(self, phase: str) -> str:
    """Begins `phase` on the host; returns the phase it ends."""
    now = self._clock()
    self._segments.append((self._since, now, self._phase))
    before, since = self._phase, self._since
    self.longest[before] = max(self.longest[before], now - since)
    self._phase, self._since = phase, now
    return before

  @property
  def current(self) -> str:
    """The phase that the host is in."""
    return self._phase

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Counts the time inside as `name`, which is its name in traces too."""
    before = self.switch(name)
    try:
      with jax.profiler.TraceAnnotation(name):
        yield
    finally:
      self.switch(before)

  def waiting(self, name: str, items: Iterable[T]) -> Iterator[T]:
    """Yields `items`; waiting for each of them counts as `name`."""
    iterator = iter(items)
    while True:
      with self.phase(name):
        try:
          item = next(iterator)
        except StopIteration:
          return
      yield item
      del item  # or it would be kept while the next one is made

  # ------------------------------------------------------ what the devices do

  def call_step(self) -> None:
    """Notes that the call of a step begins now."""
    self._called = self._clock()

  def add_step(self, result: Any) -> None:
    """Notes that the step is passed to the devices, and its call ends now.

    Args:
      result: an array that the step returns; it is kept until it is ready.
    """
    # A step that is done already was computed within the call. The devices may
    # have begun any other a little before now; that little counts as `host`.
    if result.is_ready():
      begun = max(self._called, compilations.last_end())
    else:
      begun = self._clock()
    if self._thread is None:
      self._thread = threading.Thread(
        target=self._watch, name="dss_jax-steps", daemon=True
      )
      self._thread.start()
    self._num_untaken += 1
    self._to_watch.put((begun, result))

  def _watch(self) -> None:
    done = self.started
    while (step := self._to_watch.get()) is not None:
      begun, result = step
      # The loop meets the same error where it looks at the metrics.
      with contextlib.suppress(Exception):
        jax.block_until_ready(result)
      begun, before = max(begun, done), done
      done = max(begun, self._clock())
      self._busy.append((begun, done))
      if self.steps_done:
        self.intervals.append(done - before)
      self.steps_done += 1
      del step, result
      self._seen.release()

  # --------------------------------------------------------------- the numbers

  def take(self, *, leaving: int = 0) -> dict[str, float]:
    """Seconds of each phase since the last call; waits for steps.

    Args:
      leaving: how many of the latest steps are not waited for. The time since
        the end of the step before them is left to the next call.
    """
    num_steps = max(self._num_untaken - leaving, 0)
    for _ in range(num_steps):
      self._seen.acquire()
    self._num_untaken -= num_steps
    self.switch(self._phase)
    busy = self._busy[:num_steps]
    del self._busy[:num_steps]
    until = self._since
    if self._num_untaken:
      until = busy[-1][1] if busy else self._segments[0][0]
    segments, self._segments = _cut(self._segments, until)
    self._compiled += compilations.take_spans()
    segments = _relabelled(segments, self._compiled, "compile")
    self._compiled = [span for span in self._compiled if span[1] > until]
    segments = _relabelled(segments, busy, "step")
    seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for start, end, name in segments:
      seconds[name] += end - start
    for name in PHASES:
      self.total[name] += seconds[name]
    return seconds

  def close(self) -> None:
    """Ends the thread once the steps that were added are done."""
    self._to_watch.put(None)
    if self._thread is not None:
      self._thread.join(_SECONDS_TO_END)


def _cut(
  segments: Sequence[Segment], at: float
) -> tuple[list[Segment], list[Segment]]:
  """The segments before and after a moment."""
  before = [(a, min(b, at), name) for a, b, name in segments if a < at]
  after = [(max(a, at), b, name) for a, b, name in segments if b > at]
  return before, after


def _relabelled(
  segments: Sequence[Segment], spans: Sequence[Span], name: str
) -> list[Segment]:
  """The same segments, with the time within `spans` called `name`.

  Args:
    segments: ascending, without gaps.
    spans: ascending, without overlaps.
    name: the phase of the spans.
  """
  found: list[Segment] = []
  first = 0
  for start, end, phase in segments:
    while first < len(spans) and spans[first][1] <= start:
      first += 1
    for i in range(first, len(spans)):
      begun, done = spans[i]
      if begun >= end:
        break
      if begun > start:
        found.append((start, begun, phase))
      start_inside, start = max(start, begun), min(end, done)
      found.append((start_inside, start, name))
    if start < end:
      found.append((start, end, phase))
  return found


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
  """Each phase's share of the whole, from 0 to 1."""
  whole = sum(seconds.values())
  return {name: value / whole for name, value in seconds.items() if whole > 0}


def describe(seconds: Mapping[str, float]) -> str:
  """One line: the whole and the shares, the longest first."""
  parts = sorted(shares(seconds).items(), key=lambda part: -part[1])
  listed = ", ".join(f"{name} {100 * share:.1f}%" for name, share in parts)
  return f"{sum(seconds.values()):.1f} s: {listed}"
