"""Small Hugging Face folders, written without Hugging Face's libraries."""

import json
import struct

import numpy as np

from dss_jax.base import named_trees
from dss_jax.models import layer_stacking
from dss_jax.models.config import T5Config
from dss_jax.pretrained import huggingface_weights

CONFIG = T5Config(
  vocab_size=272,
  emb_dim=12,
  num_heads=3,
  head_dim=2,
  mlp_dim=14,
  num_encoder_layers=2,
  num_decoder_layers=3,
)
_DTYPES = {
  "float64": "F64",
  "float32": "F32",
  "float16": "F16",
  "bfloat16": "BF16",
  "int8": "I8",
}


def random_weights(config=CONFIG, seed=0):
  """Arrays under Hugging Face's names, for a configuration."""
  rng = np.random.default_rng(seed)
  shapes = huggingface_weights.parameter_shapes(config)
  weights = {}
  for path, (name, transposed) in huggingface_weights.parameter_names(
    config
  ).items():
    array = rng.normal(size=shapes[path]).astype(np.float32)
    weights[name] = np.ascontiguousarray(array.T if transposed else array)
  return weights


def empty_weights(config=CONFIG):
  """As `random_weights`, without numbers."""
  shapes = huggingface_weights.parameter_shapes(config)
  weights = {}
  for path, (name, transposed) in huggingface_weights.parameter_names(
    config
  ).items():
    shape = shapes[path][::-1] if transposed else shapes[path]
    weights[name] = np.broadcast_to(np.float32(0), shape)
  return weights


def config_json(config=CONFIG, **changes):
  """What config.json says of a T5 of ours."""
  gated = len(config.mlp_activations) == 2
  return {
    "model_type": "umt5" if config.relpos_bias_per_layer else "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": config.vocab_size,
    "d_model": config.emb_dim,
    "d_kv": config.head_dim,
    "d_ff": config.mlp_dim,
    "num_heads": config.num_heads,
    "num_layers": config.num_encoder_layers,
    "num_decoder_layers": config.num_decoder_layers,
    "feed_forward_proj": "gated-gelu" if gated else "relu",
    "tie_word_embeddings": config.logits_via_embedding,
    "layer_norm_epsilon": 1e-06,
    "relative_attention_num_buckets": 32,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
  } | changes


def safetensors_bytes(arrays):
  """A file of the format."""
  header: dict[str, object] = {"__metadata__": {"format": "pt"}}
  parts, position = [], 0
  for name, array in arrays.items():
    data = np.ascontiguousarray(array).tobytes()
    header[name] = {
      "dtype": _DTYPES[array.dtype.name],
      "shape": list(array.shape),
      "data_offsets": [position, position + len(data)],
    }
    parts.append(data)
    position += len(data)
  return with_header(json.dumps(header).encode(), b"".join(parts))


def with_header(header, data=b""):
  """A file with this header."""
  return struct.pack("<Q", len(header)) + header + data


def write(folder, weights=None, config=CONFIG, shards=None, **changes):
  """Writes a folder; returns it.

  Args:
    folder: to make.
    weights: by Hugging Face's names.
    config: what config.json is of.
    shards: number of files, with an index; None for one without.
    **changes: further entries of config.json.
  """
  folder.mkdir(parents=True)
  weights = random_weights(config) if weights is None else weights
  (folder / "config.json").write_text(
    json.dumps(config_json(config, **changes))
  )
  if shards is None:
    (folder / "model.safetensors").write_bytes(safetensors_bytes(weights))
    return folder
  files = {}
  for i in range(shards):
    name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
    part = dict(list(weights.items())[i::shards])
    (folder / name).write_bytes(safetensors_bytes(part))
    files |= dict.fromkeys(part, name)
  index = {"metadata": {}, "weight_map": files}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  return folder


def params(weights, config=CONFIG):
  """A model's parameters, nested, from arrays under Hugging Face's names.

  The table may also be there under its other names.
  """
  flat = {
    "/".join(path): weights[name].T if transposed else weights[name]
    for path, (name, transposed) in huggingface_weights.parameter_names(
      config
    ).items()
  }
  tree = named_trees.nested(flat)
  return layer_stacking.stack_layers(tree) if config.scan_layers else tree
