"""The loop: what it writes, resuming, selecting, stopping, failing."""

import dataclasses
import io
import itertools
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.base.stop_requests import StoppedError
from dss_jax.data import pipeline
from dss_jax.data.feeding import batch_files, training_data
from dss_jax.datasets import DataOptions
from dss_jax.datasets.records import Record
from dss_jax.models import config as model_config
from dss_jax.models import decode_cache, encoder_decoder, partitioning
from dss_jax.students import checkpoint_evaluation
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import (
  evaluation,
  monitoring,
  optimizers,
  run_directory,
  train,
  train_step,
  validation_loss,
)
from dss_jax.training.checkpoints import SaveOptions
from dss_jax.training.optimizers import schedules
from dss_jax.training.train_config import TrainConfig
from dss_jax.training.train_state import LoopState

SIZES = dataclasses.replace(small_runs.SIZES, dropout_rate=0.1)
# Without teacher-forced validation losses: one program less to compile.
NO_LOSSES = evaluation.EvaluationConfig(batch_size=16, loss_batches=0)


class BagOfWords:
  """A student of two matrices: the loop knows a model by its functions only.

  It sees the mean of the inputs' embeddings and the last token. It compiles in
  a moment, unlike a transformer; the command line's tests train one of those.
  """

  def __init__(self, config: model_config.T5Config):
    self.config = config

  def init(self, key):
    shape = (self.config.vocab_size, self.config.mlp_dim)
    keys = jax.random.split(key)
    return {
      "embedding": jax.random.normal(keys[0], shape),
      "projection": 0.1 * jax.random.normal(keys[1], shape[::-1]),
    }

  def param_axes(self):
    return {"embedding": ("vocab", "embed"), "projection": ("embed", "vocab")}

  def hidden_states(self, params, batch, *, dropout_key=None):
    inputs, last = (
      params["embedding"][batch[f"{side}_input_tokens"]]
      for side in ("encoder", "decoder")
    )
    same = (
      batch["decoder_segment_ids"][:, :, None]
      == batch["encoder_segment_ids"][:, None, :]
    )  # [batch, targets, inputs]
    hidden = last + jnp.matmul(same / same.sum(-1, keepdims=True), inputs)
    if dropout_key is None:
      return hidden
    keep = 1 - self.config.dropout_rate
    return hidden * jax.random.bernoulli(dropout_key, keep, hidden.shape) / keep

  def logits(self, params, hidden):
    return hidden @ params["projection"]

  def encode(self, params, tokens):
    real = (tokens > 0)[:, :, None]
    return (params["embedding"][tokens] * real).sum(1) / real.sum(1)

  def init_cache(self, params, encoded, tokens, length):
    return decode_cache.DecodeCache(
      index=jnp.zeros((), jnp.int32),
      per_sequence=[encoded],
      per_example=(),
      step_biases=jnp.zeros((1, 2 * length - 1)),
    )

  def decode_step(self, params, cache, tokens):
    hidden = params["embedding"][tokens] + cache.per_sequence[0]
    return self.logits(params, hidden), cache


def _config(folder: pathlib.Path, **changes) -> TrainConfig:
  """A student of a few thousand parameters on the built-in data."""
  settings = {
    "model": BagOfWords(SIZES),
    "optimizer": optimizers.ParameterScaledAdam(),
    "learning_rate_fn": schedules.create_learning_rate_scheduler(
      "constant * linear_warmup", base_learning_rate=0.05, warmup_steps=4
    ),
    "save_cfg": SaveOptions(period=3),
    "eval_period": 4,
    "stats_period": 3,
  }
  return small_runs.config(folder, **(settings | changes))


def _train(config: TrainConfig) -> train.TrainResult:
  return train.train(config, stream=io.StringIO())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
  """A run of 8 steps that nobody interrupted."""
  folder = tmp_path_factory.mktemp("finished")
  _train(_config(folder, config_text_fn=lambda: "# the configuration\n"))
  return folder


def test_folder_holds_what_it_should(finished):
  assert (finished / "config.gin").read_text() == "# the configuration\n"
  description = json.loads((finished / "run.json").read_text())
  assert description["task"] == "taxonli_dss"
  assert len(description["data_fingerprint"]) >= 16
  assert description["recompilations"] == 0
  assert description["versions"]["jax"] == jax.__version__
  lines = run_directory.read_jsonl(finished / "metrics.jsonl")
  steps = [line["step"] for line in lines if line["kind"] == "train"]
  assert steps == list(range(1, 9))
  evaluations = [line for line in lines if line["kind"] == "eval"]
  assert [line["step"] for line in evaluations] == [4, 8]
  for line in evaluations:
    assert "taxonli_label/validation/accuracy" in line
    for subtask in ("label", "rationale"):
      assert line[f"validation/{subtask}/loss"] > 0
      assert 0 <= line[f"validation/{subtask}/token_accuracy"] <= 1
  assert list(finished.glob("events.out.tfevents.*"))
  predictions = run_directory.read_jsonl(
    finished / "eval" / "taxonli_label" / "4.jsonl"
  )
  assert len(predictions) == 16
  assert set(predictions[0]) >= {"input", "target", "prediction", "correct"}


def test_results_have_the_schema_and_name_the_selected_checkpoint(finished):
  rows = run_directory.read_jsonl(finished / "results.jsonl")
  assert [row["split"] for row in rows] == ["validation", "test"]
  for row in rows:
    assert row["dataset"] == "taxonli"
    assert row["method"] == "dss"
    assert row["metric"] == "accuracy"
    assert row["train_examples"] == 64
    assert row["records_per_batch"] == 8
    assert row["steps"] == 8
    assert row["tokens_seen"] > 0
    assert row["train_flops"] > 0
    assert row["rationale_source"] == "taxonli"
    assert row["selected_by"] == "validation accuracy"
    assert row["checkpoint_step"] in (4, 8)
  assert rows[1]["n"] == 24


def test_loss_falls(finished):
  lines = run_directory.read_jsonl(finished / "metrics.jsonl")
  losses = [line["loss"] for line in lines if line["kind"] == "train"]
  assert losses[-1] < losses[0] - 0.3


class _Killed(Exception):
  pass


def _stop_after(monkeypatch, at: int) -> None:
  """Nothing follows the step number `at`: not even a look at its metrics."""
  original = monitoring.Monitor.add_step

  def stop(self, step, *args):
    original(self, step, *args)
    if step == at:
      raise _Killed

  monkeypatch.setattr(monitoring.Monitor, "add_step", stop)


@pytest.mark.parametrize(
  "at",
  [
    2,
    pytest.param(4, marks=pytest.mark.slow),
    pytest.param(7, marks=pytest.mark.slow),
  ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
  finished, tmp_path, monkeypatch, at
):
  """Stops after `at` steps, between the step and whatever follows it."""
  config = _config(tmp_path)
  with monkeypatch.context() as patched:
    _stop_after(patched, at)
    with pytest.raises(_Killed):
      _train(config)
  _train(config)
  assert small_runs.fingerprint(tmp_path) == small_runs.fingerprint(finished)
  description = json.loads((tmp_path / "run.json").read_text())
  assert description["recompilations"] == 0


@pytest.mark.parametrize(
  ("at", "number"),
  [
    (2, signal.SIGTERM),
    pytest.param(4, signal.SIGINT, marks=pytest.mark.slow),
    pytest.param(8, signal.SIGINT, marks=pytest.mark.slow),
  ],
)
def test_a_signal_saves_the_step_and_the_run_ends_as_if_there_were_none(
  finished, tmp_path, monkeypatch, at, number
):
  config = _config(tmp_path)
  original = monitoring.Monitor.add_step

  def add_step(self, step, *args):
    original(self, step, *args)
    if step == at:
      os.kill(os.getpid(), number)

  with monkeypatch.context() as patched:
    patched.setattr(monitoring.Monitor, "add_step", add_step)
    with pytest.raises(
      StoppedError, match=f"^step {at} of 8 is saved"
    ) as error:
      _train(config)
  assert error.value.number == number
  with checkpoints_lib.Checkpoints(tmp_path, read_only=True) as saved:
    assert saved.resolve_step("latest") == at
  assert not (tmp_path / "results.jsonl").exists()
  _train(config)
  assert small_runs.fingerprint(tmp_path) == small_runs.fingerprint(finished)


def _signal_within(monkeypatch, owner, name: str, at: int = 1) -> None:
  """SIGTERM arrives when a method is called for the time number `at`."""
  original, calls = getattr(owner, name), itertools.count(1)

  def method(*args, **options):
    if next(calls) == at:
      os.kill(os.getpid(), signal.SIGTERM)
    return original(*args, **options)

  monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize(
  ("owner", "name"),
  [
    (evaluation.Evaluator, "run"),
    pytest.param(
      validation_loss.ValidationLoss, "run", marks=pytest.mark.thorough
    ),
  ],
)
@pytest.mark.parametrize(
  "nth", [1, pytest.param(2, marks=pytest.mark.thorough)]
)
def test_a_signal_within_an_evaluation_ends_it_and_it_is_made_again(
  finished, tmp_path, monkeypatch, owner, name, nth
):
  config = _config(tmp_path)
  step = 4 * nth
  stream = io.StringIO()
  with monkeypatch.context() as patched:
    _signal_within(patched, owner, name, nth)
    message = f"^step {step} of 8 is saved, to be evaluated when"
    with pytest.raises(StoppedError, match=message):
      train.train(config, stream=stream)
  assert f"saving step {step} of 8" in stream.getvalue()
  evaluated = [
    line["step"]
    for line in run_directory.read_jsonl(tmp_path / "metrics.jsonl")
    if line["kind"] == "eval"
  ]
  assert evaluated == [4][: nth - 1]
  with checkpoints_lib.Checkpoints(tmp_path, read_only=True) as saved:
    assert saved.latest_step() == step
    assert saved.loop_state(step)["best_step"] == (4 if nth == 2 else None)
  # Told to stop again, and killed once what it found is written.
  with monkeypatch.context() as patched:
    _signal_within(patched, owner, name)
    with pytest.raises(StoppedError, match=message):
      _train(config)
  original = monitoring.Monitor.add_evaluation

  def add_evaluation(*args):
    original(*args)
    raise _Killed

  with monkeypatch.context() as patched:
    patched.setattr(monitoring.Monitor, "add_evaluation", add_evaluation)
    with pytest.raises(_Killed):
      _train(config)
  _train(config)
  assert small_runs.fingerprint(tmp_path) == small_runs.fingerprint(finished)
  results, expected = (
    [
      row | {"config_sha": "", "wall_s": 0}
      for row in run_directory.read_jsonl(folder / "results.jsonl")
    ]
    for folder in (tmp_path, finished)
  )
  assert results == expected


@pytest.mark.slow
def test_an_evaluation_made_again_can_end_the_run(tmp_path, monkeypatch):
  changes = {
    "early_stopping_patience": 1,
    "eval_period": 2,
    "learning_rate_fn": lambda step: jnp.float32(0.0),
  }
  whole, stopped = (
    _config(tmp_path / name, **changes) for name in ("whole", "stopped")
  )
  assert _train(whole).step == 4
  with monkeypatch.context() as patched:
    _signal_within(patched, evaluation.Evaluator, "run", 2)
    with pytest.raises(StoppedError, match=r"^step 4 of 8 is saved"):
      _train(stopped)
  result = _train(stopped)
  assert (result.step, result.best_step) == (4, 2)
  assert small_runs.fingerprint(stopped.folder) == small_runs.fingerprint(
    whole.folder
  )


@pytest.mark.slow
def test_batch_files_train_as_the_records_do(finished, tmp_path, monkeypatch):
  """To the bit, and through an interruption."""
  config = _config(tmp_path / "run")
  packed = training_data.load_packed(
    config.train_dataset_cfg, small_runs.VOCABULARY, seed=config.random_seed
  )
  batch_files.write_batches(tmp_path / "files", packed, range(8))
  dataset = dataclasses.replace(
    config.train_dataset_cfg, batch_files=str(tmp_path / "files")
  )
  config = dataclasses.replace(config, train_dataset_cfg=dataset)
  with monkeypatch.context() as patched:
    _stop_after(patched, 5)
    with pytest.raises(_Killed):
      _train(config)
  _train(config)
  assert small_runs.fingerprint(tmp_path / "run") == small_runs.fingerprint(
    finished
  )
  (tmp_path / "run" / "results.jsonl").unlink()
  longer = dataclasses.replace(config, total_steps=9)
  with pytest.raises(UserError, match="the run needs 8 to 8"):
    _train(longer)


@pytest.mark.slow
def test_a_step_that_is_compiled_again_is_reported(tmp_path, monkeypatch):
  """Batches of another shape, which no run should have, force it."""
  config = _config(
    tmp_path, total_steps=3, eval_period=None, evaluation_cfg=NO_LOSSES
  )
  original = train_step.JittedStep.__call__

  def call(self, state, batch):
    if int(state.step) == 1:
      batch = {name: np.asarray(x)[:1] for name, x in batch.items()}
    return original(self, state, batch)

  monkeypatch.setattr(train_step.JittedStep, "__call__", call)
  stream = io.StringIO()
  train.train(config, stream=stream)
  assert stream.getvalue().count("compiled again") == 1
  assert "step 2 was compiled again" in stream.getvalue()
  description = json.loads((tmp_path / "run.json").read_text())
  assert description["recompilations"] == 1


def test_a_finished_run_is_left_as_it_is(finished):
  before = (
    small_runs.fingerprint(finished),
    (finished / "results.jsonl").read_text(),
  )
  result = _train(_config(finished))
  assert result.step == 8
  after = (
    small_runs.fingerprint(finished),
    (finished / "results.jsonl").read_text(),
  )
  assert after == before


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("run.json", '{"batch_shape": {"rows": 1}}'),
    ("run.json", "[]"),
    ("run.json", "{"),
    ("metrics.jsonl", '{"step": 1}\nx\n'),
  ],
)
def test_damaged_files_of_a_run_are_refused(finished, tmp_path, name, content):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  (folder / name).write_text(content)
  with pytest.raises(UserError, match=rf"{name} is damaged") as error:
    _train(_config(folder, total_steps=9))
  assert "\n" not in str(error.value)


def test_results_that_are_not_whole_are_written_again(finished, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  results = folder / "results.jsonl"
  whole = run_directory.read_jsonl(results)
  run_directory.write_jsonl(results, whole[:1])
  _train(_config(folder))
  again = run_directory.read_jsonl(results)
  assert [row | {"config_sha": ""} for row in again] == [
    row | {"config_sha": ""} for row in whole
  ]


def test_lines_may_hold_any_character(tmp_path):
  rows = [{"text": "\u2028 \x85 \r\n \x1b[31m"}, {"text": "b"}]
  run_directory.write_jsonl(tmp_path / "rows.jsonl", rows)
  assert run_directory.read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.slow
def test_eight_devices_train_as_one_does(tmp_path):
  """Same data, same mathematics; only the order of sums differs."""
  config = _config(tmp_path)
  batching = dataclasses.replace(
    config.train_dataset_cfg, batch_size=8, records_per_batch=None
  )
  losses = {}
  for name, partitioner in {
    "one": partitioning.Partitioner(devices=jax.devices()[:1]),
    "eight": partitioning.Partitioner(num_partitions=2, fully_sharded=True),
  }.items():
    folder = tmp_path / name
    _train(
      dataclasses.replace(
        config,
        model_dir=str(folder),
        partitioner=partitioner,
        train_dataset_cfg=batching,
        total_steps=4,
        evaluation_cfg=NO_LOSSES,
        model=encoder_decoder.EncoderDecoderModel(
          dataclasses.replace(SIZES, dropout_rate=0.0)
        ),
      )
    )
    lines = run_directory.read_jsonl(folder / "metrics.jsonl")
    losses[name] = [x["loss"] for x in lines if x["kind"] == "train"]
  np.testing.assert_allclose(losses["eight"], losses["one"], rtol=1e-5)


def test_a_run_does_not_continue_with_other_data(finished):
  config = _config(finished, total_steps=9)
  dataset = dataclasses.replace(
    config.train_dataset_cfg, data=DataOptions(taxonli_num_train=32)
  )
  for changes in ({"train_dataset_cfg": dataset}, {"random_seed": 7}):
    with pytest.raises(UserError, match="holds a run whose") as error:
      _train(dataclasses.replace(config, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_keeps_its_batches_on_other_devices(tmp_path):
  """More devices need rows that divide; those of the run already do."""
  config = _config(
    tmp_path, total_steps=2, eval_period=None, evaluation_cfg=NO_LOSSES
  )
  batching = dataclasses.replace(config.train_dataset_cfg, batch_size=8)
  config = dataclasses.replace(config, train_dataset_cfg=batching)
  _train(config)
  shape = json.loads((tmp_path / "run.json").read_text())["batch_shape"]
  _train(
    dataclasses.replace(
      config,
      total_steps=3,
      partitioner=partitioning.Partitioner(devices=jax.devices()[:2]),
    )
  )
  description = json.loads((tmp_path / "run.json").read_text())
  assert description["batch_shape"] == shape
  assert description["mesh"] == {"replica": 1, "data": 2, "model": 1}


@pytest.mark.slow
def test_early_stopping_and_its_memory(tmp_path, monkeypatch):
  values = iter([0.5, 0.4, 0.5, 0.9])
  monkeypatch.setattr(
    evaluation, "selection_value", lambda scores, metric: next(values)
  )
  config = _config(tmp_path, eval_period=1, early_stopping_patience=2)
  result = _train(config)
  assert result.step == 3  # 0.5, then twice no better
  assert result.best_step == 1
  assert _train(config).step == 3


def test_patience_asks_for_a_least_improvement():
  loop = LoopState()
  noted = [
    loop.note_evaluation(step, value, 0.01)
    for step, value in enumerate([0.500, 0.505, 0.509, 0.511, 0.530], 1)
  ]
  # A little better is better, but only the fourth is so by enough.
  assert noted == [True] * 5
  assert (loop.best_step, loop.plateau_value) == (5, 0.53)
  loop = LoopState(best_step=1, best_value=0.5, stale_evaluations=1)  # older
  assert loop.note_evaluation(2, 0.505, 0.01)
  assert loop.stale_evaluations == 2
  assert not loop.note_evaluation(3, 0.505)
  assert loop.out_of_patience(3)


@pytest.mark.slow
def test_best_checkpoint_is_kept_and_scored(tmp_path, monkeypatch):
  values = iter([0.1, 0.9, 0.3, 0.2])
  monkeypatch.setattr(
    evaluation, "selection_value", lambda scores, metric: next(values)
  )
  config = _config(
    tmp_path, eval_period=2, save_cfg=SaveOptions(period=1, keep=1)
  )
  result = _train(config)
  assert result.best_step == 4
  with checkpoints_lib.Checkpoints(tmp_path, read_only=True) as saved:
    assert saved.steps() == [4, 8]
  assert {row["checkpoint_step"] for row in result.results} == {4}
  step, scores = checkpoint_evaluation.evaluate_checkpoint(
    config, "best", split="test"
  )
  assert step == 4
  assert scores[0].metrics["accuracy"] == result.results[1]["value"]


@pytest.mark.slow
def test_too_many_steps_that_are_not_finite_end_the_run(tmp_path):
  config = _config(
    tmp_path,
    learning_rate_fn=lambda step: math.inf,
    evaluation_cfg=NO_LOSSES,
    max_nonfinite_steps=3,
    stats_period=1,
  )
  with pytest.raises(
    FloatingPointError, match=r"3 steps in a row.*learning rate"
  ):
    _train(config)


@pytest.mark.slow
def test_starting_from_another_run(finished, tmp_path):
  config = _config(tmp_path, initial_checkpoint_path=str(finished))
  config = dataclasses.replace(config, total_steps=1, eval_period=None)
  _train(config)
  first = run_directory.read_jsonl(tmp_path / "metrics.jsonl")[0]["loss"]
  scratch = run_directory.read_jsonl(finished / "metrics.jsonl")[0]["loss"]
  assert first < scratch - 0.1


def test_two_processes_cannot_share_a_folder(tmp_path):
  with (
    run_directory.locked(tmp_path),
    pytest.raises(UserError, match="another process is training"),
  ):
    _train(_config(tmp_path))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"total_steps": 0}, "^total_steps is 0; it must be a whole number, 1"),
    ({"num_microbatches": 0}, "^num_microbatches is 0"),
    ({"eval_period": 0}, "^eval_period is 0.*or None"),
    ({"stats_period": 1.5}, "^stats_period is 1.5"),
    ({"random_seed": 2**32}, "^random_seed is 4294967296"),
    ({"vocabulary_loss": "x"}, "^vocabulary_loss is 'x'.*fused, plain"),
    ({"initial_checkpoint_path": "nowhere"}, "nowhere"),
  ],
)
def test_wrong_settings_are_refused(tmp_path, changes, message):
  with pytest.raises(UserError, match=message) as error:
    _train(_config(tmp_path, **changes))
  assert "\n" not in str(error.value)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  config = _config(pathlib.Path("~/runs"))
  assert config.model_dir == str(tmp_path / "runs")


def test_a_vocabulary_too_large_for_the_student_is_refused(tmp_path):
  config = _config(tmp_path)
  small = dataclasses.replace(config.model.config, vocab_size=16)
  with pytest.raises(UserError, match="vocab_size of the student is 16"):
    _train(dataclasses.replace(config, model=BagOfWords(small)))


@pytest.fixture
def signs():
  """A dataset whose labels are `<` and `{`, and a third in its test."""

  def records(split, options):
    del options
    labels = ["<", "{", "yes"] if split == "test" else ["<", "{"]
    return [
      Record(f"{split}{n}", f"is it {n}", labels[n % len(labels)])
      for n in range(12)
    ]

  datasets.register(
    datasets.DatasetSpec("signs", records, source_splits=("train", "test"))
  )
  return pipeline.DatasetConfig(
    "signs_label", {"inputs": 32, "targets": 8}, records_per_batch=8
  )


def test_labels_that_cannot_be_written_are_refused_before_the_first_step(
  tmp_path, signs, plain_model
):
  settings = {
    "vocabulary": plain_model,
    "train_dataset_cfg": signs,
    "evaluation_cfg": NO_LOSSES,
  }
  message = (
    r"the labels of 10 of 10 targets .*'<', '\{'.*\+\[\"<\", \"\{\"\] to add"
  )
  with pytest.raises(UserError, match=message) as error:
    train.train(small_runs.config(tmp_path, **settings))
  assert error.value.fields == ("TrainConfig.vocabulary",)
  assert not (tmp_path / "metrics.jsonl").exists()
  # As it says, these tokens are the remedy.
  settings["vocabulary"] = f'{plain_model}+["<", "{{"]'
  stream = io.StringIO()
  run = train.train(
    small_runs.config(tmp_path, total_steps=2, **settings), stream=stream
  )
  assert run.step == 2
  said = stream.getvalue()
  assert "the vocabulary lacks '[', ']' of '[label] '" in said
  assert "tokens of its inputs" in said
  (file,) = (tmp_path / "eval").glob("signs_label-test/*.jsonl")
  lines = file.read_text().splitlines()
  targets = [json.loads(line)["target"] for line in lines]
  assert targets == ["<", "{", "yes"] * 4


def test_unknown_tokens_of_a_test_never_count_as_right(
  tmp_path, signs, plain_model
):
  """A label of the test alone that the vocabulary lacks."""
  settings = {
    "vocabulary": plain_model,
    "train_dataset_cfg": dataclasses.replace(
      signs, mixture_or_task_name="asked_label"
    ),
    "evaluation_cfg": NO_LOSSES,
  }

  def records(split, options):
    del options
    label = "<" if split == "test" else "yes no"
    return [Record(f"{split}{n}", f"is it {n}", label) for n in range(8)]

  datasets.register(
    datasets.DatasetSpec("asked", records, source_splits=("train", "test"))
  )
  stream = io.StringIO()
  run = train.train(
    small_runs.config(tmp_path, total_steps=2, **settings), stream=stream
  )
  assert (
    "asked_label test: 8 of 8 targets cannot be written with this vocabulary"
  ) in stream.getvalue()
  (entry,) = (e for e in run.results if e["split"] == "test")
  assert entry["value"] == 0
  with pytest.raises(UserError, match=r"cut off at 2 tokens: set .* to \d"):
    train.train(
      small_runs.config(
        tmp_path / "cut",
        **settings
        | {
          "train_dataset_cfg": dataclasses.replace(
            settings["train_dataset_cfg"],
            task_feature_lengths={"inputs": 8, "targets": 2},
          )
        },
      )
    )


def test_a_kernel_of_other_devices_is_refused_before_a_file_is_written(
  tmp_path,
):
  config = _config(tmp_path, config_text_fn=lambda: "")
  named = dataclasses.replace(
    config.model.config, attention_implementation="cudnn"
  )
  student = encoder_decoder.EncoderDecoderModel(named)
  with pytest.raises(UserError, match="it runs on gpu and the device is cpu"):
    _train(dataclasses.replace(config, model=student))
  assert not (tmp_path / "config.gin").exists()
  assert not (tmp_path / "run.json").exists()


def test_another_models_checkpoint_is_refused(finished, tmp_path):
  config = _config(tmp_path)
  wide = dataclasses.replace(config.model.config, mlp_dim=24)
  with pytest.raises(UserError, match="another model") as error:
    _train(
      dataclasses.replace(
        config,
        model=BagOfWords(wide),
        initial_checkpoint_path=str(finished),
      )
    )
  assert "\n" not in str(error.value)


def test_batch_not_divisible_by_devices_is_refused(tmp_path):
  config = _config(tmp_path, partitioner=partitioning.Partitioner())
  dataset = dataclasses.replace(
    config.train_dataset_cfg, batch_size=12, records_per_batch=None
  )
  with pytest.raises(UserError, match="batch_size is 12") as error:
    _train(dataclasses.replace(config, train_dataset_cfg=dataset))
  assert "\n" not in str(error.value)


ALONE = """
import os, signal, sys
import jax
from dss_jax.training import train

jax.distributed.initialize("127.0.0.1:" + sys.argv[1], 1, 0)
train._tell_others()
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


@pytest.mark.slow
def test_a_signal_ends_the_only_process_of_a_cluster_before_its_loop():
  """JAX would keep the signal for others, of which there are none."""
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    port = found.getsockname()[1]
  ended = subprocess.run(
    [sys.executable, "-c", ALONE, str(port)], timeout=60, capture_output=True
  )
  assert ended.returncode == -signal.SIGTERM, ended.stderr
