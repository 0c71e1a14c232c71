"""Beam search with T5X's or Hugging Face's scores and stopping rule."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.base.special_ids import EOS_ID
from dss_jax.models.decode_cache import DecodeCache, DecodeStepFn
from dss_jax.models.decoding import allowed_outputs
from dss_jax.models.decoding.allowed_outputs import Constraint

Array = jax.Array

CONVENTIONS = ("t5x", "huggingface")

# Scores of real sequences are greater: they would have to be hundreds of
# thousands of tokens long to come near.
NO_SEQUENCE = -5e6


# ------------------------------------------------------------------ conventions


@dataclasses.dataclass(frozen=True)
class _T5XConvention:
  """Scores log p / ((5 + length) / 6)^alpha; stops by its bound.

  Source: Wu et al. 2016 (arXiv:1609.08144), section 7, as T5X uses it. Only
  EOS finishes a sequence; one cut off by the length limit is returned only
  where an example has no finished one, then with its plain log-probability.
  """

  alpha: float | Array
  empty_score: float = -1e7  # of a place that no finished sequence has taken
  only_top_finish: bool = False
  limit_finishes: bool = False

  def score(self, log_prob: Array, length: Array) -> Array:
    return log_prob / ((5.0 + length) / 6.0) ** self.alpha

  def best_possible(self, log_prob: Array, length: Array, limit: Array):
    # Log-probabilities only fall, and the penalty is greatest at full length;
    # T5X counts the first input in it too.
    del length
    return self.score(log_prob, limit + 1.0)

  def stop_when_full(self) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class _HuggingFaceConvention:
  """Scores log p / length^length_penalty; stops as `generate` does.

  Source: transformers 5, `GenerationMixin._beam_search`. The length counts
  EOS but not the first input; the length limit finishes a sequence too; only
  the first `num_beams` of the candidates may finish.
  """

  length_penalty: float | Array
  early_stopping: bool | str
  empty_score: float = -1e9
  only_top_finish: bool = True
  limit_finishes: bool = True

  def score(self, log_prob: Array, length: Array) -> Array:
    return log_prob / jnp.asarray(length, jnp.float32) ** self.length_penalty

  def best_possible(self, log_prob: Array, length: Array, limit: Array):
    # Unless early_stopping is "never" this is a heuristic: with a positive
    # penalty a longer sequence can still score better.
    if self.early_stopping == "never":
      length = jnp.where(self.length_penalty > 0.0, limit, length)
    return self.score(log_prob, length)

  def stop_when_full(self) -> bool:
    return self.early_stopping is True


_Convention = _T5XConvention | _HuggingFaceConvention


# ------------------------------------------------------------------- the search


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Beams:
  """The state of a beam search.

  Attributes:
    step: scalar int32, tokens decoded so far.
    active: [batch] bool, examples that still search.
    live_tokens: [batch, beams, length] int32, unfinished, best first.
    live_log_probs: [batch, beams] float32.
    tokens: [batch, beams, length] int32, finished, best first.
    scores: [batch, beams] float32.
    taken: [batch, beams] bool, whether a finished sequence is in the place.
    nodes: [batch * beams] int32, the constraint's states, in the order of
      `live_tokens`; nothing, where nothing constrains.
    cache: of batch * beams sequences, in the same order.
  """

  step: Array
  active: Array
  live_tokens: Array
  live_log_probs: Array
  tokens: Array
  scores: Array
  taken: Array
  nodes: Array
  cache: DecodeCache


def beam_search(
  decode_step_fn: DecodeStepFn,
  cache: DecodeCache,
  *,
  max_decode_length: int,
  eos_id: int = EOS_ID,
  num_beams: int = 4,
  length_penalty: float | Array | None = None,
  convention: str = "t5x",
  early_stopping: bool | str = False,
  max_lengths: Array | None = None,
  constrain: Constraint | None = None,
) -> tuple[Array, Array]:
  """Beam search with the scores and the stopping rule of either library.

  Args:
    decode_step_fn: (cache, tokens [n]) -> (logits [n, vocab], cache).
    cache: fresh, for `batch` sequences.
    max_decode_length: tokens decoded at most, EOS included; static.
    eos_id: the token that ends a sequence.
    num_beams: sequences kept and returned for each example; static.
    length_penalty: "t5x": alpha in log p / ((5 + length) / 6)^alpha, default
      0.6; "huggingface": the exponent in log p / length^length_penalty,
      default 1.
    convention: whose scores and stopping rule, "t5x" or "huggingface"; static.
    early_stopping: as in transformers, for its convention only; static. False:
      stop when the best live beam, scored at the present length, cannot
      enter; "never": scored at the length that favours it most; True: stop
      with `num_beams` finished sequences.
    max_lengths: optional [batch] int32, a limit for each example.
    constrain: searches among the sequences that it allows. Where these are
      fewer than beams, places stay without a sequence.

  Returns:
    tokens [batch, num_beams, max_decode_length] int32 and scores
    [batch, num_beams] float32, the best first. A place without a sequence has
    zeros and a score of NO_SEQUENCE or less.
  """
  rule = check_settings(convention, length_penalty, early_stopping, num_beams)
  batch = cache.num_sequences
  limits = cache.limits(max_decode_length, max_lengths)
  beams = _start(cache, batch, num_beams, max_decode_length, rule, limits)
  if constrain is not None:
    nodes = jnp.repeat(constrain.start(batch), num_beams)
    beams = dataclasses.replace(beams, nodes=nodes)

  def unfinished(beams: _Beams):
    return (beams.step < max_decode_length) & jnp.any(beams.active)

  def advance(beams: _Beams) -> _Beams:
    return _advance(decode_step_fn, beams, rule, limits, eos_id, constrain)

  beams = jax.lax.while_loop(unfinished, advance, beams)
  if rule.limit_finishes:
    return beams.tokens, beams.scores
  any_taken = jnp.any(beams.taken, axis=1)
  return (
    jnp.where(any_taken[:, None, None], beams.tokens, beams.live_tokens),
    jnp.where(any_taken[:, None], beams.scores, beams.live_log_probs),
  )


def check_settings(
  name: str,
  length_penalty: float | Array | None,
  early_stopping: bool | str,
  num_beams: int,
) -> _Convention:
  """The convention of these settings; see `beam_search`.

  Raises:
    UserError: for settings that a beam search cannot use.
  """
  checks.in_range("DecodeOptions.num_beams", num_beams, 1)
  checks.one_of("DecodeOptions.convention", name, CONVENTIONS)
  if name == "huggingface":
    checks.one_of(
      "DecodeOptions.early_stopping", early_stopping, (True, False, "never")
    )
    penalty = 1.0 if length_penalty is None else length_penalty
    return _HuggingFaceConvention(penalty, early_stopping)
  if early_stopping is not False:
    raise UserError(
      f"early_stopping is {early_stopping!r}; it must be False with convention"
      " 't5x'",
      fields=("DecodeOptions.early_stopping", "DecodeOptions.convention"),
    )
  alpha = 0.6 if length_penalty is None else length_penalty
  if not isinstance(alpha, jax.Array) and alpha < 0.0:
    raise UserError(
      f"length_penalty is {alpha}; it must be 0 or more with convention 't5x',"
      " whose stopping bound needs it",
      fields=("DecodeOptions.length_penalty", "DecodeOptions.convention"),
    )
  return _T5XConvention(alpha)


# --------------------------------------------------------------------- one step


def _start(
  cache: DecodeCache,
  batch: int,
  num_beams: int,
  length: int,
  rule: _Convention,
  limits: Array,
) -> _Beams:
  """Returns empty beams; only the first counts, or all would be equal."""
  tokens = jnp.zeros((batch, num_beams, length), jnp.int32)
  empty = jnp.full((batch, num_beams), rule.empty_score, jnp.float32)
  return _Beams(
    step=jnp.int32(0),
    active=limits > 0,
    live_tokens=tokens,
    live_log_probs=empty.at[:, 0].set(0.0),
    tokens=tokens,
    scores=empty,
    taken=jnp.zeros((batch, num_beams), bool),
    nodes=jnp.zeros((batch * num_beams,), jnp.int32),
    cache=cache.repeat(num_beams),
  )


def _advance(
  decode_step_fn: DecodeStepFn,
  beams: _Beams,
  rule: _Convention,
  limits: Array,
  eos_id: int,
  constrain: Constraint | None,
) -> _Beams:
  """One step of beam search. K = beams, 2K = candidates of an example."""
  batch, num_beams, _ = beams.live_tokens.shape
  step, length = beams.step, beams.step + 1
  last = jax.lax.dynamic_slice_in_dim(
    beams.live_tokens, jnp.maximum(step - 1, 0), 1, axis=2
  )
  last = jnp.where(step == 0, 0, last)
  logits, cache = decode_step_fn(beams.cache, last.reshape(-1))
  # [batch, 2K] each: enough to keep K live though K others may finish.
  logits = logits.reshape(batch, num_beams, -1)
  if constrain is None:
    allowed = None
  else:
    allowed = constrain.allowed(beams.nodes).reshape(batch, num_beams, -1)
  log_probs, parents, next_tokens = _candidates(
    logits, beams.live_log_probs, allowed, rule.empty_score
  )
  # [batch, 2K, length]
  extended = jnp.take_along_axis(beams.live_tokens, parents[:, :, None], axis=1)
  extended = jax.lax.dynamic_update_slice_in_dim(
    extended, next_tokens[:, :, None], step, axis=2
  )
  at_limit = length >= limits
  ends = next_tokens == eos_id
  if rule.limit_finishes:
    ends = ends | at_limit[:, None]
  if constrain is not None:
    # With fewer sequences than places, the rest of the places stay empty.
    ends = ends & (log_probs > NO_SEQUENCE)

  # Live: the K best of those that have not ended.
  live_log_probs, order = jax.lax.top_k(
    jnp.where(ends, rule.empty_score, log_probs), num_beams
  )
  live_tokens = jnp.take_along_axis(extended, order[:, :, None], axis=1)
  parents = jnp.take_along_axis(parents, order, axis=1)
  rows = jnp.arange(batch)[:, None] * num_beams
  sources = (rows + parents).reshape(-1)
  nodes = beams.nodes
  if constrain is not None:
    last = jnp.take_along_axis(next_tokens, order, axis=1)
    nodes = constrain.advance(nodes[sources], last.reshape(-1))

  tokens, scores, taken = _finished(beams, extended, log_probs, ends, rule)

  full = jnp.all(taken, axis=1)
  best = rule.best_possible(live_log_probs[:, 0], length, limits)
  settled = full & (rule.stop_when_full() | (best <= scores[:, -1]))
  if constrain is not None:
    settled = settled | (live_log_probs[:, 0] <= NO_SEQUENCE)

  # An example that has stopped searching keeps what it has.
  def select(new, old):
    active = beams.active.reshape((batch,) + (1,) * (new.ndim - 1))
    return jnp.where(active, new, old)

  return _Beams(
    step=length,
    active=beams.active & ~at_limit & ~settled,
    live_tokens=select(live_tokens, beams.live_tokens),
    live_log_probs=select(live_log_probs, beams.live_log_probs),
    tokens=select(tokens, beams.tokens),
    scores=select(scores, beams.scores),
    taken=select(taken, beams.taken),
    nodes=nodes,
    cache=cache.reorder(sources),
  )


def _finished(
  beams: _Beams,
  extended: Array,
  log_probs: Array,
  ends: Array,
  rule: _Convention,
) -> tuple[Array, Array, Array]:
  """The K best finished sequences: those from before and the new ones.

  Args:
    beams: the state before this step.
    extended: [batch, 2K, length] int32, the candidates.
    log_probs: [batch, 2K] float32, of the candidates, best first.
    ends: [batch, 2K] bool, whether the candidates are finished.
    rule: how they score, and which may finish.

  Returns:
    tokens [batch, K, length], scores [batch, K], taken [batch, K].
  """
  num_beams = beams.scores.shape[1]
  if rule.only_top_finish:
    ends = ends & (jnp.arange(ends.shape[1]) < num_beams)
  scores = jnp.where(
    ends, rule.score(log_probs, beams.step + 1), rule.empty_score
  )
  scores, order = jax.lax.top_k(
    jnp.concatenate([beams.scores, scores], axis=1), num_beams
  )
  taken = jnp.concatenate([beams.taken, ends], axis=1)
  tokens = jnp.concatenate([beams.tokens, extended], axis=1)
  return (
    jnp.take_along_axis(tokens, order[:, :, None], axis=1),
    scores,
    jnp.take_along_axis(taken, order, axis=1),
  )


def _candidates(
  logits: Array,
  live_log_probs: Array,
  allowed: Array | None,
  empty_score: float,
) -> tuple[Array, Array, Array]:
  """The 2K most probable continuations of K beams, best first.

  Taking 2K of each beam first spares both the log-softmax and the sort of
  [K * vocab] numbers.

  Args:
    logits: [batch, K, vocab] float32.
    live_log_probs: [batch, K] float32.
    allowed: [batch, K, width] int32, the tokens there are, or None for all.
    empty_score: the log-probability of what fills places without a token.

  Returns:
    log-probabilities [batch, 2K], beams [batch, 2K], tokens [batch, 2K];
    fewer of each where K beams have no 2K tokens.
  """
  batch, num_beams, vocab = logits.shape
  wanted = 2 * num_beams
  normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  if allowed is None:
    best, tokens = jax.lax.top_k(logits, min(wanted, vocab))
    log_probs = best - normalizer + live_log_probs[:, :, None]
  else:
    best, tokens = allowed_outputs.allowed_logits(logits, allowed), allowed
    log_probs = best - normalizer + live_log_probs[:, :, None]
    log_probs = jnp.maximum(log_probs, empty_score)
    tokens = jnp.maximum(tokens, 0)
  per_beam = best.shape[-1]
  log_probs, order = jax.lax.top_k(
    log_probs.reshape(batch, -1), min(wanted, num_beams * per_beam)
  )
  tokens = jnp.take_along_axis(tokens.reshape(batch, -1), order, axis=1)
  return log_probs, order // per_beam, tokens
