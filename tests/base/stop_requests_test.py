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


BLOCKED = """
import ctypes
from dss_jax.base import stop_requests

library = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
with stop_requests.noticed():
  print("waiting", flush=True)
  # Waits for ever, in C: no handler of Python's is called.
  library.pthread_mutex_lock(mutex)
  library.pthread_mutex_lock(mutex)
"""


@pytest.mark.parametrize(
  ("second", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_second_signal_ends_even_a_process_that_waits(
  repository, second, status
):
  with subprocess.Popen(
    [sys.executable, "-c", BLOCKED],
    cwd=repository,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "\n"
    assert "a second signal stops at once" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(second)
    assert process.wait(60) == status


HANDLED_IN_C = """
import ctypes, os, signal
from dss_jax.base import stop_requests

library = ctypes.CDLL(None)
library.signal.restype = ctypes.c_void_p
library.signal(signal.SIGTERM, library._exit)  # ends it with status 15
handler = stop_requests.taken_from_c(signal.SIGTERM)
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
if {within}:
  with stop_requests.noticed(handler):
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


@pytest.mark.parametrize(
  ("within", "status"), [(True, signal.SIGTERM), (False, -signal.SIGTERM)]
)
def test_a_handler_in_c_is_called_in_good_order_only(
  repository, within, status
):
  """Elsewhere the signal ends the process again."""
  ended = subprocess.run(
    [sys.executable, "-c", HANDLED_IN_C.format(within=within)],
    cwd=repository,
    check=False,
    timeout=60,
  )
  assert ended.returncode == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_handlers_of_python_and_none_stay(number):
  before = signal.getsignal(number)
  assert stop_requests.taken_from_c(number) is None
  assert signal.getsignal(number) is before


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
