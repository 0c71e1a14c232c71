"""Decoding over toy models whose best sequences can be worked out."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from small_models import ODD as CONFIG

from dss_jax.base.errors import UserError
from dss_jax.models.decode_cache import DecodeCache
from dss_jax.models.decoding import beam_search, token_by_token
from dss_jax.models.encoder_decoder import EncoderDecoderModel

LENGTH = 5
VOCAB = 5
EOS = 1


def _toy(seed=0, batch=3, length=LENGTH, vocab=VOCAB, eos_bonus=0.0):
  """A model that sees the step, the last token and the one before it.

  Returns:
    the table of logits [batch, step, before, last, vocab] and a function
    giving (decode_step_fn, fresh cache).
  """
  rng = np.random.default_rng(seed)
  table = rng.normal(size=(batch, length, vocab, vocab, vocab)) * 1.5
  table[..., EOS] += eos_bonus
  table = table.astype(np.float32)

  def start(table=table):
    table = jnp.asarray(table)
    examples = table.shape[0]
    cache = DecodeCache(
      index=jnp.int32(0),
      # Which example a sequence belongs to must survive all reordering.
      per_sequence={
        "last": jnp.zeros((examples,), jnp.int32),
        "example": jnp.arange(examples),
      },
      per_example=None,
      step_biases=jnp.zeros((1, 2 * table.shape[1] - 1)),
    )

    def step(cache, tokens):
      state = cache.per_sequence
      logits = table[state["example"], cache.index, state["last"], tokens]
      state = {"last": tokens, "example": state["example"]}
      return logits, dataclasses.replace(
        cache, index=cache.index + 1, per_sequence=state
      )

    return step, cache

  return table, start


def _log_probs(logits):
  logits = logits.astype(np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _sequences(table, length=LENGTH):
  """All complete sequences of one example: (tokens, log-probability)."""
  log_probs = _log_probs(table)
  for tokens in itertools.product(range(table.shape[-1]), repeat=length):
    # Cut at the first EOS; keep one of those that only differ after it.
    if EOS in tokens:
      end = tokens.index(EOS) + 1
      if any(tokens[end:]):
        continue
      tokens = tokens[:end]
    before, last, total = 0, 0, 0.0
    for step, token in enumerate(tokens):
      total += log_probs[step, before, last, token]
      before, last = last, token
    yield tokens, total


def _pad(tokens, length=LENGTH):
  return [*tokens, *[0] * (length - len(tokens))]


# ---------------------------------------------------------------------- greedy


def test_greedy_takes_the_best_token_stops_at_eos_and_scores():
  table, start = _toy(seed=3, batch=6)
  tokens, scores = token_by_token.greedy(*start(), max_decode_length=LENGTH)
  lengths = set()
  for example in range(6):
    before, last, total, expected = 0, 0, 0.0, []
    for step in range(LENGTH):
      log_probs = _log_probs(table[example, step, before, last])
      token = int(np.argmax(log_probs))
      total += log_probs[token]
      expected.append(token)
      if token == EOS:
        break
      before, last = last, token
    lengths.add(len(expected))
    assert tokens[example].tolist() == _pad(expected)
    assert scores[example] == pytest.approx(total, abs=1e-5)
  assert len(lengths) > 2  # or stopping has not been tested


def test_max_lengths_cut_each_example():
  _, start = _toy(seed=3, batch=6, eos_bonus=-9.0)
  whole, _ = token_by_token.greedy(*start(), max_decode_length=LENGTH)
  limits = jnp.array([1, 2, 3, 4, 5, 0])
  cut, scores = token_by_token.greedy(
    *start(), max_decode_length=LENGTH, max_lengths=limits
  )
  for example, limit in enumerate(limits.tolist()):
    assert cut[example].tolist() == _pad(whole[example, :limit].tolist())
  assert scores[5] == 0.0


def test_decoding_stops_when_all_have_ended():
  _, start = _toy(eos_bonus=50.0)
  step, cache = start()
  calls = []

  def counting_step(cache, tokens):
    jax.debug.callback(lambda: calls.append(1))
    return step(cache, tokens)

  tokens, _ = token_by_token.greedy(
    counting_step, cache, max_decode_length=LENGTH
  )
  jax.effects_barrier()
  assert tokens[:, 0].tolist() == [EOS] * 3
  assert len(calls) == 1


@pytest.mark.slow
def test_rows_that_have_ended_may_leave_the_batch():
  batch = token_by_token.MIN_COMPACTED + 8
  table, start = _toy(seed=4, batch=batch)
  limits = jnp.where(jnp.arange(batch) % 2, 4, 2).at[::11].set(LENGTH)
  rows = []

  def run(compact):
    step, cache = start()

    def counting_step(cache, tokens):
      if compact:
        jax.debug.callback(lambda: rows.append(len(tokens)))
      return step(cache, tokens)

    return token_by_token.greedy(
      counting_step,
      cache,
      max_decode_length=LENGTH,
      max_lengths=limits,
      compact=compact,
    )

  expected, actual = run(False), run(True)
  jax.effects_barrier()
  np.testing.assert_array_equal(actual[0], expected[0])
  np.testing.assert_array_equal(actual[1], expected[1])
  assert sorted(set(rows), reverse=True) == [batch, batch // 2, batch // 8]
  assert len(rows) == LENGTH
  assert len(table) == batch


@pytest.mark.parametrize("vocab", [7, 24, 384])
def test_the_best_token_is_the_first_of_the_greatest(vocab):
  rng = np.random.default_rng(0)
  logits = rng.integers(0, 6, (50, vocab)).astype(np.float32)  # many ties
  logits[1] = -np.inf
  place, value = token_by_token._argmax_by_parts(jnp.asarray(logits))
  np.testing.assert_array_equal(place, np.argmax(logits, axis=-1))
  np.testing.assert_array_equal(value, logits.max(-1))


def test_more_tokens_than_the_cache_holds_are_refused():
  _, start = _toy()
  with pytest.raises(ValueError, match="made for 1 to 5 tokens"):
    token_by_token.greedy(*start(), max_decode_length=6)


# -------------------------------------------------------------------- sampling


@functools.cache
def _sample_fn(topk=0, num_decodes=2, rescale_log_probs=True):
  """A compiled sampler of the toy model, by key, temperature and topp."""
  _, start = _toy(seed=3)

  @jax.jit
  def sample(key, temperature, topp):
    return token_by_token.temperature_sample(
      *start(),
      key,
      max_decode_length=LENGTH,
      temperature=temperature,
      topk=topk,
      topp=topp,
      num_decodes=num_decodes,
      rescale_log_probs=rescale_log_probs,
    )

  def run(seed=0, temperature: Any = 1.0, topp=0.0):
    temperature = jnp.broadcast_to(jnp.float32(temperature), (3,))
    return sample(jax.random.key(seed), temperature, jnp.float32(topp))

  return run


@pytest.fixture(scope="module")
def greedy_decodes():
  _, start = _toy(seed=3)
  return token_by_token.greedy(*start(), max_decode_length=LENGTH)


@pytest.mark.parametrize("temperature", [0.0, 1e-3, (0.0, 1e-3, 1e-5)])
def test_temperature_to_zero_is_greedy(greedy_decodes, temperature):
  tokens, scores = _sample_fn(rescale_log_probs=False)(
    temperature=jnp.array(temperature)  # pyright: ignore[reportArgumentType]
  )
  np.testing.assert_array_equal(tokens[:, 0], greedy_decodes[0])
  np.testing.assert_array_equal(tokens[:, 1], greedy_decodes[0])
  np.testing.assert_allclose(scores[:, 0], greedy_decodes[1], atol=1e-5)


@pytest.mark.parametrize(("topk", "topp"), [(1, 0.0), (0, 1e-6)])
def test_only_the_top_token_is_greedy_and_certain(greedy_decodes, topk, topp):
  tokens, scores = _sample_fn(topk=topk)(topp=topp)
  np.testing.assert_array_equal(tokens[:, 0], greedy_decodes[0])
  np.testing.assert_allclose(scores, 0.0, atol=1e-6)


def test_samples_differ_by_key_and_by_decode():
  sample = _sample_fn()
  tokens, _ = sample(seed=0, temperature=3.0)
  again, _ = sample(seed=0, temperature=3.0)
  other, _ = sample(seed=1, temperature=3.0)
  np.testing.assert_array_equal(tokens, again)
  assert (tokens != other).any()
  assert (tokens[:, 0] != tokens[:, 1]).any()


# Logits of the first token; probabilities .5 .25 .125 .0625 .0625.
_KNOWN = np.log(np.array([0.125, 0.0625, 0.5, 0.25, 0.0625], np.float32))
_NUM_SAMPLES = 4000


@functools.cache
def _first_token_fn(topk):
  table = np.broadcast_to(_KNOWN, (1, 1, 1, VOCAB, VOCAB))
  _, start = _toy()

  @jax.jit
  def sample(temperature, topp):
    tokens, scores = token_by_token.temperature_sample(
      *start(table),
      jax.random.key(7),
      max_decode_length=1,
      num_decodes=_NUM_SAMPLES,
      temperature=temperature,
      topk=topk,
      topp=topp,
    )
    return tokens[0, :, 0], scores[0]

  return sample


@pytest.mark.parametrize(
  ("temperature", "topk", "topp", "expected"),
  [
    (1.0, 0, 0.0, [0.125, 0.0625, 0.5, 0.25, 0.0625]),
    (1.0, 2, 0.0, [0, 0, 2 / 3, 1 / 3, 0]),
    (1.0, 99, 0.0, [0.125, 0.0625, 0.5, 0.25, 0.0625]),
    (1.0, 0, 0.4, [0, 0, 1, 0, 0]),
    (1.0, 0, 0.6, [0, 0, 2 / 3, 1 / 3, 0]),
    (1.0, 0, 0.8, [1 / 7, 0, 4 / 7, 2 / 7, 0]),
    (1.0, 0, 1.0, [0.125, 0.0625, 0.5, 0.25, 0.0625]),
    # Two are kept; the first alone has 2/3 >= 0.6.
    (1.0, 2, 0.6, [0, 0, 1, 0, 0]),
    # Squared probabilities, renormalised.
    (0.5, 2, 0.0, [0, 0, 0.8, 0.2, 0]),
  ],
)
def test_samples_follow_the_truncated_distribution(
  temperature, topk, topp, expected
):
  sample = _first_token_fn(topk)
  tokens, scores = sample(jnp.float32(temperature), jnp.float32(topp))
  frequencies = np.bincount(tokens, minlength=VOCAB) / _NUM_SAMPLES
  # Three standard errors at the most uncertain.
  np.testing.assert_allclose(frequencies, expected, atol=0.025)
  expected = np.array(expected)
  assert (frequencies[expected == 0] == 0).all()
  # Scores are those of the distribution drawn from, the best first.
  np.testing.assert_allclose(scores, np.log(expected[tokens]), atol=1e-5)
  assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize(
  ("settings", "name"),
  [
    ({"topk": -1}, "topk"),
    ({"topp": 1.5}, "topp"),
    ({"num_decodes": 0}, "num"),
  ],
)
def test_wrong_sampling_settings_are_named(settings, name):
  _, start = _toy()
  with pytest.raises(UserError, match=name):
    token_by_token.temperature_sample(
      *start(), jax.random.key(0), max_decode_length=LENGTH, **settings
    )


# ----------------------------------------------------------------- beam search


@functools.cache
def _beam_fn(num_beams, convention, early_stopping=False, seed=0):
  """A compiled search of the toy model, by length penalty and limits."""
  table, start = _toy(seed)

  @jax.jit
  def search(length_penalty, max_lengths):
    return beam_search.beam_search(
      *start(),
      max_decode_length=LENGTH,
      num_beams=num_beams,
      length_penalty=length_penalty,
      convention=convention,
      early_stopping=early_stopping,
      max_lengths=max_lengths,
    )

  def run(length_penalty, limit: Any = LENGTH):
    limits = jnp.broadcast_to(jnp.asarray(limit), (len(table),))
    tokens, scores = search(jnp.float32(length_penalty), limits)
    return np.asarray(tokens), np.asarray(scores)

  return table, run


# More beams than there are unfinished prefixes: nothing is ever pruned, so
# the search must find the very best sequences.
_ALL_BEAMS = 300


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_wide_t5x_beams_find_the_best_finished_sequences(alpha):
  table, run = _beam_fn(_ALL_BEAMS, "t5x")
  tokens, scores = run(alpha)
  for example in range(len(table)):
    ranked = sorted(
      (
        (log_prob / ((5 + len(sequence)) / 6) ** alpha, sequence)
        for sequence, log_prob in _sequences(table[example])
        if sequence[-1] == EOS  # only EOS finishes
      ),
      reverse=True,
    )[:20]
    np.testing.assert_allclose(
      scores[example, :20], [score for score, _ in ranked], atol=1e-4
    )
    assert tokens[example, 0].tolist() == _pad(ranked[0][1])


@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 1.0, 3.0])
def test_wide_huggingface_beams_find_the_best_sequences(length_penalty):
  table, run = _beam_fn(_ALL_BEAMS, "huggingface", "never")
  tokens, scores = run(length_penalty)
  for example in range(len(table)):
    ranked = sorted(
      (
        (log_prob / len(sequence) ** length_penalty, sequence)
        for sequence, log_prob in _sequences(table[example])
      ),
      reverse=True,
    )[:20]
    np.testing.assert_allclose(
      scores[example, :20], [score for score, _ in ranked], rtol=1e-4
    )
    assert tokens[example, 0].tolist() == _pad(ranked[0][1])


def test_scores_are_sorted_and_sequences_differ():
  table, run = _beam_fn(3, "huggingface")
  tokens, scores = run(1.0)
  assert (np.diff(scores, axis=1) <= 0).all()
  for example in range(len(table)):
    assert len({row.tobytes() for row in tokens[example]}) == 3


def test_width_one_is_greedy():
  # With early stopping, or the search would continue, to see whether the second
  # best token could lead to a better end.
  table, run = _beam_fn(1, "huggingface", True, seed=3)
  tokens, scores = run(0.0)
  _, start = _toy(seed=3)
  greedy, greedy_scores = token_by_token.greedy(
    *start(), max_decode_length=LENGTH
  )
  np.testing.assert_array_equal(tokens[:, 0], greedy)
  np.testing.assert_allclose(scores[:, 0], greedy_scores, atol=1e-5)
  assert len(table) == len(tokens)


def test_limits_of_examples_act_as_their_own_max_decode_length():
  table, run = _beam_fn(3, "huggingface")
  limits = [2, 5, 3]
  tokens, scores = run(1.0, limits)
  for example, limit in enumerate(limits):
    alone_tokens, alone_scores = run(1.0, limit)
    np.testing.assert_array_equal(tokens[example], alone_tokens[example])
    np.testing.assert_array_equal(scores[example], alone_scores[example])
    assert not tokens[example, :, limit:].any()
  assert len(table) == len(limits)


def test_an_example_does_not_depend_on_its_neighbours():
  table, start = _toy(seed=5, batch=4)
  settings: Any = dict(max_decode_length=LENGTH, num_beams=2)

  @jax.jit
  def search(table):
    return beam_search.beam_search(*start(table), **settings)

  tokens, scores = search(table)
  alone_tokens, alone_scores = search(table[2:3])
  np.testing.assert_array_equal(tokens[2], alone_tokens[0])
  np.testing.assert_allclose(scores[2], alone_scores[0], rtol=1e-6)


def test_t5x_returns_unfinished_sequences_only_where_none_has_ended():
  _, start = _toy(eos_bonus=-99.0)
  tokens, scores = jax.jit(
    lambda: beam_search.beam_search(
      *start(), max_decode_length=LENGTH, num_beams=2
    )
  )()
  assert (np.asarray(tokens) != EOS).all()
  # Plain log-probabilities, not divided by the penalty.
  table, _ = _toy(eos_bonus=-99.0)
  by_tokens = dict(_sequences(table[0]))
  expected = by_tokens[tuple(np.asarray(tokens)[0, 0].tolist())]
  assert scores[0, 0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
  ("settings", "name"),
  [
    ({"convention": "t5"}, "convention"),
    ({"num_beams": 0}, "num_beams"),
    ({"early_stopping": True}, "early_stopping"),
    (
      {"convention": "huggingface", "early_stopping": "always"},
      "early_stopping",
    ),
    ({"length_penalty": -1.0}, "length_penalty"),
  ],
)
def test_wrong_beam_settings_are_named(settings, name):
  _, start = _toy()
  with pytest.raises(UserError, match=rf"{name} is ") as error:
    beam_search.beam_search(*start(), max_decode_length=LENGTH, **settings)
  assert f"DecodeOptions.{name}" in error.value.fields


# ---------------------------------------------------------------- with a student


def _student(config):
  model = EncoderDecoderModel(config)
  params = small_models.initial_params(config)
  rng = np.random.default_rng(1)
  inputs = rng.integers(2, config.vocab_size, (2, 6)).astype(np.int32)
  inputs[1, 3:] = 0
  return model, params, inputs


@pytest.mark.parametrize(
  "overrides",
  [
    pytest.param({}, id="1.1"),
    pytest.param(
      {"mlp_activations": ("relu",), "logits_via_embedding": True},
      id="1.0",
      marks=pytest.mark.slow,
    ),
    pytest.param({"scan_layers": True}, id="scanned", marks=pytest.mark.slow),
  ],
)
def test_cached_steps_equal_the_full_forward_pass(overrides):
  model, params, inputs = _student(dataclasses.replace(CONFIG, **overrides))
  rng = np.random.default_rng(2)
  # Three sequences for each example, so that they share its keys and values;
  # long enough to leave the buckets of single distances.
  decoder = rng.integers(2, 23, (6, 21)).astype(np.int32)
  decoder[:, 0] = 0
  full = jax.jit(model.apply)(
    params,
    {
      "encoder_input_tokens": np.repeat(inputs, 3, axis=0),
      "decoder_input_tokens": decoder,
    },
  )

  @jax.jit
  def stepwise(params):
    encoded = model.encode(params, inputs)
    cache = model.init_cache(params, encoded, inputs, 21).repeat(3)

    def step(cache, tokens):
      logits, cache = model.decode_step(params, cache, tokens)
      return cache, logits

    _, logits = jax.lax.scan(step, cache, decoder.T)
    return logits.swapaxes(0, 1)

  np.testing.assert_allclose(stepwise(params), full, atol=1e-5)


@pytest.mark.slow
def test_beam_scores_are_those_of_the_full_forward_pass():
  model, params, inputs = _student(CONFIG)
  length, beams = 6, 3

  @jax.jit
  def search(params):
    encoded = model.encode(params, inputs)
    cache = model.init_cache(params, encoded, inputs, length)
    return beam_search.beam_search(
      functools.partial(model.decode_step, params),
      cache,
      max_decode_length=length,
      num_beams=beams,
      convention="huggingface",
      length_penalty=0.0,
    )

  tokens, scores = search(params)
  targets = np.asarray(tokens).reshape(-1, length)
  logits = jax.jit(model.apply)(
    params,
    {
      "encoder_input_tokens": np.repeat(inputs, beams, axis=0),
      "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    },
  )
  log_probs = np.take_along_axis(
    _log_probs(np.asarray(logits)), targets[..., None], axis=-1
  )[..., 0]
  ended = np.cumsum(targets == EOS, axis=1) - (targets == EOS) > 0
  total = np.where(ended, 0.0, log_probs).sum(-1).reshape(-1, beams)
  np.testing.assert_allclose(scores, total, atol=1e-4)
