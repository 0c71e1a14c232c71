"""Ctrl-C and SIGTERM, for work that ends in good order at its next step."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOPPING = b"\nstopping after this step, or this batch of an evaluation"
_AT_ONCE = b"; a second signal stops at once"

# Set for a process whose parent passes SIGTERM on. A scheduler that signals all
# processes of a job then has it arrive twice, and the second one is no wish of
# anybody's.
PASSED_ON = "DSS_SIGTERM_IS_PASSED_ON"


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
    if self.number is None:
      self.number = number

  def _watch(self, pipe: int, pass_on: Callable[[int], None] | None) -> None:
    """Reads the signals that arrive, until the pipe is closed."""
    is_asked, is_passed_on = False, PASSED_ON in os.environ
    while numbers := os.read(pipe, 1):
      number = numbers[0]
      if number not in _SIGNALS:
        continue
      if is_asked:
        if number == signal.SIGTERM and is_passed_on:
          continue
        os._exit(128 + number)  # the user does not want to wait
      is_asked = True
      with contextlib.suppress(OSError):
        os.write(2, _STOPPING + (b"" if is_passed_on else _AT_ONCE) + b"\n")
      if pass_on is not None:
        pass_on(signal.SIGTERM)


@contextlib.contextmanager
def noticed(
  pass_on: Callable[[int], None] | None = None,
) -> Iterator[StopRequests]:
  """Notes the first Ctrl-C or SIGTERM inside; a second one ends the process.

  Where the environment has `PASSED_ON`, a second SIGTERM changes nothing.
  Elsewhere than in the main thread, which alone gets signals, nothing changes.

  Args:
    pass_on: called with SIGTERM at the first one of either.
  """
  requests = StopRequests()
  if threading.current_thread() is not threading.main_thread():
    yield requests
    return
  # Handlers wait for the main thread, which may be compiling, or waiting for
  # another process for ever; a thread that reads the signals does not.
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  thread = threading.Thread(
    target=requests._watch, args=(reading, pass_on), daemon=True
  )
  thread.start()
  before = {number: signal.getsignal(number) for number in _SIGNALS}
  for number in _SIGNALS:
    signal.signal(number, requests._note)
  pipe_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
  try:
    yield requests
  finally:
    sys.stderr.flush()
    signal.set_wakeup_fd(pipe_before)
    for number, handler in before.items():
      # A handler that Python has not set cannot be put back.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    os.close(writing)
    thread.join()
    os.close(reading)


@functools.cache
def taken_from_c(number: int) -> Callable[[int], None] | None:
  """Takes a signal back from a library, such as JAX, that handles it in C.

  From then on the signal ends the process, as it would without the library.

  Returns:
    The library's handler, to be called with the number of the signal; None
    where there is none.
  """
  # What Python says is what it has set itself: a library's handler shows only
  # in what the system would call.
  found = ctypes.pythonapi.PyOS_getsig
  found.restype, found.argtypes = ctypes.c_void_p, [ctypes.c_int]
  address = found(number)
  if (
    signal.getsignal(number) not in (signal.SIG_DFL, None)
    or address is None
    or address == int(signal.SIG_IGN)
  ):
    return None
  signal.signal(number, signal.SIG_DFL)
  return ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
