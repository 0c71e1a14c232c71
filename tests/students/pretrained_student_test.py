"""Folders become students, with the vocabulary next to the weights."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.pretrained import open_pretrained, student_card
from dss_jax.students import pretrained_student as student_lib

MODEL = str(vocabularies.model_path("taxonli"))
PIECES = 205


@pytest.fixture
def folder(tmp_path, folders):
  """Weights for 272 ids; the vocabulary knows some of them."""
  path = folders.write(tmp_path / "x")
  shutil.copy(MODEL, path / "spiece.model")
  return path


def _options(folder, **options):
  (folder / "tokenizer_config.json").write_text(json.dumps(options))


@pytest.mark.parametrize(
  ("options", "extra_ids"),
  [
    ({}, 0),  # 100 would not fit the table
    ({"extra_ids": 60}, 60),
    ({"additional_special_tokens": [f"<extra_id_{i}>" for i in range(9)]}, 9),
    (
      {
        "additional_special_tokens": [{"content": "<extra_id_4>"}, "<other>", 7]
      },
      5,
    ),
    ({"extra_ids": "many", "additional_special_tokens": "x"}, 0),
  ],
)
def test_extra_ids(folder, options, extra_ids):
  _options(folder, **options)
  name = open_pretrained(str(folder)).vocabulary or ""
  assert name == f"{folder}/spiece.model:{extra_ids}"
  assert vocabularies.from_name(name).vocab_size == PIECES + extra_ids


def test_a_hundred_extra_ids_where_nothing_is_said(tmp_path, folders):
  config = dataclasses.replace(folders.CONFIG, vocab_size=320)
  folder = folders.write(tmp_path / "x", config=config)
  shutil.copy(MODEL, folder / "spiece.model")
  assert open_pretrained(str(folder)).vocabulary == f"{folder}/spiece.model:100"


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"junk",
    b"[1]",
    b"{" * 100_000,
    b'{"added_tokens_decoder": {"%s": {"content": "x"}}}' % (b"9" * 5000),
  ],
)
def test_damaged_tokenizers(folder, content):
  (folder / "tokenizer_config.json").write_bytes(content)
  with pytest.raises(UserError, match=r"tokenizer_config\.json"):
    open_pretrained(str(folder)).own_vocabulary()
  (folder / "tokenizer_config.json").unlink()
  (folder / "spiece.model").write_bytes(content)
  with pytest.raises(UserError, match="not a SentencePiece model"):
    open_pretrained(str(folder)).own_vocabulary()


def test_a_published_model(folder, folders):
  student = student_lib.load_pretrained(str(folder))
  assert student.model.config == folders.CONFIG
  assert student.vocabulary == vocabularies.from_name("taxonli")
  assert student.subtasks == (subtasks.STANDARD,)
  text = student.input_text(student.subtasks[0], "A dog is here.")
  assert text == "A dog is here."
  assert student.description["source"] == str(folder)
  expected = folders.params(folders.random_weights())
  jax.tree.map(np.testing.assert_array_equal, student.params, expected)
  for leaf in jax.tree.leaves(student.params):
    assert leaf.sharding.mesh == student.partitioner.mesh


def test_an_exported_student(folder):
  card = student_card.StudentCard(
    subtasks=subtasks.METHODS["dss"].subtasks,
    feature_lengths={"inputs": 40, "targets": 20},
    labels=("yes", "no"),
    vocabulary_file="spiece.model",
    extra_ids=3,
    description={"task": "taxonli_dss", "dataset": "taxonli", "step": 7},
  )
  student_card.write(folder, card)
  # What the card says counts, not what tokenizer_config.json says.
  _options(folder, extra_ids=60)
  student = student_lib.load_pretrained(str(folder), dtype="bfloat16")
  assert student.model.config.dtype == "bfloat16"
  assert student.vocabulary.vocab_size == PIECES + 3
  assert [each.name for each in student.subtasks] == ["label", "rationale"]
  assert student.labels == ("yes", "no")
  assert student.feature_lengths == {"inputs": 40, "targets": 20}
  assert student.description["task"] == "taxonli_dss"
  assert student.description["step"] == 7


def test_no_vocabulary_or_too_large_a_one(folder, folders):
  (folder / "spiece.model").unlink()
  with pytest.raises(UserError, match="no vocabulary in"):
    student_lib.load_pretrained(str(folder))
  (folder / "tokenizer.json").write_text("{}")
  with pytest.raises(UserError, match=r"tokenizer\.json.*it has no model"):
    student_lib.load_pretrained(str(folder))
  student = student_lib.load_pretrained(str(folder), vocabulary="bytes")
  assert student.vocabulary.vocab_size == 259
  with pytest.raises(UserError, match="vocabulary is 272 ids") as error:
    student_lib.load_pretrained(str(folder), vocabulary="bytes:100")
  assert "359 ids" in str(error.value)


def test_nothing_is_loaded_of_a_file_that_breaks_off(folder):
  """Even where the file is cut after it was looked at."""
  opened = open_pretrained(str(folder))
  (folder / "model.safetensors").write_bytes(b"")
  with pytest.raises(UserError, match="no longer what it was"):
    opened.load(EncoderDecoderModel(opened.config))
