"""A side of a comparison in a process of its own, asked one thing at a time.

Two libraries in one process share their threads, their allocator and their
peak of memory. Here each has a process; one that is not asked waits for its
next line, and does nothing. Questions and answers are lines of JSON.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

_HERE = pathlib.Path(__file__).resolve()


class WorkerError(Exception):
  """What a worker could not do, in one line."""


class Worker:
  """A side, made by `MODULE.Side(**options)`; use it as a context.

  Attributes:
    name: for messages.
  """

  def __init__(
    self,
    module: str,
    options: Mapping[str, Any],
    *,
    name: str,
    environment: Mapping[str, str],
    seconds: float = 600.0,
  ):
    """Starts the process and waits until the side is made.

    Raises:
      WorkerError: it was not made, or not within these seconds.
    """
    self.name = name
    self._process = subprocess.Popen(
      [sys.executable, str(_HERE), module],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      env={**os.environ, **environment},
      start_new_session=True,  # compilers start processes of their own
    )
    self._unread = b""
    self._told: collections.deque[str] = collections.deque(maxlen=30)
    self._listener = threading.Thread(target=self._listen, daemon=True)
    self._listener.start()
    try:
      self.ask("__init__", seconds=seconds, **options)
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> Worker:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def ask(
    self, method: str, *, seconds: float = 600.0, **arguments: Any
  ) -> dict[str, Any]:
    """What a method of the side returns.

    Raises:
      WorkerError: it failed, or took longer than `seconds`.
    """
    line = json.dumps({"method": method, "arguments": arguments}) + "\n"
    assert self._process.stdin is not None
    try:
      self._process.stdin.write(line.encode())
      self._process.stdin.flush()
      answer = json.loads(self._line(time.monotonic() + seconds))
    except (BrokenPipeError, EOFError) as error:
      last = "; ".join(list(self._told)[-3:])
      raise WorkerError(f"{self.name} ended: {last}") from error
    except TimeoutError as error:
      raise WorkerError(
        f"{self.name} took longer than {seconds:.0f} s to {method}"
      ) from error
    if "error" in answer:
      raise WorkerError(f"{self.name}: {answer['error']}")
    return answer["answer"]

  def _line(self, deadline: float) -> bytes:
    assert self._process.stdout is not None
    descriptor = self._process.stdout.fileno()
    while b"\n" not in self._unread:
      left = deadline - time.monotonic()
      if left <= 0 or not select.select([descriptor], [], [], left)[0]:
        raise TimeoutError
      read = os.read(descriptor, 1 << 16)
      if not read:
        raise EOFError
      self._unread += read
    line, self._unread = self._unread.split(b"\n", 1)
    return line

  def _listen(self) -> None:
    """Keeps what libraries say, lest the pipe fill up."""
    assert self._process.stderr is not None
    for line in self._process.stderr:
      self._told.append(line.decode(errors="replace").strip())

  def close(self) -> None:
    """Ends the process, and those that it started."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    self._listener.join()
    pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
    for pipe in pipes:
      if pipe is not None:
        with contextlib.suppress(BrokenPipeError):  # what it did not read
          pipe.close()


def serve(module: str) -> None:
  """In the process: makes the side and does what is asked, until the end."""
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)  # whatever else is printed is no answer
  side: Any = None
  for line in sys.stdin:
    question = json.loads(line)
    try:
      if question["method"] == "__init__":
        side = importlib.import_module(module).Side(**question["arguments"])
        answer: Any = {}
      else:
        answer = getattr(side, question["method"])(**question["arguments"])
      text = json.dumps({"answer": answer})
    except Exception as error:
      traceback.print_exc()
      first = str(error).strip().split("\n")[0][:300]
      text = json.dumps({"error": f"{type(error).__name__}: {first}"})
    print(text, file=answers, flush=True)


if __name__ == "__main__":
  serve(sys.argv[1])
