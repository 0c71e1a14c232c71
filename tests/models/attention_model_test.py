"""The whole student with kernels: loss and gradients of plain attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from small_models import SMALL

from dss_jax.models import layer_stacking
from dss_jax.models.encoder_decoder import EncoderDecoderModel
from dss_jax.models.kernels import (
  attention_kernels,
  attention_proof,
  cudnn_attention,
)

CONFIG = dataclasses.replace(
  SMALL, head_dim=16, dropout_rate=0.2, attention_implementation="xla"
)


def _batch(inputs, targets):
  """Three packed rows with padding at their ends."""
  rng = np.random.default_rng(0)
  encoder, decoder = attention_proof.packed_segments(rng, inputs, targets)

  def tokens(segments):
    drawn = rng.integers(2, CONFIG.vocab_size, segments.shape)
    return np.where(segments > 0, drawn, 0).astype(np.int32)

  return {
    "encoder_input_tokens": tokens(encoder),
    "encoder_segment_ids": encoder,
    "decoder_input_tokens": tokens(decoder),
    "decoder_segment_ids": decoder,
  }


def _params(config):
  apart = dataclasses.replace(config, scan_layers=False)
  rng = np.random.default_rng(0)
  params = small_models.random_params(apart, 0.5)
  kernels = params["encoder"]["layers_0"]["attention"]["query"]
  shape = kernels["kernel"].shape
  kernels["lora_a"] = rng.normal(size=(shape[0], 2)).astype(np.float32)
  kernels["lora_b"] = rng.normal(size=(2, shape[1])).astype(np.float32)
  return layer_stacking.stack_layers(params) if config.scan_layers else params


def _loss_and_gradients(config, batch):
  model = EncoderDecoderModel(config)

  def loss(params, key):
    logits = model.apply(params, batch, dropout_key=key)
    seen = (batch["decoder_segment_ids"] > 0)[..., None]
    return (jnp.sin(logits) * seen).sum()

  return jax.jit(jax.value_and_grad(loss))(_params(config), jax.random.key(1))


@pytest.mark.parametrize(
  ("implementation", "lengths", "fields"),
  [
    ("triton", (32, 16), {}),
    *(
      pytest.param(*case, marks=pytest.mark.thorough)
      for case in (
        ("triton", (32, 16), {"scan_layers": True, "remat_policy": "minimal"}),
        (
          "triton",
          (32, 16),
          {"dropout_broadcast": "full", "attention_dropout": False},
        ),
        ("cudnn", (32, 16), {}),
        ("flash", (32, 16), {}),
        (
          "flash",
          (24, 24),
          {"scan_layers": True, "relpos_bias_per_layer": True},
        ),
      )
    ),
  ],
)
def test_loss_and_all_gradients_are_those_of_plain_attention(
  implementation, lengths, fields, monkeypatch
):
  if implementation == "cudnn":  # all but cuDNN itself
    attend = functools.partial(cudnn_attention.attention, implementation="xla")
    monkeypatch.setitem(attention_kernels._KERNELS, "cudnn", attend)
    monkeypatch.setattr(attention_kernels, "_INTERPRETED", ("cudnn",))
  plain = dataclasses.replace(CONFIG, **fields)
  config = dataclasses.replace(plain, attention_implementation=implementation)
  batch = _batch(*lengths)
  expected = _loss_and_gradients(plain, batch)
  actual = _loss_and_gradients(config, batch)
  # cuDNN's codes of segments cost scores precision.
  atol = 5e-3 if implementation == "cudnn" else 1e-4
  np.testing.assert_allclose(actual[0], expected[0], rtol=atol)

  def check(path, x, reference):
    name = jax.tree_util.keystr(path)
    assert np.abs(reference).max() > 0, name
    scale = np.abs(reference).max()
    np.testing.assert_allclose(x / scale, reference / scale, atol=atol)

  jax.tree_util.tree_map_with_path(check, actual[1], expected[1])


@pytest.mark.device
@pytest.mark.parametrize("implementation", ["cudnn", "triton", "flash", "auto"])
@pytest.mark.parametrize("lengths", [(256, 128), (512, 192)])
def test_on_the_device_loss_and_gradients_are_those_of_plain_attention(
  implementation, lengths
):
  here = jax.default_backend()
  if attention_kernels._PLATFORMS.get(implementation, here) != here:
    pytest.skip(f"{implementation} does not run on {here}")
  if here == "cpu":
    pytest.skip("no accelerator")
  plain = dataclasses.replace(
    CONFIG, dtype="bfloat16", emb_dim=256, num_heads=4, head_dim=64
  )
  config = dataclasses.replace(plain, attention_implementation=implementation)
  batch = _batch(*lengths)
  # In float32 nothing but the kernels would differ; in bfloat16 both are off.
  exact = dataclasses.replace(plain, dtype="float32")
  reference = _loss_and_gradients(exact, batch)[1]

  def error(gradients):
    pairs = zip(
      jax.tree.leaves(gradients), jax.tree.leaves(reference), strict=True
    )
    return np.array(
      [np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in pairs]
    )

  found = error(_loss_and_gradients(config, batch)[1])
  rounding = error(_loss_and_gradients(plain, batch)[1])
  assert (found < 2 * rounding + 0.02).all(), (found, rounding)


@pytest.mark.parametrize(
  ("implementation", "forms_scores"),
  [("xla", True), ("triton", False), ("flash", False)],
)
def test_kernels_leave_no_array_of_the_size_of_the_scores(
  implementation, forms_scores
):
  config = dataclasses.replace(CONFIG, attention_implementation=implementation)
  batch = _batch(128, 64)
  model = EncoderDecoderModel(config)

  def loss(params, key):
    return model.apply(params, batch, dropout_key=key).sum()

  trace = jax.make_jaxpr(jax.grad(loss))
  text = str(trace(_params(config), jax.random.key(0)))
  scores = ("3,2,128,128]", "3,2,64,64]", "3,2,64,128]")
  assert [shape in text for shape in scores] == [forms_scores] * 3


def test_initialisation_and_decoding_do_without_the_kernel():
  config = dataclasses.replace(CONFIG, attention_implementation="triton")
  plain, model = EncoderDecoderModel(CONFIG), EncoderDecoderModel(config)
  assert model.param_axes() == plain.param_axes()
  params = _params(config)
  tokens = _batch(32, 16)["encoder_input_tokens"]
  encoded = jax.eval_shape(model.encode, params, tokens)

  def step(params, encoded):
    cache = model.init_cache(params, encoded, tokens, 5)
    return model.decode_step(params, cache, tokens[:, 0])[0]

  with_kernel = jax.make_jaxpr(step)(params, encoded)
  assert "pallas_call" not in str(with_kernel)
