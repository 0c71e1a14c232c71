import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax import vocabulary_loss

ROWS, LENGTH, EMB, VOCAB = 3, 12, 5, 17


def _inputs():
  keys = jax.random.split(jax.random.key(0), 4)
  hidden = jax.random.normal(keys[0], (ROWS, LENGTH, EMB))
  kernel = jax.random.normal(keys[1], (EMB, VOCAB))
  targets = jax.random.randint(keys[2], (ROWS, LENGTH), 0, VOCAB)
  weights = jax.random.uniform(keys[3], (ROWS, LENGTH))
  return hidden, kernel, targets, weights


@functools.partial(jax.jit, static_argnames="slices")
def _loss_and_grads(hidden, kernel, targets, weights, *, slices):
  def loss(hidden, kernel):
    nll, z, predictions = vocabulary_loss.target_losses(
      lambda h: h @ kernel,
      hidden,
      targets,
      z_loss=1e-2,
      label_smoothing=0.1,
      slices=slices,
    )
    return jnp.sum(weights * (nll + z)), predictions

  return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(hidden, kernel)


@pytest.mark.parametrize("slices", [2, 3, 12])
def test_slices_change_nothing(slices):
  (whole, predicted), grads = _loss_and_grads(*_inputs(), slices=1)
  (cut, predicted_cut), grads_cut = _loss_and_grads(*_inputs(), slices=slices)
  np.testing.assert_allclose(cut, whole, rtol=1e-6)
  np.testing.assert_array_equal(predicted_cut, predicted)
  for a, b in zip(grads_cut, grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_no_array_of_all_logits_is_made():
  inputs = _inputs()

  def program(slices):
    return str(
      _loss_and_grads.lower(*inputs, slices=slices).compile().as_text()
    )

  text = program(4)
  assert f"f32[{ROWS},{LENGTH},{VOCAB}]" not in text
  assert f"f32[{ROWS},{LENGTH // 4},{VOCAB}]" in text
  assert f"f32[{ROWS},{LENGTH},{VOCAB}]" in program(1)


def test_number_of_slices():
  # 46 rows of 360 positions and T5's vocabulary: 2.1 GB in one piece.
  slices = vocabulary_loss.num_slices(46, 360, 32128)
  assert 360 % slices == 0
  assert 4 * 46 * (360 // slices) * 32128 <= 256 * 2**20
  assert vocabulary_loss.num_slices(4, 64, 208) == 1
  assert vocabulary_loss.num_slices(10**6, 7, 10**6) == 7
