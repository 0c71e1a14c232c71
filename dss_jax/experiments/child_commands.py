"""Commands of other modes as processes of their own, which signals reach."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from dss_jax.base import stop_requests
from dss_jax.base.stop_requests import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def arguments(words: Sequence[str]) -> list[str]:
  """What starts a command, by the Python that runs this."""
  return [sys.executable, "-m", "dss_jax.main", *words]


def run(
  words: Sequence[str], environment: Mapping[str, str] | None = None
) -> int:
  """Runs a command, whose output the user sees; returns its exit status.

  Args:
    words: mode and flags.
    environment: variables that differ from this process's.

  Raises:
    StoppedError: it was stopped by Ctrl-C or SIGTERM.
  """
  process = subprocess.Popen(
    arguments(words),
    env={
      **os.environ,
      **(environment or {}),
      stop_requests.PASSED_ON: "1",
    },
  )
  with _passed_on(process) as passed:
    status = process.wait()
  number = passed[-1] if passed else None
  if number is None and status < 0 and -status in _SIGNALS:
    number = -status
  if number is None and status - 128 in _SIGNALS:
    number = status - 128
  if number is not None:
    raise StoppedError("the same command continues here", number)
  return status


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
  """Gives signals to the command, which ends in good order by itself.

  A Ctrl-C of the terminal reaches the command anyway, and a second one within
  it would stop it at once: so only those sent to this process are passed on.
  """
  received: list[int] = []

  def note(number: int, frame: object) -> None:
    del frame
    received.append(number)
    if number != signal.SIGINT or not sys.stdin.isatty():
      process.send_signal(number)

  before = {number: signal.signal(number, note) for number in _SIGNALS}
  try:
    yield received
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
