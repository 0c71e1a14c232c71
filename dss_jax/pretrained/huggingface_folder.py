"""Folders as `transformers` writes them: config.json, weights, tokenizer.

Weights in safetensors, PyTorch or Flax form, whole or in shards with an index.
They are opened, compared with what config.json promises, and read by parts
when somebody asks for them.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError, one_line, printable
from dss_jax.models.config import T5Config
from dss_jax.pretrained import (
  folder_files,
  huggingface_config,
  huggingface_weights,
  mismatch,
)
from dss_jax.pretrained.files import (
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
_FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder that was looked at and found whole.

  Attributes:
    config: our configuration of it.
    arrays: its parameters under our paths (joined by `/`), layers apart.
    model_type: Hugging Face's name of the family.
  """

  config: T5Config
  arrays: Mapping[str, LazyArray]
  model_type: str


def is_folder(path: pathlib.Path) -> bool:
  """Whether it looks like a folder of Hugging Face's."""
  return (path / CONFIG).is_file()


def open_folder(path: pathlib.Path) -> Folder:
  """Looks at a folder, without reading its weights.

  Raises:
    UserError: for another architecture, or a folder that is not whole.
  """
  file = folder_files.find(path, CONFIG)
  if file is None:
    raise UserError(f"{str(path)!r} has no {CONFIG}")
  folder_config = huggingface_config.parse(
    huggingface_config.read_json(file), file
  )
  weights = {
    name: array
    for name, array in _open_weights(path).items()
    if name not in _UNUSED
  }
  for name, array in weights.items():
    if array.dtype.name not in _FLOATS:
      raise UserError(
        f"{str(path)!r} has {printable(one_line(name))} as"
        f" {array.dtype.name}; weights are one of"
        f" {', '.join(_FLOATS)}: give the folder before it was quantized"
      )
  for name in ("num_encoder_layers", "num_decoder_layers"):
    # Before a table of all that is missing is made.
    if folder_config.sizes[name] > len(weights):
      raise UserError(
        f"the weights in {str(path)!r} do not fit its {CONFIG}, which has"
        f" {folder_config.sizes[name]} layers where there are {len(weights)}"
        " arrays: download it again"
      )
  table, head = _tables(path, weights)
  tied = head is None and folder_config.scales_outputs
  config = folder_config.t5_config(tied=tied)
  weights[_TABLE] = table
  if not tied:
    weights[_HEAD] = _own_projection(table, head, folder_config, config)
  return Folder(
    config, _our_arrays(path, weights, config), folder_config.model_type
  )


def _open_weights(path: pathlib.Path) -> dict[str, LazyArray]:
  for name, open_file in _WEIGHTS.items():
    file = folder_files.find(path, name)
    if file is not None:
      return open_file(file)
    index = f"{name}.index.json"
    if folder_files.find(path, index) is not None:
      return folder_files.open_indexed(path, index, open_file)
  raise UserError(
    f"{str(path)!r} has a {CONFIG} but no weights: one of"
    f" {', '.join(_WEIGHTS)}, or its index (.index.json), must be there"
  )


def _tables(
  path: pathlib.Path, weights: dict[str, LazyArray]
) -> tuple[LazyArray, LazyArray | None]:
  """Takes out embedding table and projection; None where they are the same.

  A table that is used twice is stored once or twice, under any of its names,
  as the version of the library and the format would have it.
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


def _own_projection(
  table: LazyArray,
  head: LazyArray | None,
  folder_config: huggingface_config.FolderConfig,
  config: T5Config,
) -> LazyArray:
  """An output projection that computes the same, for a student not tied.

  Ours is tied and scaled, or neither. Of the two other combinations, the one
  gets a copy of the table, the other has the scale in its projection.
  """
  if head is None:
    return table
  if not folder_config.scales_outputs:
    return head
  return lazy_arrays.scaled(head, 1.0 / math.sqrt(config.emb_dim))


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


def float_types(arrays: Mapping[str, LazyArray]) -> str:
  """The types that the parameters are stored in, as text."""
  return ", ".join(sorted({np.dtype(a.dtype).name for a in arrays.values()}))


def tokenizer_options(path: pathlib.Path) -> dict[str, Any]:
  """What tokenizer_config.json says; empty where there is none."""
  file = folder_files.find(path, "tokenizer_config.json")
  if file is None:
    return {}
  # Old ones list every special token, and there may be hundreds.
  return huggingface_config.read_json(file, 16 * 2**20)
