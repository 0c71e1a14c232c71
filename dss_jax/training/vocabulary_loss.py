"""The vocabulary projection, its losses and their gradients in one pass.

Logits are the largest array of training, and the projection onto a vocabulary
of 32,128 a quarter of its work. Three things make it cheap here:

* Positions without a target (padding) are left out before they are projected:
  the others are moved to the front, and only the chunks of positions that hold
  any of them are computed.
* The gradients of a chunk are computed with its losses, while its logits exist.
  The loss is a weighted sum with weights known beforehand, so that only a
  factor can change them later. No logits are kept or computed again.
* The backward pass then needs only the gradients of the hidden states and of
  the projection's parameters, whatever those are. Each device sums those of its
  own positions, and the devices add their sums once, at the end.

Without a chunk size the same is computed by its definition, from all logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dss_jax.models.partitioning import row_sums
from dss_jax.training import token_losses
from dss_jax.training.token_losses import TokenLosses

LogitsFn = Callable[[Any, jax.Array], jax.Array]

# Bytes of logits that exist at once, on one device. On a CPU they should stay
# near its caches; elsewhere a few large products are fastest.
_MAX_LOGITS_BYTES = {"cpu": 24 * 2**20}
_DEFAULT_MAX_LOGITS_BYTES = 512 * 2**20
_MULTIPLE = 64  # positions: they fill the tiles of matrix units


def positions_at_once(vocab_size: int, platform: str) -> int:
  """Positions in a chunk, for a whole vocabulary and a platform."""
  max_bytes = _MAX_LOGITS_BYTES.get(platform, _DEFAULT_MAX_LOGITS_BYTES)
  positions = max_bytes // (4 * vocab_size)
  return max(positions // _MULTIPLE, 1) * _MULTIPLE


def weighted_loss(
  logits_fn: LogitsFn,
  params: Any,
  hidden: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  counted: jax.Array,
  *,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
  chunk: int | None = None,
) -> tuple[jax.Array, TokenLosses]:
  """The weighted sum of the losses of the counted positions.

  Args:
    logits_fn: `(params, hidden) -> logits`, [rows, length, vocab] float32 from
      [rows, length, emb], each position by itself. No gradients flow to what
      it closes over.
    params: pytree; `logits_fn` may read only some of its arrays.
    hidden: [rows, length, emb].
    targets: [rows, length] int32.
    weights: [rows, length] float32; no gradient flows to them.
    counted: [rows, length] bool; the other positions are left out, whatever
      their weights.
    z_loss: see `token_losses.token_nll`.
    label_smoothing: see `token_losses.token_nll`.
    chunk: positions of a device whose logits exist at once; None computes all
      logits, and lets JAX differentiate.

  Returns:
    The loss, scalar float32, to differentiate, and each position's parts, which
    have no gradients.
  """
  if chunk is None:
    logits = logits_fn(params, hidden)  # [rows, length, vocab]
    nll, z = token_losses.token_nll(logits, targets, z_loss, label_smoothing)
    tokens = TokenLosses(
      jnp.where(counted, nll, 0.0),
      jnp.where(counted, z, 0.0),
      counted & token_losses.is_chosen(logits, targets),
    )
    loss = jnp.sum(jnp.where(counted, weights, 0.0) * (tokens.nll + tokens.z))
    return loss, jax.lax.stop_gradient(tokens)
  read, rebuild = _arrays_read(logits_fn, params, hidden[:1, :1])
  static = _Static(
    lambda read, hidden: logits_fn(rebuild(read), hidden),
    z_loss,
    label_smoothing,
    chunk,
  )
  return _weighted_loss(static, read, hidden, targets, weights, counted)


def _arrays_read(
  logits_fn: LogitsFn, params: Any, hidden: jax.Array
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
  """The arrays of `params` that logits depend on, and how to put them back.

  The other arrays would have gradients of zeros, as large as they are.
  """
  leaves, structure = jax.tree.flatten(params)
  jaxpr = jax.make_jaxpr(logits_fn)(params, hidden).jaxpr
  read = set(map(id, jaxpr.outvars))
  read.update(id(var) for eqn in jaxpr.eqns for var in eqn.invars)
  which = [i for i in range(len(leaves)) if id(jaxpr.invars[i]) in read]
  shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

  def rebuild(arrays):
    others: list[Any] = list(shapes)
    for i, array in zip(which, arrays, strict=True):
      others[i] = array
    return structure.unflatten(others)

  return [leaves[i] for i in which], rebuild


class _Static(NamedTuple):
  """The arguments of `weighted_loss` that are no arrays."""

  logits_fn: LogitsFn  # takes only the parameters that it reads
  z_loss: float
  label_smoothing: float
  chunk: int


_SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_loss(static, params, hidden, targets, weights, counted):
  def losses_of(params, hidden, targets, weights, counted):
    logits = static.logits_fn(params, hidden)
    loss, tokens, _ = _losses(static, logits, targets, weights, counted)
    return (loss, ()), tokens

  (loss, _), tokens = row_sums.on_each_device(
    functools.partial(_over_chunks, losses_of, static.chunk),
    params,
    (hidden, targets, weights, counted),
    sums=(_SCALAR, ()),
  )
  return loss, tokens


def _weighted_loss_fwd(static, params, hidden, targets, weights, counted):
  def losses_and_gradients(params, hidden, targets, weights, counted):
    logits, pullback = jax.vjp(static.logits_fn, params, hidden)
    loss, tokens, gradient = _losses(static, logits, targets, weights, counted)
    param_grads, hidden_grads = pullback(gradient)
    return (loss, param_grads), (tokens, hidden_grads)

  (loss, param_grads), (tokens, hidden_grads) = row_sums.on_each_device(
    functools.partial(_over_chunks, losses_and_gradients, static.chunk),
    params,
    (hidden, targets, weights, counted),
    sums=(_SCALAR, params),
  )
  return (loss, tokens), (param_grads, hidden_grads)


def _weighted_loss_bwd(static, residuals, cotangents):
  del static
  scale, _ = cotangents  # the parts of the positions have no gradients
  param_grads, hidden_grads = jax.tree.map(
    lambda gradient: (scale * gradient).astype(gradient.dtype), residuals
  )
  return param_grads, hidden_grads, None, None, None


_weighted_loss.defvjp(_weighted_loss_fwd, _weighted_loss_bwd)


def _losses(
  static: _Static,
  logits: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  counted: jax.Array,
) -> tuple[jax.Array, TokenLosses, jax.Array]:
  """The loss of a chunk of positions, its parts, and its gradient.

  Args:
    static: what the chunk is computed with.
    logits: [1, chunk, vocab] float32.
    targets: [1, chunk] int32.
    weights: [1, chunk] float32, 0 where not counted.
    counted: [1, chunk] bool.

  Returns:
    The loss in weighted nats, scalar float32; its parts, [1, chunk] each; and
    its gradient by the logits, [1, chunk, vocab] float32.
  """
  vocab_size = logits.shape[-1]
  confidence, low, entropy = token_losses.smoothing_constants(
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
  correct = counted & token_losses.is_chosen(logits, targets)
  tokens = TokenLosses(nll, z, correct)
  scale = weights * (1.0 + 2.0 * static.z_loss * log_z)
  gradient = scale[..., None] * jnp.exp(logits - log_z[..., None])
  gradient -= weights[..., None] * jnp.where(is_target, confidence, low)
  return jnp.sum(weights * (nll + z)), tokens, gradient


def _over_chunks(
  fn: Callable[..., tuple[Any, Any]],
  chunk: int,
  params: Any,
  hidden: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  counted: jax.Array,
) -> tuple[Any, Any]:
  """Applies `fn` to the counted positions of one device, a chunk at a time.

  Args:
    fn: `(params, *arrays) -> (sums, parts)` of arrays [1, chunk, ...], in the
      order of the arguments below; parts are [1, chunk, ...] too.
    chunk: positions.
    params: pytree, passed to `fn`.
    hidden: [rows, length, emb].
    targets: [rows, length] int32.
    weights: [rows, length] float32.
    counted: [rows, length] bool.

  Returns:
    `(sums, parts)` of all positions, the parts [rows, length, ...].
  """
  rows, length, _ = hidden.shape
  positions = rows * length

  def flat(x):  # [rows, length, ...] -> [1, positions, ...]
    return x.reshape(1, positions, *x.shape[2:])

  def unflat(x):  # [1, positions or more, ...] -> [rows, length, ...]
    return x[:, :positions].reshape(rows, length, *x.shape[2:])

  weights = jnp.where(counted, weights, 0.0)
  arrays = tuple(map(flat, (hidden, targets, weights, counted)))
  if positions <= chunk:
    sums, parts = fn(params, *arrays)
    return sums, jax.tree.map(unflat, parts)
  # The counted positions come first, in order; padding fills the last chunk.
  order = jnp.argsort(~counted.reshape(-1), stable=True)  # [positions]

  def pack(x):
    widths = [(0, 0), (0, -positions % chunk)] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x[:, order], widths)

  sums, parts = _loop(
    functools.partial(fn, params),
    tuple(map(pack, arrays)),
    chunk,
    -(-jnp.sum(counted) // chunk),
  )
  inverse = jnp.argsort(order)
  return sums, jax.tree.map(lambda x: unflat(x[:, inverse]), parts)


def _loop(
  fn: Callable[..., tuple[Any, Any]],
  arrays: Sequence[jax.Array],
  chunk: int,
  num_chunks: jax.Array,
) -> tuple[Any, Any]:
  """Applies `fn` to the first chunks of [1, positions, ...] arrays.

  Args:
    fn: `(*arrays) -> (sums, parts)` of one chunk.
    arrays: [1, positions, ...], with a multiple of `chunk` positions.
    chunk: positions.
    num_chunks: scalar int32, how many chunks to compute.

  Returns:
    The sums over these chunks, and the parts [1, positions, ...], which are 0
    after them.
  """

  def step(index, carry):
    sums, parts = carry
    start = index * chunk
    new_sums, new_parts = fn(
      *(jax.lax.dynamic_slice_in_dim(x, start, chunk, axis=1) for x in arrays)
    )
    parts = jax.tree.map(
      lambda x, part: jax.lax.dynamic_update_slice_in_dim(
        x, part, start, axis=1
      ),
      parts,
      new_parts,
    )
    return jax.tree.map(jnp.add, sums, new_sums), parts

  positions = arrays[0].shape[1]
  sums, parts = jax.eval_shape(fn, *(x[:, :chunk] for x in arrays))
  sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
  parts = jax.tree.map(
    lambda x: jnp.zeros((1, positions, *x.shape[2:]), x.dtype), parts
  )
  return jax.lax.fori_loop(0, num_chunks, step, (sums, parts))
