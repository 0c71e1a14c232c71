"""Stands for `dss-jax train` where a sweep is tested and not training.

Writes the results that a student of these flags would have, had it the best
learning rate that the environment names for its method. Also ends in the other
ways in which training ends. Needs nothing but Python, so it takes a moment.

    FAKE_BEST     {"dss": 0.04}: method -> the rate with the highest accuracy
    FAKE_FAILURE  {"dss 1": "crash"}: method and seed, and perhaps learning
                  rate ("dss 1 0.04") -> how the run ends
    FAKE_SECONDS  how long a run takes
    FAKE_REFUSAL  why runs cannot be trained together
"""

import json
import math
import os
import pathlib
import shlex
import signal
import sys
import time

DIVERGED = "dss-jax train: loss or gradient was not finite in 10 steps in a row"


def _fail(how: str, folder: pathlib.Path) -> None:
  if how == "crash once":
    marker = folder / "crashed"
    if marker.exists():
      return
    marker.touch()
    how = "crash"
  if how == "crash":
    print("some library: aborted")
    sys.exit(1)
  if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
  if how == "diverge":
    print(DIVERGED)
    sys.exit(3)
  if how == "refuse":
    print("dss-jax train: DATASET is 'x'; it must be one of ...")
    sys.exit(2)


def main(words: list[str]) -> None:
  if words[0].startswith("--together="):
    if refusal := os.environ.get("FAKE_REFUSAL"):
      print(f"dss-jax train: {refusal}")
      sys.exit(2)
    file = pathlib.Path(words[0].removeprefix("--together="))
    for line in file.read_text(encoding="utf-8").splitlines():
      main(shlex.split(line)[2:])
    return
  flags = dict(
    flag.removeprefix("--gin.").split("=", 1)
    for flag in words
    if flag.startswith("--gin.")
  )
  (method,) = (pathlib.Path(flag).stem for flag in words if "=methods/" in flag)
  folder = pathlib.Path(flags["MODEL_DIR"])
  seed = int(flags["RANDOM_SEED"])
  # A line for each start, to count them.
  with open(folder / "starts", "a", encoding="utf-8") as file:
    file.write(f"{os.getpid()}\n")
  time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
  failures = json.loads(os.environ.get("FAKE_FAILURE", "{}"))
  rate = float(flags.get("BASE_LEARNING_RATE", "0.04"))
  for name in (f"{method} {seed}", f"{method} {seed} {rate:g}"):
    _fail(failures.get(name, ""), folder)
  best = json.loads(os.environ.get("FAKE_BEST", "{}")).get(method, rate)
  value = 0.9 - 0.1 * abs(math.log2(rate / best)) + 0.001 * seed
  searches = flags.get("evaluation.EvaluationConfig.test_split") == "None"
  rows = [
    {
      "method": method,
      "seed": seed,
      "steps": int(flags["TRAIN_STEPS"]),
      "wall_s": time.monotonic(),  # differs from run to run, as it does there
      "split": split,
      "metric": "accuracy",
      "value": value,
      "selected_by": "validation accuracy",
      "config_sha": str(folder),
    }
    for split in (["validation"] if searches else ["validation", "test"])
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "results.tmp").write_text(text, encoding="utf-8")
  os.replace(folder / "results.tmp", folder / "results.jsonl")


main(sys.argv[1:])
