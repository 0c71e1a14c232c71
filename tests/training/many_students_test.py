"""Students trained together are those trained one by one."""

import dataclasses
import io
import pathlib
import shutil
import signal
from typing import Any

import jax
import numpy as np
import pytest
import small_runs
from small_runs import LastToken

from dss_jax.base.errors import UserError
from dss_jax.base.stop_requests import StoppedError
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import (
  losses,
  many_students,
  optimizers,
  run_directory,
  train,
)
from dss_jax.training.checkpoints import SaveOptions
from dss_jax.training.optimizers import schedules
from dss_jax.training.pair_losses import MutualInformation
from dss_jax.training.train_config import TrainConfig

SIZES = dataclasses.replace(small_runs.SIZES, dropout_rate=0.1)


def _config(folder: pathlib.Path, **changes) -> TrainConfig:
  settings = {
    "save_cfg": SaveOptions(period=3),
    "eval_period": 4,
    "stats_period": 2,
  }
  return small_runs.config(folder, **(settings | changes))


def _rate(base, **settings):
  return schedules.create_learning_rate_scheduler(
    "constant * linear_warmup", base, warmup_steps=2, **settings
  )


# Runs that differ in all that need not be the same.
RUNS: tuple[dict[str, Any], ...] = (
  {"learning_rate_fn": _rate(0.05), "random_seed": 1},
  {
    "learning_rate_fn": _rate(0.01),
    "objective": losses.Objective(alpha=0.8),
    "total_steps": 5,
  },
  # Ends by its patience: nothing is better than what is not trained.
  {
    "learning_rate_fn": _rate(0.0),
    "random_seed": 3,
    "eval_period": 2,
    "early_stopping_patience": 1,
  },
)
STEPS = [8, 5, 4]


def _configs(folder: pathlib.Path, **changes) -> list[TrainConfig]:
  return [
    _config(folder / str(index), **(run | changes))
    for index, run in enumerate(RUNS)
  ]


def _together(configs, **options) -> list[Any]:
  streams = [io.StringIO() for _ in configs]
  return many_students.train_many(configs, streams=streams, **options)


def _left(run: pathlib.Path) -> dict[str, Any]:
  """What a run leaves behind, times aside."""
  with checkpoints_lib.Checkpoints(run, read_only=True) as saved:
    step = saved.resolve_step("latest")
    state, loop = saved.restore_numpy(step), saved.loop_state(step)
  lines = run_directory.read_jsonl(run / "metrics.jsonl")
  results = run_directory.read_jsonl(run / "results.jsonl")
  for timed, name in ((loop, "wall_s"), *((e, "wall_s") for e in results)):
    timed.pop(name)
  for line in lines:
    line.pop("time")
  files = sorted(p.relative_to(run) for p in (run / "eval").rglob("*.jsonl"))
  return {
    "state": state,
    "loop": loop,
    "metrics": lines,
    "results": results,
    "files": files,
  }


def _assert_same(folder: pathlib.Path, other: pathlib.Path, rel: float = 0.0):
  """Each run, its numbers within `rel` of one another."""
  for index in range(len(RUNS)):
    got, want = (_left(where / str(index)) for where in (folder, other))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
        a, b, rtol=0, atol=rel * np.abs(b).max()
      ),
      got.pop("state"),
      want.pop("state"),
    )
    for line, expected in zip(
      got.pop("metrics"), want.pop("metrics"), strict=True
    ):
      assert line.pop("kind") == expected.pop("kind")
      assert line == pytest.approx(expected, rel=rel)
    assert got == want


@pytest.mark.slow
def test_together_as_alone(tmp_path):
  """The same runs, but for rounding: XLA adds up in another order."""
  student = {"model": EncoderDecoderModel(SIZES)}
  configs = _configs(tmp_path / "alone", **student)
  alone = [train.train(config, stream=io.StringIO()) for config in configs]
  outcomes = _together(_configs(tmp_path / "together", **student))
  assert [run.step for run in outcomes] == STEPS
  assert [run.best_step for run in outcomes] == [run.best_step for run in alone]
  _assert_same(tmp_path / "together", tmp_path / "alone", rel=1e-5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("finished")
  assert [run.step for run in _together(_configs(folder))] == STEPS
  return folder


@pytest.mark.parametrize(
  "last", [3, *(pytest.param(n, marks=pytest.mark.thorough) for n in (1, 5))]
)
def test_stopped_and_continued(finished, tmp_path, monkeypatch, last):
  """As if nothing had been: also where some had already ended."""
  take = many_students._JointStep._step
  taken = []

  def step(joint):
    taken.append(joint)
    if len(taken) == last:
      joint.signals.number = signal.SIGTERM
    return take(joint)

  monkeypatch.setattr(many_students._JointStep, "_step", step)
  with pytest.raises(StoppedError, match=f"step {last} of"):
    _together(_configs(tmp_path))
  outcomes = _together(_configs(tmp_path))
  assert [run.step for run in outcomes] == STEPS
  _assert_same(tmp_path, finished)


def test_runs_that_continue_from_different_steps(finished, tmp_path):
  shutil.copytree(finished / "1", tmp_path / "1")
  shutil.copytree(finished / "0", tmp_path / "0")
  shutil.rmtree(tmp_path / "0" / "checkpoints" / "8")
  (tmp_path / "0" / "results.jsonl").unlink()
  _together(_configs(tmp_path))
  _assert_same(tmp_path, finished)


def test_split_over_devices(finished, tmp_path):
  outcomes = _together(_configs(tmp_path), devices=jax.devices()[:3])
  assert [run.step for run in outcomes] == STEPS
  _assert_same(tmp_path, finished, rel=1e-5)


def test_one_that_fails_does_not_hold_up_the_others(finished, tmp_path):
  configs = _configs(tmp_path)
  configs[1] = dataclasses.replace(
    configs[1], learning_rate_fn=_rate(1e30), max_nonfinite_steps=1
  )
  outcomes = _together(configs)
  assert isinstance(outcomes[1], FloatingPointError)
  assert [outcomes[0].step, outcomes[2].step] == [8, 4]


@pytest.mark.parametrize(
  ("changes", "field"),
  [
    ({"model": LastToken(SIZES)}, "TrainConfig.model"),
    ({"optimizer": optimizers.AdamW(b1=0.8)}, "TrainConfig.optimizer"),
    ({"objective": losses.Objective(z_loss=1e-3)}, "Objective.z_loss"),
    ({"objective": losses.Objective(alpha={0: 0.5})}, "Objective.alpha"),
    (
      {"objective": losses.Objective(aux_loss=MutualInformation())},
      "Objective.aux_loss",
    ),
    (
      {"learning_rate_fn": schedules.create_learning_rate_scheduler()},
      "TrainConfig.learning_rate_fn",
    ),
    ({"debug_nans": True}, "TrainConfig.debug_nans"),
  ],
)
def test_other_programs_are_refused(tmp_path, changes, field):
  configs = _configs(tmp_path)
  configs[1] = dataclasses.replace(configs[1], **changes)
  with pytest.raises(UserError) as error:
    _together(configs)
  assert error.value.fields == (field,)
  assert "\n" not in str(error.value)
  assert not list(tmp_path.rglob("checkpoints/[0-9]*"))


def test_other_batches_are_refused(tmp_path):
  configs = _configs(tmp_path)
  dataset = configs[2].train_dataset_cfg
  configs[2] = dataclasses.replace(
    configs[2],
    train_dataset_cfg=dataclasses.replace(dataset, records_per_batch=16),
  )
  with pytest.raises(UserError, match="batch_size of the run in"):
    _together(configs)


def test_other_subtasks_and_schedules_are_refused_by_their_values(tmp_path):
  """The runs join in no certain order."""
  configs = _configs(tmp_path)
  dataset = dataclasses.replace(
    configs[1].train_dataset_cfg, mixture_or_task_name="taxonli_standard"
  )
  objective = losses.Objective(alpha={0: 0.9, 2: 0.5})
  for changes, values in (
    ({"train_dataset_cfg": dataset}, ("'taxonli_standard'", "'taxonli_dss'")),
    ({"objective": objective}, ("alpha of", "{0: 0.9, 2: 0.5}")),
  ):
    changed = dataclasses.replace(configs[1], **changes)
    with pytest.raises(UserError, match="trained together only") as error:
      _together([configs[0], changed])
    for value in values:
      assert value in str(error.value)
