"""Running what asks, from a program and from a notebook."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
  """What a coroutine returns, as `asyncio.run`, also where a loop runs.

  A notebook's cells are run by an event loop, in which no other can start. There
  the coroutine gets a thread of its own, and Ctrl-C cancels it.
  """
  try:
    asyncio.get_running_loop()
  except RuntimeError:
    return asyncio.run(coroutine)
  return _run_in_thread(coroutine)


def _run_in_thread(coroutine: Coroutine[Any, Any, _T]) -> _T:
  # Made here, so that there is something to cancel from the start.
  loop = asyncio.new_event_loop()
  task = loop.create_task(coroutine)

  done = threading.Event()

  def work() -> None:
    try:
      with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.wait([task]))
    finally:
      done.set()

  try:
    threading.Thread(target=work).start()
    done.wait()  # joining the thread would take an interrupted one for ended
  except KeyboardInterrupt:
    # It may just have come to its end by itself.
    with contextlib.suppress(RuntimeError):
      loop.call_soon_threadsafe(task.cancel)
    done.wait()
    raise
  return task.result()
