"""A run that is killed and told to stop at random moments ends as if it were not.

`make soak` sends 50 signals to a run of one process and 50 to a run of two, and
prints the seed that drew them; `make soak SIGNALS=200 SEED=7` sends others. A
seed draws the same signals, phases and delays again; what a run then does at
that moment, the machine decides.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator

import command_line
import pytest
import small_runs
from training_processes import DEADLINE, Run

from dss_jax.training import run_directory

SIGNALS = int(os.environ.get("DSS_SOAK_SIGNALS", "50"))
SEED = int(os.environ.get("DSS_SOAK_SEED", "0"))

PHASES = ("start", "step", "save", "evaluation")
EVAL_PERIOD = 4
MOST_STEPS_FIRST = 4
# So that no start reaches the end before the last signal: those awaited, those
# until an evaluation, and some more for a look that comes late.
STEPS_PER_SIGNAL = MOST_STEPS_FIRST + EVAL_PERIOD + 4
# What a process says when it has its data and its state, and is to compile.
SET_UP = "batches:"
LONGEST_LINES = 8192  # bytes of metrics that hold two lines
# Of a save, which the folder that it writes to shows.
SAVE_SECONDS = 0.1
# Seconds until a process that lost another one while it started is killed, as
# schedulers do: it would wait for JAX's five minutes.
GRACE_AT_START = 10.0
# How a process may end that got a signal, or lost another process: Gloo, by which
# JAX's processes on CPUs talk, aborts some of the latter.
STATUSES = (
  *(-signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT),
  *(128 + signal.SIGTERM, 75),
)


@dataclasses.dataclass(frozen=True)
class Moment:
  """When a signal is sent, which one, and to whom.

  Attributes:
    phase: one of PHASES.
    steps: so many steps are awaited before a phase other than "start".
    delay: the part of the phase that then passes, from 0 to 1.
    number: SIGKILL or SIGTERM.
    victims: the processes that get it.
  """

  phase: str
  steps: int
  delay: float
  number: signal.Signals
  victims: tuple[int, ...]


def moments(count: int, processes: int, seed: int) -> Iterator[Moment]:
  """So many moments, with all phases in turn."""
  draw = random.Random(seed)
  for index in range(count):
    everybody = tuple(range(processes))
    yield Moment(
      PHASES[index % len(PHASES)],
      draw.randint(1, MOST_STEPS_FIRST),
      draw.random(),
      draw.choice((signal.SIGKILL, signal.SIGTERM)),
      # A scheduler tells one of them or all; a machine that goes takes all its
      # processes along.
      draw.choice((everybody, (draw.choice(everybody),))),
    )


class Soak:
  """A run that gets signals, and how long the parts of such a run take."""

  def __init__(self, run: Run, set_up_seconds: float, whole: pathlib.Path):
    """Takes the times of an undisturbed run of the same configuration.

    Args:
      run: the one that gets signals.
      set_up_seconds: what the other took to be set up.
      whole: its folder.
    """
    self.run = run
    self._ended: collections.Counter[tuple[str, str, int]]
    self._ended = collections.Counter()
    lines = run_directory.read_jsonl(whole / "metrics.jsonl")
    times = [line["time"] for line in lines]
    self._seconds = {
      "start": set_up_seconds,
      "save": SAVE_SECONDS,
      **{
        phase: statistics.median(t[key] for t in times if key in t)
        for phase, key in (("step", "step_s"), ("evaluation", "evaluation_s"))
      },
    }

  def send(self, moment: Moment) -> None:
    """Starts the run, sends it a signal, and waits until it has ended."""
    run = self.run
    before = run.saved() or 0
    run.start()
    try:
      if moment.phase != "start":
        run.wait_for_text(SET_UP)  # what the last start left is tidied up
        while not self._is_in(moment, before):
          assert run.started[0].poll() is None, run.text()
          time.sleep(0.001)
      end = time.monotonic() + moment.delay * self._seconds[moment.phase]
      while time.monotonic() < end:
        # A busy machine may have become a quick one.
        if moment.phase == "start" and SET_UP in run.text():
          break
        time.sleep(0.001)
      for index in moment.victims:
        assert run.started[index].poll() is None, run.text()
        run.started[index].send_signal(moment.number)
      self._end(moment)
    finally:
      run.kill()
    statuses = [process.returncode for process in run.started]
    assert set(statuses) <= set(STATUSES), (moment, statuses, run.text())
    for status in statuses:
      self._ended[moment.phase, moment.number.name, status] += 1

  def _end(self, moment: Moment) -> None:
    if moment.phase != "start":
      self.run.end()
      return
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.run.end(GRACE_AT_START)

  def _is_in(self, moment: Moment, before: int) -> bool:
    """Whether the run has made its steps and is in the phase."""
    step, kind = self._last_line()
    if step < before + moment.steps:
      return False
    if moment.phase == "save":
      return self.run.is_saving()
    if moment.phase == "evaluation":
      return kind == "train" and step % EVAL_PERIOD == 0
    return True

  def _last_line(self) -> tuple[int, str]:
    """Step and kind of the last line of metrics that is whole."""
    with open(self.run.folder / "metrics.jsonl", "rb") as file:
      file.seek(max(0, os.fstat(file.fileno()).st_size - LONGEST_LINES))
      lines = file.read().split(b"\n")
    if len(lines) < 2:
      return 0, ""
    line = json.loads(lines[-2])
    return line["step"], line["kind"]

  def __str__(self) -> str:
    return "\n".join(
      f"  {phase:<10} {name} -> {status:>4}: {count}"
      for (phase, name, status), count in sorted(self._ended.items())
    )


def start_and_time(run: Run) -> float:
  """Seconds until a run is set up; waits for its end."""
  began = time.monotonic()
  run.start()
  try:
    run.wait_for_text(SET_UP)
    seconds = time.monotonic() - began
    assert set(run.end(10 * DEADLINE)) == {0}, run.text()
  finally:
    run.kill()
  return seconds


def finished_files(folder: pathlib.Path) -> dict[str, object]:
  """All that a finished run says, without times and places."""
  results = run_directory.read_jsonl(folder / "results.jsonl")
  for entry in results:
    del entry["wall_s"], entry["config_sha"]
  predictions = {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in (folder / "eval").rglob("*.jsonl")
  }
  state = small_runs.fingerprint(folder)
  return {"state": state, "results": results, **predictions}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("processes", "count", "seed"),
  [
    pytest.param(1, 4, 1, id="short"),
    *(
      pytest.param(n, SIGNALS, SEED, id=f"{n}_long", marks=pytest.mark.soak)
      for n in (1, 2)
    ),
  ],
)
def test_whatever_signals_a_run_gets_it_ends_the_same(
  tmp_path, processes, count, seed, capsys
):
  flags = command_line.train_flags(
    "unused",
    f"--gin.TRAIN_STEPS={count * STEPS_PER_SIGNAL}",
    f"--gin.EVAL_PERIOD={EVAL_PERIOD}",
    "--gin.CHECKPOINT_PERIOD=2",
    "--gin.STATS_PERIOD=1",
    f"--gin.EARLY_STOPPING_PATIENCE={count * STEPS_PER_SIGNAL}",
    "--gin.RECORDS_PER_BATCH=8",
  )[1:]
  whole, cut = (
    Run(tmp_path / name, processes, flags, devices=processes)
    for name in ("whole", "cut")
  )
  soak = Soak(cut, start_and_time(whole), whole.folder)
  for moment in moments(count, processes, seed):
    soak.send(moment)
  start_and_time(cut)
  with capsys.disabled():
    print(f"\n{count} signals to {processes} process(es), seed {seed}\n{soak}")
  assert finished_files(cut.folder) == finished_files(whole.folder)
