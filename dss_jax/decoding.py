"""Decoding over a `decode_step` function: greedy, sampling, beam search.

Everything here is pure, has static shapes and stops as soon as all examples
are finished. A decode is jitted as a whole:

    @functools.partial(jax.jit, static_argnames="length")
    def decode(params, tokens, *, length):
      encoded = model.encode(params, tokens)
      cache = model.init_cache(params, encoded, tokens, length)
      step = functools.partial(model.decode_step, params)
      return decoding.beam_search(step, cache, max_decode_length=length)

Sequences begin with the input token 0, end with (and include) `eos_id`, and
are padded with 0. What an example decodes to depends on that example alone,
never on its neighbours in the batch (sampling: on its place in the batch).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dss_jax import constraints
from dss_jax.beam_search import beam_search as beam_search
from dss_jax.constraints import Constraint
from dss_jax.data.vocabularies import EOS_ID
from dss_jax.errors import UserError
from dss_jax.models.decode_cache import DecodeCache, DecodeStepFn

Array = jax.Array

# Below it, sampling takes the most probable token; as T5X.
MIN_TEMPERATURE = 1e-4


def greedy(
  decode_step_fn: DecodeStepFn,
  cache: DecodeCache,
  *,
  max_decode_length: int,
  eos_id: int = EOS_ID,
  max_lengths: Array | None = None,
  constrain: Constraint | None = None,
) -> tuple[Array, Array]:
  """Takes the most probable token at each position.

  Args:
    decode_step_fn: (cache, tokens [batch]) -> (logits [batch, vocab], cache).
    cache: fresh, for `batch` sequences.
    max_decode_length: tokens decoded at most, EOS included; static.
    eos_id: the token that ends a sequence.
    max_lengths: optional [batch] int32, a limit for each example.
    constrain: takes the most probable among the tokens that it allows.

  Returns:
    tokens [batch, max_decode_length] int32 and scores [batch] float32, the
    log-probability of each sequence, its EOS included.
  """
  return _decode_one_by_one(
    decode_step_fn,
    cache,
    lambda logits, allowed, step: _most_probable(logits, allowed),
    max_decode_length=max_decode_length,
    eos_id=eos_id,
    max_lengths=max_lengths,
    constrain=constrain,
  )


def temperature_sample(
  decode_step_fn: DecodeStepFn,
  cache: DecodeCache,
  key: Array,
  *,
  max_decode_length: int,
  eos_id: int = EOS_ID,
  temperature: float | Array = 1.0,
  topk: int = 0,
  topp: float | Array = 0.0,
  num_decodes: int = 1,
  rescale_log_probs: bool = True,
  max_lengths: Array | None = None,
  constrain: Constraint | None = None,
) -> tuple[Array, Array]:
  """Samples each next token from the model's distribution.

  Temperature is applied first, then `topk`, then `topp` among what is left.

  Args:
    decode_step_fn: (cache, tokens [n]) -> (logits [n, vocab], cache).
    cache: fresh, for `batch` sequences.
    key: typed key of the draws.
    max_decode_length: tokens decoded at most, EOS included; static.
    eos_id: the token that ends a sequence.
    temperature: divides the logits; scalar, or [batch] for one an example.
      Below 1e-4 the most probable token is taken.
    topk: sample among the `topk` most probable tokens; 0 for all; static.
    topp: sample among the fewest most probable tokens whose probabilities add
      up to at least `topp`; 0 for all.
    num_decodes: sequences for each example; static.
    rescale_log_probs: score by the distribution drawn from, as T5X, instead
      of by the model's own (temperature 1, nothing cut off).
    max_lengths: optional [batch] int32, a limit for each example.
    constrain: samples among the tokens that it allows.

  Returns:
    tokens [batch, num_decodes, max_decode_length] int32 and scores
    [batch, num_decodes] float32, log-probabilities, the highest first.
  """
  check_sampling(topk, topp, num_decodes)
  batch = cache.num_sequences
  temperature = jnp.broadcast_to(
    jnp.asarray(temperature, jnp.float32), (batch,)
  )
  # [batch] -> [batch * num_decodes, 1]
  temperature = jnp.repeat(temperature, num_decodes)[:, None]

  def choose(logits, allowed, step):
    candidates = (
      logits if allowed is None else constraints.allowed_logits(logits, allowed)
    )
    scaled = candidates / jnp.maximum(temperature, MIN_TEMPERATURE)
    scaled = _keep_top(scaled, topk, topp)
    drawn = jax.random.categorical(jax.random.fold_in(key, step), scaled)
    cold = temperature[:, 0] <= MIN_TEMPERATURE
    chosen = jnp.where(cold, jnp.argmax(candidates, axis=-1), drawn)
    if rescale_log_probs:
      log_probs = jnp.where(cold, 0.0, _log_prob(scaled, chosen, scaled))
    else:
      log_probs = _log_prob(candidates, chosen, logits)
    return _tokens_of(chosen, allowed), log_probs

  tokens, scores = _decode_one_by_one(
    decode_step_fn,
    cache.repeat(num_decodes),
    choose,
    max_decode_length=max_decode_length,
    eos_id=eos_id,
    max_lengths=(
      None if max_lengths is None else jnp.repeat(max_lengths, num_decodes)
    ),
    constrain=constrain,
    num_decodes=num_decodes,
  )
  tokens = tokens.reshape(batch, num_decodes, max_decode_length)
  scores, order = jax.lax.top_k(scores.reshape(batch, num_decodes), num_decodes)
  return jnp.take_along_axis(tokens, order[:, :, None], axis=1), scores


def check_sampling(
  topk: int, topp: float | Array, num_decodes: int = 1
) -> None:
  """Raises UserError for settings that `temperature_sample` cannot use."""
  where = "set decoding.DecodeOptions"
  if topk < 0:
    raise UserError(f"topk is {topk} but must be 0 or more: {where}.topk")
  if not isinstance(topp, jax.Array) and not 0.0 <= topp <= 1.0:
    raise UserError(f"topp is {topp} but must be in [0, 1]: {where}.topp")
  if num_decodes < 1:
    raise UserError(f"num_decodes is {num_decodes} but must be 1 or more")


def _keep_top(logits: Array, topk: int, topp: float | Array) -> Array:
  """Sets the logits [n, vocab] of tokens that are cut off to -inf."""
  if topk:
    values, _ = jax.lax.top_k(logits, min(topk, logits.shape[-1]))
    # As a minimum: XLA on CPU turns the slice [:, -1:] into a full sort.
    kth = jnp.min(values, axis=-1, keepdims=True)
    logits = jnp.where(logits < kth, -jnp.inf, logits)
  if isinstance(topp, jax.Array) or 0.0 < topp < 1.0:
    probabilities = jax.nn.softmax(logits, axis=-1)
    topp = jnp.where(topp > 0.0, topp, 1.0)
    least = _nucleus_threshold(probabilities, topp)[:, None]
    logits = jnp.where(probabilities < least, -jnp.inf, logits)
  return logits


def _nucleus_threshold(probabilities: Array, topp: float | Array) -> Array:
  """The greatest t such that the probabilities >= t add up to `topp`.

  Found bit by bit (non-negative floats are ordered as their bits are), which
  is exact and, on CPU, ten times as fast as sorting the vocabulary.

  Args:
    probabilities: [n, vocab] float32.
    topp: in [0, 1].

  Returns:
    [n] float32.
  """
  bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)
  batch = probabilities.shape[0]
  low = jnp.zeros((batch,), jnp.int32)  # enough: all tokens
  high = jnp.max(bits, axis=-1) + 1  # not enough: no token

  def halve(_, bounds):
    low, high = bounds
    middle = low + (high - low) // 2
    kept = jnp.where(bits >= middle[:, None], probabilities, 0.0)
    # No token at all is never enough, not even for topp = 0.
    total = jnp.sum(kept, axis=-1)
    enough = (total >= topp) & (total > 0.0)
    return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

  low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
  return jax.lax.bitcast_convert_type(low, jnp.float32)


def _most_probable(logits: Array, allowed: Array | None):
  """Tokens [n] and their log-probabilities [n] under logits [n, vocab]."""
  candidates = (
    logits if allowed is None else constraints.allowed_logits(logits, allowed)
  )
  chosen = jnp.argmax(candidates, axis=-1)
  log_probs = _log_prob(candidates, chosen, logits)
  return _tokens_of(chosen, allowed), log_probs


def _log_prob(candidates: Array, chosen: Array, logits: Array) -> Array:
  """Log-probabilities [n] of chosen [n] of candidates [n, c], under logits."""
  values = jnp.take_along_axis(candidates, chosen[:, None], axis=-1)[:, 0]
  return values - jax.nn.logsumexp(logits, axis=-1)


def _tokens_of(chosen: Array, allowed: Array | None) -> Array:
  """Places [n] among the candidates -> tokens [n] int32."""
  if allowed is None:
    return chosen.astype(jnp.int32)
  tokens = jnp.take_along_axis(allowed, chosen[:, None], axis=-1)[:, 0]
  return jnp.maximum(tokens, 0)


def _decode_one_by_one(
  decode_step_fn: DecodeStepFn,
  cache: DecodeCache,
  choose: Callable[[Array, Array | None, Array], tuple[Array, Array]],
  *,
  max_decode_length: int,
  eos_id: int,
  max_lengths: Array | None,
  constrain: Constraint | None,
  num_decodes: int = 1,
) -> tuple[Array, Array]:
  """Sequences that do not compete; `choose` gives tokens and log-probs."""
  limits = cache.limits(max_decode_length, max_lengths)
  sequences = cache.num_sequences
  tokens = jnp.zeros((sequences, max_decode_length), jnp.int32)
  last = jnp.zeros((sequences,), jnp.int32)
  scores = jnp.zeros((sequences,), jnp.float32)
  nodes = None
  if constrain is not None:
    nodes = jnp.repeat(constrain.start(sequences // num_decodes), num_decodes)

  def unfinished(state):
    step, _, _, _, ended, _, _ = state
    return (step < max_decode_length) & ~jnp.all(ended)

  def advance(state):
    step, tokens, last, scores, ended, nodes, cache = state
    logits, cache = decode_step_fn(cache, last)
    allowed = None if constrain is None else constrain.allowed(nodes)
    chosen, log_probs = choose(logits, allowed, step)
    if constrain is not None:
      nodes = constrain.advance(nodes, chosen)
    chosen = jnp.where(ended, 0, chosen)
    scores = scores + jnp.where(ended, 0.0, log_probs)
    tokens = jax.lax.dynamic_update_slice_in_dim(
      tokens, chosen[:, None], step, axis=1
    )
    ended = ended | (chosen == eos_id) | (step + 1 >= limits)
    return step + 1, tokens, chosen, scores, ended, nodes, cache

  start = (jnp.int32(0), tokens, last, scores, limits <= 0, nodes, cache)
  _, tokens, _, scores, *_ = jax.lax.while_loop(unfinished, advance, start)
  return tokens, scores
