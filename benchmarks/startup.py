"""From the command to the first training step, and what takes the time.

    python benchmarks/startup.py --repeats 5 --json startup.json

Launches `dss-jax train` on the built-in dataset, again and again, with an
empty compilation cache and with one that holds what the run before compiled,
and stops each once its first step is computed. `dss-jax --help` is timed too.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import measuring

RUN = (
  "--gin_file=models/taxonli.gin",
  "--gin_file=runs/taxonli.gin",
  "--gin_file=data/taxonli.gin",
  "--gin_file=methods/dss.gin",
)
PHASES = (
  "imports",
  "configuration",
  "data",
  "evaluation data",
  "parameters",
  "trace",
  "compile",
  "other",
  "first step",
)


class Stopwatch:
  """Exclusive times: a phase within another one is not part of it."""

  def __init__(self, since: float):
    self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    self._stack, self._since = ["imports"], since

  def _count(self, now: float) -> None:
    self.seconds[self._stack[-1]] += now - self._since
    self._since = now

  def enter(self, phase: str) -> None:
    self._count(time.time())
    self._stack.append(phase)

  def leave(self) -> None:
    self._count(time.time())
    self._stack.pop()

  def switch(self, phase: str) -> None:
    self._count(time.time())
    self._stack[-1] = phase

  def took(self, phase: str, seconds: float) -> None:
    """`seconds` until now, counted elsewhere so far, belong to `phase`."""
    self._count(time.time())
    self.seconds[self._stack[-1]] -= seconds
    self.seconds[phase] += seconds

  def wrap(self, owner: Any, name: str, phase: str) -> None:
    function = getattr(owner, name)

    def timed(*args, **kwargs):
      self.enter(phase)
      try:
        return function(*args, **kwargs)
      finally:
        self.leave()

    setattr(owner, name, timed)


def launched(report: str, flags: list[str]) -> None:
  """In a process of its own: trains one step, tells the times and ends."""
  watch = Stopwatch(float(os.environ["DSS_LAUNCHED"]))
  from dss_jax import main
  from dss_jax.cli import gin_config, gin_registry, run_flags

  gin_registry.register()

  importlib.import_module("dss_jax.training.train")
  from dss_jax.training import (
    start_or_resume,
    train_config,
    train_step,
    validation_loss,
  )

  watch.switch("other")
  watch.wrap(run_flags, "parse_gin", "configuration")
  watch.wrap(gin_config, "instance", "configuration")
  watch.wrap(start_or_resume.training_data, "load", "data")
  watch.wrap(train_config, "make_evaluator", "evaluation data")
  watch.wrap(validation_loss.ValidationLoss, "__init__", "evaluation data")
  watch.wrap(start_or_resume, "_restore_or_init", "parameters")
  _watch_compiling(watch)
  _end_after_a_step(train_step.JittedStep, watch, report)
  sys.exit(main.main(["train", *flags]) or 1)  # not reached


def _watch_compiling(watch: Stopwatch) -> None:
  """Tracing and compiling are counted apart from the phases they happen in."""
  import threading

  from jax import monitoring

  events = {
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
    "/jax/core/compile/backend_compile_duration": "compile",
  }
  thread = threading.current_thread()

  def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del kwargs
    if event in events and threading.current_thread() is thread:
      watch.took(events[event], duration_secs)

  monitoring.register_event_duration_secs_listener(listen)


def _end_after_a_step(jitted_step: Any, watch: Stopwatch, report: str) -> None:
  import jax

  call: Callable = jitted_step.__call__

  def once(self, *args):
    watch.enter("trace")  # less what lowering and compiling take
    results = call(self, *args)
    watch.leave()
    watch.enter("first step")
    jax.block_until_ready(results)
    watch.leave()
    pathlib.Path(report).write_text(json.dumps(watch.seconds), encoding="utf-8")
    os._exit(0)

  jitted_step.__call__ = once


def measure(cache: str, flags: list[str]) -> dict[str, float]:
  """The phases of one start, in seconds."""
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / "report.json"
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--launched", str(report)]
    command += ["--", *RUN, f"--gin.MODEL_DIR={folder}/run"]
    command += ["--gin.TRAIN_STEPS=100", *flags]
    environment["DSS_LAUNCHED"] = repr(time.time())
    done = subprocess.run(
      command, env=environment, capture_output=True, text=True, check=False
    )
    if not report.exists():
      raise SystemExit(f"the run failed:\n{done.stderr}")
    return json.loads(report.read_text(encoding="utf-8"))


def measure_help() -> float:
  """Wall seconds of `dss-jax --help`."""
  started = time.perf_counter()
  subprocess.run(
    [sys.executable, "-m", "dss_jax.main", "--help"],
    check=True,
    stdout=subprocess.DEVNULL,
  )
  return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--repeats", type=int, default=5, help="starts of a kind")
  parser.add_argument(
    "--caches", nargs="+", choices=("cold", "warm"), default=("cold", "warm")
  )
  parser.add_argument("--json", help="file to write")
  parser.add_argument("--launched", help=argparse.SUPPRESS)
  parser.add_argument(
    "flags", nargs="*", help="further flags of the run, after --"
  )
  args = parser.parse_args(arguments)
  if args.launched:
    launched(args.launched, args.flags)
  report = measuring.description()
  report["help_s"] = [measure_help() for _ in range(args.repeats)]
  rows = [("dss-jax --help", report["help_s"])]
  for kind in args.caches:
    with tempfile.TemporaryDirectory() as cache:
      if kind == "warm":
        measure(cache, args.flags)
      runs = []
      for number in range(args.repeats):
        folder = f"{cache}/{number}" if kind == "cold" else cache
        runs.append(measure(folder, args.flags))
    report[kind] = runs
    for phase in PHASES:
      rows.append((f"{kind} cache: {phase}", [run[phase] for run in runs]))
    totals = [sum(run.values(), 0.0) for run in runs]
    rows.append((f"{kind} cache: first step done", totals))
  cells = [(name, measuring.spread(values)) for name, values in rows]
  print(measuring.table(("seconds", "median (lowest to highest)"), cells))
  report["load_after"] = os.getloadavg()
  print(f"load average {os.getloadavg()[0]:.1f} on {report['cores']} cores")
  measuring.write_json(args.json, report)


if __name__ == "__main__":
  measuring.run(main)
