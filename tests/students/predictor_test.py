"""What a student answers does not depend on how it is asked."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.models.decoding import token_by_token
from dss_jax.models.decoding.decode_options import DecodeOptions
from dss_jax.students import predictions, text_generators
from dss_jax.students.predictor import (
  PredictInput,
  PredictOptions,
  Predictor,
  default_lengths,
)

LABELS = ("entailment", "neutral", "contradiction")


def _items(texts):
  return [PredictInput(text, id=str(i)) for i, text in enumerate(texts)]


def _one_by_one(student, subtask, text, max_length):
  """Greedy decoding of one unpadded input, written out."""
  tokens = np.array([student.encode(student.input_text(subtask, text))])

  @jax.jit
  def decode(params):
    encoded = student.model.encode(params, tokens)
    cache = student.model.init_cache(params, encoded, tokens, max_length)
    step = functools.partial(student.model.decode_step, params)
    return token_by_token.greedy(step, cache, max_decode_length=max_length)

  found, scores = decode(student.params)
  return student.vocabulary.decode(np.asarray(found)[0]), float(scores[0])


@pytest.mark.slow
def test_answers_are_those_of_one_by_one_decoding_in_any_shapes(
  dss_student, texts
):
  options = PredictOptions(("label", "rationale"), constrain=False)
  whole = Predictor(dss_student, options, [16], lengths=[48])
  fitted = Predictor(dss_student, options, [4])
  fitted.fit_lengths(_items(texts), num_lengths=2)
  assert len(fitted.lengths) > 1
  one, other = (each.predict(_items(texts)) for each in (whole, fitted))
  assert [each.id for each in one] == [str(i) for i in range(len(texts))]
  assert len({each.rationale for each in one}) > 8
  for first, second in zip(one, other, strict=True):
    assert first.label == second.label
    assert first.rationale == second.rationale
    assert first.rationale_score == pytest.approx(
      second.rationale_score, abs=1e-4
    )
  rationale = dss_student.subtask("rationale")
  for text, answer in list(zip(texts, one))[:3]:
    found, score = _one_by_one(dss_student, rationale, text, 24)
    assert answer.rationale == found.strip()
    assert answer.rationale_score == pytest.approx(score, abs=1e-4)


@pytest.mark.slow
def test_all_shapes_are_compiled_by_warming_up(dss_student, texts):
  predictor = Predictor(dss_student, PredictOptions(), [2, 4], lengths=[24, 48])
  assert predictor.warm_up() == 4
  query: Any = predictor._queries[0]
  compiled = query.generator._score._cache_size()
  assert compiled == 4
  predictor.predict(_items(texts[:7]))
  predictor.predict(_items(texts[:1]))
  assert query.generator._score._cache_size() == compiled


def test_labels_of_a_closed_set_are_chosen_by_their_probabilities(
  dss_student, texts
):
  predictor = Predictor(dss_student, PredictOptions(num_best=2), [4])
  found: Any = predictor.predict(_items(texts[:3]))
  for answer in found:
    assert answer.label in LABELS
    scores = answer.label_scores
    assert set(scores) == set(LABELS)
    assert sum(scores.values()) == pytest.approx(1.0)
    assert answer.label == max(scores, key=scores.get)
    first, second = answer.alternatives
    assert first.label == answer.label
    ratio = scores[second.label] / scores[first.label]
    assert math.exp(second.score - first.score) == pytest.approx(ratio)
  # In the same shape: nothing new is compiled.
  cut, empty, wrong, nul = predictor.predict(
    [
      PredictInput("a " * 100, id="cut"),
      PredictInput(" "),
      PredictInput(3),  # pyright: ignore[reportArgumentType]
      PredictInput("a\0b", id="nul"),
    ]
  )
  assert cut.truncated
  assert cut.label in LABELS
  assert (empty.label, empty.error) == (None, "input is empty")
  assert wrong.error == "input must be text, got int"
  assert (nul.id, nul.error) == ("nul", "input contains a NUL character")
  assert predictor.predict([]) == []


@pytest.mark.slow
def test_a_large_set_is_searched(dss_student, texts, monkeypatch):
  labels = tuple(f"{a} is {b}" for a in ("red", "dog") for b in ("a", "no"))
  options = PredictOptions(labels=labels, num_best=4)
  exact = Predictor(dss_student, options, [4]).predict(_items(texts[:3]))
  monkeypatch.setattr(text_generators, "MAX_SCORED_PREFIXES", 2)
  found = Predictor(dss_student, options, [4]).predict(_items(texts[:3]))
  for one, other in zip(exact, found, strict=True):
    assert other.label_scores is None
    # With a beam for each of them nothing is missed.
    assert [each.label for each in one.alternatives] == [
      each.label for each in other.alternatives
    ]
    assert one.label_score == pytest.approx(other.label_score, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("convention", ["t5x", "huggingface"])
def test_scores_of_beams_are_log_probabilities(dss_student, texts, convention):
  decode = DecodeOptions(
    strategy="beam", num_beams=3, convention=convention, max_length=6
  )
  options = PredictOptions(("rationale",), decode=decode, num_best=3)
  predictor = Predictor(dss_student, options, [2])
  subtask = dss_student.subtask("rationale")
  [answer] = predictor.predict(_items(texts[:1]))
  scorer = text_generators.label_scoring.score_sequences
  ids = dss_student.encode(dss_student.input_text(subtask, texts[0]))
  query: Any = predictor._queries[0]
  decoded = query.generator._generator.decode(
    dss_student.params, [ids], max_decode_length=6
  )[0]
  checked = 0
  for output, alternative in zip(decoded, answer.alternatives, strict=True):
    if output.ended:
      with dss_student.partitioner.activate():
        [[exact]] = np.asarray(
          scorer(
            dss_student.model,
            dss_student.params,
            np.array([ids]),
            [output.tokens],
          )
        )
      assert alternative.score == pytest.approx(float(exact), abs=1e-3)
      checked += 1
  assert checked or not any(each.ended for each in decoded)


def test_numbers_that_overflow_are_no_answer(dss_student, texts):
  """Finite parameters may be damaged too: no probability comes of them."""
  params = jax.tree.map(lambda x: np.asarray(x) * 1e18, dss_student.params)
  student = dataclasses.replace(dss_student, params=params)
  options = PredictOptions(("label",))
  for answer in Predictor(student, options, [4]).predict(_items(texts[:2])):
    assert "probabilities are no numbers" in str(answer.error)
    assert answer.label is None
    assert answer.label_score is None


@pytest.mark.slow
def test_samples_vote(new_student, texts):
  student = new_student("rationale_then_label")
  decode = DecodeOptions(temperature=0.7)
  options = PredictOptions(
    ("label", "rationale"), decode=decode, samples=5, seed=2
  )
  predictor = Predictor(student, options, [4])
  first = predictor.predict(_items(texts[:4]))
  assert first == predictor.predict(_items(texts[:4]))
  assert first != predictor.predict(_items(texts[:4]), seed=3)
  for answer in first:
    assert answer.votes in (0, 0.2, 0.4, 0.6, 0.8, 1)


def test_the_label_that_most_samples_name_wins():
  def sample(label, score):
    return predictions.Alternative(score, label, f"because {score}")

  samples = [sample("a", -1.0), sample("b", -3.0), sample("b", -2.0)]
  ranked, share = predictions.vote(samples)
  assert (ranked[0], share) == (samples[2], 2 / 3)
  # Texts that name no label have no vote, however many they are.
  samples = [sample("", -1.0), sample("", -1.0), sample("b", -9.0)]
  ranked, share = predictions.vote(samples)
  assert (ranked[0].label, share) == ("b", 1 / 3)
  assert predictions.vote([sample("", -1.0)])[1] == 0


def test_one_text_is_asked_for_where_it_holds_both(new_student):
  both = PredictOptions(("label", "rationale"))
  student = new_student("rationale_then_label")
  assert len(Predictor(student, both)._queries) == 1
  assert len(Predictor(new_student("dss"), both)._queries) == 2


@pytest.mark.parametrize(
  ("method", "options", "message"),
  [
    ("label", {"outputs": ("rationale",)}, "not taught to write; .* label"),
    ("dss", {"samples": 3}, "writes its labels alone"),
    (
      "rationale_then_label",
      {"constrain": True},
      "writes a rationale in the same text",
    ),
    (
      "dss",
      {"outputs": ("rationale",), "constrain": True},
      "outputs does not have label",
    ),
    ("dss", {"labels": ("a b", "a  b")}, "are the same answer"),
    ("dss", {"labels": ("☃",)}, "cannot write the labels '☃': give others"),
  ],
)
def test_what_a_student_cannot_do_is_said(
  new_student, method, options, message
):
  with pytest.raises(UserError, match=message):
    Predictor(new_student(method), PredictOptions(**options))


def test_a_closed_set_must_be_known_to_be_kept_to(new_student):
  student = new_student(labels=None)
  with pytest.raises(UserError, match="which needs labels"):
    Predictor(student, PredictOptions(constrain=True))
  assert not Predictor(student, PredictOptions())._queries[0].is_closed


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"outputs": ("lable",)}, "it must be label, rationale"),
    ({"outputs": ()}, "it must be label, rationale"),
    ({"num_best": 0}, "num_best is 0; it must be from 1 to 64"),
    ({"num_best": 2, "samples": 2}, "set only one of them"),
    (
      {"labels": ("a",), "constrain": False},
      "labels are given but constrain is off",
    ),
    ({"max_input_length": 0}, "max_input_length is 0"),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(UserError, match=message):
    PredictOptions(**options)


def test_lengths_follow_the_longest_input():
  assert default_lengths(48) == [16, 24, 32, 48]
  assert default_lengths(100) == [16, 24, 32, 48, 64, 96, 100]
  assert default_lengths(8) == [8]


def test_a_batch_holds_at_least_one_input(dss_student):
  for size in (0, [], [8, -1]):
    with pytest.raises(UserError, match="it must be 1 or more") as error:
      Predictor(dss_student, batch_size=size)
    assert error.value.fields == ("batch_size",)
