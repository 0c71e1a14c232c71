"""Training FLOPs of a T5, from its sizes alone.

A matrix product of an [n, a] by an [a, b] array takes 2·n·a·b operations; the
backward pass takes twice the forward. Only matrix products count: embeddings,
norms, softmax and dropout are left out, and so is whatever padding costs.
"""

from __future__ import annotations

from dss_jax.models.config import T5Config


def training_flops(
  config: T5Config,
  encoder_tokens: int,
  decoder_tokens: int,
  *,
  frozen: bool = False,
) -> float:
  """Operations to train on so many non-padding tokens, attention scores aside.

  Scores are a few percent for the short examples of distilling step-by-step
  and would need every example's length.

  Args:
    config: the student's sizes.
    encoder_tokens: non-padding input tokens.
    decoder_tokens: non-padding target tokens.
    frozen: whether only adapters are trained. The backward pass then has no
      gradients of kernels, half of it; the adapters' own few products and the
      rare kernels trained whole are left out.
  """
  attention = 4 * config.emb_dim * config.num_heads * config.head_dim
  mlp = config.emb_dim * config.mlp_dim * (len(config.mlp_activations) + 1)
  # Keys and values of cross-attention are computed from encoder tokens.
  per_encoder_token = config.num_encoder_layers * (attention + mlp) + (
    config.num_decoder_layers * attention / 2
  )
  per_decoder_token = (
    config.num_decoder_layers * (1.5 * attention + mlp)
    + config.emb_dim * config.vocab_size
  )
  return (4.0 if frozen else 6.0) * (
    per_encoder_token * encoder_tokens + per_decoder_token * decoder_tokens
  )
