"""The analytic FLOPs against every matrix product of the model, counted."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import ODD

from dss_jax.models import abstract_params, flops
from dss_jax.models.config import NUM_RELPOS_BUCKETS
from dss_jax.models.encoder_decoder import EncoderDecoderModel

# No size is that of another, nor of the buckets.
CONFIG = dataclasses.replace(
  ODD, mlp_dim=17, vocab_size=61, num_encoder_layers=2, num_decoder_layers=3
)
ENCODER_LENGTH, DECODER_LENGTH, ROWS = 7, 4, 2


def _product_flops(jaxpr) -> int:
  """2·m·n·k of every product in a program, but for the position biases'."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      contracted, _ = equation.params["dimension_numbers"][0]
      shape = equation.invars[0].aval.shape
      size = math.prod(shape[axis] for axis in contracted)
      result = equation.outvars[0].aval.shape
      if NUM_RELPOS_BUCKETS not in (size, *result):
        total += 2 * size * math.prod(result)
    for inner in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
        total += _product_flops(inner)
  return total


def _batch():
  """Rows without any padding, of one example each."""
  return {
    "encoder_input_tokens": jnp.ones((ROWS, ENCODER_LENGTH), jnp.int32),
    "decoder_input_tokens": jnp.ones((ROWS, DECODER_LENGTH), jnp.int32),
  }


@pytest.fixture(scope="module")
def params():
  return jax.eval_shape(EncoderDecoderModel(CONFIG).init, jax.random.key(0))


def _sizes() -> tuple[int, int, flops.AttentionPairs]:
  inputs, targets = [ENCODER_LENGTH] * ROWS, [DECODER_LENGTH] * ROWS
  pairs = flops.AttentionPairs.of_lengths(inputs, targets)
  return sum(inputs), sum(targets), pairs


def test_forward_is_every_product_of_the_model(params):
  apply = EncoderDecoderModel(CONFIG).apply
  counted = _product_flops(jax.make_jaxpr(apply)(params, _batch()).jaxpr)
  assert flops.training_flops(CONFIG, *_sizes()) == 3 * counted


@pytest.mark.parametrize("tied", [False, True])
def test_kernels_are_the_parameters_that_tokens_are_multiplied_by(tied):
  config = dataclasses.replace(CONFIG, logits_via_embedding=tied)
  shapes = abstract_params.param_shapes(EncoderDecoderModel(config))
  kernels = sum(
    math.prod(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    if "kernel" in jax.tree_util.keystr(path)
    or (tied and "token_embedder" in jax.tree_util.keystr(path))
  )
  assert flops.num_kernel_parameters(config) == kernels


def test_training_is_every_product_of_the_gradient(params):
  model = EncoderDecoderModel(CONFIG)
  gradient = jax.grad(lambda p: jnp.sum(model.apply(p, _batch())))
  counted = _product_flops(jax.make_jaxpr(gradient)(params).jaxpr)
  assert flops.training_flops(CONFIG, *_sizes()) == counted


def test_frozen_kernels_have_no_gradients():
  tokens = _sizes()[:2]
  whole = flops.training_flops(CONFIG, *tokens)
  assert flops.training_flops(CONFIG, *tokens, frozen=True) == whole * 2 / 3
  scores = flops.training_flops(CONFIG, 0, 0, _sizes()[2])
  assert scores > 0
  assert flops.training_flops(CONFIG, *_sizes(), frozen=True) == pytest.approx(
    whole * 2 / 3 + scores
  )


def test_padding_does_not_count():
  segments = {
    "encoder_segment_ids": np.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]),
    "decoder_segment_ids": np.array([[1, 2, 2, 0], [1, 1, 1, 1]]),
  }
  pairs = flops.AttentionPairs.of_batch(segments)
  assert pairs == (9 + 4 + 4, 1 + 4 + 16, 3 + 4 + 8)
  # The padded batch takes this many: whole rows attend to whole rows.
  padded = flops.AttentionPairs.of_lengths([6, 6], [4, 4])
  useful = flops.training_flops(CONFIG, 7, 7, pairs)
  assert useful < flops.training_flops(CONFIG, 12, 8, padded)
