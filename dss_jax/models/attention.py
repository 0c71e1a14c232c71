"""Softmax attention in plain JAX, with its gradient written by hand.

Runs anywhere; `attention_kernels` has what is faster on some devices.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


def dot_product_attention(
  query: Array,
  key: Array,
  value: Array,
  bias: Array,
  *,
  dtype: str,
  float32_logits: bool = False,
  keep: Array | None = None,
) -> Array:
  """Softmax attention with an additive bias and no 1/sqrt(head_dim).

  T5 folds that scale into the initializer of the query projection.

  Args:
    query: [batch, heads, q, head_dim].
    key: [batch, heads, k, head_dim].
    value: [batch, heads, k, head_dim].
    bias: broadcastable to [batch, heads, q, k]; holds the mask too.
    dtype: of the probabilities and of the result.
    float32_logits: form the query-key products in float32.
    keep: factors of the probabilities, [batch, heads, q, k] (dropout).

  Returns:
    [batch, heads, q, head_dim].
  """
  types = _Types(
    dtype, "float32" if float32_logits else dtype, bias.shape, bias.dtype.name
  )
  return _attend(types, query, key, value, bias, keep)


class _Types(NamedTuple):
  """What is known of attention before its arrays are."""

  dtype: str
  product_dtype: str
  bias_shape: tuple[int, ...]
  bias_dtype: str


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(types, query, key, value, bias, keep):
  return _attend_fwd(types, query, key, value, bias, keep)[0]


def _attend_fwd(types, query, key, value, bias, keep):
  logits = jnp.einsum(
    "bhqd,bhkd->bhqk", query, key, preferred_element_type=types.product_dtype
  )
  logits = logits.astype(jnp.float32) + bias.astype(jnp.float32)
  highest = jnp.max(logits, axis=-1, keepdims=True)
  # The exponentials are the only array of the scores' size that is kept. They
  # are normalised after they have weighed the values, when numbers are few.
  exponentials = jnp.exp(logits - highest)
  normalizer = jnp.sum(exponentials, axis=-1)
  exponentials = exponentials.astype(types.dtype)
  outputs = jnp.einsum("bhqk,bhkd->bhqd", _times(exponentials, keep), value)
  outputs = outputs / normalizer[..., None].astype(types.dtype)
  kept = query, key, value, keep, exponentials, normalizer, outputs
  return outputs, kept


def _attend_bwd(types, kept, cotangent):
  query, key, value, keep, exponentials, normalizer, outputs = kept
  # Each query's sum of its probabilities times their gradients.
  mean = jnp.sum(
    cotangent.astype(jnp.float32) * outputs.astype(jnp.float32),
    axis=-1,
    keepdims=True,
  )
  scaled = cotangent / normalizer[..., None].astype(types.dtype)
  gradient = jnp.einsum(
    "bhqd,bhkd->bhqk", scaled, value, preferred_element_type=types.product_dtype
  )
  gradient = _times(gradient, keep)
  gradient = exponentials * (gradient - mean / normalizer[..., None])
  broadcast = [
    axis
    for axis, size in enumerate(types.bias_shape)
    if size != gradient.shape[axis]
  ]
  of_bias = jnp.sum(gradient, axis=broadcast, keepdims=True)
  gradient = gradient.astype(types.dtype)
  return (
    jnp.einsum("bhqk,bhkd->bhqd", gradient, key),
    jnp.einsum("bhqk,bhqd->bhkd", gradient, query),
    jnp.einsum("bhqk,bhqd->bhkd", _times(exponentials, keep), scaled),
    of_bias.astype(types.bias_dtype),
    None,
  )


_attend.defvjp(_attend_fwd, _attend_bwd)


def _times(x: Array, factors: Array | None) -> Array:
  return x if factors is None else x * factors
