"""What counts as the same answers, and what is refused."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks
from dss_jax.models.config import T5Config
from dss_jax.students.export import answer_checks, checked_export


def _answers(texts, student, scores=None):
  outputs = [student.vocabulary.encode(text) for text in texts]
  scores = None if scores is None else np.array(scores, np.float32)
  return answer_checks.Answers(outputs, scores)


@pytest.fixture
def agreement(make_student):
  student = make_student(params={})
  return functools.partial(_agreement, student)


def _agreement(student, ours, theirs, *, ours_scores=None, theirs_scores=None):
  asked = answer_checks.Questions(subtasks.LABEL, [[1]] * len(ours))
  return answer_checks.compare(
    student,
    asked,
    _answers(ours, student, ours_scores),
    _answers(theirs, student, theirs_scores),
  )


def test_labels_outputs_and_scores_are_compared(agreement):
  found = agreement(
    ["yes", "no", "no"],
    ["yes", "no ", "yes"],
    ours_scores=[-1.0, -2.0, -3.0],
    theirs_scores=[-1.25, -9.0, -9.0],
  )
  assert (found.count, found.outputs, found.labels) == (3, 1, 2)
  assert found.share == pytest.approx(2 / 3)
  assert found.score_difference == pytest.approx(0.25)  # of equal outputs
  assert "identical labels 2/3" in str(found)


def test_other_answers_are_refused(agreement):
  found = agreement(["yes", "no"], ["yes", "yes"])
  answer_checks.check(found, least=0.5, exact=True, longest=8)
  with pytest.raises(UserError, match=r"identical labels 1/2.*min_agreement"):
    answer_checks.check(found, least=0.95, exact=True, longest=8)


def test_scaled_logits_are_refused_though_the_labels_agree(agreement):
  found = agreement(["yes"], ["yes"], ours_scores=[-1.0], theirs_scores=[-7.0])
  with pytest.raises(UserError, match="log-probabilities are off"):
    answer_checks.check(found, least=0.95, exact=True, longest=8)
  answer_checks.check(found, least=0.95, exact=False, longest=8)  # int8
  broken = agreement(
    ["yes"], ["yes"], ours_scores=[-1.0], theirs_scores=[float("nan")]
  )
  with pytest.raises(UserError, match="log-probabilities are off"):
    answer_checks.check(broken, least=0.95, exact=True, longest=8)


def test_a_parameter_that_is_not_finite_is_named(make_student):
  student = make_student()
  answer_checks.check_finite(student)
  norm = student.params["decoder"]["decoder_norm"]
  norm["scale"] = norm["scale"].at[3].set(jnp.nan)
  with pytest.raises(UserError, match="decoder/decoder_norm/scale"):
    answer_checks.check_finite(student)


def test_questions_are_the_datasets_test_inputs(make_student):
  student = make_student(
    vocabulary="taxonli",
    params={},
    feature_lengths={"inputs": 48},
    description={"task": "taxonli_dss", "dataset": "taxonli"},
  )
  label, rationale = answer_checks.questions(student, 5)
  assert (label.subtask.name, rationale.subtask.name) == ("label", "rationale")
  assert label.evaluation is not None
  text = label.evaluation.input_texts[0]
  assert text.startswith("[label] ")
  assert label.inputs[0] == student.encode(text)
  assert len(rationale.inputs) == 5


@pytest.mark.parametrize("task", [None, "svamp_dss", "someone_elses_task"])
def test_without_data_random_tokens_are_asked(make_student, task, monkeypatch):
  monkeypatch.delenv("DSS_DATA_DIR", raising=False)
  student = make_student(params={}, description={"task": task})
  (asked,) = answer_checks.questions(student, 7)
  assert asked.evaluation is None
  assert len(asked.inputs) == 7
  for ids in asked.inputs:
    assert ids[-1] == 1
    assert len(ids) <= 24
    assert all(3 <= token < 259 for token in ids[:-1])


def test_batches_hold_every_input_once(monkeypatch):
  monkeypatch.setattr(answer_checks, "BATCH_SIZE", 3)
  inputs = [[5] * n + [1] for n in (3, 1, 4, 1, 5, 9, 2)]
  sizes = []

  def repeat(tokens, mask, longest):
    sizes.append((len(tokens), longest))
    assert (mask == (tokens > 0)).all()
    return tokens, tokens.sum(axis=1)

  answers = answer_checks.answer_in_batches(repeat)(inputs, 9)
  assert sizes == [(3, 9), (3, 9), (1, 9)]
  assert answers.outputs == [ids[:-1] for ids in inputs]
  assert answers.scores is not None
  assert answers.scores.tolist() == [sum(ids) for ids in inputs]


def test_a_vocabulary_larger_than_the_table_is_refused(make_student, tmp_path):
  table = T5Config(vocab_size=200, emb_dim=8, num_heads=2, head_dim=4)
  student = make_student(table, params={})
  with pytest.raises(
    UserError, match="has 259 ids but vocab_size of the student is 200"
  ):
    checked_export.export(
      student,
      str(tmp_path / "out"),
      "t5x",
      count=0,
    )
  assert list(tmp_path.iterdir()) == []
