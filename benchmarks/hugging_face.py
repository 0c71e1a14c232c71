"""Our student as `transformers.T5ForConditionalGeneration`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax.models.config import T5Config
from dss_jax.vocabularies import EOS_ID, PAD_ID


def model_of(
  config: T5Config,
  weights: Mapping[str, np.ndarray] | None,
  *,
  dropout_rate: float = 0.0,
  device: str = "cpu",
) -> Any:
  """The model of these sizes, in float32, its output projection untied.

  Args:
    config: our sizes; gated GELU, as all of T5 1.1.
    weights: by Hugging Face's names (`pretrained.huggingface`); None for the
      library's own random ones.
    dropout_rate: of training.
    device: where its parameters are made.

  Raises:
    RuntimeError: the weights are not those of the model.
  """
  import torch
  import transformers

  if config.mlp_activations != ("gelu", "linear"):
    raise ValueError(f"{config.mlp_activations}: not the gated GELU of T5 1.1")
  settings: dict[str, Any] = dict(
    vocab_size=config.vocab_size,
    d_model=config.emb_dim,
    d_kv=config.head_dim,
    d_ff=config.mlp_dim,
    num_layers=config.num_encoder_layers,
    num_decoder_layers=config.num_decoder_layers,
    num_heads=config.num_heads,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    scale_decoder_outputs=False,
    decoder_start_token_id=PAD_ID,
    pad_token_id=PAD_ID,
    eos_token_id=EOS_ID,
    dropout_rate=dropout_rate,
  )
  with torch.device(device):
    model: Any = transformers.T5ForConditionalGeneration(
      transformers.T5Config(**settings)
    )
    # The library ties the two whatever its configuration says.
    model.lm_head.weight = torch.nn.Parameter(
      torch.randn_like(model.lm_head.weight) * config.emb_dim**-0.5
    )
  if weights is not None:
    missing, extra = model.load_state_dict(
      {name: torch.as_tensor(array) for name, array in weights.items()},
      strict=False,
    )
    aliases = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if extra or not set(missing) <= aliases:
      raise RuntimeError(f"weights differ: missing {missing}, extra {extra}")
  model.config.tie_word_embeddings = False
  model.config.scale_decoder_outputs = False
  return model
