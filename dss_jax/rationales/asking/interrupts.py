"""Ctrl-C while an event loop runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def handled_by(interrupt: Callable[[], None]) -> Iterator[None]:
  """Has each Ctrl-C call `interrupt`, where signals can be handled at all."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  loop = asyncio.get_running_loop()
  before = signal.getsignal(signal.SIGINT)
  try:
    loop.add_signal_handler(signal.SIGINT, interrupt)
  except (NotImplementedError, RuntimeError, ValueError):
    yield
    return
  try:
    yield
  finally:
    loop.remove_signal_handler(signal.SIGINT)
    if before is not None:
      signal.signal(signal.SIGINT, before)
