"""Attention over packed rows on TPU that writes no scores to memory.

A student's rows are so short that all scores of a row and head fit into a chip's
fast memory (VMEM). There one program computes softmax attention as it is
defined, or its gradient, for one row and as many heads as fill the 128 lanes:
two of 64 dimensions. Positions are read once for all rows, and their gradient
is summed over the rows as it is made. JAX's own kernels take either a bias for
each row (flash attention) or none (splash attention).

Written in Pallas; on CPU, for tests, Pallas interprets it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from dss_jax.models.partitioning import constraints

Array = jax.Array

_LANES = 128
_LOWEST = -1e30  # below every score; finite, as differences are formed
# A kernel may use as much of VMEM on every chip, unless told otherwise.
_VMEM_BYTES = 16 * 2**20


def refusal(head_dim: int, query_length: int, key_length: int) -> str | None:
  """Why the kernel does not take these sizes; None if it does."""
  if _LANES % head_dim and head_dim % _LANES:
    return f"it takes head_dim 16, 32, 64, 128, 256 ... and not {head_dim}"
  if query_length % 8 or key_length % 8:
    return (
      f"it takes lengths of multiples of 8 and not {query_length} and"
      f" {key_length}"
    )
  needed = vmem_bytes(head_dim, query_length, key_length)
  if needed > _VMEM_BYTES:
    return (
      f"all scores of a row of {query_length} and {key_length} tokens are too"
      f" many for a chip's fast memory ({needed >> 20} of"
      f" {_VMEM_BYTES >> 20} MiB)"
    )
  return None


def vmem_bytes(head_dim: int, query_length: int, key_length: int) -> int:
  """Fast memory of the backward pass's program with positions, about.

  Blocks are there twice, the next one on its way: bfloat16 queries, keys,
  values, positions and three gradients, float32 gradients of positions. Scores,
  probabilities, their gradients and the mask are float32.
  """
  heads, width = _heads_at_once(head_dim)
  scores = query_length * (-(-key_length // _LANES) * _LANES)
  rows = 2 * 2 * width * (3 * query_length + 4 * key_length)
  return rows + 2 * (2 + 4) * heads * scores + 4 * 4 * scores


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
  """As `cudnn_attention.attention`, for any segment ids.

  `interpret` is by default whether the platform is a CPU.
  """
  if interpret is None:
    interpret = constraints.platform() == "cpu"
  heads = query.shape[1]
  at_once, _ = _heads_at_once(query.shape[-1])
  if missing := -heads % at_once:
    spare = ((0, 0), (0, missing), (0, 0), (0, 0))
    query, key, value = (jnp.pad(x, spare) for x in (query, key, value))
    position = None if position is None else jnp.pad(position, spare)
  x: Array = _attention(
    # [batch, length, heads * head_dim], as the projections write and read
    # them: no lane is empty, and the transpositions cancel those that split
    # the heads.
    *(_joined(x) for x in (query, key, value)),
    position,
    (query_segments[:, :, None], key_segments[:, None, :]),
    query.shape[-1],
    causal,
    interpret,
  )
  split = x.reshape(*x.shape[:2], -1, query.shape[-1])
  return split.swapaxes(1, 2)[:, :heads]


def _heads_at_once(head_dim: int) -> tuple[int, int]:
  """Heads of a program, and their dimensions together."""
  heads = max(1, _LANES // head_dim)
  return heads, heads * head_dim


def _joined(x: Array) -> Array:
  """[batch, heads, length, head_dim] -> [batch, length, heads * head_dim]."""
  return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


# --------------------------------------------------------------------- kernels
# References of one program: q_ref [q, width], k_ref [k, width], positions
# [heads, q, k], ids [q, 1] and [1, k]. A product over all lanes in which those
# of other heads are zero is the product of one head; the chip's matrix unit
# multiplies 128 lanes either way.


def _product(a, b, a_axis: int, b_axis: int):
  """Matrix product over the given axes, float32."""
  dimensions = (((a_axis,), (b_axis,)), ((), ()))
  return jax.lax.dot_general(
    a, b, dimensions, preferred_element_type=jnp.float32
  )


def _visible(q_ids, k_ids, causal: bool):
  """bool [q, k]: what a query sees."""
  visible = q_ids == k_ids
  if causal:
    rows, columns = (
      jax.lax.broadcasted_iota(jnp.int32, visible.shape, axis)
      for axis in (0, 1)
    )
    visible &= columns <= rows
  return visible


def _of_head(x, head: int, head_dim: int, other: Array | float = 0.0):
  """`x` [length, width] in the lanes of one head, `other` elsewhere."""
  lanes = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
  return jnp.where(lanes // head_dim == head, x, other).astype(x.dtype)


def _probabilities(q, k, position_ref, head: int, visible):
  """float32 [q, k]; `q` is zero but in the head's lanes."""
  scores = _product(q, k, 1, 1)
  if position_ref is not None:
    scores += position_ref[head].astype(jnp.float32)
  scores = jnp.where(visible, scores, _LOWEST)
  p = jnp.exp(scores - scores.max(axis=1, keepdims=True))
  return p / p.sum(axis=1, keepdims=True)


def _forward_kernel(
  q_ref, k_ref, v_ref, position_ref, q_ids_ref, k_ids_ref, o_ref,
  *, head_dim, causal,
):  # fmt: skip
  q, k, v = q_ref[...], k_ref[...], v_ref[...]
  visible = _visible(q_ids_ref[...], k_ids_ref[...], causal)
  o = jnp.zeros(q.shape, jnp.float32)
  for head in range(q.shape[1] // head_dim):
    q_head = _of_head(q, head, head_dim)
    p = _probabilities(q_head, k, position_ref, head, visible)
    o = _of_head(_product(p.astype(v.dtype), v, 1, 0), head, head_dim, o)
  o_ref[...] = o.astype(o_ref.dtype)


def _backward_kernel(
  q_ref, k_ref, v_ref, position_ref, q_ids_ref, k_ids_ref, do_ref,
  dq_ref, dk_ref, dv_ref, dposition_ref, *, head_dim, causal,
):  # fmt: skip
  q, k, v, do = q_ref[...], k_ref[...], v_ref[...], do_ref[...]
  visible = _visible(q_ids_ref[...], k_ids_ref[...], causal)
  dq = jnp.zeros(q.shape, jnp.float32)
  dk = dv = jnp.zeros(k.shape, jnp.float32)

  if dposition_ref is not None:

    @pl.when(pl.program_id(1) == 0)
    def _():
      dposition_ref[...] = jnp.zeros(dposition_ref.shape, jnp.float32)

  for head in range(q.shape[1] // head_dim):
    q_head = _of_head(q, head, head_dim)
    p = _probabilities(q_head, k, position_ref, head, visible)
    dp = _product(_of_head(do, head, head_dim), v, 1, 1)
    ds = p * (dp - (p * dp).sum(axis=1, keepdims=True))
    if dposition_ref is not None:
      dposition_ref[head] += ds
    p, ds = p.astype(do.dtype), ds.astype(q.dtype)
    dq = _of_head(_product(ds, k, 1, 0), head, head_dim, dq)
    dk = _of_head(_product(ds, q, 0, 0), head, head_dim, dk)
    dv = _of_head(_product(p, do, 0, 0), head, head_dim, dv)
  dq_ref[...] = dq.astype(dq_ref.dtype)
  dk_ref[...] = dk.astype(dk_ref.dtype)
  dv_ref[...] = dv.astype(dv_ref.dtype)


def _call(kernel, inputs, out, name: str, head_dim, causal, interpret):
  """Runs a kernel for each group of heads and, one after the other, each row.

  Args:
    kernel: of the above.
    inputs: query, key, value, position, segments, and for the backward pass
      the gradient of the values.
    out: outputs like which of the arrays: "q", "k" and "position".
    name: of the kernel, in programs and profiles.
    head_dim: of one head.
    causal: whether later keys are hidden.
    interpret: whether to interpret the kernel.
  """
  from jax.experimental.pallas import tpu

  query, key, _, position, *_ = inputs
  heads, width = _heads_at_once(head_dim)
  q_length, k_length = query.shape[1], key.shape[1]
  like = {"q": query, "k": key, "position": position}
  specs: dict[str, pl.BlockSpec | None] = {
    "q": pl.BlockSpec((None, q_length, width), lambda h, b: (b, 0, h)),
    "k": pl.BlockSpec((None, k_length, width), lambda h, b: (b, 0, h)),
    "position": pl.BlockSpec(
      (None, heads, q_length, k_length), lambda h, b: (0, h, 0, 0)
    ),
  }
  if position is None:
    specs["position"] = None
  q_ids = pl.BlockSpec((None, q_length, 1), lambda h, b: (b, 0, 0))
  k_ids = pl.BlockSpec((None, 1, k_length), lambda h, b: (b, 0, 0))
  in_specs = [*(specs[x] for x in ("q", "k", "k", "position")), q_ids, k_ids]
  return pl.pallas_call(
    functools.partial(kernel, head_dim=head_dim, causal=causal),
    grid=(query.shape[2] // width, query.shape[0]),
    in_specs=[*in_specs, specs["q"]][: len(inputs)],
    out_specs=[specs[x] for x in out],
    out_shape=[
      # Added up over the rows, and so float32.
      jax.ShapeDtypeStruct(
        like[x].shape, jnp.float32 if x == "position" else like[x].dtype
      )
      for x in out
    ],
    # Groups of heads may be shared out to a chip's two cores; rows must not
    # be, as each adds to the gradient of the positions.
    compiler_params=tpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary")
    ),
    interpret=interpret,
    name=name,
  )(*inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attention(query, key, value, position, segments, *static):
  inputs = (query, key, value, position, *segments)
  (output,) = _call(_forward_kernel, inputs, ("q",), "row_attention", *static)
  return output


def _attention_fwd(query, key, value, position, segments, *static):
  inputs = (query, key, value, position, segments)
  return _attention(*inputs, *static), inputs


def _attention_bwd(*args):
  *static, (query, key, value, position, segments), cotangent = args
  inputs = (query, key, value, position, *segments, cotangent)
  out = ("q", "k", "k") + (() if position is None else ("position",))
  kernel = _backward_kernel
  if position is None:
    kernel = functools.partial(kernel, dposition_ref=None)
  name = "row_attention_gradient"
  gradients = _call(kernel, inputs, out, name, *static)
  if position is None:
    return *gradients, None, None
  *gradients, dposition = gradients
  return *gradients, dposition.astype(position.dtype), None


_attention.defvjp(_attention_fwd, _attention_bwd)
