"""Decoding one token after the other: greedily, or by sampling."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dss_jax.base import checks
from dss_jax.base.special_ids import EOS_ID
from dss_jax.models.decode_cache import DecodeCache, DecodeStepFn
from dss_jax.models.decoding import allowed_outputs
from dss_jax.models.decoding.allowed_outputs import Constraint

Array = jax.Array

# Below it, sampling takes the most probable token; as T5X.
MIN_TEMPERATURE = 1e-4

# With fewer sequences than this, leaving some out saves no time.
MIN_COMPACTED = 32


# ------------------------------------------------------------------- algorithms


def greedy(
  decode_step_fn: DecodeStepFn,
  cache: DecodeCache,
  *,
  max_decode_length: int,
  eos_id: int = EOS_ID,
  max_lengths: Array | None = None,
  constrain: Constraint | None = None,
  compact: bool = False,
) -> tuple[Array, Array]:
  """Takes the most probable token at each position.

  Args:
    decode_step_fn: (cache, tokens [batch]) -> (logits [batch, vocab], cache).
    cache: fresh, for `batch` sequences.
    max_decode_length: tokens decoded at most, EOS included; static.
    eos_id: the token that ends a sequence.
    max_lengths: optional [batch] int32, a limit for each example.
    constrain: takes the most probable among the tokens that it allows.
    compact: continue with half, then with an eighth of the rows as soon as the
      others have ended: faster where a step's time grows with its rows, at
      the cost of compiling three loops; static. One sequence an example.

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
    compact=compact,
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
      logits
      if allowed is None
      else allowed_outputs.allowed_logits(logits, allowed)
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
  checks.in_range("DecodeOptions.topk", topk, 0)
  if not isinstance(topp, jax.Array):
    checks.in_range("DecodeOptions.topp", topp, 0, 1)
  checks.in_range("num_decodes", num_decodes, 1)


# ------------------------------------------------------------ one step's choice


def _keep_top(logits: Array, topk: int, topp: float | Array) -> Array:
  """Sets the logits [n, vocab] of tokens that are cut off to -inf."""
  if topk:
    values, _ = jax.lax.top_k(logits, min(topk, logits.shape[-1]))
    # The minimum, since XLA on CPU turns the slice [:, -1:] into a full sort.
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
  if allowed is not None:
    candidates = allowed_outputs.allowed_logits(logits, allowed)
    chosen = jnp.argmax(candidates, axis=-1)
    log_probs = _log_prob(candidates, chosen, logits)
    return _tokens_of(chosen, allowed), log_probs
  chosen, highest = _argmax(logits)
  # The probability of the best is one over the sum of all relative to it.
  total = jnp.sum(jnp.exp(logits - highest[:, None]), axis=-1)
  return chosen.astype(jnp.int32), -jnp.log(total)


def _argmax(logits: Array) -> tuple[Array, Array]:
  """The first greatest of each row [n, vocab]: place [n] and value [n]."""
  return jax.lax.platform_dependent(
    logits, cpu=_argmax_by_parts, default=_plain_argmax
  )


def _plain_argmax(logits: Array) -> tuple[Array, Array]:
  return jnp.argmax(logits, axis=-1), jnp.max(logits, axis=-1)


def _argmax_by_parts(logits: Array) -> tuple[Array, Array]:
  """Greatest values of parts first, then the place within one part.

  XLA has vector instructions for the maximum but not for its place: on CPU
  this takes a tenth of the time.
  """
  rows, vocab = logits.shape
  part = next(n for n in (128, 64, 32, 16, 8, 4, 2, 1) if vocab % n == 0)
  parts = logits.reshape(rows, vocab // part, part)
  highest = jnp.max(parts, axis=-1)
  which = jnp.argmax(highest, axis=-1)
  found = jnp.take_along_axis(parts, which[:, None, None], axis=1)[:, 0]
  return which * part + jnp.argmax(found, axis=-1), jnp.max(highest, axis=-1)


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


# --------------------------------------------------------------------- the loop


class _Running(NamedTuple):
  """Sequences on their way; `n` of those that were started.

  Attributes:
    cache: of n sequences.
    tokens: [n, length] int32, so far.
    last: [n] int32, the newest ones.
    scores: [n] float32.
    ended: [n] bool.
    limits: [n] int32, the greatest length of each.
    nodes: [n] int32, the constraint's states; nothing, where there is none.
    rows: [n] int32, which of the started sequences these are.
  """

  cache: Any
  tokens: Array
  last: Array
  scores: Array
  ended: Array
  limits: Array
  nodes: Array
  rows: Array

  def unfinished(self, n: int) -> _Running:
    """n of them, those that have not ended first."""
    # Stable, so that the order is that of before.
    kept = jnp.argsort(self.ended, stable=True)[:n]
    moved = jax.tree.map(
      lambda x: jnp.take(x, kept, axis=0), self._replace(cache=None)
    )
    return moved._replace(cache=self.cache.take(kept))


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
  compact: bool = False,
) -> tuple[Array, Array]:
  """Sequences that do not compete; `choose` gives tokens and log-probs."""
  n = cache.num_sequences
  nodes = jnp.zeros((n,), jnp.int32)
  if constrain is not None:
    nodes = jnp.repeat(constrain.start(n // num_decodes), num_decodes)
  limits = cache.limits(max_decode_length, max_lengths)
  running = _Running(
    cache=cache,
    tokens=jnp.zeros((n, max_decode_length), jnp.int32),
    last=jnp.zeros((n,), jnp.int32),
    scores=jnp.zeros((n,), jnp.float32),
    ended=limits <= 0,
    limits=limits,
    nodes=nodes,
    rows=jnp.arange(n),
  )

  def advance(state: tuple[Array, _Running]) -> tuple[Array, _Running]:
    step, now = state
    logits, cache = decode_step_fn(now.cache, now.last)
    allowed = None if constrain is None else constrain.allowed(now.nodes)
    chosen, log_probs = choose(logits, allowed, step)
    nodes = now.nodes
    if constrain is not None:
      nodes = constrain.advance(nodes, chosen)
    chosen = jnp.where(now.ended, 0, chosen)
    return step + 1, now._replace(
      cache=cache,
      tokens=jax.lax.dynamic_update_slice_in_dim(
        now.tokens, chosen[:, None], step, axis=1
      ),
      last=chosen,
      scores=now.scores + jnp.where(now.ended, 0.0, log_probs),
      ended=now.ended | (chosen == eos_id) | (step + 1 >= now.limits),
      nodes=nodes,
    )

  # Sizes of the batch, and 0, at which nothing is left to do.
  sizes = [n, n // 2, n // 8, 0] if compact and n >= MIN_COMPACTED else [n, 0]
  step, tokens, scores = jnp.int32(0), running.tokens, running.scores
  for size, smaller in itertools.pairwise(sizes):
    if size < n:
      running = running.unfinished(size)

    def crowded(state, smaller=smaller):
      step, now = state
      return (step < max_decode_length) & (jnp.sum(~now.ended) > smaller)

    step, running = jax.lax.while_loop(crowded, advance, (step, running))
    tokens = tokens.at[running.rows].set(running.tokens)
    scores = scores.at[running.rows].set(running.scores)
  return tokens, scores
