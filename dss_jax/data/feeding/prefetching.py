"""Builds the next batches in a background thread while the step runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

_POLL_SECONDS = 0.1


class Prefetcher:
  """Iterates over (step, batch) from `start` on, a few batches ahead.

      with Prefetcher(build, start=step, stop=train_steps) as prefetched:
        for step, batch in prefetched:
          ...

  What the thread raises is raised by the iteration, at its step. Leaving the
  block, or `close`, ends the thread; a program that ends without either is not
  held up by it.
  """

  def __init__(
    self,
    build: Callable[[int], Any],
    start: int = 0,
    stop: int | None = None,
    *,
    size: int = 2,
  ):
    """Starts the thread.

    Args:
      build: step -> its batch; called in the thread.
      start: the first step.
      stop: one past the last step; None for no end.
      size: finished batches that may wait, at least 1.
    """
    if size < 1:
      raise ValueError(f"size is {size}; at least 1 batch must wait")
    self._queue: queue.Queue[tuple[int, Any, BaseException | None] | None]
    self._queue = queue.Queue(maxsize=size)
    self._closed = threading.Event()
    self._finished = False
    self._thread = threading.Thread(
      target=self._work,
      args=(build, start, stop),
      name="dss_jax-prefetch",
      daemon=True,
    )
    self._thread.start()

  def __iter__(self) -> Iterator[tuple[int, Any]]:
    return self

  def __next__(self) -> tuple[int, Any]:
    while not (self._finished or self._closed.is_set()):
      try:  # in turns, so that `close` from another thread is noticed
        entry = self._queue.get(timeout=_POLL_SECONDS)
      except queue.Empty:
        continue
      if entry is None:
        self._finished = True
        break
      step, batch, error = entry
      if error is not None:
        self._finished = True
        raise error
      return step, batch
    raise StopIteration

  def close(self) -> None:
    """Ends the thread and drops what waits. May be called twice."""
    self._closed.set()
    while self._thread.is_alive():
      try:  # a thread that waits for room sees `_closed` at once
        self._queue.get_nowait()
      except queue.Empty:
        self._thread.join(_POLL_SECONDS)

  def __enter__(self) -> Prefetcher:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def _work(
    self,
    build: Callable[[int], Any],
    step: int,
    stop: int | None,
  ) -> None:
    try:
      while (stop is None or step < stop) and not self._closed.is_set():
        if not self._put((step, build(step), None)):
          return
        step += 1
      self._put(None)
    except BaseException as error:  # to be raised where it can be seen
      self._put((step, None, error))

  def _put(self, entry: tuple[int, Any, BaseException | None] | None) -> bool:
    """Waits for room; False if closed meanwhile."""
    while not self._closed.is_set():
      try:
        self._queue.put(entry, timeout=_POLL_SECONDS)
        return True
      except queue.Full:
        continue
    return False
