"""Ctrl-C, and SIGTERM as schedulers send it, while requests are under way."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator


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
