"""Layers apart <-> layers stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.models import layer_stacking


def _params(num_encoder_layers=2, num_decoder_layers=12, library=np):
  rng = np.random.default_rng(0)

  def stack(name, n):
    layers = {
      f"layers_{i}": {
        "mlp": {"wo": {"kernel": library.asarray(rng.normal(size=(3, 4)))}},
        "norm": {"scale": library.asarray(rng.normal(size=(4,)))},
      }
      for i in range(n)
    }
    return {**layers, f"{name}_norm": {"scale": library.ones(4)}}

  return {
    "token_embedder": {"embedding": library.ones((5, 4))},
    "encoder": stack("encoder", num_encoder_layers),
    "decoder": stack("decoder", num_decoder_layers),
  }


@pytest.mark.parametrize("library", [np, jnp])
def test_round_trip_keeps_values_and_kind_of_array(library):
  params = _params(library=library)
  stacked = layer_stacking.stack_layers(params)
  kernel = stacked["decoder"]["decoder"]["mlp"]["wo"]["kernel"]
  assert kernel.shape == (3, 12, 4)
  assert isinstance(kernel, type(params["token_embedder"]["embedding"]))
  # Layer 10 comes after layer 9, not after layer 1.
  np.testing.assert_array_equal(
    kernel[:, 10], params["decoder"]["layers_10"]["mlp"]["wo"]["kernel"]
  )
  assert stacked["encoder"]["encoder"]["norm"]["scale"].shape == (4, 2)
  assert "encoder_norm" in stacked["encoder"]
  back = layer_stacking.unstack_layers(stacked)
  assert jax.tree.structure(back) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_missing_layers_are_named():
  params = _params()
  del params["encoder"]["layers_0"]
  with pytest.raises(ValueError, match="encoder has no layers to stack"):
    layer_stacking.stack_layers(params)


def test_unstacking_what_is_not_stacked_is_refused():
  params = _params()
  with pytest.raises(ValueError, match="encoder has no stacked layers"):
    layer_stacking.unstack_layers(params)
  stacked = layer_stacking.stack_layers(params)
  stacked["encoder"]["encoder"]["norm"]["scale"] = np.ones((4, 3))
  with pytest.raises(ValueError, match=r"encoder has stacks of \[2, 3\]"):
    layer_stacking.unstack_layers(stacked)
