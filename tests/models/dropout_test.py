"""Dropout: what the masks share, their expectation, who draws what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models

from dss_jax.models import layer_parts
from dss_jax.models.encoder_decoder import EncoderDecoderModel

RATE = 0.25


def _config(**overrides):
  return dataclasses.replace(
    small_models.SMALL, **{"dropout_rate": RATE, **overrides}
  )


def _drop(module, x, *args, seed=0, method=None):
  @jax.jit
  def drop(x):
    rngs = {"dropout": jax.random.key(seed)}
    return module.apply({}, x, *args, rngs=rngs, method=method)

  return drop(x)


@pytest.mark.parametrize("broadcast", ["length", "full"])
def test_hidden_masks_share_positions_or_not(broadcast):
  config = _config(dropout_broadcast=broadcast)
  x = jnp.ones((40, 6, 30))
  kept = np.asarray(_drop(layer_parts.Dropout(config, False), x))
  assert set(np.unique(kept)) == {0.0, np.float32(1 / (1 - RATE))}
  assert kept.mean() == pytest.approx(1.0, abs=0.08)
  same_for_all_positions = (kept == kept[:, :1]).all()
  assert same_for_all_positions == (broadcast == "length")
  # Rows and features have masks of their own in either case.
  assert not (kept == kept[:1]).all()
  assert not (kept == kept[:, :, :1]).all()


def test_the_encoders_output_is_always_dropped_in_full():
  config = _config(dropout_broadcast="length")
  module = layer_parts.Dropout(config, False, always_full=True)
  kept = np.asarray(_drop(module, jnp.ones((4, 6, 30))))
  assert not (kept == kept[:, :1]).all()


@pytest.mark.parametrize("broadcast", ["length", "full"])
def test_attention_masks_share_queries_or_not(broadcast):
  config = _config(dropout_broadcast=broadcast)
  attention = layer_parts.MultiHeadDotProductAttention(config, False)
  value = jnp.ones((30, 2, 16, 4))
  value, keep = _drop(attention, value, 5, method="_drop")
  kept = np.asarray(value)[..., 0] if keep is None else np.asarray(keep)
  assert (keep is None) == (broadcast == "length")
  assert kept.shape == (30, 2, 16) if keep is None else (30, 2, 5, 16)
  assert kept.mean() == pytest.approx(1, rel=0.08)
  assert set(np.unique(kept)) == {0.0, np.float32(1 / (1 - RATE))}
  assert not (kept == kept[:, :1]).all()  # heads
  assert not (kept == kept[..., :1]).all()  # keys
  if keep is not None:
    assert not (kept == kept[:, :, :1]).all()  # queries
    np.testing.assert_array_equal(value, 1)


def _student(broadcast, rate):
  """`apply` as a function of the dropout key."""
  config = _config(dropout_broadcast=broadcast, dropout_rate=rate)
  model = EncoderDecoderModel(config)
  params = small_models.random_params(config, 0.5)
  rng = np.random.default_rng(0)
  batch = {
    "encoder_input_tokens": rng.integers(2, 17, (3, 5)).astype(np.int32),
    "decoder_input_tokens": rng.integers(2, 17, (3, 4)).astype(np.int32),
  }
  return lambda key: model.apply(params, batch, dropout_key=key)


@pytest.mark.parametrize(
  "broadcast", ["length", pytest.param("full", marks=pytest.mark.slow)]
)
def test_masks_depend_on_the_key_alone(broadcast):
  apply = jax.jit(_student(broadcast, RATE))
  first, again = apply(jax.random.key(1)), apply(jax.random.key(1))
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, apply(jax.random.key(2)))


def test_nothing_is_drawn_without_a_key_or_at_rate_zero():
  def num_draws(rate, key):
    jaxpr = str(jax.make_jaxpr(_student("length", rate))(key))
    return jaxpr.count("name=_bernoulli")

  # Embeddings, attention probabilities (1 + 2), outputs of sub-layers
  # (2 + 3), hidden layers (1 + 1) and the outputs of both stacks.
  assert num_draws(RATE, jax.random.key(0)) == 2 + 3 + 5 + 2 + 2
  assert num_draws(RATE, None) == 0
  assert num_draws(0.0, jax.random.key(0)) == 0
