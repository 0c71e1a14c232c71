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

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError, one_line
from dss_jax.pretrained.files import (
  flax_msgpack,
  tensorstore_arrays,
  zarr_arrays,
)
from dss_jax.pretrained.files.bounds import MAX_BYTES, Budget, broken
from dss_jax.pretrained.files.lazy_arrays import LazyArray

Tree = dict[str, Any]

_CHECKPOINT_FOLDER = re.compile(r"checkpoint_(\d+)")


@dataclasses.dataclass(frozen=True)
class T5xCheckpoint:
  """A checkpoint that was opened; its arrays are read when asked for.

  Attributes:
    folder: `checkpoint_<step>`.
    params: by T5X's paths, `encoder/layers_0/attention/query/kernel`, in the
      layout they were saved in.
    optimizer_state: T5X's `param_states`: `v`, `v_row`, `v_col` and `m` below
      the path of each parameter, unused ones of shape (1,); empty where the
      checkpoint has none.
    step: the training step.
  """

  folder: pathlib.Path
  params: Mapping[str, LazyArray]
  optimizer_state: Mapping[str, LazyArray]
  step: int


def load_t5x(
  path: str | pathlib.Path, *, max_bytes: int = MAX_BYTES
) -> tuple[Tree, Tree | None, int]:
  """Reads a whole checkpoint that T5X wrote into memory.

  Args:
    path: as of `open_t5x`.
    max_bytes: the most that its arrays may occupy, in bytes.

  Returns:
    params: nested dict of NumPy arrays under T5X's paths, in the dtype they
      were saved in.
    optimizer_state: the tree of `params` with a dict `{m, v, v_row, v_col}` in
      place of each array; None if the checkpoint has none.
    step: the training step.

  Raises:
    UserError: if the folder holds no checkpoint, or a broken one.
  """
  opened = open_t5x(path, max_bytes=max_bytes)
  state = _nested(opened.optimizer_state)
  return _nested(opened.params), state or None, opened.step


def open_t5x(
  path: str | pathlib.Path, *, max_bytes: int = MAX_BYTES
) -> T5xCheckpoint:
  """Opens a checkpoint that T5X wrote.

  Args:
    path: the folder `checkpoint_<step>`, or one that holds such folders, of
      which the latest is taken.
    max_bytes: the most that its arrays may declare, in bytes.

  Raises:
    UserError: if the folder holds no checkpoint, or a broken one.
  """
  folder = find(pathlib.Path(path))
  if folder is None:
    raise UserError(
      f"{str(path)!r} is no T5X checkpoint: expected a folder with a file"
      " 'checkpoint' or a folder 'state', or folders checkpoint_<step>:"
      " set INITIAL_CHECKPOINT_PATH"
    )
  legacy = (folder / "checkpoint").is_file()
  budget = Budget(folder, max_bytes)
  try:
    tree = (_open_legacy if legacy else _open_orbax)(folder, budget)
  except UserError:
    raise
  except Exception as error:  # whatever the parsers make of hostile bytes
    reason = one_line(error) or type(error).__name__
    raise broken(folder, reason) from error
  params, state = tree.get("target"), tree.get("state")
  if not isinstance(params, dict) or not isinstance(state, dict):
    raise broken(folder, "it has no 'target' and 'state'")
  slots = state.get("param_states") or {}
  return T5xCheckpoint(
    folder,
    _flat(params, folder),
    _flat(slots, folder) if isinstance(slots, dict) else {},
    _step(state, folder),
  )


def _step(state: Mapping[str, Any], folder: pathlib.Path) -> int:
  step = state.get("step", 0)
  if (
    isinstance(step, LazyArray)
    and step.size == 1  # before it is read: it may be declared of any size
    and np.issubdtype(step.dtype, np.integer)
  ):
    step = step.whole().item()
  if type(step) is not int or not 0 <= step < 2**63:
    raise broken(folder, "its step is no whole number")
  return step


def find(path: pathlib.Path) -> pathlib.Path | None:
  """The folder of the checkpoint itself; None where there is none."""
  if _is_checkpoint(path):
    return path
  steps = {}
  if path.is_dir():
    for child in path.iterdir():
      match = _CHECKPOINT_FOLDER.fullmatch(child.name)
      if match and _is_checkpoint(child):
        steps[int(match.group(1))] = child
  return steps[max(steps)] if steps else None


def _is_checkpoint(folder: pathlib.Path) -> bool:
  return (folder / "checkpoint").is_file() or (folder / "state").is_dir()


def _flat(
  tree: Mapping[str, Any], folder: pathlib.Path, prefix: str = ""
) -> dict[str, LazyArray]:
  """The arrays of a tree by their paths; what is no array is refused."""
  flat = {}
  for key, child in tree.items():
    name = f"{prefix}{key}"
    if isinstance(child, LazyArray):
      flat[name] = child
    elif isinstance(child, Mapping):
      flat |= _flat(child, folder, f"{name}/")
    elif child is not None:
      raise broken(folder, f"{one_line(name)} is no array")
  return flat


def _nested(flat: Mapping[str, LazyArray]) -> Tree:
  tree: Tree = {}
  for name, array in flat.items():
    *parents, last = name.split("/")
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = np.asarray(array.whole())
  return tree


def _open_orbax(folder: pathlib.Path, budget: Budget) -> Tree:
  """Opens `state/`: array `a.b.c` becomes tree["a"]["b"]["c"]."""
  tree: Tree = {}
  arrays = tensorstore_arrays.open_arrays(folder / "state", budget)
  for name, array in arrays.items():
    *parents, last = name.split(".")
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = array
  return tree


def _open_legacy(folder: pathlib.Path, budget: Budget) -> Tree:
  """Opens the msgpack file and the zarr folders it points to."""
  content = flax_msgpack.read_tree(folder / "checkpoint")
  if not isinstance(content, dict) or not isinstance(
    content.get("optimizer"), dict
  ):
    raise broken(folder, "its msgpack has no 'optimizer'")
  return _resolve(content["optimizer"], folder, budget)


def _resolve(node: Any, folder: pathlib.Path, budget: Budget) -> Any:
  """Replaces descriptions of zarr arrays in the tree by the arrays."""
  if isinstance(node, LazyArray):
    budget.take("an inline array", node.shape, node.dtype)
  if not isinstance(node, dict):
    return node
  if "driver" in node and isinstance(node.get("kvstore"), dict):
    if node["driver"] != "zarr":
      raise broken(folder, f"driver {node['driver']!r} is not zarr")
    location = str(node["kvstore"].get("path", "")).rstrip("/")
    # Only the last part counts: the file may have been written elsewhere.
    return zarr_arrays.open_zarr(folder, location.rsplit("/", 1)[-1], budget)
  return {key: _resolve(child, folder, budget) for key, child in node.items()}
