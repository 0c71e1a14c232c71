"""Scores of candidates are those of the full forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models

from dss_jax.models.decoding import beam_search, label_scoring
from dss_jax.models.decoding.allowed_outputs import Trie
from dss_jax.models.encoder_decoder import EncoderDecoderModel

EOS = 1
LABELS = [[5], [5, 6], [7, 3, 3], [7, 3, 8, EOS], [20, 21]]


@functools.cache
def _student():
  model = EncoderDecoderModel(small_models.ODD)
  params = small_models.random_params(small_models.ODD, 0.7)
  rng = np.random.default_rng(1)
  inputs = rng.integers(2, 23, (3, 6)).astype(np.int32)
  inputs[1, 3:] = 0
  return model, params, inputs


def _padded(labels):
  ended = [label if label[-1] == EOS else [*label, EOS] for label in labels]
  longest = max(map(len, ended))
  return np.array([e + [0] * (longest - len(e)) for e in ended], np.int32)


@functools.cache
def _expected():
  """[3, labels], by the full forward pass of each example and label."""
  model, params, inputs = _student()
  targets = np.tile(_padded(LABELS), (len(inputs), 1))
  logits = jax.jit(model.apply)(
    params,
    {
      "encoder_input_tokens": np.repeat(inputs, len(LABELS), axis=0),
      "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    },
  )
  log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
  chosen = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  return (chosen * (targets > 0)).sum(-1).reshape(len(inputs), -1)


def test_labels_of_all_examples():
  model, params, inputs = _student()
  scores = jax.jit(
    lambda params: label_scoring.score_sequences(model, params, inputs, LABELS)
  )(params)
  np.testing.assert_allclose(scores, _expected(), atol=1e-4)


def test_labels_of_each_example():
  model, params, inputs = _student()
  rows = _padded(LABELS)
  own = np.stack([rows, rows[::-1], rows])
  own[2, 1] = 0  # a place without a candidate
  scores = jax.jit(
    lambda params, own: label_scoring.score_sequences(
      model, params, inputs, own
    )
  )(params, own)
  expected = _expected().copy()
  expected[1] = expected[1, ::-1]
  expected[2, 1] = 0.0
  np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.slow
def test_slices_of_the_row_change_nothing(monkeypatch):
  model, params, inputs = _student()
  monkeypatch.setattr(label_scoring, "_num_slices", lambda *args: 3)
  scores = label_scoring.score_sequences(model, params, inputs, LABELS)
  np.testing.assert_allclose(scores, _expected(), atol=1e-4)


@pytest.mark.slow
def test_a_wide_constrained_search_finds_the_same_scores():
  model, params, inputs = _student()
  trie = Trie.from_sequences(LABELS)

  @jax.jit
  def search(params):
    encoded = model.encode(params, jnp.asarray(inputs))
    cache = model.init_cache(params, encoded, inputs, trie.longest)
    return beam_search.beam_search(
      functools.partial(model.decode_step, params),
      cache,
      max_decode_length=trie.longest,
      num_beams=len(LABELS),
      length_penalty=0.0,
      constrain=trie,
    )

  _, scores = search(params)
  expected = -np.sort(-_expected(), axis=1)
  np.testing.assert_allclose(scores, expected, atol=1e-4)
