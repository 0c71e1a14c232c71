"""Attention biases of the stacks: relative positions and masks together.

The plain path takes one array; a kernel takes the parts
(`attention_kernels.SegmentBias`).
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.models import config as config_lib
from dss_jax.models import layer_parts, relative_positions
from dss_jax.models.kernels import attention_kernels

Array = jax.Array
Bias = jax.Array | attention_kernels.SegmentBias


class Stack(Protocol):
  """What the biases depend on of an encoder or decoder stack."""

  config: config_lib.T5Config
  deterministic: bool
  # Unless each layer has its own.
  relpos_bias: relative_positions.RelativePositionBiases


def positions(
  stack: Stack, relative: np.ndarray, *, bidirectional: bool
) -> tuple[tuple[Array, ...], Array | None]:
  """Buckets for layers with a position bias of their own, or the stack's bias.

  Returns:
    ([length, length] int32,) and None, or () and [heads, length, length].
  """
  if stack.config.relpos_bias_per_layer:
    buckets = relative_positions.to_buckets(
      relative, bidirectional=bidirectional
    )
    return (jnp.asarray(buckets),), None
  return (), stack.relpos_bias(relative)


def of_segments(
  stack: Stack,
  query_segments: Array,
  key_segments: Array,
  position: Array | None,
  *,
  has_positions: bool,
  causal: bool,
) -> Bias:
  """The bias of attention within segments, in the form of its implementation.

  Args:
    stack: whose layers attend.
    query_segments: [batch, q] int32, 0 is padding.
    key_segments: [batch, k] int32.
    position: [heads, q, k], the stack's position bias, if there is one.
    has_positions: whether there is one, the stack's or each layer's.
    causal: whether later keys are hidden.
  """
  implementation = attention_kernels.choose(
    stack.config,
    query_segments.shape[1],
    key_segments.shape[1],
    position=has_positions,
    causal=causal,
    training=not stack.deterministic,
  )
  if implementation == "xla":
    mask = _same_segment(query_segments, key_segments)
    if causal:
      mask &= relative_positions.within(query_segments.shape[1]) <= 0
    return dense(stack.config, mask, position)
  if position is not None:
    position = layer_parts.constrain(
      position[None], None, "heads", "length", None
    )
  return attention_kernels.SegmentBias(
    position, query_segments, key_segments, causal, implementation
  )


def dense(
  config: config_lib.T5Config,
  mask: Array | np.ndarray,
  position: Array | None,
) -> Array:
  """bool [..., 1, q, k] and [heads, q, k] -> [..., 1 or heads, q, k]."""
  bias = of_mask(mask, config.dtype)
  if position is None:
    return layer_parts.constrain(bias, "batch", None, "length", None)
  return layer_parts.constrain(
    position + bias, "batch", "heads", "length", None
  )


def _same_segment(query_segments: Array, key_segments: Array) -> Array:
  """[batch, q], [batch, k] -> bool [batch, 1, q, k]; padding is never seen."""
  query_segments = query_segments[:, None, :, None]
  key_segments = key_segments[:, None, None, :]
  return (query_segments == key_segments) & (key_segments > 0)


def padding_bias(input_tokens: Array | np.ndarray, dtype: str) -> Array:
  """[examples, inputs] int32 -> [examples, 1, 1, inputs] for decoding."""
  return of_mask(input_tokens > 0, dtype)[:, None, None, :]


def of_mask(mask: Array | np.ndarray, dtype: str) -> Array:
  """True -> 0, False -> MASKED."""
  return jnp.where(mask, 0.0, layer_parts.MASKED).astype(dtype)
