"""One cell as a process of its own: locked, logged, and how it ended.

A process that is killed, or aborted by XLA, takes no other cell with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from dss_jax.base import atomic_files, errors, stop_requests
from dss_jax.experiments.sweeps import cells

# What trains a cell, before the flags.
COMMAND = (sys.executable, "-m", "dss_jax.main", "train")
LOG_FILE = "train.log"
_TOGETHER_FILE = "together.txt"
_LOCK_FILE = ".cell_lock"
_LOG_TAIL = 16_384  # bytes of a log in which the reason of a failure is

DONE, STOPPED, ELSEWHERE = "done", "stopped", "elsewhere"
DIVERGED, REFUSED, CRASHED = "diverged", "refused", "crashed"
_STOP_STATUSES = (
  128 + signal.SIGINT,
  128 + signal.SIGTERM,
  -signal.SIGINT,
  -signal.SIGTERM,
)
# The exit statuses of `dss-jax train` that a second try would not change.
_REFUSED_STATUS, _DIVERGED_STATUS = 2, 3


@dataclasses.dataclass(frozen=True)
class Job:
  """What a worker needs to train a cell; it can be sent to other machines.

  Attributes:
    folder: of the cell.
    flags: of `dss-jax train`.
    description: what cell.json holds.
    program: names the program that trains it; jobs of the same name may be
      trained together. "" where it is trained alone.
  """

  folder: str
  flags: Sequence[str]
  description: Mapping[str, object]
  program: str = ""


@dataclasses.dataclass(frozen=True)
class Ended:
  """How an attempt at a cell ended.

  Attributes:
    how: `DONE`; `STOPPED` by a signal, and saved; `ELSEWHERE`: another process
      is at it; `DIVERGED`; `REFUSED`: its configuration or data are wrong;
      `CRASHED`: anything else.
    reason: a line for the user.
  """

  how: str
  reason: str = ""


def run(
  job: Job,
  environment: Mapping[str, str] | None = None,
  started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
  *,
  command: Sequence[str] | None = None,
) -> Ended:
  """Trains a cell, unless it is done, has diverged or is at work elsewhere.

  Args:
    job: the cell.
    environment: variables that differ from this process's.
    started: gets the process, to stop it.
    command: what trains a cell, before the flags; None takes `COMMAND`.

  Raises:
    StorageError: the folder cannot be written to.
  """
  folder = pathlib.Path(job.folder)
  with _locked(folder) as lock:
    if lock is None:
      return Ended(ELSEWHERE)
    describe(folder, job.description)
    if cells.is_done(folder):
      return Ended(DONE)
    if cells.has_diverged(folder):
      return Ended(DIVERGED, _diverged_reason(folder))
    argv = [*(command or COMMAND), *job.flags]
    status, reason = _wait_for(
      argv, folder / LOG_FILE, [lock], environment or {}, started
    )
    return _how_it_ended(folder, status, reason)


def describe(folder: pathlib.Path, description: Mapping[str, object]) -> None:
  """Writes cell.json, unless it is there."""
  path = folder / cells.CELL_FILE
  if not path.is_file():
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    atomic_files.write_atomically(path, text)


def run_together(
  jobs: Sequence[Job],
  environment: Mapping[str, str] | None = None,
  started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> str:
  """Trains cells by one program, as far as they fit together.

  What is not done after it can be trained alone, from where it stopped. The
  arguments are those of `run`; cells that are done, or at work elsewhere, are
  left out.

  Returns:
    Why not all are done; "" where they are.
  """
  with contextlib.ExitStack() as stack:
    own: list[Job] = []
    locks: list[TextIO] = []
    for job in jobs:
      folder = pathlib.Path(job.folder)
      lock = stack.enter_context(_locked(folder))
      if lock and not (cells.is_done(folder) or cells.has_diverged(folder)):
        describe(folder, job.description)
        own.append(job)
        locks.append(lock)
    if len(own) < 2:
      return ""
    first = pathlib.Path(own[0].folder)
    atomic_files.write_atomically(
      first / _TOGETHER_FILE,
      "".join(f"{shlex.join(('dss-jax', 'train', *j.flags))}\n" for j in own),
    )
    argv = [*COMMAND, f"--together={first / _TOGETHER_FILE}"]
    status, reason = _wait_for(
      argv, first / LOG_FILE, locks, environment or {}, started
    )
    if all(cells.is_done(pathlib.Path(job.folder)) for job in own):
      return ""
    return reason or f"ended with status {status}"


def _wait_for(
  argv: Sequence[str],
  log: pathlib.Path,
  locks: Sequence[TextIO],
  environment: Mapping[str, str],
  started: Callable[[subprocess.Popen[bytes]], None],
) -> tuple[int, str]:
  """Runs a process; returns its exit status, and what it said last."""
  with errors.writing(log), open(log, "ab") as output:
    begin = output.tell()
    process = subprocess.Popen(
      argv,
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.STDOUT,
      env={**os.environ, **environment, stop_requests.PASSED_ON: "1"},
      # The lock lives as long as one of both processes: a cell that outlives
      # a sweep killed without warning is not trained twice.
      pass_fds=[lock.fileno() for lock in locks],
      # Ctrl-C on a terminal reaches the sweep alone, which stops its cells.
      process_group=0,
    )
  started(process)
  return process.wait(), _last_line(log, begin)


def _how_it_ended(folder: pathlib.Path, status: int, reason: str) -> Ended:
  if status == 0 and cells.is_done(folder):
    return Ended(DONE)
  if status in _STOP_STATUSES:
    return Ended(STOPPED, reason)
  if status == _DIVERGED_STATUS:
    text = json.dumps({"reason": reason}) + "\n"
    atomic_files.write_atomically(folder / cells.DIVERGED_FILE, text)
    return Ended(DIVERGED, reason)
  if status == _REFUSED_STATUS:
    return Ended(REFUSED, reason)
  if status < 0:
    with contextlib.suppress(ValueError):
      name = signal.Signals(-status).name
      reason = f"killed by {name}" + (
        ", which the system sends when memory runs out"
        if name == "SIGKILL"
        else ""
      )
    return Ended(CRASHED, reason)
  return Ended(CRASHED, reason or f"ended with status {status}")


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[TextIO | None]:
  """The file whose lock this process holds; None where another one does."""
  import fcntl

  with errors.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / _LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield None
    else:
      yield file


def _last_line(log: pathlib.Path, begin: int) -> str:
  """What a process said last, which is why it failed."""
  with open(log, "rb") as file:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(begin, end - _LOG_TAIL))
    lines = file.read().decode(errors="replace").splitlines()
  lines = [line.strip() for line in lines if line.strip()]
  own = [line for line in lines if line.startswith("dss-jax train: ")]
  return errors.printable(errors.one_line((own or lines or [""])[-1]))


def _diverged_reason(folder: pathlib.Path) -> str:
  path = folder / cells.DIVERGED_FILE
  with errors.damaged_file(path, "delete it to train the cell again"):
    return str(json.loads(path.read_text(encoding="utf-8"))["reason"])
