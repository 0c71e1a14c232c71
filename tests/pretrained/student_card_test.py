"""What an exported folder says of its student, and what it may not say."""

import json
import os
import shutil

import pytest

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.models import config, encoder_decoder
from dss_jax.pretrained import student_card, tokenizers
from dss_jax.students import student as student_lib


def _student(vocabulary="taxonli", **changes):
  return student_lib.Student(
    model=encoder_decoder.EncoderDecoderModel(
      config.T5Config(vocab_size=512, emb_dim=8, num_heads=2, head_dim=4)
    ),
    params={},
    vocabulary=vocabularies.from_name(vocabulary),
    **changes,
  )


def test_a_card_comes_back_as_it_was(tmp_path):
  student = _student(
    subtasks=subtasks.METHODS["dss"].subtasks,
    options=MethodOptions(label_prefix="predict: ", rationale_separator="因 "),
    feature_lengths={"inputs": 48, "targets": 64},
    labels=("yes", "no"),
    description={"source": "runs/a", "step": 3, "task": "t", "dataset": None},
  )
  card = student.card()
  student_card.write(tmp_path, card)
  back = student_card.read(tmp_path)
  assert back is not None
  assert back == card
  assert back.options.label_prefix == "predict: "
  assert back.description == {"source": "runs/a", "step": 3, "task": "t"}
  model = vocabularies.model_path("taxonli")
  assert model is not None
  shutil.copy(model, tmp_path / "spiece.model")
  assert back.vocabulary(tmp_path) == student.vocabulary


def test_added_tokens_are_kept(tmp_path):
  student = _student('taxonli:3+["{", "\\n", "  "]')
  student_card.write(tmp_path, student.card())
  model = vocabularies.model_path("taxonli")
  assert model is not None
  shutil.copy(model, tmp_path / "spiece.model")
  back = student_card.read(tmp_path)
  assert back is not None
  assert back.vocabulary(tmp_path) == student.vocabulary
  name = tokenizers.vocabulary_name(tmp_path, 512)
  assert name is not None
  assert vocabularies.from_name(name) == student.vocabulary


def test_bytes_need_no_file_and_no_card_is_no_error(tmp_path):
  assert student_card.read(tmp_path) is None
  card = _student("bytes:125").card()
  student_card.write(tmp_path, card)
  back = student_card.read(tmp_path)
  assert back is not None
  assert back.vocabulary(tmp_path) == vocabularies.ByteVocabulary(125)
  assert back.labels is None
  assert back.subtasks == (subtasks.STANDARD,)


def _with(**changes):
  def change(value):
    for path, new in changes.items():
      *parents, last = path.split("__")
      node = value
      for key in parents:
        node = node[int(key) if key.isdigit() else key]
      node[last] = new

  return change


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    (_with(format=2), "format is 2"),
    (_with(format=True), "format is True"),
    (_with(vocabulary__file="../secret.model"), "plain name"),
    (_with(vocabulary__file="/etc/passwd"), "plain name"),
    (_with(vocabulary__file=".hidden"), "plain name"),
    (_with(vocabulary__kind="pickle"), "allowed: bytes, sentencepiece"),
    (_with(vocabulary__extra_ids=10**9), "extra_ids is 1000000000"),
    (_with(vocabulary=None), "vocabulary is None, not a JSON object"),
    (_with(subtasks=[]), "no subtasks"),
    (_with(subtasks__0__input_format="{input.__class__}"), "__class__"),
    (_with(subtasks__0__input_format="{input"), "expected '}'"),
    (_with(subtasks__0__target_format="x" * 1001), "more than 1000"),
    (_with(subtasks__0__name="a b"), "cannot name a sub-task"),
    (_with(subtasks__0__name="rationale"), "same name"),
    (_with(subtasks__0__name=7), "subtasks.name is 7, not a string"),
    (_with(options__label_separator=" "), "blank"),
    (
      _with(options__label_prefix=None),
      "options.label_prefix is None, not a string",
    ),
    (_with(labels=[]), "0 labels must be"),
    (_with(labels=["a", "a"]), "different ones"),
    (_with(labels="ab"), "labels is 'ab', not a list"),
    (_with(feature_lengths__inputs=0), "inputs is 0"),
    (_with(feature_lengths__inputs=2**40), "allowed: 1 to"),
    (_with(feature_lengths__inputs=True), "inputs is True, not a whole number"),
    (_with(step="3"), "step is '3', not a whole number or None"),
    (_with(step=2**31), "step is 2147483648"),
    (_with(step=-1), "step is -1"),
  ],
)
def test_what_cannot_be_is_reported_in_one_line(tmp_path, change, reason):
  student = _student(
    subtasks=subtasks.METHODS["dss"].subtasks, feature_lengths={"inputs": 9}
  )
  student_card.write(tmp_path, student.card())
  path = tmp_path / student_card.FILE
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))
  with pytest.raises(UserError) as caught:
    student_card.read(tmp_path)
  assert reason in str(caught.value)
  assert student_card.FILE in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"[]",
    b"\xff\xfe",
    b'{"format": 1',
    b'{"format": 1, "format": 1}',
    b"[" * 100_000,
    b'{"format": NaN}',
    b" " * (2**22 + 1),
  ],
)
def test_damaged_files_are_reported_in_one_line(tmp_path, data):
  (tmp_path / student_card.FILE).write_bytes(data)
  with pytest.raises(UserError, match="is damaged") as caught:
    student_card.read(tmp_path)
  assert "\n" not in str(caught.value)


def test_keys_of_a_later_version_are_left_alone(tmp_path):
  card = _student().card()
  student_card.write(tmp_path, card)
  path = tmp_path / student_card.FILE
  path.write_text(json.dumps({**json.loads(path.read_text()), "new": [1]}))
  assert student_card.read(tmp_path) == card


def test_a_pipe_is_not_opened(tmp_path):
  os.mkfifo(tmp_path / student_card.FILE)
  with pytest.raises(UserError, match="no plain file"):
    student_card.read(tmp_path)
