"""Training FLOPs of a T5, from its sizes alone.

A matrix product of an [n, a] by an [a, b] array takes 2·n·a·b operations; the
backward pass takes twice the forward. Only matrix products count: embeddings,
norms, softmax and dropout are left out, and so is whatever padding costs.

The products with kernels are linear in tokens. Those of attention, queries
with keys and probabilities with values, need every example's own lengths:
`AttentionPairs`. A causal mask is not made use of, as is usual in such counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dss_jax.models.config import T5Config


class AttentionPairs(NamedTuple):
  """Pairs of tokens of the same example, summed over examples.

  Attributes:
    encoder: input tokens with input tokens.
    decoder: target tokens with target tokens.
    cross: target tokens with input tokens.
  """

  encoder: int = 0
  decoder: int = 0
  cross: int = 0

  @classmethod
  def of_lengths(
    cls, inputs: npt.ArrayLike, targets: npt.ArrayLike
  ) -> AttentionPairs:
    """Of the examples' lengths in tokens, both [examples]."""
    inputs, targets = (np.asarray(n, np.int64) for n in (inputs, targets))
    return cls(
      int(inputs @ inputs), int(targets @ targets), int(targets @ inputs)
    )

  @classmethod
  def of_batch(cls, batch: Mapping[str, npt.ArrayLike]) -> AttentionPairs:
    """Of a packed batch, by its segment ids [rows, length]."""
    inputs, targets = (
      np.asarray(batch[f"{side}_segment_ids"])
      for side in ("encoder", "decoder")
    )
    segments = np.arange(1, max(inputs.max(), targets.max()) + 1)
    lengths = (
      (ids[:, :, None] == segments).sum(axis=1).reshape(-1)
      for ids in (inputs, targets)
    )
    return cls.of_lengths(*lengths)


def training_flops(
  config: T5Config,
  encoder_tokens: int,
  decoder_tokens: int,
  pairs: AttentionPairs = AttentionPairs(),  # noqa: B008 (immutable)
  *,
  frozen: bool = False,
) -> float:
  """Operations to train on so many non-padding tokens.

  Args:
    config: the student's sizes.
    encoder_tokens: non-padding input tokens.
    decoder_tokens: non-padding target tokens.
    pairs: what attention is computed between; by default its scores, a few
      percent for the short examples of distilling step-by-step, are left out.
    frozen: whether only adapters are trained. The backward pass then has no
      gradients of kernels, half of it; the adapters' own few products and the
      rare kernels trained whole are left out.
  """
  linear = _linear_flops(config, encoder_tokens, decoder_tokens)
  # Queries, keys, probabilities and values all have gradients in any case.
  return (2 if frozen else 3) * linear + 3 * _score_flops(config, pairs)


def num_kernel_parameters(config: T5Config) -> int:
  """Elements of kernels: what hidden states are multiplied by.

  The vocabulary's counts once: the projection, or the embedding tied to it.
  """
  return int(_linear_flops(config, 1, 1)) // 2


def _linear_flops(
  config: T5Config, encoder_tokens: int, decoder_tokens: int
) -> float:
  """Forward products with kernels."""
  attention = 4 * config.emb_dim * config.joined_kv_dim
  mlp = config.emb_dim * config.mlp_dim * (len(config.mlp_activations) + 1)
  # Keys and values of cross-attention are computed from encoder tokens.
  per_encoder_token = config.num_encoder_layers * (attention + mlp) + (
    config.num_decoder_layers * attention / 2
  )
  per_decoder_token = (
    config.num_decoder_layers * (1.5 * attention + mlp)
    + config.emb_dim * config.vocab_size
  )
  return 2.0 * (
    per_encoder_token * encoder_tokens + per_decoder_token * decoder_tokens
  )


def _score_flops(config: T5Config, pairs: AttentionPairs) -> float:
  """Forward products of queries with keys, and probabilities with values."""
  layers_times_pairs = config.num_encoder_layers * pairs.encoder + (
    config.num_decoder_layers * (pairs.decoder + pairs.cross)
  )
  return 2.0 * 2 * config.joined_kv_dim * layers_times_pairs
