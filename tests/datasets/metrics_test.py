"""Metrics, by hand-worked values."""

import math
import sys

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets import metrics

TARGETS = ["( 84.0 / 2.0 )", "neutral", "a b c d e"]
PREDICTIONS = [" 42", "neutral ", "a b c x e"]


def test_accuracies_are_fractions():
  assert metrics.score(
    ["value_accuracy", "accuracy"], TARGETS, PREDICTIONS
  ) == {"value_accuracy": 1 / 3, "accuracy": 1 / 3}
  assert metrics.accuracy(["a", "b"], ["a", "c"]) == {"accuracy": 0.5}
  assert metrics.value_accuracy(["1+1", "2"], ["2.0", "3"]) == {
    "value_accuracy": 0.5
  }


def test_what_has_no_value_is_wrong_even_if_equal():
  assert metrics.value_accuracy(["9**9**9", "x"], ["9**9**9", "x"]) == {
    "value_accuracy": 0.0
  }


@pytest.mark.parametrize(
  ("metric", "target", "prediction", "correct"),
  [
    ("accuracy", "math problem", "math problem", True),
    ("accuracy", "math problem", " math problem\n", True),
    ("accuracy", "math problem", "Math problem", False),
    ("value_accuracy", "(2 * 3)", "6", True),
    ("value_accuracy", "(2 * 3)", "", False),
  ],
)
def test_single_predictions(metric, target, prediction, correct):
  assert metrics.is_correct(metric, target, prediction) is correct


def test_bleu_by_hand():
  # 4 of 5 unigrams, 2 of 4 bigrams, 1 of 3 trigrams, 0 of 2 four-grams, which
  # sacrebleu smooths to 1/(2*2); equal lengths, so no brevity penalty.
  expected = 100 * math.prod([4 / 5, 2 / 4, 1 / 3, 1 / 4]) ** 0.25
  score = metrics.bleu(["a b c d e"], ["a b c x e"])["bleu"]
  assert score == pytest.approx(expected, rel=1e-6)
  assert metrics.bleu(["a b c d e"], ["a b c d e"])["bleu"] == pytest.approx(
    100
  )


def test_rouge_by_hand():
  scores = metrics.rouge(["a b c d e", "x"], ["a b c x e", "y"])
  # First pair: 4 of 5 words, 2 of 4 pairs, longest common subsequence 4 of 5;
  # second pair: nothing.
  assert scores == pytest.approx(
    {"rouge1": 40.0, "rouge2": 25.0, "rougeL": 40.0}
  )
  assert metrics.score(["rougeL", "accuracy"], ["a b"], ["a b"]) == {
    "rougeL": 100.0,
    "accuracy": 1.0,
  }


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: metrics.score(["f1"], ["a"], ["a"]), "unknown metric 'f1'"),
    (lambda: metrics.score(["accuracy"], ["a"], []), "1 targets and 0"),
    (lambda: metrics.accuracy([], []), "no predictions to score"),
    (lambda: metrics.is_correct("bleu", "a", "a"), "single predictions"),
  ],
)
def test_wrong_use(call, message):
  with pytest.raises(UserError, match=message):
    call()


@pytest.mark.parametrize(
  ("metric", "module", "package"),
  [
    ("bleu", "sacrebleu", "sacrebleu"),
    ("rouge2", "rouge_score", "rouge-score"),
  ],
)
def test_a_missing_library_is_named(monkeypatch, metric, module, package):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(UserError, match=f"'{metric}' needs .*{package}"):
    metrics.score([metric], ["a"], ["a"])
