"""Small models for tests: two sizes and random parameters.

Tests that take the same sizes share traces and compiled programs.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from dss_jax.models import abstract_params, layer_stacking
from dss_jax.models.config import T5Config
from dss_jax.models.encoder_decoder import EncoderDecoderModel

# As small as a student gets.
SMALL = T5Config(
  vocab_size=32,
  emb_dim=8,
  num_heads=2,
  head_dim=4,
  mlp_dim=16,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
# All sizes differ, so that no transposed array can pass.
ODD = T5Config(
  vocab_size=23,
  emb_dim=12,
  num_heads=3,
  head_dim=5,
  mlp_dim=10,
  num_encoder_layers=1,
  num_decoder_layers=2,
)


def tied(config: T5Config) -> T5Config:
  """T5 1.0 of the same sizes: a plain ReLU, and one table for both ends."""
  return dataclasses.replace(
    config, mlp_activations=("relu",), logits_via_embedding=True
  )


def random_params(config: T5Config, scale: float = 1.0, seed: int = 0) -> Any:
  """Parameters drawn from a normal distribution; nothing is compiled.

  The numbers are the same whether layers are scanned or not.
  """
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda leaf: scale * rng.normal(size=leaf.shape).astype(np.float32),
    _shapes(dataclasses.replace(config, scan_layers=False)),
  )
  return layer_stacking.stack_layers(params) if config.scan_layers else params


def initial_params(config: T5Config, embedding: float = 4.0) -> Any:
  """Parameters roughly as `init` gives them, without its compilation.

  Args:
    config: the student's sizes.
    embedding: what the table is multiplied by, so that outputs differ.
  """
  rng = np.random.default_rng(0)

  def draw(leaf):
    values = rng.normal(size=leaf.shape).astype(np.float32)
    return values * (leaf.shape[0] ** -0.5 if len(leaf.shape) > 1 else 1)

  params = jax.tree.map(draw, _shapes(config))
  params["token_embedder"]["embedding"] *= embedding
  return params


@functools.lru_cache
def _shapes(config: T5Config) -> Any:
  return abstract_params.param_shapes(EncoderDecoderModel(config))
