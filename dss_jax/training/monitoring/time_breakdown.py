"""Where the wall time of a run goes, without holding the devices up.

The loop hands steps to the devices and goes on; it waits for them only where
it looks at metrics. So the time that a call takes on the host says little. Here
a thread waits for each step's loss in the loop's place and notes when it was
there: the devices have a step to work on from when it is handed over, or the
one before is done, until then. All other time is told by what the host did
while they had none:

step        the devices worked on training steps
compile     the host traced, compiled, or read programs from the cache
data        the loop waited for the next batch
host        anything else between steps: handing over, metrics, progress
evaluation  decoding, scoring, losses of the validation split
checkpoint  copying the state off the devices, waiting for the disk
setup       from the start of `train` to the loop: data, parameters

Each moment is in one phase, the first of these where several would do, so that
they add up to the wall time. What the host does while the devices are at work,
reading data too, costs nothing and shows nowhere.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

# For a step that will never be done.
_SECONDS_TO_END = 10.0

# (start, end) and (start, end, phase), in seconds of `time.monotonic`.
Span = tuple[float, float]
Segment = tuple[float, float, str]
T = TypeVar("T")


class TimeBreakdown:
  """Takes in what the loop does; says how long the phases took.

  For the thread that makes it: only what that thread compiles counts.
  """

  def __init__(self):
    self.started = time.monotonic()
    self.total: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    self._phase, self._since = "setup", self.started
    self._segments: list[Segment] = []
    self._busy: list[Span] = []
    self._compiled: list[Span] = []
    self._handed: queue.SimpleQueue[tuple[float, Any] | None]
    self._handed = queue.SimpleQueue()
    self._waiting_for = 0  # steps handed to the thread
    self._seen = threading.Semaphore(0)
    compilations.take_spans()  # of whatever came before
    self._thread: threading.Thread | None = None

  # --------------------------------------------------------- what the host does

  def switch(self, phase: str) -> str:
    """From now on the host is in `phase`; returns the one it was in."""
    now = time.monotonic()
    self._segments.append((self._since, now, self._phase))
    before, self._phase, self._since = self._phase, phase, now
    return before

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """What happens inside counts as `name`; it has that name in traces too."""
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
      del item  # which is not kept while the next one is made

  # ------------------------------------------------------ what the devices do

  def add_step(self, called: float, result: Any) -> None:
    """Notes a step that was handed to the devices just now.

    Args:
      called: when its call began, in seconds of `time.monotonic`.
      result: of the step; it is kept until it is there.
    """
    # One that is done already was computed within the call. The devices can
    # have begun others a little before now; that little counts as the host's.
    if result.is_ready():
      begun = max(called, compilations.last_end())
    else:
      begun = time.monotonic()
    if self._thread is None:
      self._thread = threading.Thread(
        target=self._watch, name="dss_jax-steps", daemon=True
      )
      self._thread.start()
    self._waiting_for += 1
    self._handed.put((begun, result))

  def _watch(self) -> None:
    done = self.started
    while (handed := self._handed.get()) is not None:
      begun, result = handed
      # The loop meets the same error where it looks at the metrics.
      with contextlib.suppress(Exception):
        jax.block_until_ready(result)
      begun = max(begun, done)
      done = max(begun, time.monotonic())
      self._busy.append((begun, done))
      del handed, result
      self._seen.release()

  # --------------------------------------------------------------- the numbers

  def take(self, *, leaving: int = 0) -> dict[str, float]:
    """Seconds of each phase since the last call; waits for steps.

    Args:
      leaving: so many of the latest steps are not waited for. The time from
        the end of the last one before them is left to the next call.
    """
    num_steps = max(self._waiting_for - leaving, 0)
    for _ in range(num_steps):
      self._seen.acquire()
    self._waiting_for -= num_steps
    self.switch(self._phase)
    busy = self._busy[:num_steps]
    del self._busy[:num_steps]
    until = self._since
    if self._waiting_for:
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
    """Ends the thread, once the steps it knows of are done."""
    self._handed.put(None)
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
  """The same time, of which all that lies within `spans` is called `name`.

  Args:
    segments: ascending, without gaps.
    spans: ascending, apart.
    name: of the phase.
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
