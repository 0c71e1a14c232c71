"""Students an hour: trained in one program, and one run after another.

    python benchmarks/many_students.py --students 8 --steps 200 --json FILE

The runs differ in seed and learning rate. Each way trains them from nothing to
their results: set-up, evaluations and checkpoints count, and so do programs
read from the compilation cache, but not compiling them, which a first turn
does. Ways take turns. More flags of `dss-jax train` follow `--`.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import statistics
import tempfile
from collections.abc import Sequence

import jax
import measuring
import step_breakdown

from dss_jax.training import many_students, train
from dss_jax.training.train_config import TrainConfig

RATES = (0.01, 0.02, 0.03, 0.04)


def configs_in(
  folder: str, students: int, steps: int, flags: Sequence[str]
) -> list[TrainConfig]:
  """The runs, in folders of their own."""
  return [
    step_breakdown.configuration(
      flags,
      f"{folder}/{i}",
      steps,
      RANDOM_SEED=i,
      BASE_LEARNING_RATE=RATES[i % len(RATES)],
    )
    for i in range(students)
  ]


def benchmark(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--students", type=int, default=8)
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--json", metavar="FILE")
  parser.add_argument("flags", nargs="*", default=step_breakdown.RUN)
  args = parser.parse_args(argv)

  with tempfile.TemporaryDirectory() as folder:
    made = 0

    def configs() -> list[TrainConfig]:
      nonlocal made
      made += 1
      where = str(pathlib.Path(folder) / str(made))
      return configs_in(where, args.students, args.steps, args.flags)

    def together() -> None:
      runs = configs()
      streams = [io.StringIO() for _ in runs]
      for outcome in many_students.train_many(runs, streams=streams):
        if isinstance(outcome, Exception):
          raise outcome

    def one_by_one() -> None:
      for config in configs():
        train.train(config, stream=io.StringIO())

    ways = {"together": together, "one by one": one_by_one}
    measuring.timed_turns(ways, 1)  # compiles
    records = measuring.timed_turns(ways, args.turns)
  per_hour = {
    name: 3600 * args.students / statistics.median(record["wall_s"])
    for name, record in records.items()
  }
  report = {
    **measuring.description(str(jax.devices()[0].device_kind)),
    "students": args.students,
    "steps": args.steps,
    "students_per_hour": per_hour,
    "ways": records,
  }
  rows = [
    (
      name,
      f"{per_hour[name]:,.0f}",
      measuring.spread(record["wall_s"]),
      measuring.spread(record["cpu_s"]),
    )
    for name, record in records.items()
  ]
  print(measuring.table(("", "students/hour", "wall s", "CPU s"), rows))
  measuring.write_json(args.json, report)


if __name__ == "__main__":
  measuring.run(benchmark)
