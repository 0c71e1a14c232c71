"""Running what asks within a loop that runs already, as a notebook's does."""

import asyncio
import os
import signal
import threading

import pytest

from dss_jax.rationales.asking import event_loops


def _within_a_loop(function):
  """Calls a function as a notebook calls a cell: a loop runs, Ctrl-C raises."""

  async def cell():
    return function()

  loop = asyncio.new_event_loop()
  try:
    return loop.run_until_complete(cell())
  finally:
    loop.close()


async def _thread():
  await asyncio.sleep(0)
  return threading.current_thread()


def test_a_program_keeps_its_thread():
  assert event_loops.run(_thread()) is threading.main_thread()


def test_a_running_loop_is_no_obstacle():
  found = _within_a_loop(lambda: event_loops.run(_thread()))
  assert found is not threading.main_thread()


def test_errors_arrive():
  async def fail():
    raise KeyError("key")

  with pytest.raises(KeyError):
    _within_a_loop(lambda: event_loops.run(fail()))


def test_ctrl_c_cancels_what_asks_within_a_loop():
  cancelled = []

  async def ask():
    os.kill(os.getpid(), signal.SIGINT)
    try:
      await asyncio.Event().wait()
    except asyncio.CancelledError:
      cancelled.append(True)
      raise

  with pytest.raises(KeyboardInterrupt):
    _within_a_loop(lambda: event_loops.run(ask()))
  assert cancelled == [True]
