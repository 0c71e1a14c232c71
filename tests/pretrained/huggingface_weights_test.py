"""Names and layouts of Hugging Face's parameters."""

import dataclasses

import jax
import numpy as np
import pytest
import small_models

from dss_jax.pretrained import huggingface_weights

CONFIG = dataclasses.replace(
  small_models.ODD, num_encoder_layers=2, num_decoder_layers=1
)
TIED = small_models.tied(CONFIG)


@pytest.mark.parametrize(
  "config",
  [CONFIG, TIED, dataclasses.replace(CONFIG, scan_layers=True)],
  ids=["1.1", "1.0", "scanned"],
)
def test_round_trip(folders, config):
  params = small_models.random_params(config)
  exported = huggingface_weights.to_huggingface(params, config)
  back = folders.params(exported, config)
  assert jax.tree.structure(back) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, back, params)
  assert all(array.flags.c_contiguous for array in exported.values())


def test_names_and_layouts():
  params = small_models.random_params(CONFIG)
  exported = huggingface_weights.to_huggingface(params, CONFIG)
  # Two tables, two norms and two position biases outside of the layers.
  assert len(exported) == 2 + 2 + 2 + 2 * (4 + 3 + 2) + (8 + 3 + 3)
  layer = params["decoder"]["layers_0"]
  for name, expected in {
    "shared.weight": params["token_embedder"]["embedding"],
    "lm_head.weight": params["decoder"]["logits_dense"]["kernel"].T,
    "decoder.block.0.layer.1.EncDecAttention.o.weight": (
      layer["encoder_decoder_attention"]["out"]["kernel"].T
    ),
    "decoder.block.0.layer.1.layer_norm.weight": (
      layer["pre_cross_attention_layer_norm"]["scale"]
    ),
    "decoder.block.0.layer.2.DenseReluDense.wi_1.weight": (
      layer["mlp"]["wi_1"]["kernel"].T
    ),
    "encoder.block.1.layer.1.layer_norm.weight": (
      params["encoder"]["layers_1"]["pre_mlp_layer_norm"]["scale"]
    ),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
      params["encoder"]["relpos_bias"]["rel_embedding"].T
    ),
    "encoder.final_layer_norm.weight": (
      params["encoder"]["encoder_norm"]["scale"]
    ),
  }.items():
    np.testing.assert_array_equal(exported[name], expected)
