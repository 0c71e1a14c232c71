"""Decoding among the members of a set, against walking through all of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.models.decode_cache import DecodeCache
from dss_jax.models.decoding import beam_search, token_by_token
from dss_jax.models.decoding.allowed_outputs import NO_TOKEN, Trie

EOS, VOCAB, LENGTH, BATCH = 1, 9, 5, 4
# One is a prefix of another, some share their beginning.
MEMBERS = [(5, EOS), (5, 6, EOS), (7, 3, 3, 2, EOS), (7, 3, 8, EOS), (EOS,)]


@functools.cache
def _table():
  rng = np.random.default_rng(0)
  table = rng.normal(size=(BATCH, LENGTH, VOCAB, VOCAB)).astype(np.float32)
  return 2 * table  # logits by example, step and last token


def _start():
  cache = DecodeCache(
    index=jnp.int32(0),
    per_sequence=jnp.arange(BATCH),
    per_example=None,
    step_biases=jnp.zeros((1, 2 * LENGTH - 1)),
  )

  def step(cache, tokens):
    logits = jnp.asarray(_table())[cache.per_sequence, cache.index, tokens]
    return logits, dataclasses.replace(cache, index=cache.index + 1)

  return step, cache


def _log_prob(example, member):
  """The log-probability of a member, over the whole vocabulary."""
  total, last = 0.0, 0
  for step, token in enumerate(member):
    logits = _table()[example, step, last].astype(np.float64)
    total += logits[token] - np.log(np.exp(logits).sum())
    last = token
  return total


def _member(tokens):
  tokens = tuple(np.asarray(tokens).tolist())
  end = tokens.index(EOS) + 1
  assert not any(tokens[end:])
  return tokens[:end]


# ------------------------------------------------------------------------ trie


@settings(deadline=None, max_examples=50)
@given(
  st.lists(st.lists(st.integers(2, 5), max_size=4), min_size=1, max_size=6)
)
def test_a_trie_allows_its_members_and_nothing_else(sequences):
  trie = Trie.from_sequences(sequences)
  tokens = np.asarray(trie.tokens)
  found: set[tuple[int, ...]] = set()
  waiting: list[tuple[int, tuple[int, ...]]] = [(0, ())]
  while waiting:
    node, prefix = waiting.pop()
    first, count = trie.first_edge[node], trie.num_edges[node]
    if not count:
      found.add(prefix)
    for edge in range(first, first + count):
      waiting.append((1 + edge, (*prefix, int(tokens[edge]))))
  assert found == {(*sequence, EOS) for sequence in sequences}
  assert trie.longest == max(map(len, sequences)) + 1


def test_states_follow_the_tokens():
  trie = Trie.from_sequences(MEMBERS)
  states = trie.start(3)
  assert trie.allowed(states).tolist() == [[EOS, 5, 7]] * 3
  states = trie.advance(states, jnp.array([5, 7, EOS]))
  none = [NO_TOKEN] * 2
  assert trie.allowed(states).tolist() == [
    [EOS, 6, NO_TOKEN],
    [3, *none],
    [NO_TOKEN, *none],
  ]
  # What is not allowed changes nothing; an example that ended feeds zeros.
  again = trie.advance(states, jnp.array([8, 8, 0]))
  assert again.tolist() == states.tolist()


@pytest.mark.parametrize(
  "sequences", [[], [[3, 0, 4]], [[3, EOS, 4]], [[3, -1]]]
)
def test_what_no_output_can_be_is_refused(sequences):
  with pytest.raises(UserError, match="a constraint has"):
    Trie.from_sequences(sequences)


# -------------------------------------------------------------------- decoding


def _best_tokens(example, members):
  """The most probable token among those that some member has next."""
  prefix = ()
  while prefix[-1:] != (EOS,):
    fits = [m for m in members if m[: len(prefix)] == prefix]
    logits = _table()[example, len(prefix), prefix[-1] if prefix else 0]
    token = max({m[len(prefix)] for m in fits}, key=lambda t: logits[t])
    prefix = (*prefix, token)
  return prefix


def test_greedy_takes_the_best_token_of_those_allowed():
  trie = Trie.from_sequences(MEMBERS)
  tokens, scores = token_by_token.greedy(
    *_start(), max_decode_length=LENGTH, constrain=trie
  )
  for example in range(BATCH):
    expected = _best_tokens(example, MEMBERS)
    assert _member(tokens[example]) == expected
    assert scores[example] == pytest.approx(
      _log_prob(example, expected), abs=1e-5
    )
  assert len({_member(row) for row in tokens}) > 1


@pytest.mark.parametrize(
  ("convention", "num_beams"),
  [
    ("t5x", 7),
    ("huggingface", 2),
    pytest.param("t5x", 2, marks=pytest.mark.slow),
    pytest.param("huggingface", 7, marks=pytest.mark.slow),
  ],
)
def test_beams_are_the_best_members_and_nothing_else(convention, num_beams):
  @jax.jit
  def search(trie):
    return beam_search.beam_search(
      *_start(),
      max_decode_length=LENGTH,
      num_beams=num_beams,
      convention=convention,
      early_stopping="never" if convention == "huggingface" else False,
      constrain=trie,
    )

  tokens, scores = search(Trie.from_sequences(MEMBERS))
  for example in range(BATCH):

    def score(member, example=example):
      length = len(member)
      penalty = length if convention == "huggingface" else (5 + length) / 6
      power = 1.0 if convention == "huggingface" else 0.6
      return _log_prob(example, member) / penalty**power

    ranked = sorted(MEMBERS, key=score, reverse=True)
    real = scores[example] > beam_search.NO_SEQUENCE
    found = [_member(row) for row in tokens[example][real]]
    assert len(set(found)) == len(found) == min(num_beams, len(MEMBERS))
    np.testing.assert_allclose(
      scores[example][real], [score(member) for member in found], rtol=1e-4
    )
    assert not np.asarray(tokens[example])[~real].any()
    if num_beams >= len(MEMBERS):  # nothing is pruned
      assert found == ranked


def test_samples_are_members_as_often_as_their_tokens_say():
  num_samples = 3000

  @functools.partial(jax.jit, static_argnames="rescale")
  def sample(trie, rescale):
    return token_by_token.temperature_sample(
      *_start(),
      jax.random.key(0),
      max_decode_length=LENGTH,
      num_decodes=num_samples,
      rescale_log_probs=rescale,
      constrain=trie,
    )

  tokens, scores = sample(Trie.from_sequences(MEMBERS), True)
  _, own_scores = sample(Trie.from_sequences(MEMBERS), False)
  for example in range(BATCH):
    found = [_member(row) for row in np.asarray(tokens[example])]
    assert set(found) <= set(MEMBERS)
    # A member is drawn as often as its score, among the members, says.
    by_member = dict(zip(found, np.exp(scores[example]).tolist()))
    for member, probability in by_member.items():
      share = found.count(member) / num_samples
      assert share == pytest.approx(probability, abs=0.04)
    expected = sorted((_log_prob(example, m) for m in found), reverse=True)
    np.testing.assert_allclose(own_scores[example], expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("member", [(4,), (8, 2, 2, 6)])
def test_a_single_member_is_what_comes_out(member):
  trie = Trie.from_sequences([member])
  kwargs = {"max_decode_length": LENGTH, "constrain": trie}
  greedy, _ = token_by_token.greedy(*_start(), **kwargs)
  beams, _ = beam_search.beam_search(*_start(), num_beams=2, **kwargs)
  samples, _ = token_by_token.temperature_sample(
    *_start(), jax.random.key(0), **kwargs
  )
  for tokens in (greedy, beams[:, 0], samples[:, 0]):
    assert {_member(row) for row in tokens} == {(*member, EOS)}
