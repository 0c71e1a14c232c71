"""Ctrl-C, and SIGTERM as schedulers send it, while requests are under way."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
  """Has SIGTERM raise KeyboardInterrupt where nothing is under way."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def calling(stop: Callable[[], None]) -> Iterator[None]:
  """Has each such signal call `stop`, where signals can be handled at all."""
  loop = asyncio.get_running_loop()
  with contextlib.ExitStack() as stack:
    for number in (signal.SIGINT, signal.SIGTERM):
      before = signal.getsignal(number)
      try:
        loop.add_signal_handler(number, stop)
      except (NotImplementedError, RuntimeError, ValueError):
        # Another thread than the main one, or a platform without signals.
        break
      if before is not None:
        stack.callback(signal.signal, number, before)
      stack.callback(loop.remove_signal_handler, number)
    yield
