"""Attention worked in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.models import attention, layer_parts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention(dtype):
  rng = np.random.default_rng(0)
  query, key, value = rng.normal(size=(3, 2, 3, 4, 5))
  bias = rng.normal(size=(1, 3, 4, 4))
  bias[..., 2] = layer_parts.MASKED
  bias[:, :, 3] = layer_parts.MASKED  # a query that may see nothing
  out = attention.dot_product_attention(
    jnp.asarray(query, dtype),
    jnp.asarray(key, dtype),
    jnp.asarray(value, dtype),
    jnp.asarray(bias, dtype),
    dtype=dtype,
    float32_logits=True,
  )
  assert out.dtype == dtype
  # No 1 / sqrt(head_dim).
  logits = np.einsum("bhqd,bhkd->bhqk", query, key) + bias
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  weights[:, :, 3] = 0.25
  expected = np.einsum("bhqk,bhkd->bhqd", weights, value)
  np.testing.assert_allclose(
    out.astype(jnp.float32),
    expected,
    atol=1e-5 if dtype == "float32" else 5e-2,
  )


@functools.partial(jax.jit, static_argnames=("dtype", "attend"))
def _attention_gradients(arrays, keep, cotangent, *, dtype, attend):
  def outputs(query, key, value, bias):
    return attend(query, key, value, bias, dtype=dtype, keep=keep)

  return jax.vjp(outputs, *arrays)[1](cotangent)


def _attention_by_definition(query, key, value, bias, *, dtype, keep):
  logits = jnp.einsum("bhqd,bhkd->bhqk", query, key).astype(jnp.float32)
  probabilities = jax.nn.softmax(logits + bias).astype(dtype)
  if keep is not None:
    probabilities = probabilities * keep
  return jnp.einsum("bhqk,bhkd->bhqd", probabilities, value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bias_rows", [1, 2])
@pytest.mark.parametrize("dropping", [False, True])
def test_gradients_of_attention(dtype, bias_rows, dropping):
  rng = np.random.default_rng(0)
  arrays = [
    jnp.asarray(rng.normal(size=size), dtype)
    for size in ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 5))
  ]
  bias = rng.normal(size=(bias_rows, 3, 4, 6))
  bias[:, :, 1, :3] = layer_parts.MASKED
  bias[:, :, 3] = layer_parts.MASKED  # a query that may see nothing
  arrays.append(jnp.asarray(bias, dtype))
  keep = None
  if dropping:
    keep = jnp.asarray(rng.integers(0, 2, (2, 3, 4, 6)) / 0.5, dtype)
  cotangent = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), dtype)
  got, want = (
    _attention_gradients(
      tuple(arrays), keep, cotangent, dtype=dtype, attend=attend
    )
    for attend in (attention.dot_product_attention, _attention_by_definition)
  )
  for a, b in zip(got, want, strict=True):
    assert a.dtype == dtype
    np.testing.assert_allclose(
      a.astype(jnp.float32),
      b.astype(jnp.float32),
      atol=1e-5 if dtype == "float32" else 0.1,
    )
