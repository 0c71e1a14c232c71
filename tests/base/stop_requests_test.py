"""The first signal asks, the second one ends the process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from dss_jax.base import stop_requests

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_handlers_are_put_back(number, capfd):
  before = [signal.getsignal(each) for each in SIGNALS]
  with stop_requests.noticed() as requests:
    assert requests.number is None
    os.kill(os.getpid(), number)
    assert requests.number == number
  assert [signal.getsignal(each) for each in SIGNALS] == before
  assert "a second signal stops at once" in capfd.readouterr().err


@pytest.mark.parametrize(
  ("second", "status"), [("SIGINT", 130), ("SIGTERM", 143)]
)
def test_a_second_signal_ends_the_process(repository, second, status):
  program = (
    "import os, signal\n"
    "from dss_jax.base import stop_requests\n"
    "with stop_requests.noticed():\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  print('after the first', flush=True)\n"
    f"  os.kill(os.getpid(), signal.{second})\n"
    "  print('after the second', flush=True)\n"
  )
  ended = subprocess.run(
    [sys.executable, "-c", program],
    cwd=repository,
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == status
  assert ended.stdout == "after the first\n"


def test_other_threads_change_no_handler():
  before = [signal.getsignal(each) for each in SIGNALS]
  seen = []

  def work():
    with stop_requests.noticed() as requests:
      seen.append((requests.number, [signal.getsignal(s) for s in SIGNALS]))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [(None, before)]
