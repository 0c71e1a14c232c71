"""Checkpoints of others and of our own runs: headers, trees and arrays."""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import zlib

import numpy as np
import tensorstore as ts
from flax import serialization
from safetensors import numpy as safetensors_numpy

from dss_jax.base import file_checksums
from dss_jax.base.errors import UserError
from dss_jax.models.config import T5Config
from dss_jax.pretrained import (
  huggingface_folder,
  huggingface_weights,
  student_card,
  t5x_checkpoints,
)
from dss_jax.pretrained.files import flax_msgpack, safetensors_files
from dss_jax.training import checkpoints
from fuzz.targets import Target, scratch

_CONFIG = T5Config(
  vocab_size=8,
  emb_dim=4,
  num_heads=1,
  head_dim=2,
  mlp_dim=3,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
_WEIGHTS = {"a.weight": np.ones((2, 3), np.float32), "b": np.ones(2, np.int8)}
_LONGEST = 1 << 16  # elements that are read of an array


def _read_small(arrays: dict) -> None:
  for array in arrays.values():
    if array.size <= _LONGEST:
      array.whole()


def _safetensors(data: bytes) -> None:
  path = scratch("model.safetensors")
  path.write_bytes(data)
  _read_small(safetensors_files.open_safetensors(path))


def _msgpack(data: bytes) -> None:
  path = scratch("flax_model.msgpack")
  path.write_bytes(data)
  _read_small(flax_msgpack.open_huggingface(path))


def _msgpack_seeds() -> list[bytes]:
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  tree = {"a": {"kernel": array, "scale": array[0]}, "b": {"embedding": array}}
  # As Flax writes arrays above 1 GiB.
  pieces = {
    "__msgpack_chunked_array__": True,
    "shape": {"0": 2, "1": 3},
    "chunks": {"0": array.reshape(-1)[:4], "1": array.reshape(-1)[4:]},
  }
  return [
    serialization.msgpack_serialize(value)
    for value in (tree, {"c": pieces}, {"d": array.astype("bfloat16")})
  ]


def _legacy(data: bytes) -> None:
  """T5X's legacy checkpoint: msgpack that points to zarr folders."""
  folder = scratch("legacy")
  zarr = folder / "target.a"
  if not zarr.exists():
    zarr.mkdir(parents=True)
    (zarr / ".zarray").write_bytes(_zarr_seeds()[0].partition(b"\0")[0])
    (zarr / "0.0").write_bytes(_zarr_seeds()[0].partition(b"\0")[2])
  (folder / "checkpoint").write_bytes(data)
  found = t5x_checkpoints.open_t5x(folder)
  _read_small({**found.params, **found.optimizer_state})


def _legacy_seeds() -> list[bytes]:
  pointer = {
    "driver": "zarr",
    "kvstore": {"driver": "file", "path": "target.a"},
  }
  tree = {
    "optimizer": {
      "target": {"a": pointer},
      "state": {
        "step": np.asarray(3, np.int32),
        "param_states": {"a": {"v": np.ones(2, np.float32)}},
      },
    },
    "version": 3,
  }
  return [serialization.msgpack_serialize(tree)]


def _zarr(data: bytes) -> None:
  """An array's header, and its one chunk after NUL."""
  folder = scratch("zarr") / "state"
  if not folder.exists():
    (folder / "target.a").mkdir(parents=True)
  header, _, chunk = data.partition(b"\0")
  (folder / "target.a" / ".zarray").write_bytes(header)
  for name in ("0", "0.0"):
    (folder / "target.a" / name).write_bytes(chunk)
  _read_small(dict(t5x_checkpoints.open_t5x(folder.parent).params))


def _zarr_seeds() -> list[bytes]:
  array = np.arange(6, dtype="<f4").reshape(2, 3)
  header = {
    "zarr_format": 2,
    "shape": [2, 3],
    "chunks": [2, 3],
    "dtype": "<f4",
    "compressor": None,
    "fill_value": None,
    "filters": None,
    "order": "C",
  }
  packed = header | {"compressor": {"id": "zlib", "level": 1}}
  return [
    json.dumps(header).encode() + b"\0" + array.tobytes(),
    json.dumps(packed).encode() + b"\0" + zlib.compress(array.tobytes()),
  ]


@functools.cache
def _ocdbt() -> pathlib.Path:
  """A checkpoint in an OCDBT store, whose manifest inputs take the place of."""
  folder = scratch("ocdbt")
  store = ts.KvStore.open(
    {"driver": "ocdbt", "base": f"file://{folder}/state/"}
  ).result()
  header, _, chunk = _zarr_seeds()[0].partition(b"\0")
  store.write("target.a/.zarray", header).result()
  store.write("target.a/0.0", chunk).result()
  return folder


def _manifest(data: bytes) -> None:
  (_ocdbt() / "state" / "manifest.ocdbt").write_bytes(data)
  _read_small(dict(t5x_checkpoints.open_t5x(_ocdbt()).params))


def _manifest_seeds() -> list[bytes]:
  return [(_ocdbt() / "state" / "manifest.ocdbt").read_bytes()]


@functools.cache
def _run() -> pathlib.Path:
  """A run's folder with a checkpoint of one step."""
  folder = scratch("run")
  with checkpoints.Checkpoints(folder) as saved:
    saved.save(3, {"params": {"w": np.ones(2, np.float32)}}, {"best_step": 3})
    saved.wait()
  # Else they would hide what readers make of other bytes.
  (folder / "checkpoints" / "3" / "checksums.json").unlink()
  return folder


_RUN_FILES = ("state/_METADATA", "loop/metadata", "_CHECKPOINT_METADATA")


def _run_file(data: bytes) -> None:
  """The first byte names the file of a run's checkpoint."""
  step = _run() / "checkpoints" / "3"
  path = step / _RUN_FILES[data[0] % len(_RUN_FILES) if data else 0]
  good = path.read_bytes()
  path.write_bytes(data[1:])
  try:
    with checkpoints.Checkpoints(_run(), read_only=True) as saved:
      if saved.steps() != [3]:
        raise UserError("the step is no checkpoint")
      saved.loop_state(3)
      saved.param_shapes(3)
      saved.restore_numpy(3)
  finally:
    path.write_bytes(good)


def _run_seeds() -> list[bytes]:
  step = _run() / "checkpoints" / "3"
  return [
    bytes([number]) + (step / name).read_bytes()
    for number, name in enumerate(_RUN_FILES)
  ]


def _checksums(data: bytes) -> None:
  folder = scratch("checked")
  (folder / "state").mkdir(parents=True, exist_ok=True)
  (folder / "state" / "x").write_bytes(b"numbers")
  (folder / file_checksums.FILE).write_bytes(data)
  try:
    file_checksums.check(folder)
    file_checksums.check(folder, "state", missing=True)
  except OSError as error:  # a name that no file can have
    raise ValueError from error


def _checksum_seeds() -> list[bytes]:
  _checksums_folder = scratch("checked_seed")
  (_checksums_folder / "state").mkdir(parents=True, exist_ok=True)
  (_checksums_folder / "state" / "x").write_bytes(b"numbers")
  file_checksums.write(_checksums_folder)
  return [(_checksums_folder / file_checksums.FILE).read_bytes()]


def _huggingface(data: bytes) -> None:
  """config.json, and the index of the weights' files after NUL."""
  folder = scratch("huggingface")
  config, nul, index = data.partition(b"\0")
  if not folder.exists():
    folder.mkdir()
    for name in ("model.safetensors", "part.safetensors"):
      (folder / name).write_bytes(_student_bytes())
  (folder / "config.json").write_bytes(config)
  whole = folder / "model.safetensors"
  if nul:
    whole.unlink(missing_ok=True)
    (folder / "model.safetensors.index.json").write_bytes(index)
  elif not whole.exists():
    shutil.copy(folder / "part.safetensors", whole)
  _, arrays = huggingface_folder.open_folder(folder)
  _read_small(arrays)


@functools.cache
def _student_weights() -> dict[str, np.ndarray]:
  shapes = huggingface_weights.parameter_shapes(_CONFIG)
  return {
    name: np.zeros(shapes[path][::-1] if turned else shapes[path], np.float32)
    for path, (name, turned) in huggingface_weights.parameter_names(
      _CONFIG
    ).items()
  }


def _student_bytes() -> bytes:
  return safetensors_numpy.save(_student_weights())


def _huggingface_seeds() -> list[bytes]:
  config = json.dumps(
    {
      "model_type": "t5",
      "vocab_size": 8,
      "d_model": 4,
      "d_kv": 2,
      "d_ff": 3,
      "num_heads": 1,
      "num_layers": 1,
      "num_decoder_layers": 1,
      "feed_forward_proj": "gated-gelu",
      "tie_word_embeddings": _CONFIG.logits_via_embedding,
      "layer_norm_epsilon": 1e-06,
      "relative_attention_num_buckets": 32,
      "pad_token_id": 0,
      "eos_token_id": 1,
      "decoder_start_token_id": 0,
    }
  ).encode()
  index = {"weight_map": dict.fromkeys(_student_weights(), "part.safetensors")}
  return [config, config + b"\0" + json.dumps(index).encode()]


def _card(data: bytes) -> None:
  folder = scratch("card")
  folder.mkdir(exist_ok=True)
  (folder / student_card.FILE).write_bytes(data)
  card = student_card.read(folder)
  assert card is not None
  student_card.write(folder, card)
  assert student_card.read(folder) == card


def _card_seeds() -> list[bytes]:
  folder = scratch("card_seed")
  folder.mkdir(exist_ok=True)
  student_card.write(
    folder,
    student_card.StudentCard(
      feature_lengths={"inputs": 32, "targets": 8},
      labels=("yes", "no"),
      vocabulary_file="spiece.model",
      extra_ids=100,
      added_tokens=("{", "\n"),
      description={"step": 3, "task": "taxonli_dss"},
    ),
  )
  return [(folder / student_card.FILE).read_bytes()]


_HEADER_WORDS = (
  "dtype",
  "shape",
  "data_offsets",
  "__metadata__",
  "BF16",
  "99999999999999999999",
  "-1",
  "[]",
)

TARGETS = {
  "safetensors": Target(
    _safetensors, lambda: [safetensors_numpy.save(_WEIGHTS)], _HEADER_WORDS
  ),
  "msgpack": Target(
    _msgpack, _msgpack_seeds, ("__msgpack_chunked_array__", "chunks", "shape")
  ),
  "t5x_legacy": Target(
    _legacy, _legacy_seeds, ("driver", "kvstore", "path", "param_states")
  ),
  "zarr": Target(
    _zarr,
    _zarr_seeds,
    ("zarr_format", "chunks", "dimension_separator", "zstd", "gzip", "<f8"),
  ),
  "ocdbt": Target(_manifest, _manifest_seeds),
  "run": Target(_run_file, _run_seeds, ("tree_metadata", "key_type", "null")),
  "checksums": Target(
    _checksums, _checksum_seeds, ("state/", "../"), (ValueError,)
  ),
  "huggingface": Target(
    _huggingface, _huggingface_seeds, ("weight_map", "umt5", "num_layers")
  ),
  "student_card": Target(
    _card, _card_seeds, ("subtasks", "feature_lengths", "vocabulary", "labels")
  ),
}
