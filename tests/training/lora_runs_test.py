"""Runs that train adapters: what they write, resuming, reading them, refusals."""

import dataclasses
import io
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
import small_runs

from dss_jax import main
from dss_jax.base import named_trees
from dss_jax.base.errors import UserError
from dss_jax.cli import gin_config
from dss_jax.models import lora
from dss_jax.models.lora import LoraOptions
from dss_jax.students import checkpoint_evaluation, student
from dss_jax.training import (
  checkpoints,
  initialization,
  monitoring,
  optimizers,
  train,
)
from dss_jax.training.train_config import TrainConfig

OPTIONS = LoraOptions(rank=2, alpha=8.0, targets="output")


def _config(folder: pathlib.Path, **changes) -> TrainConfig:
  settings = {
    "save_cfg": checkpoints.SaveOptions(period=3, keep=None),
    "total_steps": 3,
    "eval_period": 4,
  }
  return small_runs.config(folder, **(settings | changes))


def _train(config: TrainConfig, stream=None) -> train.TrainResult:
  return train.train(config, stream=stream or io.StringIO())


def _hashes(folder: pathlib.Path, capsys) -> str:
  """What must not depend on how often a run was interrupted."""
  capsys.readouterr()
  assert main.main(["checkpoints", str(folder), "--hash"]) == 0
  return capsys.readouterr().out


def _adapter_config(folder, base, **changes) -> TrainConfig:
  settings = {
    "lora": OPTIONS,
    "initial_checkpoint_path": str(base),
    "total_steps": 8,
  }
  return _config(folder, **(settings | changes))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("base")
  _train(_config(folder))
  return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base) -> pathlib.Path:
  """A run of 8 steps that nobody interrupted."""
  folder = tmp_path_factory.mktemp("finished")
  _train(_adapter_config(folder, base))
  return folder


def _saved(folder: pathlib.Path):
  with checkpoints.Checkpoints(folder, read_only=True) as saved:
    step = saved.resolve_step("latest")
    return saved.restore_numpy(step), saved.base(step)


@pytest.mark.slow
def test_only_adapters_are_trained_and_saved(base, finished):
  tree, note = _saved(finished)
  width, size = small_runs.SIZES.mlp_dim, small_runs.SIZES.vocab_size
  assert named_trees.shapes(tree["params"]) == {
    "output/lora_a": (width, 2),
    "output/lora_b": (2, size),
  }
  assert tree["params"]["output"]["lora_b"].any()
  values = sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))
  # Two moments; steps and counts aside.
  state = sum(leaf.size for leaf in jax.tree.leaves(tree["opt_state"]))
  assert 2 * values <= state <= 2 * values + 8
  base_tree, base_note = _saved(base)
  assert base_note is None
  assert note is not None
  assert note == {
    "path": str(base),
    "sha256": lora.weights_hash(base_tree["params"]),
    "rank": 2,
    "alpha": 8.0,
    "targets": "output",
    "also_train": [],
  }
  described = json.loads((finished / "run.json").read_text())["lora"]
  assert described == note | {"trained_parameters": 2 * (width + size)}


@pytest.mark.slow
def test_progress_says_how_much_is_trained(base, tmp_path):
  stream = io.StringIO()
  config = _adapter_config(tmp_path, base, total_steps=1)
  _train(config, stream)
  values = 2 * (small_runs.SIZES.vocab_size + small_runs.SIZES.mlp_dim)
  assert f"LoRA: {values} parameters are trained, next to" in stream.getvalue()


@pytest.mark.slow
def test_readers_get_the_whole_student(base, finished):
  trained, _ = _saved(finished)
  whole, _ = _saved(base)
  a, b = (trained["params"]["output"][f"lora_{x}"] for x in "ab")
  wanted = whole["params"]["output"]["kernel"] + 4 * (a @ b)
  config = _adapter_config(finished, base)
  step, params = student.load_params(config, "latest")
  assert step == 8
  np.testing.assert_allclose(params["output"]["kernel"], wanted, atol=1e-6)
  np.testing.assert_array_equal(
    params["embedding"], whole["params"]["embedding"]
  )
  # What the run itself scored is what readers score.
  lines = [
    json.loads(line)
    for line in (finished / "metrics.jsonl").read_text().splitlines()
  ]
  for row in lines:
    if row["kind"] == "eval":
      _, scores = checkpoint_evaluation.evaluate_checkpoint(
        config, row["step"], split="validation"
      )
      saved = finished / "eval" / "taxonli_label" / f"{row['step']}.jsonl"
      rows = [json.loads(line) for line in saved.read_text().splitlines()]
      assert [dict(each) for each in scores[0].predictions] == rows


@pytest.mark.slow
def test_another_run_starts_from_adapters_as_from_any_run(
  base, finished, tmp_path
):
  config = _adapter_config(finished, base)
  _, wanted = student.load_params(config, "best")
  params = initialization.load_params(str(finished), config.model)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), params, wanted
  )
  result = _train(_adapter_config(tmp_path, finished, total_steps=1))
  assert result.step == 1


@pytest.mark.slow
def test_a_run_with_adapters_has_no_sizes_to_infer(base, finished):
  said = re.escape(
    f"adapters (LoRA) only, and no sizes: take those of their"
    f" base, {str(base)!r}"
  )
  with pytest.raises(UserError, match=said):
    initialization.open_checkpoint(str(finished))


class _Killed(Exception):
  pass


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 7])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
  base, finished, tmp_path, monkeypatch, capsys, at
):
  config = _adapter_config(tmp_path, base)
  with monkeypatch.context() as patched:
    original = monitoring.Monitor.add_step

    def stop(self, step, *args):
      original(self, step, *args)
      if step == at:
        raise _Killed

    patched.setattr(monitoring.Monitor, "add_step", stop)
    with pytest.raises(_Killed):
      _train(config)
  _train(config)
  assert _hashes(tmp_path, capsys) == _hashes(finished, capsys)


@pytest.mark.slow
def test_a_base_that_moved_is_found_where_the_configuration_says(
  base, finished, tmp_path
):
  moved = tmp_path / "moved"
  shutil.copytree(base, moved)
  step, _ = student.load_params(_adapter_config(finished, moved), "latest")
  assert step == 8
  # And a path relative to where training was started, from the checkpoint.
  step, _ = student.load_params(_adapter_config(finished, "not/here"), "latest")
  assert step == 8


def _note(base, **changes):
  note = {"path": str(base), "sha256": "0", **dataclasses.asdict(OPTIONS)}
  return note | {"also_train": []} | changes


def _save(folder, note, shape=(2, 2)):
  """A checkpoint of adapters with that note."""
  params = {"output": {"lora_a": np.zeros(shape, np.float32)}}
  with checkpoints.Checkpoints(folder) as saved:
    saved.save(1, {"params": params}, {}, note)


def test_a_base_in_a_store_is_asked_for_where_the_other_is_gone(
  tmp_path, monkeypatch
):
  asked = []

  def load_params(path, *_):
    asked.append(path)
    raise UserError("not there")

  monkeypatch.setattr(initialization, "load_params", load_params)
  _save(tmp_path / "run", _note("/gone"))
  config = _adapter_config(tmp_path / "run", "gs://moved/there")
  said = "initial_checkpoint_path, the base of the adapters in .*not there"
  with pytest.raises(UserError, match=said):
    student.load_params(config)
  assert asked == ["gs://moved/there"]


def test_adapters_that_are_their_own_base_are_refused(tmp_path):
  """As they are after a folder has taken the place of its base."""
  one, other = tmp_path / "one", tmp_path / "other"
  _save(one, _note(other))
  _save(other, _note(one))
  with pytest.raises(UserError, match="were trained on other weights than"):
    initialization.load_params(str(one), _config(one).model)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"path": None}, "the path of its base is None"),
    ({"rank": "8"}, "the rank of its base is '8'"),
    ({"also_train": [1]}, "the also_train of its base"),
  ],
)
def test_a_note_that_cannot_be_is_refused(tmp_path, changes, said):
  _save(tmp_path, _note("x", **changes))
  with pytest.raises(UserError, match=said) as error:
    initialization.load_params(str(tmp_path), _config(tmp_path).model)
  assert "\n" not in str(error.value)


@pytest.mark.slow
def test_another_base_is_refused(base, finished, tmp_path):
  other = tmp_path / "other"
  _train(_config(other, random_seed=1, total_steps=1))
  config = _adapter_config(finished, other)
  said = re.escape(
    f"initial_checkpoint_path {str(other)!r} holds other weights"
  )
  with pytest.raises(UserError, match=said):
    student.load_params(config, "latest")
  with pytest.raises(UserError, match=said):
    _train(dataclasses.replace(config, total_steps=9))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"alpha": 9.0}, "alpha is 9.0, but the adapters in"),
    ({"rank": 3}, "rank is 3, but the adapters in"),
    ({"also_train": "embedding"}, "also_train is ['embedding'], but"),
  ],
)
def test_other_adapters_are_refused(base, finished, changes, said):
  options = dataclasses.replace(OPTIONS, **changes)
  config = _adapter_config(finished, base, lora=options)
  with pytest.raises(UserError, match=re.escape(said)):
    student.load_params(config)


@pytest.mark.slow
def test_a_run_trains_adapters_from_its_beginning_or_never(base, finished):
  with pytest.raises(UserError, match=r"trains adapters \(LoRA\), unlike this"):
    _train(_config(finished, total_steps=9))
  with pytest.raises(UserError, match="trains all parameters, unlike this"):
    student.load_params(_adapter_config(base, base))


def test_adapters_need_a_base(tmp_path):
  with pytest.raises(UserError, match="there is no base") as error:
    _config(tmp_path, lora=OPTIONS)
  assert "\n" not in str(error.value)
  assert error.value.fields == ("TrainConfig.initial_checkpoint_path",)


@pytest.mark.parametrize(
  "run", ["runs/finetune.gin", "runs/taxonli.gin", "runs/official.gin"]
)
def test_one_gin_file_makes_any_run_train_adapters(tmp_path, run):
  try:
    gin_config.parse(
      [
        "models/taxonli.gin",
        run,
        "data/taxonli.gin",
        "methods/dss.gin",
        "lora.gin",
      ],
      [
        f"MODEL_DIR = {str(tmp_path)!r}",
        "TRAIN_STEPS = 5",
        "INITIAL_CHECKPOINT_PATH = 'base'",
        "LORA_RANK = 4",
        "LORA_ALPHA = 16",
        "LORA_TARGETS = 'attention_and_mlp'",
        "LORA_ALSO_TRAIN = 'scale$'",
      ],
    )
    config = gin_config.instance("train.train")
  finally:
    gin_config.clear()
  assert config.lora == LoraOptions(4, 16, "attention_and_mlp", ("scale$",))
  assert isinstance(config.optimizer, optimizers.AdamW)
  assert float(config.learning_rate_fn(5)) <= 5.001e-4
