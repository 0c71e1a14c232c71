"""The vocabulary projection and its losses, a slice of positions at a time.

Logits of a whole batch are the largest array of training: 16,000 positions of
a vocabulary of 32,128 take 2 GB in float32, several times over in the backward
pass. Here only one slice of positions has its logits at any moment; the
backward pass computes each slice's again. Slices are cut along the length, so
rows stay on their devices.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dss_jax import losses

# Of one slice's logits, on one device. Two or three arrays of this size are
# alive at once.
DEFAULT_MAX_LOGITS_BYTES = 256 * 2**20

LogitsFn = Callable[[jax.Array], jax.Array]


def num_slices(
  rows: int,
  length: int,
  vocab_size: int,
  max_bytes: int = DEFAULT_MAX_LOGITS_BYTES,
) -> int:
  """The fewest equal slices of the length whose float32 logits fit.

  Args:
    rows: on one device, of one micro-batch.
    length: of a row, in tokens.
    vocab_size: of the student.
    max_bytes: of one slice's logits.
  """
  for slices in range(1, length + 1):
    bytes_of_slice = 4 * rows * (length // slices) * vocab_size
    if length % slices == 0 and bytes_of_slice <= max_bytes:
      return slices
  return length


def target_losses(
  logits_fn: LogitsFn,
  hidden: jax.Array,
  targets: jax.Array,
  *,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
  slices: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Per-token losses and predictions from the decoder's hidden states.

  Args:
    logits_fn: [rows, length, emb] -> [rows, length, vocab] float32. Gradients
      flow through what it closes over.
    hidden: [rows, length, emb].
    targets: [rows, length] int32.
    z_loss: see `losses.token_nll`.
    label_smoothing: see `losses.token_nll`.
    slices: parts of the length, which it must divide; the result is the same.

  Returns:
    `nll` and `z`, [rows, length] float32, and the most probable token of each
    position, [rows, length] int32.
  """

  def of_slice(hidden, targets):
    logits = logits_fn(hidden)
    nll, z = losses.token_nll(logits, targets, z_loss, label_smoothing)
    return nll, z, jnp.argmax(logits, axis=-1).astype(jnp.int32)

  if slices == 1:
    return of_slice(hidden, targets)

  def cut(x):
    rows, length, *rest = x.shape
    x = x.reshape(rows, slices, length // slices, *rest)
    return jnp.moveaxis(x, 1, 0)

  def join(x):
    return jnp.moveaxis(x, 0, 1).reshape(targets.shape)

  parts = jax.lax.map(
    lambda xs: jax.checkpoint(of_slice)(*xs), (cut(hidden), cut(targets))
  )
  return jax.tree.map(join, parts)
