"""Ctrl-C and SIGTERM, for work that ends in good order at its next step."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
  """Work that was asked to stop, and stopped in good order.

  Attributes:
    number: the signal that asked.
  """

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.number = number


class StopRequests:
  """Whether a signal has asked to stop.

  Attributes:
    number: the signal; None while there was none.
  """

  def __init__(self) -> None:
    self.number: int | None = None

  def _note(self, number: int, frame: object) -> None:
    del frame
    if self.number is not None:  # the user does not want to wait
      os._exit(128 + number)
    self.number = number
    # Not by `print`, which the signal may have interrupted.
    with contextlib.suppress(OSError):
      os.write(
        2, b"\nstopping after this step; a second signal stops at once\n"
      )


@contextlib.contextmanager
def noticed() -> Iterator[StopRequests]:
  """Notes the first Ctrl-C or SIGTERM inside; a second one ends the process.

  Elsewhere than in the main thread, which alone gets signals, nothing changes.
  """
  requests = StopRequests()
  if threading.current_thread() is not threading.main_thread():
    yield requests
    return
  before = {number: signal.getsignal(number) for number in _SIGNALS}
  for number in _SIGNALS:
    signal.signal(number, requests._note)
  try:
    yield requests
  finally:
    sys.stderr.flush()
    for number, handler in before.items():
      # A handler that Python has not set cannot be put back.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
