"""From any layout that parameters were saved in to a student's, and its sizes.

T5X has four layouts: layers apart or stacked on axis 1 (`scan_layers`), and
attention kernels with heads and head_dim joined (`t5`) or as two dimensions
(`scalable_t5`). Whatever is read is first brought to one form, layers apart
and heads joined. Checkpoints are compared and their sizes found in that form,
which `for_model` then brings to the student's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dss_jax.base import named_trees
from dss_jax.base.errors import UserError, one_line, printable
from dss_jax.models import layer_stacking
from dss_jax.models.config import T5Config
from dss_jax.models.layer_stacking import LAYERS_AXIS
from dss_jax.pretrained import huggingface_weights, mismatch
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LazyArray

Arrays = Mapping[str, LazyArray]
MAX_LAYERS = 1000  # of a stack; a file may declare any number
_ATTENTION = re.compile(r".*attention/(query|key|value|out)/kernel")
# Which functions are applied leaves no trace in the parameters: these are the
# published models', by how many inner projections there are.
_ACTIVATIONS = {1: ("relu",), 2: ("gelu", "linear")}


def layers_apart(arrays: Arrays, where: str) -> dict[str, LazyArray]:
  """Brings parameters to the form with layers apart and heads joined.

  Args:
    arrays: by T5X's paths, in any of its layouts.
    where: the checkpoint, for messages.

  Raises:
    UserError: for stacks that do not have equally many layers throughout.
  """
  result: dict[str, LazyArray] = {}
  for name, array in arrays.items():
    if not layer_stacking.is_stacked([name]):
      result[name] = _joined_heads(name, array)
      continue
    layers = array.shape[LAYERS_AXIS] if len(array.shape) > LAYERS_AXIS else 0
    if not 1 <= layers <= MAX_LAYERS:
      raise UserError(
        f"{where}: {printable(one_line(name))} has shape {list(array.shape)};"
        f" on axis {LAYERS_AXIS} there must be 1 to {MAX_LAYERS} layers"
      )
    stack, _, rest = name.split("/", 2)
    for i in range(layers):
      layer_name = f"{stack}/layers_{i}/{rest}"
      layer = lazy_arrays.layer_of(array, i)
      result[layer_name] = _joined_heads(layer_name, layer)
  return result


def _joined_heads(name: str, array: LazyArray) -> LazyArray:
  match = _ATTENTION.fullmatch(name)
  if match is None or len(array.shape) != 3:
    return array
  return lazy_arrays.joined(array, 0 if match.group(1) == "out" else 1)


def for_model(arrays: Arrays, config: T5Config) -> dict[str, Any]:
  """Nests arrays as a student's parameters are, stacked where it scans layers.

  Args:
    arrays: layers apart; at least those of the configuration.
    config: the student's.
  """
  flat: dict[str, LazyArray] = {}
  stacks: dict[str, list[LazyArray]] = {}
  for path in huggingface_weights.flat_shapes(config):  # layers in their order
    stacked_path, layer = layer_stacking.place_in_stack(path)
    if config.scan_layers and layer is not None:
      stacks.setdefault(stacked_path, []).append(arrays[path])
    else:
      flat[path] = arrays[path]
  for path, layers in stacks.items():
    flat[path] = lazy_arrays.stacked(layers)
  return named_trees.nested(flat)


def config_of(arrays: Arrays, where: str) -> T5Config:
  """The sizes of a model, from the shapes of its parameters alone.

  Args:
    arrays: by T5X's paths, layers apart and heads joined.
    where: the checkpoint, for messages.

  Raises:
    UserError: for parameters of another architecture, with a table of what
      does not fit.
  """
  shapes = {name: array.shape for name, array in arrays.items()}

  def not_a_t5(reason: str) -> UserError:
    return UserError(
      f"{where} is no encoder-decoder T5 ({reason}): give a checkpoint of T5,"
      " mT5, ByT5 or UMT5"
    )

  def matrix(name: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2 or min(shape) < 1:
      raise not_a_t5(f"{name} is {shape and list(shape)}")
    return shape[0], shape[1]

  vocab_size, emb_dim = matrix("token_embedder/embedding")
  per_layer = "encoder/relpos_bias/rel_embedding" not in shapes
  bias = "encoder/layers_0/" if per_layer else "encoder/"
  num_heads, _ = matrix(f"{bias}relpos_bias/rel_embedding")
  layer = "encoder/layers_0"
  _, width = matrix(f"{layer}/attention/query/kernel")
  mlp_dim, _ = matrix(f"{layer}/mlp/wo/kernel")
  inner = sum(name.startswith(f"{layer}/mlp/wi") for name in shapes)
  if inner not in _ACTIVATIONS or width % num_heads:
    raise not_a_t5(f"{inner} inner projections, {width}/{num_heads}")
  counts = _layer_counts(shapes)
  # A number that no name can make true would only fill the table of mismatches.
  if max(counts.values()) > len(shapes) or not min(counts.values()):
    raise not_a_t5(f"layers {counts}")
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
    f"{where} is no encoder-decoder T5",
    columns=("checkpoint", "a T5 of its sizes"),
    remedy="give a checkpoint of T5, mT5, ByT5 or UMT5",
  )
  return config


def _layer_counts(names: Iterable[str]) -> dict[str, int]:
  """Layers of each stack, by the highest number that a path has."""
  counts = {"encoder": 0, "decoder": 0}
  for name in names:
    _, layer = layer_stacking.place_in_stack(name)
    if layer is not None:
      stack, _, _ = name.partition("/")
      counts[stack] = max(counts[stack], layer + 1)
  return counts
