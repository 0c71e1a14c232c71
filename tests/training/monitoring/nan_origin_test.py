"""Finding the operation that makes the first NaN, in small programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from dss_jax.training.monitoring import nan_origin


def _find(function, *args):
  program = jax.make_jaxpr(function)(*args)
  return nan_origin.find(program, jax.tree.leaves(args))


def _kinds(found):
  return {origin.kind: origin.operation for origin in found.origins}


def test_the_operation_and_its_line_are_named():
  @jax.jit
  def part(x):
    with jax.named_scope("layer_7"):
      return jnp.log(x) + 1

  found = _find(lambda x: jnp.exp(part(x - 2)), jnp.array([3.0, 1.0]))
  (origin,) = found.origins
  assert (origin.kind, origin.operation) == ("NaN", "log")
  assert "layer_7" in origin.part
  assert "nan_origin_test.py" in origin.source
  assert origin.source.endswith("(part)")
  assert "the first NaN comes out of `log`" in str(origin)
  np.testing.assert_allclose(found.outputs[0], [np.e, np.nan])


def test_infinities_that_were_there_are_nobodys_fault():
  def masked(x):
    scores = jnp.where(x > 1, x, -jnp.inf)
    return jax.nn.softmax(scores)

  assert not _find(masked, jnp.array([0.0, 2.0, 3.0])).origins
  nothing_left = _find(masked, jnp.array([0.0, 0.5]))
  assert _kinds(nothing_left) == {"NaN": "sub"}


def test_an_overflow_comes_before_its_nan():
  def overflowing(x):
    large = x * 1e30
    return large * 1e30 - large * 1e30

  assert _kinds(_find(overflowing, jnp.ones(2))) == {
    "infinity": "mul",
    "NaN": "sub",
  }


def test_gradients_within_loops_calls_and_branches():
  """sqrt at 0 is finite, its gradient is not: seen in the backward pass."""

  @jax.checkpoint
  def body(carry, x):
    carry = jax.lax.cond(x > 0, jnp.sqrt, jnp.sin, carry)
    return carry, carry * x

  def loss(x):
    carry, ys = jax.lax.scan(body, x, jnp.array([0.0, 1.0]))
    return carry + ys.sum()

  def gradient(x):
    return checkpoint_name(jax.grad(loss)(x), "gradient of x")

  x = jnp.float32(0.0)
  found = _find(gradient, x)
  assert found.named == ["gradient of x"]
  assert found.origins[0].kind == "infinity"
  assert "transpose" in found.origins[0].part
  good = jnp.float32(0.5)
  fine = _find(gradient, good)
  assert not fine.origins
  assert not fine.named
  np.testing.assert_allclose(fine.outputs[0], jax.grad(loss)(good), rtol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_programs_return_what_they_return_compiled(reverse):
  @jax.custom_vjp
  def double(x):
    return 2 * x

  double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

  def program(key, xs, scale):
    def body(carry, x):
      noise = jax.random.uniform(jax.random.fold_in(key, 1), x.shape)
      return carry + double(x), jax.nn.relu(carry * noise)

    total, ys = jax.lax.scan(body, scale, xs, reverse=reverse)
    return jax.lax.while_loop(
      lambda t: t.sum() < 50, lambda t: t * 2, total
    ), ys

  args = (jax.random.key(0), jnp.arange(6.0).reshape(3, 2), jnp.ones(2))
  found = _find(program, *args)
  for value, expected in zip(found.outputs, jax.jit(program)(*args)):
    np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert not found.origins


def test_half_precision_and_integers():
  found = _find(
    lambda x: (
      x.astype(jnp.bfloat16) * jnp.bfloat16(3e38),
      x.astype(jnp.int32),
    ),
    jnp.array([2.0]),
  )
  assert _kinds(found) == {"infinity": "mul"}


def test_nothing_is_run_after_the_last_label():
  def program(x):
    x = checkpoint_name(jnp.log(x), "first")
    return jnp.sqrt(checkpoint_name(x, "second") * jnp.inf)

  made = jax.make_jaxpr(program)(jnp.float32(-1))
  found = nan_origin.find(made, [jnp.float32(-1)], until=["first"])
  assert found.named == ["first"]
  assert not found.outputs
