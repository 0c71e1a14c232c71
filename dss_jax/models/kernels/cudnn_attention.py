"""Attention over packed rows by cuDNN, whose only mask is an added bias.

cuDNN adds one bias, broadcast over rows where it has size 1 there. A mask of
segments differs between rows, so that the sum of mask and positions has the
size of the scores. Instead the segments travel in the product of queries and
keys ("codes"): a few further dimensions hold the bits of a token's segment id
as +-A, so that tokens of one segment get A*A times the number of bits, others
at least 2*A*A less. The softmax does not see what all visible keys have in
common, and the exponential of the difference is 0. The bias is then
[1, heads, q, k], the one shape of which all versions of cuDNN that know a
gradient of the bias have one; attention to the encoder needs none at all.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# 2 * A * A = 1024 hides a key whose score is up to 900 above the visible ones,
# and 16 * A * A leaves float32 scores a precision of 0.001.
AMPLITUDE = 22.625  # exact in bfloat16
_HIDDEN = -1e10  # as the plain path's


def refusal(head_dim: int, query_length: int, key_length: int) -> str | None:
  """Why cuDNN does not take these sizes; None if it does."""
  bits = num_bits(query_length, key_length)
  if head_dim % 8 or head_dim + bits > 128:
    return f"it takes head_dim 8, 16 ... {128 - bits} and not {head_dim}"
  if query_length % 2 or key_length % 2 or query_length < 2:
    return f"it takes even lengths and not {query_length} and {key_length}"
  return None


def num_bits(query_length: int, key_length: int) -> int:
  """Dimensions for the ids 1, 2 ... of segments in rows of these lengths."""
  # Segments of one token do not occur 256 times in a row of 512.
  return 8 if max(query_length, key_length) <= 512 else 16


def attention(
  query: Array,
  key: Array,
  value: Array,
  position: Array | None,
  query_segments: Array,
  key_segments: Array,
  *,
  causal: bool,
  form: Literal["codes", "dense"] = "codes",
  implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Array:
  """One device's part of `attention_kernels.attention`.

  Args:
    query: [batch, heads, q, head_dim].
    key: [batch, heads, k, head_dim].
    value: [batch, heads, k, head_dim].
    position: [1, heads, q, k] or None.
    query_segments: [batch, q] int32, 0 is padding. With form "codes", ids of
      2**num_bits and more give NaN.
    key_segments: [batch, k] int32.
    causal: whether later keys are hidden.
    form: "codes": segments as further dimensions; "dense": segments and
      positions as one bias [batch, heads, q, k].
    implementation: "xla" computes the same without cuDNN, for tests.

  Returns:
    [batch, heads, q, head_dim].
  """
  head_dim, dtype = query.shape[-1], query.dtype
  hidden = None
  if causal:
    shape = (query.shape[2], key.shape[2])
    hidden = ~np.tri(*shape, dtype=bool)[None, None]
  if form == "codes":
    bits = num_bits(query.shape[2], key.shape[2])
    query = _with_codes(query, query_segments, bits)
    key = _with_codes(key, key_segments, bits)
    # cuDNN's backward pass wants values as wide as keys.
    value = jnp.pad(value, ((0, 0), (0, 0), (0, 0), (0, bits)))
  else:
    same = query_segments[:, None, :, None] == key_segments[:, None, None, :]
    hidden = ~same if hidden is None else hidden | ~same
  bias = position
  if hidden is not None:
    mask = jnp.where(hidden, _HIDDEN, 0.0).astype(dtype)
    bias = mask if position is None else position.astype(dtype) + mask
  # The transpositions cancel those that split the heads.
  x = jax.nn.dot_product_attention(
    query.swapaxes(1, 2),
    key.swapaxes(1, 2),
    value.swapaxes(1, 2),
    bias=bias,
    scale=1.0,
    implementation=implementation,
  )
  return x.swapaxes(1, 2)[..., :head_dim]


def _with_codes(x: Array, segments: Array, bits: int) -> Array:
  """[batch, heads, length, head_dim] -> [..., head_dim + bits]."""
  code = jnp.where((segments[..., None] >> np.arange(bits)) & 1, 1.0, -1.0)
  # Two segments of one code would see each other: better a loud failure.
  valid = (segments >= 0) & (segments < 2**bits)
  code = jnp.where(valid[..., None], code * AMPLITUDE, jnp.nan).astype(x.dtype)
  code = jnp.broadcast_to(code[:, None], (*x.shape[:-1], bits))
  return jnp.concatenate([x, code], axis=-1)
