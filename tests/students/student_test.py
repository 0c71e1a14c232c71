"""What a student reads is what it was trained on."""

import pytest

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks
from dss_jax.data.tokens import evaluation_sets, tokenization
from dss_jax.models import config, encoder_decoder
from dss_jax.students import student as student_lib


@pytest.fixture
def student():
  return student_lib.Student(
    model=encoder_decoder.EncoderDecoderModel(
      config.T5Config(vocab_size=256, emb_dim=8, num_heads=2, head_dim=4)
    ),
    params={},
    vocabulary=vocabularies.from_name("taxonli"),
    subtasks=subtasks.METHODS["dss"].subtasks,
    feature_lengths={"inputs": 12, "targets": 64},
  )


def test_it_reads_the_tokens_that_evaluation_reads(student):
  options = datasets.DataOptions(max_records=4)
  records = datasets.load_split("taxonli", "test", options=options)
  found = evaluation_sets.build_evaluations(
    tokenization.TaskSource.load(
      "taxonli_dss",
      "test",
      student.vocabulary,
      options,
      feature_lengths=student.feature_lengths,
    )
  )
  for name in ("label", "rationale"):
    subtask = student.subtask(name)
    texts = [student.input_text(subtask, each.input) for each in records]
    assert texts == found[name].input_texts
    assert [student.encode(text) for text in texts] == found[name].inputs


def test_a_sub_task_it_was_not_taught_is_named(student):
  with pytest.raises(UserError, match="'summary'; it knows label, rationale"):
    student.subtask("summary")


def test_a_rationale_that_is_read_must_be_there(student):
  with pytest.raises(UserError, match="reads a rationale"):
    student.input_text(subtasks.RATIONALE_AS_INPUT, "x")
  text = student.input_text(subtasks.RATIONALE_AS_INPUT, "x", "because")
  assert text == "x [rationale] because"
