"""A queue of cells: a worker that is free takes the next one.

There is no barrier: a long cell keeps nobody waiting. A cell that another
sweep is at goes back to the end of the queue.
"""

from __future__ import annotations

import collections
import dataclasses
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from dss_jax.base import stop_requests
from dss_jax.experiments.sweeps import cell_process
from dss_jax.experiments.sweeps.cell_process import Ended, Job
from dss_jax.experiments.sweeps.workers import Worker


class Stoppable(Protocol):
  """A process, or what stands for one elsewhere."""

  def poll(self) -> int | None: ...

  def send_signal(self, sig: int, /) -> None: ...


# How an attempt is made: by a process here, or on another machine. It calls
# its last argument with what can be stopped.
Attempt = Callable[[Job, Worker, Callable[[Stoppable], None]], Ended]
# Likewise of several jobs in one program; says why not all are done, if so.
JointAttempt = Callable[
  [Sequence[Job], Worker, Callable[[Stoppable], None]], str
]
_POLL_S = 1.0
_SIGNAL_S = 0.2  # between looks at whether to stop


@dataclasses.dataclass(frozen=True)
class Event:
  """What happened to a job.

  Attributes:
    index: of the job.
    ended: how its latest attempt ended.
    attempts: made so far; none where another process is at it.
    is_final: whether no further attempt is made.
    seconds: that the latest attempt took.
  """

  index: int
  ended: Ended
  attempts: int
  is_final: bool
  seconds: float


def attempt_here(
  job: Job,
  worker: Worker,
  started: Callable[[Stoppable], None],
) -> Ended:
  """Trains a cell in a process of this machine."""
  return cell_process.run(job, worker.environment, started)


def attempt_together_here(
  jobs: Sequence[Job],
  worker: Worker,
  started: Callable[[Stoppable], None],
) -> str:
  """Trains cells by one program, in a process of this machine."""
  return cell_process.run_together(jobs, worker.environment, started)


class CellQueue:
  """Trains cells on some workers.

  Args:
    workers: each has one cell at a time, or `together`.
    retries: further attempts at a cell that crashed.
    attempt: makes an attempt.
    together: the most jobs of one program that a worker trains together first;
      what is not done then is trained alone.
    attempt_together: does so.
  """

  def __init__(
    self,
    workers: Sequence[Worker],
    *,
    retries: int,
    attempt: Attempt = attempt_here,
    together: int = 1,
    attempt_together: JointAttempt = attempt_together_here,
  ):
    self._workers, self._retries, self._attempt = workers, retries, attempt
    self._together, self._attempt_together = together, attempt_together
    self._stopping = threading.Event()
    self._lock = threading.Lock()
    self._processes: dict[int, Stoppable] = {}
    self._elsewhere: set[int] = set()  # jobs of which it is said

  def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
    """Trains the jobs; yields what happens as it happens.

    Leaving the loop early, by an exception too, stops the cells at work, which
    save what they have.

    Raises:
      StoppedError: Ctrl-C or SIGTERM; all cells at work have stopped.
    """
    waiting = collections.deque(enumerate(jobs))
    news: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
    self._stopping.clear()
    self._elsewhere.clear()
    threads = [
      threading.Thread(
        target=self._work, args=(worker, waiting, news), daemon=True
      )
      for worker in self._workers[: len(jobs)]
    ]
    with stop_requests.noticed() as requests:
      try:
        for thread in threads:
          thread.start()
        at_work = len(threads)
        while at_work:
          if requests.number is not None:
            raise stop_requests.StoppedError("", requests.number)
          try:
            found = news.get(timeout=_SIGNAL_S)
          except queue.Empty:
            continue
          if found is None:
            at_work -= 1
          elif isinstance(found, BaseException):
            raise found
          else:
            yield found
      finally:
        self._stop(threads)

  def _stop(self, threads: Sequence[threading.Thread]) -> None:
    """Asks the cells at work to save and end, and waits for them."""
    with self._lock:
      self._stopping.set()
      for process in self._processes.values():
        if process.poll() is None:
          process.send_signal(signal.SIGTERM)
    for thread in threads:
      if thread.is_alive():
        thread.join()

  def _work(
    self,
    worker: Worker,
    waiting: collections.deque[tuple[int, Job]],
    news: queue.SimpleQueue[Event | BaseException | None],
  ) -> None:
    """Takes cells until there are none, or all of them are elsewhere."""
    try:
      worker.pin_this_thread()
      found_elsewhere = 0  # in a row
      while not self._stopping.is_set():
        taken = self._take(waiting)
        if not taken:
          return
        begun = time.monotonic()
        if len(taken) > 1:
          self._train_together(worker, taken, news)
        for index, job in taken:
          if self._stopping.is_set():
            return
          if self._attempts(worker, index, job, news, begun):
            found_elsewhere = 0
            continue
          with self._lock:
            waiting.append((index, job))
          found_elsewhere += 1
          if found_elsewhere >= len(waiting):
            self._stopping.wait(_POLL_S)
    except BaseException as error:  # raised again where the sweep runs
      news.put(error)
    finally:
      news.put(None)

  def _take(
    self, waiting: collections.deque[tuple[int, Job]]
  ) -> list[tuple[int, Job]]:
    """The next job, and others of its program; none where none waits."""
    with self._lock:
      if not waiting:
        return []
      taken = [waiting.popleft()]
      program = taken[0][1].program
      if program and self._together > 1:
        others = [each for each in waiting if each[1].program == program]
        for each in others[: self._together - 1]:
          waiting.remove(each)
          taken.append(each)
      return taken

  def _train_together(
    self,
    worker: Worker,
    taken: Sequence[tuple[int, Job]],
    news: queue.SimpleQueue[Event | BaseException | None],
  ) -> None:
    """Trains jobs by one program; says where they did not get to their end."""
    begun = time.monotonic()
    reason = self._attempt_together(
      [job for _, job in taken], worker, self._note_process
    )
    if reason and not self._stopping.is_set():
      ended = Ended(
        cell_process.CRASHED,
        f"with {len(taken) - 1} others in one program: {reason}",
      )
      seconds = time.monotonic() - begun
      news.put(Event(taken[0][0], ended, 0, False, seconds))

  def _attempts(
    self,
    worker: Worker,
    index: int,
    job: Job,
    news: queue.SimpleQueue[Event | BaseException | None],
    begun: float,
  ) -> bool:
    """Trains a cell; returns whether it is settled, or not elsewhere.

    The first attempt counts from `begun`, when it was taken.
    """
    for number in range(1, self._retries + 2):
      begun = begun if number == 1 else time.monotonic()
      ended = self._attempt(job, worker, self._note_process)
      if ended.how == cell_process.ELSEWHERE:
        if index not in self._elsewhere:
          self._elsewhere.add(index)
          news.put(Event(index, ended, 0, False, 0.0))
        return False
      if self._stopping.is_set() and ended.how != cell_process.DONE:
        return True
      # A cell that was stopped while the sweep goes on is a crash as any.
      again = ended.how in (cell_process.CRASHED, cell_process.STOPPED)
      is_final = not again or number > self._retries
      news.put(Event(index, ended, number, is_final, time.monotonic() - begun))
      if is_final:
        return True
    return True

  def _note_process(self, process: Stoppable) -> None:
    """Remembers the process of this thread, to stop it."""
    with self._lock:
      self._processes[threading.get_ident()] = process
      if self._stopping.is_set():  # it started in the same moment
        process.send_signal(signal.SIGTERM)
