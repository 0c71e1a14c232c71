"""The fused vocabulary loss equals its definition, in values and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from dss_jax.training import vocabulary_loss

ROWS, LENGTH, EMB, VOCAB = 4, 12, 5, 17


def _inputs(counted_share=0.6, seed=0):
  keys = jax.random.split(jax.random.key(seed), 5)
  hidden = jax.random.normal(keys[0], (ROWS, LENGTH, EMB))
  kernel = jax.random.normal(keys[1], (EMB, VOCAB))
  targets = jax.random.randint(keys[2], (ROWS, LENGTH), 0, VOCAB)
  weights = jax.random.uniform(keys[3], (ROWS, LENGTH))
  counted = jax.random.uniform(keys[4], (ROWS, LENGTH)) < counted_share
  return hidden, kernel, targets, weights, counted


@functools.partial(jax.jit, static_argnames="chunk")
def _loss_and_grads(hidden, kernel, targets, weights, counted, *, chunk):
  def loss(hidden, kernel):
    value, tokens = vocabulary_loss.weighted_loss(
      lambda params, h: jnp.tanh(h) @ (2 * params["kernel"]),
      {"another": jnp.ones(3), "kernel": kernel},
      hidden,
      targets,
      weights,
      counted,
      z_loss=1e-2,
      label_smoothing=0.1,
      chunk=chunk,
    )
    return 3 * value, tokens  # not the last thing that is done to it

  return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(hidden, kernel)


def _assert_same(got, want):
  (loss, tokens), grads = got
  (expected, expected_tokens), expected_grads = want
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_array_equal(tokens.correct, expected_tokens.correct)
  for a, b in zip(
    (*tokens[:2], *grads), (*expected_tokens[:2], *expected_grads)
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# One chunk; whole ones; a last one that is not full; one position each.
@pytest.mark.parametrize("chunk", [1000, 48, 16, 7, 1])
def test_fused_equals_plain(chunk):
  inputs = _inputs()
  _assert_same(
    _loss_and_grads(*inputs, chunk=chunk),
    _loss_and_grads(*inputs, chunk=None),
  )


@settings(deadline=None)  # compiling takes a while
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_fused_equals_plain_however_much_is_padding(seed, share):
  inputs = _inputs(share, seed)
  _assert_same(
    _loss_and_grads(*inputs, chunk=7), _loss_and_grads(*inputs, chunk=None)
  )


@pytest.mark.parametrize("chunk", [None, 7])
def test_what_is_not_counted_may_be_anything(chunk):
  hidden, kernel, targets, weights, counted = _inputs()
  wild = jnp.where(counted, weights, jnp.nan)
  _assert_same(
    _loss_and_grads(hidden, kernel, targets, wild, counted, chunk=chunk),
    _loss_and_grads(hidden, kernel, targets, weights, counted, chunk=chunk),
  )


def test_a_weight_that_is_no_number_is_not_hidden():
  hidden, kernel, targets, weights, counted = _inputs(1.0)
  weights = weights.at[1, 2].set(jnp.nan)
  for chunk in (None, 7):
    (loss, _), _ = _loss_and_grads(
      hidden, kernel, targets, weights, counted, chunk=chunk
    )
    assert np.isnan(loss)


def _program(*inputs, chunk):
  lowered = _loss_and_grads.lower(*inputs, chunk=chunk)
  return lowered.compile().as_text() or ""


def test_no_array_of_all_logits_is_made():
  text = _program(*_inputs(), chunk=8)
  assert f"f32[1,8,{VOCAB}]" in text
  for shape in (f"[{ROWS},{LENGTH},{VOCAB}]", f"[1,{ROWS * LENGTH},{VOCAB}]"):
    assert shape not in text
  assert f"f32[{ROWS},{LENGTH},{VOCAB}]" in _program(*_inputs(), chunk=None)


def test_gradients_are_left_out_where_none_are_asked_for():
  hidden, kernel, targets, weights, counted = _inputs()

  def loss(hidden, kernel):
    return vocabulary_loss.weighted_loss(
      lambda kernel, h: h @ kernel,
      kernel,
      hidden,
      targets,
      weights,
      counted,
      chunk=7,
    )

  def products(fn):
    return str(jax.make_jaxpr(fn)(hidden, kernel)).count("dot_general")

  assert products(loss) == 1
  gradients = jax.grad(lambda *args: loss(*args)[0], argnums=(0, 1))
  assert products(gradients) == 3  # and no logits a second time


def test_positions_stay_on_their_devices():
  mesh = jax.make_mesh(
    (2, 2),
    ("data", "model"),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=jax.devices()[:4],
  )
  rows = NamedSharding(mesh, PartitionSpec("data"))
  columns = NamedSharding(mesh, PartitionSpec(None, "model"))
  hidden, kernel, *others = _inputs()
  kernel = jnp.pad(kernel, ((0, 0), (0, 3)), constant_values=-9.0)
  expected = _loss_and_grads(hidden, kernel, *others, chunk=None)
  placed = [jax.device_put(x, rows) for x in (hidden, *others)]
  placed.insert(1, jax.device_put(kernel, columns))
  with jax.set_mesh(mesh):
    _assert_same(_loss_and_grads(*placed, chunk=7), expected)
    text = _program(*placed, chunk=7)
  for gathering in ("all-gather", "all-to-all", "collective-permute"):
    assert gathering not in text
  # The kernel's gradient is summed over devices once, not for each chunk.
  of_kernel = re.findall(r"f32\[5,10\]\S* all-reduce\(", text)
  loop = text[: text.index("ENTRY")]
  assert len(of_kernel) == 1
  assert not re.findall(r"f32\[5,10\]\S* all-reduce\(", loop)


def test_positions_at_once():
  for platform in ("cpu", "gpu", "tpu"):
    small = vocabulary_loss.positions_at_once(32128, platform)
    assert small % 64 == 0
    assert 0 < small < vocabulary_loss.positions_at_once(8000, platform)
    assert vocabulary_loss.positions_at_once(10**9, platform) == 64


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_fused_and_plain_agree_on_what_is_correct(value):
  """Where all logits are equal, or none is a number."""
  hidden, kernel, targets, weights, counted = _inputs()
  targets = targets.at[:2].set(0)
  kernel = jnp.full_like(kernel, value)
  found = [
    _loss_and_grads(hidden, kernel, targets, weights, counted, chunk=chunk)[0][
      1
    ].correct
    for chunk in (None, 1000, 7)
  ]
  expected = np.asarray(counted & (targets == 0)) if value == 0 else False
  for correct in found:
    np.testing.assert_array_equal(correct, np.broadcast_to(expected, (4, 12)))
  assert np.any(found[0]) == (value == 0)
