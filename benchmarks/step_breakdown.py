"""Where the time of training goes, and what the loop adds to bare steps.

    python benchmarks/step_breakdown.py
    python benchmarks/step_breakdown.py -- --gin_file=models/bench.gin ...

Runs `dss-jax train` with its flags (by default a student on the built-in
dataset) and prints the phases that the run itself measures, per step once it is
warm, and of the whole. Beforehand, in turns:

bare      the same compiled step, called again and again on batches that are on
          the devices already
resident  the loop on those batches: what it takes beyond is the loop's own
loop      the loop as it is, with batches made and moved in its thread, which
          on a CPU works on the cores that the step would have
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import measuring

from dss_jax import main
from dss_jax.cli import gin_config, run_flags
from dss_jax.training import (
  between_steps,
  checkpoints,
  cpu_memory,
  monitoring,
  run_directory,
  start_or_resume,
  train,
)
from dss_jax.training.monitoring import time_breakdown
from dss_jax.training.train_config import TrainConfig

RUN = (
  "--gin_file=models/taxonli.gin",
  "--gin_file=runs/taxonli.gin",
  "--gin_file=data/taxonli.gin",
  "--gin_file=methods/dss.gin",
)
BETWEEN = ("step", "data", "host")
_RESIDENT = 4  # batches on the devices


def configuration(
  flags: Sequence[str], folder: str, steps: int, **bindings: object
) -> TrainConfig:
  """The run of these flags, in that folder."""
  bound = {"MODEL_DIR": folder, "TRAIN_STEPS": steps, **bindings}
  argv = [*flags, *(f"--gin.{name}={value}" for name, value in bound.items())]
  args, args.gin_flags = main.make_parser().parse_known_args(["train", *argv])
  run_flags.parse_gin(args)
  return gin_config.instance("train.train")


def turns(config: TrainConfig, steps: int, repeats: int) -> dict[str, Any]:
  """Seconds a step, bare and in the loop, in turns."""
  seconds: dict[str, list[float]] = {"bare": [], "resident": [], "loop": []}
  with (
    config.partitioner.activate(),
    checkpoints.Checkpoints(config.folder, config.save_cfg) as saved,
    contextlib.ExitStack() as stack,
  ):
    setup, state, memory = start_or_resume.start_or_resume(config, saved)
    step_fn = setup.make_step(setup.tx)
    monitor = stack.enter_context(
      monitoring.Monitor(config, setup, 0, stream=io.StringIO())
    )
    put = functools.partial(
      config.partitioner.put_batch, global_shapes=setup.data.global_shapes
    )
    batches = [put(setup.data.batches[i]) for i in range(_RESIDENT)]

    def bare(count: int) -> None:
      nonlocal state
      for i in range(count):
        state, _ = step_fn(state, batches[i % _RESIDENT])
      jax.block_until_ready(state)

    def loop(batches: Iterable[tuple[int, Any]]) -> None:
      """What `train` does between two evaluations."""
      nonlocal state
      for position, batch in monitor.batches(batches):
        step = position + 1
        with monitor.step(step, state):
          state, sums = step_fn(state, batch)
        monitor.add_step(step, state, batch, sums)
        del batch
        if step % config.stats_period == 0:
          between_steps.flush(config, memory, monitor, leaving=1)
      between_steps.flush(config, memory, monitor)

    def prefetched(first: int) -> None:
      with setup.data.prefetch(first, first + steps, put) as batches:
        loop(batches)

    def resident(first: int) -> None:
      loop((i, batches[i % _RESIDENT]) for i in range(first, first + steps))

    bare(3)
    ways = {"bare": lambda _: bare(steps), "resident": resident}
    for turn in range(repeats):
      for name, way in (ways | {"loop": prefetched}).items():
        started = time.perf_counter()
        way(turn * steps)
        seconds[name].append((time.perf_counter() - started) / steps)
  return seconds


def phases(folder: pathlib.Path) -> dict[str, Any]:
  """What a run says of its time, per warm step and of the whole."""
  lines = run_directory.read_jsonl(folder / "metrics.jsonl")
  timed = [line for line in lines if "seconds" in line["time"]]
  # From the second look on, and without what evaluations take.
  warm: list[dict[str, float]] = []
  steps = 0
  for before, line in itertools.pairwise(timed):
    warm.append(line["time"]["seconds"])
    steps += line["step"] - before["step"]
  per_step = {
    name: sum(each[name] for each in warm) / steps for name in BETWEEN
  }
  description = json.loads((folder / "run.json").read_text(encoding="utf-8"))
  return {
    "ms_per_step": {name: 1e3 * value for name, value in per_step.items()},
    "share_between_steps": time_breakdown.shares(per_step),
    "whole": description["time"],
    "shares": time_breakdown.shares(description["time"]["seconds"]),
    "recompilations": description["recompilations"],
    "evaluations": sum(line["kind"] == "eval" for line in lines),
  }


def benchmark(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--steps", type=int, default=1200, help="of the run")
  parser.add_argument(
    "--turns", type=int, default=5, help="bare and in the loop"
  )
  parser.add_argument("--turn_steps", type=int, default=50)
  parser.add_argument("--json", help="file to write")
  parser.add_argument("flags", nargs="*", help="of the run, after --")
  args = parser.parse_args(arguments)
  flags: Sequence[str] = args.flags or RUN
  with tempfile.TemporaryDirectory() as folder:
    config = configuration(flags, f"{folder}/turns", args.steps)
    cpu_memory.keep(config.model.config)  # as `dss-jax train` does
    description = measuring.description(str(jax.devices()[0]))
    seconds = turns(config, args.turn_steps, args.turns)
    config = configuration(flags, f"{folder}/run", args.steps)
    train.train(config)
    found = phases(pathlib.Path(folder) / "run")
  print(f"\n{'a warm step':<14}{'ms':>10}{'share':>9}")
  for name, value in found["ms_per_step"].items():
    share = found["share_between_steps"][name]
    print(f"{name:<14}{value:>10.3f}{share:>9.2%}")
  print(f"\n{'the whole run':<14}{'s':>10}{'share':>9}")
  for name, value in found["whole"]["seconds"].items():
    print(f"{name:<14}{value:>10.2f}{found['shares'][name]:>9.2%}")
  print(
    f"\nevaluations: {found['evaluations']}; programs compiled after the first"
    f" step and evaluation: {found['recompilations']}"
  )
  medians = {name: statistics.median(each) for name, each in seconds.items()}
  for name, each in seconds.items():
    print(
      f"{name}: {1e3 * medians[name]:.2f} ms a step"
      f" ({1e3 * min(each):.2f} to {1e3 * max(each):.2f})"
    )
  for name in ("resident", "loop"):
    print(f"{name} adds {medians[name] / medians['bare'] - 1:+.2%}")
  report = {
    **description,
    "load_after": os.getloadavg(),
    "seconds_a_step": seconds,
    **found,
  }
  print(
    f"load average {report['load'][0]:.1f}, then {report['load_after'][0]:.1f}"
  )
  measuring.write_json(args.json, report)


if __name__ == "__main__":
  measuring.run(benchmark)
