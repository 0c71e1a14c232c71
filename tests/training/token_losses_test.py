"""Losses of tokens against hand-worked numbers and references."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dss_jax.training import token_losses

LN2, LN4 = math.log(2), math.log(4)

# One program: by themselves, its operations would compile one after the other.
token_nll = jax.jit(token_losses.token_nll, static_argnums=(2, 3))


def reference_token_loss(logits, targets, z_loss, label_smoothing):
  """T5X's formula in float64, spelled out with one-hot targets."""
  logits = np.asarray(logits, np.float64)
  vocab = logits.shape[-1]
  confidence = 1 - label_smoothing
  low = label_smoothing / (vocab - 1)
  constant = -(
    confidence * np.log(confidence) + (vocab - 1) * low * np.log(low + 1e-20)
  )
  soft = np.where(np.eye(vocab)[targets] > 0, confidence, low)
  log_z = np.log(np.sum(np.exp(logits), axis=-1))
  nll = -np.sum(soft * (logits - log_z[..., None]), axis=-1) - constant
  return nll, z_loss * log_z**2


class TestTokenNll:
  def test_uniform_logits_by_hand(self):
    nll, z = token_nll(np.zeros((1, 2, 4)), np.array([[3, 0]]), 0.1)
    np.testing.assert_allclose(nll, [[LN4, LN4]], rtol=1e-6)
    np.testing.assert_allclose(z, [[0.1 * LN4**2] * 2], rtol=1e-6)

  def test_smoothed_by_hand(self):
    # Vocabulary 2, smoothing 1/4: q = (3/4, 1/4), uniform prediction. The
    # cross-entropy is ln 2 whatever q; its minimum is H(q).
    nll, _ = token_nll(np.zeros((1, 1, 2)), np.array([[0]]), 0.0, 0.25)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    np.testing.assert_allclose(nll, [[LN2 - entropy]], rtol=1e-5)

  def test_smoothed_prediction_has_no_loss(self):
    logits = np.log(np.array([[[0.9, 0.05, 0.05]]], np.float32))
    nll, _ = token_nll(logits, np.array([[0]]), 0.0, 0.1)
    np.testing.assert_allclose(nll, [[0.0]], atol=1e-6)

  @pytest.mark.parametrize(
    ("z_loss", "smoothing"),
    [pytest.param(0.0, 0.0, marks=pytest.mark.slow), (1e-2, 0.1)],
  )
  def test_value_and_gradient(self, z_loss, smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 11)).astype(np.float32) * 4 + 2
    targets = rng.integers(0, 11, (3, 5)).astype(np.int32)
    weights = rng.normal(size=(2, 3, 5)).astype(np.float32)

    def total(fn, logits):
      nll, z = fn(logits, targets, z_loss, smoothing)
      return jnp.sum(nll * weights[0]) + jnp.sum(z * weights[1])

    def plain(logits, targets, z_loss, smoothing):
      """The same by automatic differentiation."""
      log_p = jax.nn.log_softmax(logits)
      low = smoothing / 10
      soft = jax.nn.one_hot(targets, 11) * (1 - smoothing - low) + low
      log_z = jax.nn.logsumexp(logits, axis=-1)
      return -jnp.sum(soft * log_p, -1), z_loss * log_z**2

    nll, z = token_nll(logits, targets, z_loss, smoothing)
    want_nll, want_z = reference_token_loss(logits, targets, z_loss, smoothing)
    np.testing.assert_allclose(nll, want_nll, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(z, want_z, rtol=2e-6)
    got, want = jax.jit(
      lambda x: [
        jax.grad(functools.partial(total, fn))(x)
        for fn in (token_losses.token_nll, plain)
      ]
    )(logits)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

  def test_large_logits_stay_finite(self):
    logits = np.array([[[1e4, 0.0, -1e4]]], np.float32)
    targets = np.array([[1]])
    value, grad = jax.jit(
      jax.value_and_grad(
        lambda x: jnp.sum(token_losses.token_nll(x, targets)[0])
      )
    )(logits)
    assert float(value) == 1e4
    np.testing.assert_array_equal(grad, [[[1.0, -1.0, 0.0]]])

  def test_sharded_vocabulary_is_not_gathered(self):
    mesh = jax.make_mesh(
      (2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2
    )
    logits = jax.ShapeDtypeStruct((4, 6, 32), jnp.float32)
    targets = jax.ShapeDtypeStruct((4, 6), jnp.int32)
    split = NamedSharding(mesh, PartitionSpec("data", None, "model"))
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def total(logits, targets):
      nll, z = token_losses.token_nll(logits, targets, 1e-4, 0.1)
      return jnp.sum(nll + z)

    grad = jax.jit(
      jax.grad(total), in_shardings=(split, rows), out_shardings=split
    )
    text = grad.lower(logits, targets).compile().as_text() or ""
    assert "all-reduce" in text
    assert "all-gather" not in text

  def test_bfloat16_logits_are_computed_on_in_float32(self):
    logits = jnp.linspace(0, 3, 8, dtype=jnp.bfloat16).reshape(1, 1, 8)
    targets = jnp.array([[2]])
    nll, _ = token_nll(logits, targets)
    assert nll.dtype == jnp.float32
    want, _ = reference_token_loss(logits.astype(jnp.float32), targets, 0, 0)
    np.testing.assert_allclose(nll, want, rtol=1e-6)
    grad = jax.jit(
      jax.grad(lambda x: token_losses.token_nll(x, targets)[0].sum())
    )(logits)
    assert grad.dtype == jnp.bfloat16


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
  ("logits", "chosen"),
  [
    ([1.0, 3.0, 2.0], 1),
    ([3.0, 1.0, 3.0], 0),  # the lowest id of a tie
    ([0.0, 0.0, 0.0], 0),
    ([1.0, 2.0, 2.0], 1),
    ([-INF, -INF, 0.0], 2),
    ([-INF, -INF, -INF], 0),
    ([0.0, INF, INF], 1),
    ([NAN, 1.0, 0.0], None),
    ([1.0, NAN, 0.0], None),
    ([NAN, NAN, NAN], None),
  ],
)
def test_the_target_is_chosen_as_greedy_decoding_would(logits, chosen):
  values = jnp.array([logits] * 3)
  found = jax.jit(token_losses.is_chosen)(values, jnp.arange(3))
  assert found.tolist() == [target == chosen for target in range(3)]
  if chosen is not None:
    assert int(jnp.argmax(values[0])) == chosen
