"""Checkpoints on the command line: described, taken sizes from, distinguished."""

import json
import shutil

import numpy as np
import pytest

from dss_jax import main, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.cli import gin_config
from dss_jax.models.encoder_decoder import EncoderDecoderModel


def test_a_checkpoint_is_described(tmp_path, folders, capsys):
  folder = folders.write(tmp_path / "x")
  assert main.main(["checkpoints", str(folder)]) == 0
  out = capsys.readouterr().out
  assert "kind            huggingface" in out
  assert "  emb_dim = 12\n" in out
  weights = folders.random_weights()
  assert f"{sum(w.size for w in weights.values()):,}" in out


def test_a_folder_without_checkpoints_is_refused(tmp_path, capsys):
  assert main.main(["checkpoints", str(tmp_path / "absent")]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "config.json" in error


@pytest.fixture
def parsed():
  yield lambda bindings: gin_config.parse(
    ["models/from_checkpoint.gin", "runs/finetune.gin"], bindings
  )
  gin_config.clear()


def test_sizes_come_from_the_checkpoint(tmp_path, folders, parsed):
  folder = folders.write(tmp_path / "x")
  options = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 13}
  (folder / "tokenizer_config.json").write_text(json.dumps(options))
  parsed(
    [
      f"INITIAL_CHECKPOINT_PATH = {str(folder)!r}",
      "DROPOUT_RATE = 0.25",
      "MODEL_DIR = 'x'",
      "TRAIN_STEPS = 1",
      "MIXTURE_OR_TASK_NAME = 'taxonli_dss'",
      "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 64}",
    ]
  )
  model = gin_config.instance("train.train").model
  assert isinstance(model, EncoderDecoderModel)
  assert model.config.emb_dim == 12
  assert model.config.num_decoder_layers == 3
  assert model.config.dropout_rate == 0.25
  assert gin_config.macro("VOCABULARY") == "bytes:13"
  # The run can be read again without the checkpoint.
  text = gin_config.operative_config()
  shutil.rmtree(folder)
  config = tmp_path / "config.gin"
  config.write_text(text)
  gin_config.parse([str(config)])
  assert "emb_dim = 12" in text


def test_the_users_vocabulary_is_kept(tmp_path, folders, parsed):
  folder = folders.write(tmp_path / "x")
  (folder / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "ByT5Tokenizer"})
  )
  parsed(
    [
      f"INITIAL_CHECKPOINT_PATH = {str(folder)!r}",
      "VOCABULARY = 'bytes:2'",
    ]
  )
  assert gin_config.macro("VOCABULARY") == "bytes:2"


def test_a_recipe_with_sizes_takes_the_vocabulary_alone(tmp_path, folders):
  folder = folders.write(tmp_path / "x")
  options = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 13}
  (folder / "tokenizer_config.json").write_text(json.dumps(options))
  bindings = [f"INITIAL_CHECKPOINT_PATH = {str(folder)!r}", "MODEL_DIR = 'x'"]
  files = ["data/svamp.gin", "paper/t5_base.gin", "paper/dss_palm.gin"]
  try:
    gin_config.parse(files, bindings)
    assert gin_config.macro("VOCABULARY") == "bytes:13"
    config = gin_config.instance("train.train")
    assert config.model.config.emb_dim == 768
    assert config.vocabulary == vocabularies.from_name("bytes:13")
    gin_config.parse(files, [*bindings, "VOCABULARY = 'bytes:2'"])
    assert gin_config.macro("VOCABULARY") == "bytes:2"
  finally:
    gin_config.clear()


def test_without_a_checkpoint_there_are_no_sizes():
  files = ["models/from_checkpoint.gin"]
  for more in ([], ["runs/train.gin"]):
    with pytest.raises(UserError, match="INITIAL_CHECKPOINT_PATH, which is"):
      gin_config.parse([*files, *more])
  gin_config.clear()


_FLAGS = [
  "--gin_file=runs/taxonli.gin",
  "--gin_file=data/taxonli.gin",
  "--gin_file=methods/dss.gin",
  "--gin.VOCABULARY=taxonli",
  "--gin.TRAIN_STEPS=2",
  "--gin.RECORDS_PER_BATCH=8",
  "--gin.EVAL_MAX_EXAMPLES=2",
  "--gin.network.T5Config.dtype=float32",
  "--gin.decoding.DecodeOptions.max_length=4",
]


def test_every_mismatch_is_reported_before_anything_runs(
  tmp_path, folders, capsys
):
  folder = folders.write(tmp_path / "x")
  model_dir = tmp_path / "run"
  code = main.main(
    [
      "train",
      "--gin_file=models/t5_1_1/tiny.gin",
      *_FLAGS,
      f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
      f"--gin.MODEL_DIR={model_dir}",
    ]
  )
  assert code == 2
  first, blank, *table = capsys.readouterr().err.splitlines()
  assert first.startswith("dss-jax train: the checkpoint")
  assert "emb_dim = 12" in first
  assert "--gin.network.T5Config.emb_dim" in first
  assert not blank
  assert table[0].split() == ["parameter", "problem", "checkpoint", "student"]
  assert any("token_embedder/embedding" in line for line in table)
  assert not (model_dir / "run.json").exists()


@pytest.mark.slow
def test_training_starts_from_a_hugging_face_folder(
  tmp_path, folders, one_device
):
  weights = folders.random_weights()
  weights = {name: array * np.float32(0.1) for name, array in weights.items()}
  folder = folders.write(tmp_path / "x", weights)
  flags = [
    "--gin_file=models/from_checkpoint.gin",
    *_FLAGS,
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    f"--gin.MODEL_DIR={tmp_path / 'run'}",
  ]
  assert main.main(["train", *flags]) == 0
  shutil.rmtree(folder)
  # The run has the sizes in its own configuration.
  evaluate = ["eval", f"--model_dir={tmp_path / 'run'}", "--split=validation"]
  assert main.main(evaluate) == 0
