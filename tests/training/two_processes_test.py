"""Two real processes over jax.distributed train as one does, kills included."""

import json
import pathlib
import signal
import time

import numpy as np
import pytest
from training_processes import DEADLINE, Run

from dss_jax.models.partitioning.logical_axes import named_params
from dss_jax.training import checkpoints, run_directory

STEPS = 48
FLAGS = (
  *(
    f"--gin_file={name}.gin"
    for name in (
      "models/taxonli",
      "runs/taxonli",
      "data/taxonli",
      "methods/dss",
    )
  ),
  f"--gin.TRAIN_STEPS={STEPS}",
  "--gin.RECORDS_PER_BATCH=8",
  "--gin.CHECKPOINT_PERIOD=16",
  "--gin.EVAL_PERIOD=1000",
  "--gin.EVAL_MAX_EXAMPLES=2",
  "--gin.EVAL_STEPS=0",
  "--gin.STATS_PERIOD=1",
  "--gin.evaluation.EvaluationConfig.test_split=None",
  "--gin.data.DataOptions.taxonli_num_train=64",
  "--gin.network.T5Config.num_encoder_layers=1",
  "--gin.network.T5Config.num_decoder_layers=1",
  # Large enough for steps to be made in the main thread (`cpu_memory`), where
  # a lost process raises another error.
  "--gin.network.T5Config.vocab_size=8192",
)


def losses(folder: pathlib.Path) -> list[float]:
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def last_params(folder: pathlib.Path) -> dict[str, np.ndarray]:
  with checkpoints.Checkpoints(folder) as saved:
    assert saved.latest_step() == STEPS
    restored = saved.restore_numpy(STEPS)
  return {p.path: p.value for p in named_params(restored)}


@pytest.fixture
def runs(tmp_path):
  found = {
    "one": Run(tmp_path / "one", 1, FLAGS),
    "two": Run(tmp_path / "two", 2, FLAGS),
  }
  yield found
  for run in found.values():
    run.kill()


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("rebooted", [False, True])
def test_two_processes_killed_and_continued_train_as_one(runs, rebooted):
  one, two = runs["one"], runs["two"]
  one.start()
  assert one.end() == [0], one.text()

  killed_at = 0
  if rebooted:  # Both are killed at once.
    two.start()
    two.wait_for_checkpoint(16)
    two.kill()
    killed_at = two.saved()
    assert killed_at is not None
    assert killed_at < STEPS

  # One dies: the other must say so and end, and soon.
  two.start()
  two.wait_for_checkpoint(killed_at + 16)
  two.started[1].kill()
  status, _ = two.end(60)
  assert status == 75, two.text()
  said = two.logs[0].read_text()
  assert "dss-jax train: lost another process of this run" in said
  assert "Traceback" not in said
  died_at = two.saved()
  assert died_at is not None
  assert died_at < STEPS

  two.start()
  assert two.end() == [0, 0], two.text()
  want, got = last_params(one.folder), last_params(two.folder)
  assert got.keys() == want.keys()
  for path, value in want.items():
    np.testing.assert_allclose(got[path], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("index", "number"),
  [
    (1, signal.SIGTERM),
    pytest.param(0, signal.SIGTERM, marks=pytest.mark.thorough),
    pytest.param(0, signal.SIGINT, marks=pytest.mark.thorough),
  ],
)
def test_a_signal_to_one_of_two_processes_saves_and_ends_both(
  runs, index, number
):
  """What one process then makes of it is to the bit what it makes alone."""
  one, two = runs["one"], runs["two"]
  one.start()
  two.start()
  two.wait_for_checkpoint(16)
  two.started[index].send_signal(number)
  statuses = [143, 143]
  statuses[index] = 128 + number
  assert two.end() == statuses, two.text()
  step = two.saved()
  assert step is not None
  assert 16 < step < STEPS
  for log in two.logs:
    assert f"stopped: step {step} of {STEPS} is saved" in log.read_text()

  alone = Run(two.folder, 1, FLAGS)
  alone.start()
  assert alone.end() == [0], alone.text()
  assert one.end() == [0], one.text()
  want, got = last_params(one.folder), last_params(two.folder)
  assert got.keys() == want.keys()
  for path, value in want.items():
    np.testing.assert_array_equal(got[path], value)
  assert losses(two.folder) == losses(one.folder)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_signal_to_one_of_two_processes_ends_the_evaluation_of_both(runs):
  """At the same batch; what they then make of it is what one process makes."""
  one, two = runs["one"], runs["two"]
  for run in runs.values():
    run.flags += (
      "--gin.EVAL_PERIOD=16",
      "--gin.EVAL_MAX_EXAMPLES=400",
      "--gin.evaluation.EvaluationConfig.batch_size=8",
    )
  two.start()
  end = time.monotonic() + DEADLINE
  while two.lines() < 16:  # those of the steps are written before
    assert time.monotonic() < end, two.text()
    time.sleep(0.02)
  two.started[1].terminate()
  assert two.end() == [143, 143], two.text()
  for log in two.logs:
    said = f"stopped: step 16 of {STEPS} is saved, to be evaluated when"
    assert said in log.read_text()

  one.start()
  assert one.end() == [0], one.text()
  two.start()
  assert two.end() == [0, 0], two.text()
  want, got = last_params(one.folder), last_params(two.folder)
  for path, value in want.items():
    np.testing.assert_allclose(got[path], value, rtol=1e-5, atol=1e-6)
  evaluated = [
    [
      line["step"]
      for line in run_directory.read_jsonl(run.folder / "metrics.jsonl")
      if line["kind"] == "eval"
    ]
    for run in (one, two)
  ]
  assert evaluated == [[16, 32, 48]] * 2


@pytest.mark.slow
@pytest.mark.thorough
def test_a_second_signal_ends_a_process_that_waits_for_another(runs):
  two = runs["two"]
  two.start()
  two.wait_for_checkpoint(16)
  two.started[1].send_signal(signal.SIGSTOP)
  two.started[0].terminate()
  two.wait_for_text("a second signal stops at once")
  assert two.started[0].poll() is None
  two.started[0].terminate()
  assert two.started[0].wait(DEADLINE) == 143
