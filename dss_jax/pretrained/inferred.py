"""A model's sizes, from the shapes of its parameters alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dss_jax.base.errors import UserError
from dss_jax.models.config import T5Config
from dss_jax.pretrained import huggingface_weights, mismatch

Shape = tuple[int, ...]
_LAYER = re.compile(r"(encoder|decoder)/layers_(\d{1,6})/.*")
# Which functions are applied leaves no trace in the parameters: those of the
# published models, by how many there are.
_ACTIVATIONS = {1: ("relu",), 2: ("gelu", "linear")}


def config_from_shapes(shapes: Mapping[str, Shape], where: str) -> T5Config:
  """The configuration of a model with these parameters.

  Args:
    shapes: by T5X's paths, layers apart and heads joined.
    where: the checkpoint, for messages.

  Raises:
    UserError: for parameters of another architecture, with a table of what
      does not fit.
  """
  vocab_size, emb_dim = _matrix(shapes, "token_embedder/embedding", where)
  per_layer = "encoder/relpos_bias/rel_embedding" not in shapes
  bias = "encoder/layers_0/" if per_layer else "encoder/"
  num_heads, _ = _matrix(shapes, f"{bias}relpos_bias/rel_embedding", where)
  layer = "encoder/layers_0"
  _, width = _matrix(shapes, f"{layer}/attention/query/kernel", where)
  mlp_dim, _ = _matrix(shapes, f"{layer}/mlp/wo/kernel", where)
  inner = sum(name.startswith(f"{layer}/mlp/wi") for name in shapes)
  if inner not in _ACTIVATIONS or width % num_heads:
    raise _not_a_t5(where, f"{inner} inner projections, {width}/{num_heads}")
  counts = {"encoder": 0, "decoder": 0}
  for name in shapes:
    match = _LAYER.fullmatch(name)
    if match:
      stack, i = match.groups()
      counts[stack] = max(counts[stack], int(i) + 1)
  # A number that no name can make true would only fill the table of mismatches.
  if max(counts.values()) > len(shapes) or not min(counts.values()):
    raise _not_a_t5(where, f"layers {counts}")
  config = T5Config(
    vocab_size=vocab_size,
    emb_dim=emb_dim,
    num_heads=num_heads,
    num_encoder_layers=counts["encoder"],
    num_decoder_layers=counts["decoder"],
    head_dim=width // num_heads,
    mlp_dim=mlp_dim,
    mlp_activations=_ACTIVATIONS[inner],
    logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
    relpos_bias_per_layer=per_layer,
  )
  mismatch.check(
    shapes,
    huggingface_weights.flat_shapes(config),
    f"{where} is of no encoder-decoder T5",
    columns=("checkpoint", "a T5 of its sizes"),
    remedy="give a checkpoint of T5, mT5, ByT5 or UMT5",
  )
  return config


def _matrix(
  shapes: Mapping[str, Shape], name: str, where: str
) -> tuple[int, int]:
  shape = shapes.get(name)
  if shape is None or len(shape) != 2 or min(shape) < 1:
    raise _not_a_t5(where, f"{name} is {shape and list(shape)}")
  return shape[0], shape[1]


def _not_a_t5(where: str, reason: str) -> UserError:
  return UserError(
    f"{where} is of no encoder-decoder T5 ({reason}): give a checkpoint of T5,"
    " mT5, ByT5 or UMT5"
  )
