"""What a Hugging Face `config.json` says of a T5, as our configuration.

The T5 family is one architecture under several names. What differs is which
switch says what, and that changed with version 5 of the library:

* Output projection. T5 1.0 projects onto the embedding table, after scaling
  the decoder's output by 1/sqrt(d_model); all others have a projection of
  their own and scale nothing. Whether it is tied is seen from the weights.
  Whether it scales is what the version of the library does that wrote the
  file. T5, UMT5: `scale_decoder_outputs` where it is given (version 5), else
  unless `tie_word_embeddings` is false. mT5: version 4 scales where
  `tie_word_embeddings` is true, and version 5 never does; nor does it for a
  file that names no version, which is read as version 5 reads it.
* Activation: `feed_forward_proj`, overruled by `dense_act_fn` where given.
  `gated-gelu` is GELU's tanh approximation; `gelu` alone is the exact one.
* UMT5 has a relative position bias in every layer, the others one a stack.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from dss_jax.base.errors import UserError, one_line
from dss_jax.models import config as config_lib

MODEL_TYPES = ("t5", "mt5", "umt5")  # ByT5 and Flan call themselves t5 or mt5
_ACTIVATIONS = {
  "relu": "relu",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "silu": "silu",
  "swish": "silu",
  "linear": "linear",
}
# Field of `T5Config` -> name in config.json.
_SIZES = {
  "vocab_size": "vocab_size",
  "emb_dim": "d_model",
  "num_heads": "num_heads",
  "head_dim": "d_kv",
  "mlp_dim": "d_ff",
  "num_encoder_layers": "num_layers",
  "num_decoder_layers": "num_decoder_layers",
}
# What T5 takes for granted and this library does not make configurable.
_FIXED: dict[str, tuple[Any, Any]] = {
  # name: (what it is when absent, what it must be)
  "relative_attention_num_buckets": (32, config_lib.NUM_RELPOS_BUCKETS),
  "relative_attention_max_distance": (128, config_lib.MAX_RELPOS_DISTANCE),
  "layer_norm_epsilon": (1e-6, 1e-6),
  "pad_token_id": (0, 0),
  "eos_token_id": (1, 1),
  "decoder_start_token_id": (0, 0),
}


def parse(
  content: Mapping[str, Any], path: pathlib.Path
) -> tuple[dict[str, Any], bool]:
  """Checks what `config.json` says.

  Args:
    content: the file's.
    path: the file's, for messages.

  Returns:
    sizes: fields of `T5Config`, all but `logits_via_embedding`.
    scales_outputs: whether the decoder's output is scaled by 1/sqrt(d_model)
      before it is projected.

  Raises:
    UserError: for another architecture, or a T5 that this library cannot be.
  """
  model_type = content.get("model_type")
  if model_type not in MODEL_TYPES:
    raise UserError(
      f"{str(path)!r} describes a model of type {_shown(model_type)}; a student"
      f" is one of {', '.join(MODEL_TYPES)}"
    )
  for name, (default, needed) in _FIXED.items():
    value = content.get(name)
    value = default if value is None else value
    if isinstance(value, list) and len(value) == 1:  # ids that end a text
      value = value[0]
    if isinstance(value, bool) or value != needed:
      raise UserError(
        f"{str(path)!r} has {name} {_shown(value)}; it must be {needed}, as in"
        " all published T5s"
      )
  if content.get("quantization_config"):
    raise UserError(
      f"{str(path)!r} describes quantized weights; give the folder of those it"
      " was made from"
    )
  if content.get("num_decoder_layers") is None:
    content = {**content, "num_decoder_layers": content.get("num_layers")}
  sizes: dict[str, Any] = {}
  for field, name in _SIZES.items():
    value = content.get(name)
    if type(value) is not int or not 1 <= value < 2**31:
      raise UserError(
        f"{str(path)!r} has {name} {_shown(value)}; it must be a whole number"
        " from 1"
      )
    sizes[field] = value
  sizes["mlp_activations"] = _activations(content, model_type, path)
  sizes["relpos_bias_per_layer"] = model_type == "umt5"
  return sizes, _scales_outputs(content, model_type, path)


def _activations(
  content: Mapping[str, Any], model_type: str, path: pathlib.Path
) -> tuple[str, ...]:
  """Our names of the activations; the second of a gated layer is linear."""
  default = "relu" if model_type == "t5" else "gated-gelu"
  named = content.get("feed_forward_proj")
  named = default if named is None else named
  gate, _, rest = named.partition("-") if isinstance(named, str) else ("",) * 3
  gated, name = (True, rest) if gate == "gated" else (False, named)
  if named == "gated-gelu":
    name = "gelu_new"
  # The library writes down what it made of the above, or what it was given.
  if content.get("dense_act_fn") is not None:
    name = content["dense_act_fn"]
  gated = _flag(content, "is_gated_act", path, gated)
  if not isinstance(name, str) or name not in _ACTIVATIONS:
    raise UserError(
      f"{str(path)!r} has feed_forward_proj {_shown(named)} with activation"
      f" {_shown(name)}; supported are {', '.join(_ACTIVATIONS)}, alone or gated"
    )
  ours = _ACTIVATIONS[name]
  return (ours, "linear") if gated else (ours,)


def _scales_outputs(
  content: Mapping[str, Any], model_type: str, path: pathlib.Path
) -> bool:
  """Whether the decoder's output is scaled before it is projected."""
  tied = _flag(content, "tie_word_embeddings", path, model_type != "mt5")
  if model_type != "mt5":
    return _flag(content, "scale_decoder_outputs", path, tied)
  return tied and str(content.get("transformers_version")).startswith("4.")


def _flag(
  content: Mapping[str, Any], name: str, path: pathlib.Path, default: bool
) -> bool:
  value = content.get(name)
  if value is None:
    return default
  if not isinstance(value, bool):
    raise UserError(
      f"{str(path)!r} has {name} {_shown(value)}; it must be true or false"
    )
  return value


def _shown(value: Any) -> str:
  return one_line(repr(value), longest=60)
