"""Folders as `transformers` writes them: config.json and weights.

Weights in safetensors, PyTorch or Flax form, whole or in shards with an index.
They are opened, compared with what config.json promises, and read by parts
when they are asked for.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable

from dss_jax.base.errors import UserError, one_line, printable
from dss_jax.models.config import T5Config
from dss_jax.pretrained import (
  huggingface_config,
  huggingface_weights,
  mismatch,
)
from dss_jax.pretrained.files import (
  bounds,
  flax_msgpack,
  lazy_arrays,
  safetensors_files,
  torch_files,
)
from dss_jax.pretrained.files.lazy_arrays import LazyArray

CONFIG = "config.json"
# In order of preference: safest and cheapest to read first.
_WEIGHTS: dict[str, Callable[[pathlib.Path], dict[str, LazyArray]]] = {
  "model.safetensors": safetensors_files.open_safetensors,
  "flax_model.msgpack": flax_msgpack.open_huggingface,
  "pytorch_model.bin": torch_files.open_torch,
}
_TABLE = "shared.weight"
_HEAD = "lm_head.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Some old files have it; the model never used it.
_UNUSED = frozenset(
  ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
)


def is_folder(path: pathlib.Path) -> bool:
  """Whether it looks like a folder of Hugging Face's."""
  return (path / CONFIG).is_file()


def open_folder(path: pathlib.Path) -> tuple[T5Config, dict[str, LazyArray]]:
  """Opens a folder, without reading its weights.

  Returns:
    Our configuration of the model, and its parameters under our paths (joined
    by `/`), layers apart.

  Raises:
    UserError: for another architecture, or a folder that is not whole.
  """
  file = bounds.find_file(path, CONFIG)
  if file is None:
    raise UserError(f"{str(path)!r} has no {CONFIG}")
  sizes, scales_outputs = huggingface_config.parse(bounds.read_json(file), file)
  weights = {
    name: array
    for name, array in _open_weights(path).items()
    if name not in _UNUSED
  }
  for name, array in weights.items():
    if array.dtype.name not in bounds.FLOATS:
      raise UserError(
        f"{str(path)!r} has {printable(one_line(name))} as"
        f" {array.dtype.name}; weights are one of"
        f" {', '.join(bounds.FLOATS)}: give the folder before it was quantized"
      )
  for name in ("num_encoder_layers", "num_decoder_layers"):
    # Checked before a table of all that is missing is made.
    if sizes[name] > len(weights):
      raise UserError(
        f"the weights in {str(path)!r} do not fit its {CONFIG}, which has"
        f" {sizes[name]} layers where there are {len(weights)}"
        " arrays: download it again"
      )
  table, head = _tables(path, weights)
  tied = head is None and scales_outputs
  config = T5Config(**sizes, logits_via_embedding=tied)
  weights[_TABLE] = table
  if not tied:
    # Our models are tied and scaled, or neither. Of the two other kinds, one
    # gets a copy of the table, the other has the scale in its projection.
    weights[_HEAD] = table if head is None else head
    if head is not None and scales_outputs:
      weights[_HEAD] = lazy_arrays.scaled(head, 1.0 / math.sqrt(config.emb_dim))
  return config, _our_arrays(path, weights, config)


def _open_weights(path: pathlib.Path) -> dict[str, LazyArray]:
  for name, open_file in _WEIGHTS.items():
    file = bounds.find_file(path, name)
    if file is not None:
      return open_file(file)
    index = bounds.find_file(path, f"{name}.index.json")
    if index is not None:
      return _open_shards(path, index, open_file)
  raise UserError(
    f"{str(path)!r} has a {CONFIG} but no weights: one of"
    f" {', '.join(_WEIGHTS)}, or its index (.index.json), must be there"
  )


def _open_shards(
  path: pathlib.Path,
  index: pathlib.Path,
  open_file: Callable[[pathlib.Path], dict[str, LazyArray]],
) -> dict[str, LazyArray]:
  """The arrays of several files; the index says which file has which array."""
  content = bounds.read_json(index, bounds.MAX_HEADER_BYTES)
  files = content.get("weight_map")
  if not isinstance(files, dict) or not all(
    isinstance(name, str) for name in files.values()
  ):
    raise UserError(
      f"{str(index)!r} has no 'weight_map' of file names; download it again"
    )
  opened: dict[str, dict[str, LazyArray]] = {}
  for name in sorted(set(files.values())):
    file = bounds.find_file(path, name)
    if file is None:
      raise UserError(
        f"{str(path)!r} lacks {name!r}, which {index.name} names; download it"
        " again"
      )
    opened[name] = open_file(file)
  for name, file_name in files.items():
    if name not in opened[file_name]:
      raise UserError(
        f"{str(path / file_name)!r} lacks the array {one_line(name)!r}, which"
        f" {index.name} says is there; download it again"
      )
  return {name: opened[file_name][name] for name, file_name in files.items()}


def _tables(
  path: pathlib.Path, weights: dict[str, LazyArray]
) -> tuple[LazyArray, LazyArray | None]:
  """Takes out embedding table and projection; None where they are the same.

  A table that is used twice is stored once or twice, under any of its names,
  which depends on the format and on the version of the library.
  """
  head = weights.pop(_HEAD, None)
  copies = {name: weights.pop(name) for name in _COPIES if name in weights}
  table = weights.pop(_TABLE, None)
  if table is None and copies:
    table = next(iter(copies.values()))
  if table is None:
    if head is None:
      raise UserError(f"{str(path)!r} has no {_TABLE}; download it again")
    return head, None
  for name, copy in copies.items():
    if copy is not table and not lazy_arrays.equal(copy, table):
      raise UserError(
        f"{str(path)!r} has another {name} than {_TABLE}; encoder and decoder"
        " of a student share one table"
      )
  if head is not None and lazy_arrays.equal(head, table):
    head = None
  return table, head


def _our_arrays(
  path: pathlib.Path, weights: dict[str, LazyArray], config: T5Config
) -> dict[str, LazyArray]:
  """The weights under our paths and in our layouts; all must be there."""
  names = huggingface_weights.parameter_names(config)
  arrays = {}
  for ours, (theirs, is_transposed) in names.items():
    array = weights.pop(theirs, None)
    if array is None:
      continue
    if is_transposed and len(array.shape) == 2:
      array = lazy_arrays.transposed(array)
    arrays["/".join(ours)] = array
  found = {name: array.shape for name, array in arrays.items()}
  found |= {name: array.shape for name, array in weights.items()}
  mismatch.check(
    found,
    huggingface_weights.flat_shapes(config),
    f"the weights in {str(path)!r} do not fit its {CONFIG}",
    columns=("weights", CONFIG),
    remedy="download it again",
  )
  return arrays
