"""The vocabulary projection, its losses and their gradients in one pass.

Logits are the largest array of training, and the projection onto a vocabulary
of 32,128 a quarter of its work. Three things make it cheap here:

* Positions without a target (padding) are left out before they are projected:
  the others are moved to the front, and only as many chunks of positions are
  computed as hold any.
* A chunk's gradients are computed with its losses, while its logits are there.
  The loss is a weighted sum with weights known beforehand, so nothing later
  can change them but a factor. No logits are kept or computed again.
* What the backward pass then needs is the gradient of the hidden states and of
  the projection's parameters, whatever those are.

Without a chunk size the same is computed by its definition, from all logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dss_jax import losses
from dss_jax.losses import TokenLosses

LogitsFn = Callable[..., jax.Array]

# Logits that exist at once, on one device. On a CPU they should stay near its
# caches; elsewhere a few large products are fastest.
_MAX_LOGITS_BYTES = {"cpu": 24 * 2**20}
_DEFAULT_MAX_LOGITS_BYTES = 512 * 2**20
_MULTIPLE = 64  # of positions: whole tiles of matrix units


def positions_at_once(vocab_size: int, platform: str) -> int:
  """Positions in a chunk, for a vocabulary (of one device) and a platform."""
  max_bytes = _MAX_LOGITS_BYTES.get(platform, _DEFAULT_MAX_LOGITS_BYTES)
  positions = max_bytes // (4 * vocab_size)
  return max(positions // _MULTIPLE, 1) * _MULTIPLE


def weighted_loss(
  logits_fn: LogitsFn,
  hidden: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  counted: jax.Array,
  *,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
  chunk: int | None = None,
  shards: int = 1,
) -> tuple[jax.Array, TokenLosses]:
  """The weighted sum of the losses of the counted positions.

  Args:
    logits_fn: [groups, positions, emb] -> [groups, positions, vocab] float32.
      Gradients flow to what it closes over.
    hidden: [rows, length, emb].
    targets: [rows, length] int32.
    weights: [rows, length] float32; no gradient flows to them.
    counted: [rows, length] bool; the other positions are left out, whatever
      their weights.
    z_loss: see `losses.token_nll`.
    label_smoothing: see `losses.token_nll`.
    chunk: positions of a shard whose logits exist at once; None computes all
      logits, and lets JAX differentiate.
    shards: groups of adjacent rows that lie on different devices, each of which
      moves its own positions.

  Returns:
    The loss, scalar float32, to differentiate, and each position's parts, which
    have no gradients.
  """
  if chunk is None:
    return _plain_loss(
      logits_fn, hidden, targets, weights, counted, z_loss, label_smoothing
    )
  rows, length, emb = hidden.shape
  chunk = min(chunk, rows // shards * length)
  # What `logits_fn` closes over becomes an argument, for its gradient's sake.
  logits_fn, consts = jax.closure_convert(
    logits_fn, jnp.zeros((shards, chunk, emb), hidden.dtype)
  )
  static = _Static(logits_fn, z_loss, label_smoothing, chunk, shards)
  return _weighted_loss(
    static, hidden, tuple(consts), targets, weights, counted
  )


def _plain_loss(
  logits_fn: LogitsFn,
  hidden: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  counted: jax.Array,
  z_loss: float,
  label_smoothing: float,
) -> tuple[jax.Array, TokenLosses]:
  """By definition, from all logits at once."""
  logits = logits_fn(hidden)
  nll, z = losses.token_nll(logits, targets, z_loss, label_smoothing)
  correct = jnp.argmax(logits, axis=-1) == targets
  tokens = TokenLosses(
    jnp.where(counted, nll, 0.0),
    jnp.where(counted, z, 0.0),
    counted & correct,
  )
  loss = jnp.sum(jnp.where(counted, weights, 0.0) * (tokens.nll + tokens.z))
  return loss, jax.lax.stop_gradient(tokens)


class _Static(NamedTuple):
  """The arguments of `weighted_loss` that are no arrays."""

  logits_fn: LogitsFn  # of hidden states and constants
  z_loss: float
  label_smoothing: float
  chunk: int
  shards: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_loss(static, hidden, consts, targets, weights, counted):
  def losses_of(hidden, targets, weights, counted):
    logits = static.logits_fn(hidden, *consts)
    return _losses(static, logits, targets, weights, counted)[:2], ()

  results, _ = _over_chunks(
    static, losses_of, hidden, targets, weights, counted, ()
  )
  return results


def _weighted_loss_fwd(static, hidden, consts, targets, weights, counted):
  def losses_and_gradients(hidden, targets, weights, counted):
    logits, pullback = jax.vjp(static.logits_fn, hidden, *consts)
    loss, tokens, gradient = _losses(static, logits, targets, weights, counted)
    of_hidden, *of_consts = pullback(gradient)
    return (loss, (*tokens, of_hidden)), tuple(of_consts)

  (loss, (*tokens, of_hidden)), of_consts = _over_chunks(
    static, losses_and_gradients, hidden, targets, weights, counted, consts
  )
  return (loss, TokenLosses(*tokens)), (of_hidden, of_consts)


def _weighted_loss_bwd(static, residuals, cotangents):
  del static
  scale, _ = cotangents  # the positions' parts have no gradients
  of_hidden, of_consts = jax.tree.map(
    lambda gradient: (scale * gradient).astype(gradient.dtype), residuals
  )
  return of_hidden, of_consts, None, None, None


_weighted_loss.defvjp(_weighted_loss_fwd, _weighted_loss_bwd)


def _losses(static, logits, targets, weights, counted):
  """The loss of some positions, its parts, and the gradient of the logits."""
  vocab_size = logits.shape[-1]
  confidence, low, entropy = losses.smoothing_constants(
    vocab_size, static.label_smoothing
  )
  highest = jnp.max(logits, axis=-1)
  sum_exp = jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1)
  log_z = highest + jnp.log(sum_exp)
  # A masked sum, not a gather: local where the vocabulary is sharded.
  is_target = jnp.arange(vocab_size) == targets[..., None]
  target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  expected = (confidence - low) * target_logit
  if low:
    expected += low * jnp.sum(logits, axis=-1)
  nll = jnp.where(counted, log_z - expected - entropy, 0.0)
  z = jnp.where(counted, static.z_loss * log_z * log_z, 0.0)
  tokens = TokenLosses(nll, z, counted & (target_logit >= highest))
  scale = weights * (1.0 + 2.0 * static.z_loss * log_z)
  gradient = scale[..., None] * jnp.exp(logits - log_z[..., None])
  gradient -= weights[..., None] * jnp.where(is_target, confidence, low)
  return jnp.sum(weights * (nll + z)), tokens, gradient


def _over_chunks(static, fn, hidden, targets, weights, counted, consts):
  """Applies `fn` to the counted positions, a chunk at a time.

  Args:
    static: see `_Static`.
    fn: of [shards, chunk, ...] arrays -> `((loss, per position), of consts)`.
    hidden: [rows, length, emb], and the others [rows, length].
    consts: arrays like the last results of `fn`, which are summed.

  Returns:
    `((loss, per position), of consts)`, per position [rows, length, ...].
  """
  rows, length, _ = hidden.shape
  shards, chunk = static.shards, static.chunk
  positions = rows // shards * length

  def group(x):
    return x.reshape(shards, positions, *x.shape[2:])

  def take(x, index):
    index = index.reshape(index.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)

  counted = group(counted)
  weights = jnp.where(counted, group(weights), 0.0)
  arrays = (group(hidden), group(targets), weights, counted)
  if positions == chunk:
    (loss, parts), of_consts = fn(*arrays)
  else:
    # The counted positions first, in order; then whole chunks.
    order = jnp.argsort(~counted, axis=1, stable=True)
    surplus = -positions % chunk

    def pack(x):
      widths = [(0, 0)] * x.ndim
      widths[1] = (0, surplus)
      return jnp.pad(take(x, order), widths)

    arrays = tuple(map(pack, arrays))
    num_chunks = -(-jnp.max(jnp.sum(counted, axis=1)) // chunk)
    (loss, parts), of_consts = _loop(fn, arrays, consts, chunk, num_chunks)
    inverse = jnp.argsort(order, axis=1)
    parts = jax.tree.map(lambda x: take(x[:, :positions], inverse), parts)
  ungroup = lambda x: x.reshape(rows, length, *x.shape[2:])  # noqa: E731
  return (loss, jax.tree.map(ungroup, parts)), of_consts


def _loop(fn, arrays, consts, chunk, num_chunks):
  """`fn` over chunks of [shards, positions, ...] arrays, `num_chunks` of them."""

  def chunk_of(x, index):
    return jax.lax.dynamic_slice_in_dim(x, index * chunk, chunk, axis=1)

  def with_chunk(x, part, index):
    return jax.lax.dynamic_update_slice_in_dim(x, part, index * chunk, axis=1)

  def step(index, carry):
    (loss, parts), sums = carry
    (more, new), of_consts = fn(*(chunk_of(x, index) for x in arrays))
    parts = jax.tree.map(lambda x, part: with_chunk(x, part, index), parts, new)
    return (loss + more, parts), jax.tree.map(jnp.add, sums, of_consts)

  padded = arrays[1].shape[1]
  (loss, parts), of_consts = jax.eval_shape(
    lambda: fn(*(chunk_of(x, 0) for x in arrays))
  )
  empty = jax.tree.map(
    lambda x: jnp.zeros((x.shape[0], padded, *x.shape[2:]), x.dtype), parts
  )
  sums = jax.tree.map(jnp.zeros_like, consts)
  loss = jnp.zeros(loss.shape, loss.dtype)
  del of_consts
  return jax.lax.fori_loop(0, num_chunks, step, ((loss, empty), sums))
