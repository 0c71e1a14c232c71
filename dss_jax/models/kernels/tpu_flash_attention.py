"""Attention over packed rows by Pallas' flash attention for TPU.

JAX ships the kernel; it takes a bias of the size of the scores and segment ids.
On CPU, for tests, Pallas interprets it.
"""

from __future__ import annotations

import contextlib
import functools

import jax
import jax.numpy as jnp

from dss_jax.models.partitioning import constraints

Array = jax.Array

BLOCK = 128  # tokens; the kernel's smallest block and default


def refusal(head_dim: int, query_length: int, key_length: int) -> str | None:
  """Why the kernel does not take these sizes; None if it does."""
  if query_length % BLOCK or key_length % BLOCK:
    return (
      f"it takes lengths of multiples of {BLOCK} and not {query_length} and"
      f" {key_length}"
    )
  if head_dim > BLOCK and head_dim % BLOCK:
    return f"it takes head_dim up to 128, 256 ... and not {head_dim}"
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
) -> Array:
  """As `cudnn_attention.attention`."""
  bias = None
  if position is not None:
    # The kernel reads a bias for each row. The sum over the rows, which is the
    # gradient of `position`, is the transpose of this broadcast.
    shape = (*query.shape[:3], key.shape[2])
    bias = jnp.broadcast_to(position, shape)
  attend = _interpreted if constraints.platform() == "cpu" else _attention
  return attend(query, key, value, bias, query_segments, key_segments, causal)


def _attention(query, key, value, bias, query_segments, key_segments, causal):
  # Imported here: it takes a while, and is of use on TPU only.
  from jax.experimental.pallas.ops.tpu import flash_attention as kernel

  return kernel.flash_attention(
    query,
    key,
    value,
    ab=bias,
    segment_ids=kernel.SegmentIds(query_segments, key_segments),
    causal=causal,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _interpreted(query, key, value, bias, query_segments, key_segments, causal):
  with _interpreting():
    return _attention(
      query, key, value, bias, query_segments, key_segments, causal
    )


def _interpreted_fwd(*args):
  return _interpreted(*args), args[:-1]


def _interpreted_bwd(causal, residuals, cotangent):
  *inputs, query_segments, key_segments = residuals
  # Differentiated here and not by JAX, which would trace the kernels of the
  # backward pass after the interpreting context was left.
  with _interpreting():
    _, vjp = jax.vjp(
      lambda query, key, value, bias: _attention(
        query, key, value, bias, query_segments, key_segments, causal
      ),
      *inputs,
    )
    return *vjp(cotangent), None, None


_interpreted.defvjp(_interpreted_fwd, _interpreted_bwd)


@contextlib.contextmanager
def _interpreting():
  from jax.experimental.pallas import tpu

  # True: by plain operations, without a simulation of the TPU's memories.
  with tpu.force_tpu_interpret_mode(True):  # pyright: ignore
    yield
