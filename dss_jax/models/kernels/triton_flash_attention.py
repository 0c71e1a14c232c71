"""Attention over packed rows on GPU that skips what no segment connects.

Three things that flash attention for T5 on packed rows wants, and that kernels
at hand lack together: a bias of positions shared by all rows and its gradient
summed over them; a mask of segments that is not stored; and no work on blocks
of scores between segments, most of a row of 512 tokens with ten examples.

The algorithm is FlashAttention-2's (Dao 2023), written in Pallas and compiled
by Triton; on CPU, for tests, Pallas interprets it. The gradient of the
positions has a kernel of its own that sums over rows in a fixed order, without
atomic additions.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from dss_jax.models.partitioning import constraints

Array = jax.Array

_HEAD_DIMS = (16, 32, 64, 128)  # powers of 2, as Triton wants
_BLOCKS = (64, 32, 16)  # tokens
_LOWEST = -1e30  # below every score; finite, as differences are formed


def refusal(head_dim: int, query_length: int, key_length: int) -> str | None:
  """Why the kernel does not take these sizes; None if it does."""
  if head_dim not in _HEAD_DIMS:
    return f"it takes head_dim 16, 32, 64 or 128 and not {head_dim}"
  if query_length % _BLOCKS[-1] or key_length % _BLOCKS[-1]:
    return (
      f"it takes lengths of multiples of {_BLOCKS[-1]} and not {query_length}"
      f" and {key_length}"
    )
  return None


def attention(
  query: Array,
  key: Array,
  value: Array,
  position: Array | None,
  query_segments: Array,
  key_segments: Array,
  *,
  causal: bool,
  interpret: bool | None = None,
) -> Array:
  """As `cudnn_attention.attention`; padding gets zeros.

  Right for any segment ids; blocks are skipped where ids grow along a row.
  `interpret` is by default whether the platform is a CPU.
  """
  if interpret is None:
    interpret = constraints.platform() == "cpu"
  segments = (query_segments, key_segments)
  # Heads last but one, as the projections write and read them: these
  # transpositions cancel those that split the heads.
  split = [x.swapaxes(1, 2) for x in (query, key, value)]
  x: Array = _attention(*split, position, segments, causal, interpret)
  return x.swapaxes(1, 2)


def block_size(length: int) -> int:
  """The greatest block that divides a length, in tokens."""
  return next(size for size in _BLOCKS if length % size == 0)


def connected_blocks(
  query_segments: Array, key_segments: Array, *, causal: bool
) -> Array:
  """Which blocks of scores may hold a visible one.

  Args:
    query_segments: [batch, q] int32, 0 is padding.
    key_segments: [batch, k] int32.
    causal: whether later keys are hidden.

  Returns:
    bool [batch, query blocks, key blocks]; False where surely none is.
  """

  def ranges(segments):
    size = block_size(segments.shape[1])
    blocks = segments.reshape(segments.shape[0], -1, size)
    least = jnp.where(blocks > 0, blocks, jnp.iinfo(jnp.int32).max).min(-1)
    return size, least, blocks.max(-1)

  q_size, q_least, q_greatest = ranges(query_segments)
  k_size, k_least, k_greatest = ranges(key_segments)
  connected = (q_least[:, :, None] <= k_greatest[:, None]) & (
    k_least[:, None] <= q_greatest[:, :, None]
  )
  if causal:
    last_query = (jnp.arange(q_least.shape[1]) + 1) * q_size - 1
    first_key = jnp.arange(k_least.shape[1]) * k_size
    connected &= first_key <= last_query[:, None]
  return connected


def _spans(connected: Array) -> Array:
  """bool [batch, n, m] -> int32 [batch, n, 2]: from the first to the last."""
  first = jnp.argmax(connected, axis=-1)
  end = connected.shape[-1] - jnp.argmax(connected[..., ::-1], axis=-1)
  end = jnp.where(connected.any(-1), end, first)
  return jnp.stack([first, end], axis=-1).astype(jnp.int32)


# --------------------------------------------------------------------- kernels
# Arrays are [batch, length, heads, head_dim], [batch, heads, length] for numbers
# of a query, and as in `attention`. References of one program are those of one
# row and head: q_ref [block or q, head_dim],
# position_ref [block or q, block or k], ids [block or q or k], span_ref [2].


def _scores(q, k, position, q_ids, k_ids, q_start, k_start, causal):
  """Scores float32 [q, k] of two blocks, and which of them are visible."""
  scores = _product(q, k, 1, 1)
  if position is not None:
    scores += position.astype(jnp.float32)
  visible = (q_ids[:, None] == k_ids[None, :]) & (k_ids > 0)[None, :]
  if causal:
    rows = q_start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    columns = k_start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    visible &= columns <= rows
  return jnp.where(visible, scores, _LOWEST), visible


def _product(a, b, a_axis: int, b_axis: int):
  """Matrix product over the given axes, float32."""
  dimensions = (((a_axis,), (b_axis,)), ((), ()))
  return jax.lax.dot_general(
    a, b, dimensions, preferred_element_type=jnp.float32
  )


def _probabilities_and_gradient(v, do, lse, delta, scores_and_visible):
  """Probabilities [q, k] and the gradient of their scores, both float32."""
  scores, visible = scores_and_visible
  p = jnp.where(visible, jnp.exp(scores - lse[:, None]), 0.0)
  return p, p * (_product(do, v, 1, 1) - delta[:, None])


def _forward_kernel(
  q_ref, k_ref, v_ref, position_ref, q_ids_ref, k_ids_ref, span_ref,
  o_ref, lse_ref, *, causal, block_k,
):  # fmt: skip
  block_q, head_dim = q_ref.shape
  q, q_ids = q_ref[...], q_ids_ref[...]
  q_start = pl.program_id(2) * block_q

  def body(j, carry):
    o, greatest, total = carry
    at = pl.ds(j * block_k, block_k)
    position = None if position_ref is None else position_ref[:, at]
    scores, visible = _scores(
      q, k_ref[at, :], position, q_ids, k_ids_ref[at],
      q_start, j * block_k, causal,
    )  # fmt: skip
    new = jnp.maximum(greatest, scores.max(axis=1))
    shrink = jnp.exp(greatest - new)
    p = jnp.where(visible, jnp.exp(scores - new[:, None]), 0.0)
    v = v_ref[at, :]
    o = o * shrink[:, None] + _product(p.astype(v.dtype), v, 1, 0)
    return o, new, total * shrink + p.sum(axis=1)

  carry = (
    jnp.zeros((block_q, head_dim), jnp.float32),
    jnp.full((block_q,), _LOWEST, jnp.float32),
    jnp.zeros((block_q,), jnp.float32),
  )
  o, greatest, total = jax.lax.fori_loop(span_ref[0], span_ref[1], body, carry)
  total = jnp.where(total > 0, total, 1.0)
  o_ref[...] = (o / total[:, None]).astype(o_ref.dtype)
  lse_ref[...] = greatest + jnp.log(total)


def _query_kernel(
  q_ref, k_ref, v_ref, position_ref, q_ids_ref, k_ids_ref, span_ref,
  do_ref, lse_ref, delta_ref, dq_ref, *, causal, block_k,
):  # fmt: skip
  block_q = q_ref.shape[0]
  q, q_ids, do = q_ref[...], q_ids_ref[...], do_ref[...]
  lse, delta = lse_ref[...], delta_ref[...]
  q_start = pl.program_id(2) * block_q

  def body(j, dq):
    at = pl.ds(j * block_k, block_k)
    position = None if position_ref is None else position_ref[:, at]
    k = k_ref[at, :]
    scores = _scores(
      q, k, position, q_ids, k_ids_ref[at], q_start, j * block_k, causal
    )
    _, ds = _probabilities_and_gradient(v_ref[at, :], do, lse, delta, scores)
    return dq + _product(ds.astype(k.dtype), k, 1, 0)

  dq = jnp.zeros(q_ref.shape, jnp.float32)
  dq = jax.lax.fori_loop(span_ref[0], span_ref[1], body, dq)
  dq_ref[...] = dq.astype(dq_ref.dtype)


def _key_value_kernel(
  q_ref, k_ref, v_ref, position_ref, q_ids_ref, k_ids_ref, span_ref,
  do_ref, lse_ref, delta_ref, dk_ref, dv_ref, *, causal, block_q,
):  # fmt: skip
  block_k = k_ref.shape[0]
  k, v, k_ids = k_ref[...], v_ref[...], k_ids_ref[...]
  k_start = pl.program_id(2) * block_k

  def body(i, carry):
    dk, dv = carry
    at = pl.ds(i * block_q, block_q)
    position = None if position_ref is None else position_ref[at, :]
    q, do = q_ref[at, :], do_ref[at, :]
    scores = _scores(
      q, k, position, q_ids_ref[at], k_ids, i * block_q, k_start, causal
    )
    p, ds = _probabilities_and_gradient(
      v, do, lse_ref[at], delta_ref[at], scores
    )
    dk += _product(ds.astype(q.dtype), q, 0, 0)
    return dk, dv + _product(p.astype(do.dtype), do, 0, 0)

  zeros = jnp.zeros(k_ref.shape, jnp.float32)
  dk, dv = jax.lax.fori_loop(span_ref[0], span_ref[1], body, (zeros, zeros))
  dk_ref[...] = dk.astype(dk_ref.dtype)
  dv_ref[...] = dv.astype(dv_ref.dtype)


def _position_kernel(
  q_ref, k_ref, v_ref, position_ref, q_ids_ref, k_ids_ref, connected_ref,
  do_ref, lse_ref, delta_ref, dposition_ref, *, causal,
):  # fmt: skip
  """One block of one head, over all rows: q_ref is [batch, block, head_dim]."""
  position = position_ref[...]
  q_start = pl.program_id(1) * position.shape[0]
  k_start = pl.program_id(2) * position.shape[1]

  def add_row(row, total):
    q, k = q_ref[row], k_ref[row]
    scores = _scores(
      q, k, position, q_ids_ref[row], k_ids_ref[row], q_start, k_start, causal
    )
    _, ds = _probabilities_and_gradient(
      v_ref[row], do_ref[row], lse_ref[row], delta_ref[row], scores
    )
    return total + ds

  def body(row, total):
    return jax.lax.cond(
      connected_ref[row] > 0, add_row, lambda _, total: total, row, total
    )

  total = jnp.zeros(position.shape, jnp.float32)
  total = jax.lax.fori_loop(0, q_ref.shape[0], body, total)
  dposition_ref[...] = total.astype(dposition_ref.dtype)


def _row_specs(query, key, position, *, by: str) -> tuple[list, Any, Any]:
  """Block specs for a grid of (row, head, block), blocks by "query" or "key".

  Returns:
    Those of (q, k, v, position, ids, ids, span); that of an array like q; that
    of an array like q without head_dim.
  """
  q_length, k_length, dim = query.shape[1], key.shape[1], query.shape[3]
  rows, columns = q_length, k_length
  if by == "query":
    rows = block_size(q_length)
    q_at, k_at = (lambda i: i), (lambda i: 0)
  else:
    columns = block_size(k_length)
    q_at, k_at = (lambda i: 0), (lambda i: i)
  q = pl.BlockSpec((None, rows, None, dim), lambda b, h, i: (b, q_at(i), h, 0))
  k = pl.BlockSpec(
    (None, columns, None, dim), lambda b, h, i: (b, k_at(i), h, 0)
  )
  bias = pl.BlockSpec(
    (None, None, rows, columns), lambda b, h, i: (0, h, q_at(i), k_at(i))
  )
  q_ids = pl.BlockSpec((None, rows), lambda b, h, i: (b, q_at(i)))
  k_ids = pl.BlockSpec((None, columns), lambda b, h, i: (b, k_at(i)))
  span = pl.BlockSpec((None, None, 2), lambda b, h, i: (b, i, 0))
  per_query = pl.BlockSpec((None, None, rows), lambda b, h, i: (b, h, q_at(i)))
  bias = None if position is None else bias
  return [q, k, k, bias, q_ids, k_ids, span], q, per_query


def _call(kernel, *, interpret: bool, **kwargs):
  if interpret:
    return pl.pallas_call(kernel, interpret=True, **kwargs)
  from jax.experimental.pallas import triton

  parameters = triton.CompilerParams(num_warps=4, num_stages=2)
  return pl.pallas_call(kernel, compiler_params=parameters, **kwargs)


def _forward(query, key, value, position, segments, causal, interpret):
  """Attention, and the logarithm of the sums of its exponentials."""
  batch, length, heads, _ = query.shape
  connected = connected_blocks(*segments, causal=causal)
  specs, like_q, per_query = _row_specs(query, key, position, by="query")
  return _call(
    functools.partial(
      _forward_kernel, causal=causal, block_k=block_size(key.shape[1])
    ),
    grid=(batch, heads, connected.shape[1]),
    in_specs=specs,
    out_specs=[like_q, per_query],
    out_shape=[
      jax.ShapeDtypeStruct(query.shape, query.dtype),
      jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
    ],
    interpret=interpret,
    name="segment_attention",
  )(query, key, value, position, *segments, _spans(connected))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(query, key, value, position, segments, causal, interpret):
  return _forward(query, key, value, position, segments, causal, interpret)[0]


def _attention_fwd(query, key, value, position, segments, causal, interpret):
  inputs = (query, key, value, position, segments)
  results = _forward(*inputs, causal, interpret)
  return results[0], (*inputs, *results)


def _attention_bwd(causal, interpret, residuals, cotangent):
  query, key, value, position, segments, output, lse = residuals
  batch, _, heads, _ = query.shape
  # [batch, heads, q], as `lse`
  delta = jnp.sum(
    output.astype(jnp.float32) * cotangent.astype(jnp.float32), axis=-1
  ).swapaxes(1, 2)
  connected = connected_blocks(*segments, causal=causal)
  inputs = (query, key, value, position, *segments)
  outer = (cotangent, lse, delta)
  call = functools.partial(_call, interpret=interpret)

  def like(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)

  specs, like_q, per_query = _row_specs(query, key, position, by="query")
  dq = call(
    functools.partial(
      _query_kernel, causal=causal, block_k=block_size(key.shape[1])
    ),
    grid=(batch, heads, connected.shape[1]),
    in_specs=[*specs, like_q, per_query, per_query],
    out_specs=like_q,
    out_shape=like(query),
    name="segment_attention_query_gradient",
  )(*inputs, _spans(connected), *outer)
  specs, like_q, per_query = _row_specs(query, key, position, by="key")
  dk, dv = call(
    functools.partial(
      _key_value_kernel, causal=causal, block_q=block_size(query.shape[1])
    ),
    grid=(batch, heads, connected.shape[2]),
    in_specs=[*specs, like_q, per_query, per_query],
    out_specs=[specs[1], specs[2]],
    out_shape=[like(key), like(value)],
    name="segment_attention_key_value_gradient",
  )(*inputs, _spans(connected.swapaxes(1, 2)), *outer)
  dposition = None
  if position is not None:
    dposition = _position_gradient(inputs, connected, outer, causal, call)
  return dq, dk, dv, dposition, None


def _position_gradient(inputs, connected, outer, causal, call) -> Array:
  query, key, _, position, *_ = inputs
  batch, q_length, heads, dim = query.shape
  block_q, block_k = block_size(q_length), block_size(key.shape[1])
  q = pl.BlockSpec((batch, block_q, None, dim), lambda h, i, j: (0, i, h, 0))
  k = pl.BlockSpec((batch, block_k, None, dim), lambda h, i, j: (0, j, h, 0))
  block = pl.BlockSpec(
    (None, None, block_q, block_k), lambda h, i, j: (0, h, i, j)
  )
  q_ids = pl.BlockSpec((batch, block_q), lambda h, i, j: (0, i))
  k_ids = pl.BlockSpec((batch, block_k), lambda h, i, j: (0, j))
  flags = pl.BlockSpec((batch, None, None), lambda h, i, j: (0, i, j))
  per_query = pl.BlockSpec((batch, None, block_q), lambda h, i, j: (0, h, i))
  return call(
    functools.partial(_position_kernel, causal=causal),
    grid=(heads, *connected.shape[1:]),
    in_specs=[q, k, k, block, q_ids, k_ids, flags, q, per_query, per_query],
    out_specs=block,
    out_shape=jax.ShapeDtypeStruct(position.shape, position.dtype),
    name="segment_attention_position_gradient",
  )(*inputs, connected.astype(jnp.int32), *outer)


_attention.defvjp(_attention_fwd, _attention_bwd)
