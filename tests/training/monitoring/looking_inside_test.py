"""Real runs: where their time goes, traces, and what is not finite."""

import contextlib
import dataclasses
import functools
import gzip
import io
import json
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from dss_jax.data.feeding import batches, training_data
from dss_jax.models import encoder_decoder, partitioning
from dss_jax.training import (
  checkpoints,
  evaluation,
  optimizers,
  run_directory,
  train,
)
from dss_jax.training.monitoring import time_breakdown
from dss_jax.training.train_config import TrainConfig


def _config(folder: pathlib.Path, **changes) -> TrainConfig:
  settings = {
    "save_cfg": checkpoints.SaveOptions(period=100),
    "eval_period": 2,
    "stats_period": 1,
  }
  return small_runs.config(folder, **(settings | changes))


def _train(config: TrainConfig) -> str:
  """Trains; returns what was said."""
  stream = io.StringIO()
  train.train(config, stream=stream)
  return stream.getvalue()


def _description(folder: pathlib.Path) -> dict:
  return json.loads((folder / "run.json").read_text())


# ------------------------------------------------------------------------ time


def test_the_phases_of_a_run_add_up_to_its_wall_time(tmp_path):
  said = _train(_config(tmp_path))
  whole = _description(tmp_path)["time"]
  assert set(whole["seconds"]) == set(time_breakdown.PHASES)
  assert sum(whole["seconds"].values()) == pytest.approx(
    whole["wall_s"], abs=0.01
  )
  assert whole["steps"] == 8
  for phase in ("step", "compile", "evaluation", "checkpoint", "setup"):
    assert whole["seconds"][phase] > 0, phase
  assert "time: " in said
  lines = run_directory.read_jsonl(tmp_path / "metrics.jsonl")
  seconds = [x["time"]["seconds"] for x in lines if "seconds" in x["time"]]
  assert len(seconds) >= 4
  # All but what follows the last look at the metrics.
  looked_at = sum(sum(parts.values()) for parts in seconds)
  assert 0 < looked_at < whole["wall_s"]
  steps = sum(parts["step"] for parts in seconds)
  assert steps == pytest.approx(whole["seconds"]["step"], abs=0.01)


def test_a_slow_source_of_data_shows_in_its_share(tmp_path, monkeypatch):
  """By a clock that only the source moves."""
  now = time.monotonic() + 1e6  # after all that is compiled, by any clock
  original = batches.PackedBatches.__getitem__

  def slow(self, step):
    nonlocal now
    now += 0.05
    return original(self, step)

  @contextlib.contextmanager
  def in_turn(data, start, stop, transform):
    """The batches of the source, made in the loop's thread."""
    yield ((i, transform(data.batches[i])) for i in range(start, stop))

  class Waiting(time_breakdown.TimeBreakdown):
    """No step is still at work, and hides the source, when the clock moves."""

    def add_step(self, result):
      super().add_step(result)
      while len(self._busy) < self._num_untaken:
        time.sleep(0.001)

  monkeypatch.setattr(batches.PackedBatches, "__getitem__", slow)
  monkeypatch.setattr(training_data.TrainingData, "prefetch", in_turn)
  clocked = functools.partial(Waiting, lambda: now)
  monkeypatch.setattr(train, "TimeBreakdown", clocked)
  _train(_config(tmp_path, total_steps=12, eval_period=None, stats_period=4))
  seconds = _description(tmp_path)["time"]["seconds"]
  assert seconds.pop("data") == pytest.approx(12 * 0.05)
  assert set(seconds.values()) == {0.0}


def test_evaluations_after_the_first_compile_nothing(tmp_path, monkeypatch):
  """Nor do steps; what does is reported and counted."""
  said = _train(_config(tmp_path / "quiet"))
  assert _description(tmp_path / "quiet")["recompilations"] == 0
  assert "again" not in said

  original = evaluation.Evaluator.run
  calls = iter(range(100))

  def run(self, params, **kwargs):
    jax.jit(lambda x: x + 1)(np.zeros(1 + next(calls)))
    return original(self, params, **kwargs)

  monkeypatch.setattr(evaluation.Evaluator, "run", run)
  said = _train(_config(tmp_path / "loud", total_steps=6))
  assert _description(tmp_path / "loud")["recompilations"] == 2
  assert "the evaluation of step 4 was compiled again" in said
  assert "step 2 was" not in said


# ---------------------------------------------------------------------- traces


def _trace(folder: pathlib.Path) -> list[dict]:
  (file,) = folder.glob("plugins/profile/*/*.trace.json.gz")
  assert list(file.parent.glob("*.xplane.pb"))  # what TensorBoard reads
  with gzip.open(file, "rt") as text:
    return json.load(text)["traceEvents"]


def test_a_trace_holds_the_steps_of_its_window_and_no_other(tmp_path):
  said = _train(
    _config(tmp_path, total_steps=6, eval_period=None, profile_steps="3:6")
  )
  assert f"profiler: steps 3 to 5 in {tmp_path}/plugins/profile/" in said
  events = _trace(tmp_path)
  steps = [
    int(event["args"]["step_num"])
    for event in events
    if event.get("name") == "train"
  ]
  assert steps == [3, 4, 5]
  names = {event.get("name") for event in events}
  assert "data" in names
  assert len(names) > 10  # and what the device did


def test_a_resumed_run_traces_what_is_left_of_the_window(tmp_path):
  config = _config(tmp_path, total_steps=2, eval_period=None)
  _train(config)
  longer = dataclasses.replace(config, total_steps=4)
  said = _train(dataclasses.replace(longer, profile_steps="1:9"))
  assert "of the steps 1 to 8, only 3 to 8 will be traced" in said
  assert "profiler: steps 3 to 4 in" in said
  names = [e["name"] for e in _trace(tmp_path) if e.get("name") == "train"]
  assert len(names) == 2
  said = _train(dataclasses.replace(longer, total_steps=5, profile_steps="2:4"))
  assert "profiler: steps 2 to 3 are made already" in said


# ------------------------------------------------------------- what is not finite


class Poisonable(small_runs.LastToken):
  """It takes logarithms of two parameters; training makes one of them negative."""

  def init(self, key):
    return super().init(key) | {"scale": jnp.full((2,), 0.1)}

  def param_axes(self):
    return super().param_axes() | {"scale": ("embed",)}

  def logits(self, params, hidden):
    with jax.named_scope("sick_layer"):
      up, down = jnp.log(params["scale"])
    return super().logits(params, hidden) * (1 + up - down)


def _debug(folder, **changes) -> TrainConfig:
  settings = {"debug_nans": True, "eval_period": None}
  return _config(folder, **(settings | changes))


def test_a_step_that_is_not_finite_is_explained(tmp_path):
  config = _debug(tmp_path, model=Poisonable(small_runs.SIZES))
  stream = io.StringIO()
  with pytest.raises(FloatingPointError) as error:
    train.train(config, stream=stream)
  assert "\n" not in str(error.value)
  for part in ("debug_nans: step ", "NaN", "`log`", "sick_layer"):
    assert part in str(error.value), part
  assert "looking_inside_test.py" in str(error.value)
  said = stream.getvalue()
  assert "sub-tasks whose loss is not finite: label, rationale" in said
  assert "parameters that are not finite: none" in said
  assert "gradients that are not finite: " in said
  assert "scale" in said


def test_without_the_flag_such_steps_are_skipped_and_the_flag_is_named(
  tmp_path,
):
  config = _debug(
    tmp_path, model=Poisonable(small_runs.SIZES), debug_nans=False
  )
  config = dataclasses.replace(config, max_nonfinite_steps=2)
  with pytest.raises(
    FloatingPointError, match=r"\d steps in a row.*debug_nans"
  ):
    _train(config)


def test_an_absurd_learning_rate_is_warned_of(tmp_path):
  config = _debug(tmp_path, learning_rate_fn=lambda step: math.inf)
  with pytest.raises(FloatingPointError) as error:
    _train(config)
  for part in (
    "step 1 had a finite loss",
    "rate inf",
    "parameters/",
    "lower the learning rate",
  ):
    assert part in str(error.value), part


def test_a_poisoned_parameter_is_named_before_the_first_step(tmp_path):
  class Poisoned(small_runs.LastToken):
    def init(self, key):
      params = super().init(key)
      kernel = params["output"]["kernel"].at[3, 5].set(jnp.nan)
      return params | {"output": {"kernel": kernel}}

  with pytest.raises(
    FloatingPointError, match=r"parameters .* in output/kernel:"
  ):
    _train(_debug(tmp_path, model=Poisoned(small_runs.SIZES)))


@pytest.mark.slow
def test_a_sound_run_is_the_same_with_the_flag(tmp_path):
  losses = []
  for debug in (False, True):
    folder = tmp_path / str(debug)
    _train(_debug(folder, debug_nans=debug, total_steps=3))
    lines = run_directory.read_jsonl(folder / "metrics.jsonl")
    losses.append([x["loss"] for x in lines if x["kind"] == "train"])
  assert losses[0] == losses[1]


@pytest.mark.thorough
def test_a_transformer_on_a_mesh_with_microbatches_and_scanned_layers(tmp_path):
  """The operation is found in the layer of the poisoned kernel."""
  sizes = dataclasses.replace(
    small_runs.SIZES, scan_layers=True, remat_policy="minimal"
  )
  model = encoder_decoder.EncoderDecoderModel(sizes)
  config = _debug(
    tmp_path,
    model=model,
    optimizer=optimizers.ParameterScaledAdam(),
    learning_rate_fn=lambda step: jnp.float32(1e20),
    partitioner=partitioning.Partitioner(
      fully_sharded=True, fully_sharded_min_size=8, devices=jax.devices()[:2]
    ),
    num_microbatches=2,
  )
  with pytest.raises(FloatingPointError) as error:
    _train(config)
  assert "dss_jax/models/" in str(error.value)
