"""Ends a process whose training has come to a halt, to be started again.

A process that dies ends the others; one that lives and does nothing, such as a
host whose device hangs or a disk that never answers, keeps them waiting for
ever. So a thread looks whether steps are done. It lets pass what may take any
time: the set-up, a checkpoint on its way to the disk (for which Orbax has its
own limits), the first evaluation and the scores at the end; and it gives the
first step, which is compiled here or elsewhere, a multiple of the time.

Time is counted in the thread's own short waits: a process that the system had
suspended has not been idle.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import statistics
import threading
from collections.abc import Iterator

from dss_jax.training.monitoring.time_breakdown import TimeBreakdown

STATUS = os.EX_TEMPFAIL  # 75: it may work when tried again

# How much longer than usual may be wrong.
_TIMES_THE_USUAL = 10.0
# Compiling a large student takes minutes.
_TIMES_FOR_FIRST_STEP = 4.0
# Waits of the thread: a share of the shortest limit, and seconds.
_SHARE_OF_LIMIT, _LONGEST_WAIT = 0.05, 10.0


class Watchdog:
  """Decides when training has come to a halt.

  Args:
    breakdown: what the host and the devices are doing.
    seconds: the shortest time without a step that is a halt.
  """

  def __init__(self, breakdown: TimeBreakdown, seconds: float):
    self._breakdown = breakdown
    self._seconds = seconds
    self._seen = ("", 0)
    self.idle = 0.0  # seconds without a step, or within one evaluation

  def passed(self, seconds: float) -> bool:
    """Takes note that time has passed; returns whether that is a halt."""
    phase = self._breakdown.current
    if phase not in ("setup", "checkpoint", "evaluation"):
      phase = "step"
    seen = (phase, self._breakdown.steps_done)
    if seen != self._seen:
      self._seen, self.idle = seen, 0.0
    self.idle += seconds
    limit = self.limit(phase)
    return limit is not None and self.idle > limit

  def limit(self, phase: str) -> float | None:
    """Seconds that a phase may last; None for any time."""
    if phase == "evaluation" and self._breakdown.longest[phase]:
      usual = self._breakdown.longest[phase]
    elif phase != "step":
      return None
    elif not self._breakdown.steps_done:
      return _TIMES_FOR_FIRST_STEP * self._seconds
    else:
      usual = statistics.median(tuple(self._breakdown.intervals) or (0.0,))
    return max(self._seconds, _TIMES_THE_USUAL * usual)


@contextlib.contextmanager
def watching(breakdown: TimeBreakdown, seconds: float | None) -> Iterator[None]:
  """Ends the process, with status 75, if training comes to a halt inside.

  The stacks of all threads are printed first.

  Args:
    breakdown: what the host and the devices are doing.
    seconds: the shortest time without a step that is a halt; None never ends
      the process.
  """
  if seconds is None:
    yield
    return
  watchdog, closed = Watchdog(breakdown, seconds), threading.Event()
  wait = min(_SHARE_OF_LIMIT * seconds, _LONGEST_WAIT)

  def watch() -> None:
    while not closed.wait(wait):
      if watchdog.passed(wait):
        _end(watchdog.idle)

  thread = threading.Thread(target=watch, name="dss_jax-watchdog", daemon=True)
  thread.start()
  try:
    yield
  finally:
    closed.set()
    thread.join()


def _end(idle: float) -> None:
  # Not by `print`: another thread may hold the lock of standard error.
  message = (
    f"\nno step for {idle:.0f} s: this process ends with status {STATUS}, to be"
    " started again; it continues from its last checkpoint. What its threads"
    " were doing:\n"
  )
  with contextlib.suppress(OSError):
    os.write(2, message.encode())
    faulthandler.dump_traceback(2)
  os._exit(STATUS)
