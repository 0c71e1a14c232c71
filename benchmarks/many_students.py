"""Students an hour: trained by one program, and by a command each.

    python benchmarks/many_students.py --students 8 --steps 200 --json FILE

The runs differ in seed and learning rate. Whole commands are timed, `dss-jax
train --together=FILE` against a `dss-jax train` each: start-up, set-up,
evaluations and checkpoints count, and so do programs read from the compilation
cache, but not compiling them, which a first turn does. Ways take turns.
`--at_a_time 2` runs two of the commands side by side, as a sweep does where
there are two devices or cores. More flags of `dss-jax train` follow `--`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import jax
import measuring
import step_breakdown

RATES = (0.01, 0.02, 0.03, 0.04)


def commands_in(
  folder: pathlib.Path, students: int, steps: int, flags: Sequence[str]
) -> list[list[str]]:
  """The arguments of `dss-jax` for each run, in folders of their own."""
  return [
    [
      "train",
      *flags,
      f"--gin.MODEL_DIR={folder / str(i)}",
      f"--gin.TRAIN_STEPS={steps}",
      f"--gin.RANDOM_SEED={i}",
      f"--gin.BASE_LEARNING_RATE={RATES[i % len(RATES)]}",
    ]
    for i in range(students)
  ]


def run(command: Sequence[str]) -> None:
  """Runs `dss-jax` with these arguments, quietly unless it fails."""
  done = subprocess.run(
    [sys.executable, "-m", "dss_jax.main", *command],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    sys.exit(f"dss-jax {shlex.join(command)} failed:\n{done.stderr}")


def benchmark(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--students", type=int, default=8)
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--at_a_time", type=int, default=1)
  parser.add_argument("--json", metavar="FILE")
  parser.add_argument("flags", nargs="*", default=step_breakdown.RUN)
  args = parser.parse_args(argv)

  with tempfile.TemporaryDirectory() as name:
    made = 0

    def commands() -> list[list[str]]:
      nonlocal made
      made += 1
      folder = pathlib.Path(name, str(made))
      folder.mkdir()
      return commands_in(folder, args.students, args.steps, args.flags)

    def together() -> None:
      lines = [f"dss-jax {shlex.join(each)}\n" for each in commands()]
      file = pathlib.Path(name, "commands.txt")
      file.write_text("".join(lines), encoding="utf-8")
      run(["train", f"--together={file}"])

    def one_each() -> None:
      with concurrent.futures.ThreadPoolExecutor(args.at_a_time) as pool:
        list(pool.map(run, commands()))

    ways = {"together": together, "a command each": one_each}
    measuring.timed_turns(ways, 1)  # compiles
    records = measuring.timed_turns(ways, args.turns)
  per_hour = {
    way: 3600 * args.students / statistics.median(record["wall_s"])
    for way, record in records.items()
  }
  report = {
    # JAX takes the devices only now, since the commands need them.
    **measuring.description(str(jax.devices()[0].device_kind)),
    "students": args.students,
    "steps": args.steps,
    "at_a_time": args.at_a_time,
    "students_per_hour": per_hour,
    "ways": records,
  }
  rows = [
    (way, f"{per_hour[way]:,.0f}", measuring.spread(record["wall_s"]))
    for way, record in records.items()
  ]
  print(measuring.table(("", "students/hour", "wall s"), rows))
  measuring.write_json(args.json, report)


if __name__ == "__main__":
  measuring.run(benchmark)
