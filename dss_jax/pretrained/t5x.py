"""Checkpoints written by T5X: parameters, Adafactor state and step.

Both of T5X's formats, told apart by what lies in the folder:

* Orbax (`use_orbax=True`, its default): `checkpoint_<step>/state/`, an OCDBT
  store (or, from older versions, one zarr folder for each array);
* legacy, also that of the published checkpoints: `checkpoint_<step>/checkpoint`
  in msgpack, with small arrays inline and one zarr folder for each large one.

A checkpoint is untrusted: nothing is unpickled, no path leaves the
checkpoint's folder, and declared sizes are checked before memory is taken.
"""

from __future__ import annotations

import json
import math
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from dss_jax.errors import UserError

Tree = dict[str, Any]

# A T5 of 11 B parameters in float32 with its Adafactor state is under 64 GiB.
MAX_BYTES = 256 * 2**30
_MAX_HEADER_BYTES = 2**20
_MAX_DEPTH = 64
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_CHECKPOINT_FOLDER = re.compile(r"checkpoint_(\d+)")
_DTYPES = {
  "float32": np.dtype(np.float32),
  "float16": np.dtype(np.float16),
  "float64": np.dtype(np.float64),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
  "int32": np.dtype(np.int32),
  "int64": np.dtype(np.int64),
  "uint32": np.dtype(np.uint32),
  "bool": np.dtype(np.bool_),
}
_EXT_NDARRAY = 1  # Flax's msgpack extension types
_EXT_SCALAR = 3


def load_t5x(
  path: str | pathlib.Path, *, max_bytes: int = MAX_BYTES
) -> tuple[Tree, Tree | None, int]:
  """Reads a checkpoint that T5X wrote.

  Args:
    path: the folder `checkpoint_<step>`, or one that holds such folders, of
      which the latest is taken.
    max_bytes: the most that its arrays may occupy, in bytes.

  Returns:
    params: nested dict of NumPy arrays under T5X's paths (`encoder/layers_0/
      attention/query/kernel`, ...), in the dtype they were saved in.
    optimizer_state: T5X's `param_states`: the tree of `params` with a dict
      `{m, v, v_row, v_col}` in place of each array, unused ones of shape (1,);
      None if the checkpoint has none.
    step: the training step.

  Raises:
    UserError: if the folder holds no checkpoint, or a broken one.
  """
  folder = _find(pathlib.Path(path))
  legacy = (folder / "checkpoint").is_file()
  budget = _Budget(folder, max_bytes)
  try:
    tree = (_read_legacy if legacy else _read_orbax)(folder, budget)
  except UserError:
    raise
  except Exception as error:  # whatever the parsers make of hostile bytes
    reason = " ".join(str(error).split())[:200]
    raise _broken(folder, reason or type(error).__name__) from error
  if not isinstance(tree, dict):
    raise _broken(folder, "it holds no tree")
  params, state = tree.get("target"), tree.get("state")
  if not isinstance(params, dict) or not isinstance(state, dict):
    raise _broken(folder, "it has no 'target' and 'state'")
  step = np.asarray(state.get("step", -1))
  if step.size != 1 or not np.issubdtype(step.dtype, np.integer):
    raise _broken(folder, f"its step is {state.get('step')!r}")
  return params, state.get("param_states") or None, int(step.item())


def _find(path: pathlib.Path) -> pathlib.Path:
  """The folder of the checkpoint itself."""
  if _is_checkpoint(path):
    return path
  steps = {}
  if path.is_dir():
    for child in path.iterdir():
      match = _CHECKPOINT_FOLDER.fullmatch(child.name)
      if match and _is_checkpoint(child):
        steps[int(match.group(1))] = child
  if not steps:
    raise UserError(
      f"{str(path)!r} is no T5X checkpoint: expected a folder with a file"
      " 'checkpoint' or a folder 'state', or folders checkpoint_<step>:"
      " set INITIAL_CHECKPOINT_PATH"
    )
  return steps[max(steps)]


def _is_checkpoint(folder: pathlib.Path) -> bool:
  return (folder / "checkpoint").is_file() or (folder / "state").is_dir()


def _broken(folder: pathlib.Path, reason: str) -> UserError:
  return UserError(
    f"the T5X checkpoint {str(folder)!r} cannot be read: {reason}:"
    " set INITIAL_CHECKPOINT_PATH to a complete one"
  )


class _Budget:
  """Counts the bytes that the arrays of a checkpoint declare."""

  def __init__(self, folder: pathlib.Path, max_bytes: int):
    self.folder = folder
    self._left = max_bytes

  def take(self, name: str, shape, dtype: np.dtype) -> None:
    """Books an array, before it is read."""
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 16:
      raise _broken(self.folder, f"{name} has shape {shape!r}")
    self._left -= math.prod(shape) * dtype.itemsize
    if self._left < 0:
      raise _broken(
        self.folder, "its arrays exceed max_bytes, what this model's could take"
      )

  def dtype(self, name: str, dtype: Any) -> np.dtype:
    if dtype not in _DTYPES:
      raise _broken(self.folder, f"{name} has dtype {dtype!r}")
    return _DTYPES[dtype]


def _insert(tree: Tree, path: list[str], value: Any) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value


# ---------------------------------------------------------------- Orbax format


def _read_orbax(folder: pathlib.Path, budget: _Budget) -> Tree:
  """Reads `state/`: array `a.b.c` becomes tree["a"]["b"]["c"]."""
  folder = folder / "state"
  # TensorStore is what Orbax itself reads with. Going to it directly spares
  # Orbax's search for the devices that the arrays were saved from.
  import tensorstore as ts

  base = {"driver": "file", "path": f"{folder.resolve()}/"}
  if (folder / "manifest.ocdbt").is_file():
    base = {"driver": "ocdbt", "base": base}
  store = ts.KvStore.open(base).result()
  names = sorted(
    key.decode().removesuffix("/.zarray")
    for key in store.list().result()
    if key.endswith(b"/.zarray")
  )
  if not names:
    raise _broken(budget.folder, "its folder 'state' has no zarr arrays")
  arrays = {}
  for name in names:
    if not _PLAIN_NAME.fullmatch(name):
      raise _broken(budget.folder, f"it has an array named {name!r}")
    spec = {"driver": "zarr", "kvstore": {**base, "path": f"{name}/"}}
    if base["driver"] == "file":
      spec["kvstore"]["path"] = f"{folder.resolve()}/{name}/"
    array = ts.open(spec, open=True, read=True).result()
    budget.take(name, array.shape, budget.dtype(name, array.dtype.name))
    arrays[name] = array
  pending = {name: array.read() for name, array in arrays.items()}
  tree: Tree = {}
  for name, future in pending.items():
    _insert(tree, name.split("."), np.asarray(future.result()))
  return tree


# --------------------------------------------------------------- legacy format


def _read_legacy(folder: pathlib.Path, budget: _Budget) -> Tree:
  """Reads the msgpack file and the zarr folders it points to."""
  import msgpack

  def decode_extension(code: int, data: bytes):
    if code not in (_EXT_NDARRAY, _EXT_SCALAR):
      raise _broken(folder, f"msgpack extension {code} is unknown")
    shape, dtype_name, buffer = msgpack.unpackb(data, raw=False)
    dtype = budget.dtype("an inline array", dtype_name)
    budget.take("an inline array", shape, dtype)
    return np.frombuffer(buffer, dtype).reshape(shape)

  content = msgpack.unpackb(
    (folder / "checkpoint").read_bytes(),
    ext_hook=decode_extension,
    raw=False,
    strict_map_key=True,
  )
  if not isinstance(content, dict) or "optimizer" not in content:
    raise _broken(folder, "its msgpack has no 'optimizer'")
  return _resolve(content["optimizer"], folder, budget, _MAX_DEPTH)


def _resolve(
  node: Any, folder: pathlib.Path, budget: _Budget, depth: int
) -> Any:
  """Replaces descriptions of zarr arrays in the tree by the arrays."""
  if not isinstance(node, dict):
    return node
  if depth == 0:
    raise _broken(folder, "its tree is too deep")
  if "driver" in node and isinstance(node.get("kvstore"), dict):
    if node["driver"] != "zarr":
      raise _broken(folder, f"driver {node['driver']!r} is not zarr")
    location = str(node["kvstore"].get("path", "")).rstrip("/")
    # Only the last part counts: the file may have been written elsewhere.
    return read_zarr(folder, location.rsplit("/", 1)[-1], budget)
  return {
    key: _resolve(child, folder, budget, depth - 1)
    for key, child in node.items()
  }


def read_zarr(folder: pathlib.Path, name: str, budget: _Budget) -> np.ndarray:
  """Reads the zarr (version 2) array `folder/name`, gzip or uncompressed.

  Reads no more than the header declares, and nothing outside of `folder`,
  not even through symbolic links.
  """
  array_folder = folder / name
  if not _PLAIN_NAME.fullmatch(name) or not array_folder.is_dir():
    raise _broken(folder, f"it has no array {name!r}")
  if array_folder.resolve().parent != folder.resolve():
    raise _broken(folder, f"{name!r} leads out of it")
  header = _read_header(array_folder, folder)
  shape, chunks = header["shape"], header["chunks"]
  dtype = _zarr_dtype(header["dtype"], folder)
  budget.take(name, shape, dtype)
  if len(chunks) != len(shape) or not all(
    type(n) is int and n > 0 for n in chunks
  ):
    raise _broken(folder, f"{name} has chunks {chunks!r}")
  # A chunk is stored whole, even where the array ends inside it.
  budget.take(name, chunks, dtype)
  grid = [-(-size // chunk) for size, chunk in zip(shape, chunks)]
  separator = header.get("dimension_separator", ".")
  if separator not in (".", "/"):
    raise _broken(folder, f"{name} has dimension separator {separator!r}")
  files = {}
  for index in np.ndindex(*grid):
    file = array_folder / (separator.join(map(str, index)) or "0")
    if not file.is_file() or array_folder.resolve() not in (
      file.resolve().parents
    ):
      raise _broken(folder, f"{name} lacks its chunk {file.name!r}")
    files[index] = file
  array = np.empty(shape, dtype)
  for index, file in files.items():
    block = np.frombuffer(
      _read_chunk(file, header, math.prod(chunks) * dtype.itemsize, folder),
      dtype,
    ).reshape(chunks, order=header["order"])
    where = tuple(
      slice(i * chunk, min((i + 1) * chunk, size))
      for i, chunk, size in zip(index, chunks, shape)
    )
    array[where] = block[tuple(slice(0, w.stop - w.start) for w in where)]
  return array


def _read_header(array_folder: pathlib.Path, folder: pathlib.Path) -> Mapping:
  file = array_folder / ".zarray"
  if not file.is_file() or file.stat().st_size > _MAX_HEADER_BYTES:
    raise _broken(folder, f"{array_folder.name} has no readable .zarray")
  try:
    header = json.loads(file.read_bytes())
  except ValueError as error:
    raise _broken(folder, f"{array_folder.name}/.zarray: {error}") from error
  compressor = header.get("compressor") if isinstance(header, dict) else 0
  supported = compressor is None or (
    isinstance(compressor, dict) and compressor.get("id") in ("gzip", "zlib")
  )
  if (
    not supported
    or header.get("zarr_format") != 2
    or header.get("filters")
    or header.get("order") not in ("C", "F")
    or not isinstance(header.get("shape"), list)
    or not isinstance(header.get("chunks"), list)
  ):
    raise _broken(
      folder, f"{array_folder.name}/.zarray is not zarr 2 with gzip or none"
    )
  return header


def _zarr_dtype(name: Any, folder: pathlib.Path) -> np.dtype:
  """`<f4`, as zarr writes it, or `bfloat16`, as TensorStore does."""
  if name == "bfloat16":
    return _DTYPES["bfloat16"]
  codes = {dtype.str: dtype for dtype in _DTYPES.values()}
  if not isinstance(name, str) or name not in codes:
    raise _broken(folder, f"zarr dtype {name!r} is not supported")
  return codes[name]


def _read_chunk(
  file: pathlib.Path, header: Mapping, size: int, folder: pathlib.Path
) -> bytes:
  """The chunk's `size` bytes; an error if there are more or fewer."""
  # Incompressible data grows by well under 1 % and a small header.
  if file.stat().st_size > size + size // 64 + 4096:
    raise _broken(folder, f"chunk {file.name!r} is larger than declared")
  data = file.read_bytes()
  if header["compressor"] is not None:
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
      data = decompressor.decompress(data, size + 1)
    except zlib.error as error:
      raise _broken(folder, f"chunk {file.name!r}: {error}") from error
  if len(data) != size:
    raise _broken(folder, f"chunk {file.name!r} is not {size} bytes long")
  return data
