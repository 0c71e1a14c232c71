"""Hugging Face T5 parameters <-> ours: names and layouts, as NumPy arrays.

Hugging Face stores a projection as [out, in], T5X as [in, out]; the relative
position bias is [buckets, heads] there and [heads, buckets] here, in the first
layer that all share, or (UMT5) in each. Layer 0 of a block is self-attention,
then (decoder) cross-attention, then feed-forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax.models import layer_stacking
from dss_jax.models.config import NUM_RELPOS_BUCKETS, T5Config

Path = tuple[str, ...]

_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}


def to_huggingface(
  params: Mapping[str, Any], config: T5Config
) -> dict[str, np.ndarray]:
  """Hugging Face's names and layouts for our parameters.

  With `logits_via_embedding` there is no `lm_head.weight`: the model's
  configuration ties it to `shared.weight` and scales the decoder's outputs.
  Without it, the configuration must say both `tie_word_embeddings=False` and
  `scale_decoder_outputs=False`.

  Args:
    params: nested dict of arrays under T5X's paths.
    config: the model's.

  Returns:
    Contiguous arrays by name.
  """
  if config.scan_layers:
    params = layer_stacking.unstack_layers(params)
  state_dict = {}
  for path, (name, transposed) in parameter_names(config).items():
    node: Any = params
    for key in path:
      node = node[key]
    array = np.asarray(node)
    state_dict[name] = np.ascontiguousarray(array.T if transposed else array)
  return state_dict


def parameter_names(config: T5Config) -> dict[Path, tuple[str, bool]]:
  """Our path -> (Hugging Face's name, whether it is transposed there)."""
  names: dict[Path, tuple[str, bool]] = {
    ("token_embedder", "embedding"): ("shared.weight", False)
  }
  for i in range(config.num_encoder_layers):
    names.update(_layer_names(config, "encoder", i))
  for i in range(config.num_decoder_layers):
    names.update(_layer_names(config, "decoder", i))
  for stack in ("encoder", "decoder"):
    names[stack, f"{stack}_norm", "scale"] = (
      f"{stack}.final_layer_norm.weight",
      False,
    )
    if not config.relpos_bias_per_layer:
      names[stack, "relpos_bias", "rel_embedding"] = _relpos_bias(stack, 0)
  if not config.logits_via_embedding:
    names["decoder", "logits_dense", "kernel"] = ("lm_head.weight", True)
  return names


def _layer_names(
  config: T5Config, stack: str, i: int
) -> dict[Path, tuple[str, bool]]:
  """The names of one layer, by T5X's names of its parts in their order."""
  parts = [("attention", "pre_attention_layer_norm", "SelfAttention")]
  if stack == "decoder":
    parts = [
      ("self_attention", "pre_self_attention_layer_norm", "SelfAttention"),
      (
        "encoder_decoder_attention",
        "pre_cross_attention_layer_norm",
        "EncDecAttention",
      ),
    ]
  names: dict[Path, tuple[str, bool]] = {}
  here = (stack, f"layers_{i}")
  there = f"{stack}.block.{i}.layer"
  for j, (ours, norm, theirs) in enumerate(parts):
    names[*here, norm, "scale"] = (f"{there}.{j}.layer_norm.weight", False)
    for projection, letter in _PROJECTIONS.items():
      names[*here, ours, projection, "kernel"] = (
        f"{there}.{j}.{theirs}.{letter}.weight",
        True,
      )
  if config.relpos_bias_per_layer:
    names[*here, "relpos_bias", "rel_embedding"] = _relpos_bias(stack, i)
  j = len(parts)
  norm = (f"{there}.{j}.layer_norm.weight", False)
  names[*here, "pre_mlp_layer_norm", "scale"] = norm
  gated = len(config.mlp_activations) > 1
  inner = [f"wi_{k}" for k in range(len(config.mlp_activations))]
  for name in [*(inner if gated else ["wi"]), "wo"]:
    names[*here, "mlp", name, "kernel"] = (
      f"{there}.{j}.DenseReluDense.{name}.weight",
      True,
    )
  return names


def _relpos_bias(stack: str, i: int) -> tuple[str, bool]:
  attention = f"{stack}.block.{i}.layer.0.SelfAttention"
  return f"{attention}.relative_attention_bias.weight", True


def parameter_shapes(config: T5Config) -> dict[Path, tuple[int, ...]]:
  """Our path -> shape, layers apart."""
  sizes = {
    "embedding": (config.vocab_size, config.emb_dim),
    "rel_embedding": (config.num_heads, NUM_RELPOS_BUCKETS),
    "scale": (config.emb_dim,),
    "logits_dense": (config.emb_dim, config.vocab_size),
    "out": (config.joined_kv_dim, config.emb_dim),
    "wo": (config.mlp_dim, config.emb_dim),
  }
  inward = {"query", "key", "value"}
  shapes = {}
  for path in parameter_names(config):
    last = path[-2] if path[-1] == "kernel" else path[-1]
    if last in sizes:
      shapes[path] = sizes[last]
    else:
      width = config.joined_kv_dim if last in inward else config.mlp_dim
      shapes[path] = (config.emb_dim, width)
  return shapes


def flat_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
  """As `parameter_shapes`, paths joined by `/`."""
  shapes = parameter_shapes(config)
  return {"/".join(path): shape for path, shape in shapes.items()}
