import io
import json
import re
import sys
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from dss_jax.training import monitoring, run_directory
from dss_jax.training.monitoring import metrics_file, tensorboard_log


def _sums(loss: float) -> dict[str, Any]:
  return {
    "loss": jnp.float32(loss),
    "nll": np.array([2.0, 5.0]),
    "tokens": np.array([4, 10]),
    "correct": np.array([1, 5]),
    "examples": np.array([2, 2]),
    "subtask_weights": np.array([0.25, 0.75]),
    "encoder_tokens": np.int32(40),
    "decoder_tokens": np.int32(14),
    "z_loss": np.float32(0),
    "grad_norm": np.float32(1.5),
    "param_norm": np.float32(9),
    "learning_rate": np.float32(0.01),
    "nonfinite": np.int32(0),
  }


def test_values_of_a_step_by_hand():
  values = metrics_file.step_values(_sums(0.5), ("label", "rationale"), 108)
  assert values["label/loss"] == 0.5
  assert values["rationale/loss"] == 0.5
  assert values["label/accuracy"] == 0.25
  assert values["rationale/weight"] == 0.75
  assert values["rationale/accuracy"] == 0.5
  assert values["tokens"] == 54
  assert values["examples"] == 4
  assert values["padding"] == 0.5


def _monitor(folder, from_step, stream=None):
  data = types.SimpleNamespace(
    subtask_names=("label", "rationale"),
    shape=types.SimpleNamespace(slots=108),
  )
  setup: Any = types.SimpleNamespace(data=data, earlier={})
  config = small_runs.config(folder, total_steps=10)
  stream = stream or io.StringIO()
  return monitoring.Monitor(config, setup, from_step, stream=stream)


def _lines(folder):
  return run_directory.read_jsonl(folder / run_directory.METRICS_FILE)


def test_resumed_log_holds_every_step_once(tmp_path):
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  for folder in (whole, cut):
    folder.mkdir()
  log = _monitor(whole, 0)
  for step in range(1, 7):
    log.add_step(step, None, {}, _sums(step))
  log.flush(0, 0)
  log.add_evaluation(6, {"t/validation/accuracy": 0.5}, 0.1)
  log.close()

  log = _monitor(cut, 0)
  for step in range(1, 6):
    log.add_step(step, None, {}, _sums(step))
  log.flush(0, 0)
  log.close()
  with open(cut / run_directory.METRICS_FILE, "a") as file:
    file.write('{"step": 6, "kind": "tr')  # killed while writing
  log = _monitor(cut, 3)  # the last checkpoint was of step 3
  for step in range(4, 7):
    log.add_step(step, None, {}, _sums(step))
  log.flush(3 * 54, 3 * 4)
  log.add_evaluation(6, {"t/validation/accuracy": 0.5}, 7.0)
  log.close()

  assert [line["step"] for line in _lines(cut)] == [1, 2, 3, 4, 5, 6, 6]
  assert run_directory.metrics_hash(cut) == run_directory.metrics_hash(whole)
  assert _lines(cut)[5]["tokens_seen"] == 6 * 54


def test_hash_sees_values(tmp_path):
  hashes = set()
  for loss in (1.0, 2.0):
    folder = tmp_path / str(loss)
    folder.mkdir()
    log = _monitor(folder, 0)
    log.add_step(1, None, {}, _sums(loss))
    log.flush(0, 0)
    log.close()
    hashes.add(run_directory.metrics_hash(folder))
  assert len(hashes) == 2


def test_what_is_not_finite_stays_valid_json(tmp_path):
  log = _monitor(tmp_path, 0)
  log.add_step(1, None, {}, _sums(float("nan")))
  log.flush(0, 0)
  log.close()
  text = (tmp_path / run_directory.METRICS_FILE).read_text()
  line = json.loads(text, parse_constant=lambda name: pytest.fail(name))
  assert line["loss"] is None


def test_progress_shows_subtasks_speed_and_padding(tmp_path):
  stream = io.StringIO()
  log = _monitor(tmp_path, 0, stream)
  log.add_step(1, None, {}, _sums(0.7))
  log.flush(0, 0)
  log.close()
  text = stream.getvalue()
  for part in ("1/10", "loss 0.700", "label 0.500", "ex/s", "tok/s", "pad 50%"):
    assert part in text
  assert "left" in text


def test_a_narrow_terminal_shows_the_bar_and_all_numbers(tmp_path, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  monkeypatch.setenv("TERM", "xterm")

  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  log = _monitor(tmp_path, 0, stream)
  log.add_step(1, None, {}, _sums(0.7))
  log.flush(0, 0)
  log.close()
  screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
  bar, numbers = screen.rstrip().splitlines()[-2:]
  for part in ("train", "━", " 1/10 ", "0:00:00 done,", "left"):
    assert part in bar
  for part in ("loss 0.700", "label 0.500", "ex/s", "tok/s", "pad 50%"):
    assert part in numbers
  assert max(len(bar.rstrip()), len(numbers.rstrip())) <= 80


def test_tensorboard_reads_the_events_and_forgets_interrupted_ones(
  tmp_path, monkeypatch
):
  # So it reads files by itself; importing TensorFlow takes longer than the rest.
  notf = "tensorboard.compat.notf"
  monkeypatch.setitem(sys.modules, notf, types.ModuleType(notf))
  from tensorboard.backend.event_processing import event_accumulator

  for from_step, steps in ((0, (1, 2, 3)), (1, (2, 3))):
    log = tensorboard_log.TensorBoardLog(tmp_path, from_step=from_step)
    for step in steps:
      log.write(step, {"train/loss": 10.0 * from_step + step})
    log.close()
  files = sorted(tmp_path.glob("events.out.tfevents.*"))
  assert files
  accumulator = event_accumulator.EventAccumulator(str(tmp_path))
  accumulator.Reload()
  points = {e.step: e.value for e in accumulator.Scalars("train/loss")}
  assert points == {1: 1.0, 2: 12.0, 3: 13.0}
