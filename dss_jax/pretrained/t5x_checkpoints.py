"""Checkpoints written by T5X: parameters, Adafactor state and step.

Both of T5X's formats, recognised by what lies in the folder:

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

import jax
import numpy as np

from dss_jax.base import named_trees
from dss_jax.base.errors import UserError
from dss_jax.pretrained.files import bounds, flax_msgpack
from dss_jax.pretrained.files.bounds import MAX_BYTES, Budget, MalformedError
from dss_jax.pretrained.files.lazy_arrays import LazyArray
from dss_jax.pretrained.files.zarr_arrays import ZarrStore

Tree = dict[str, Any]

_CHECKPOINT_FOLDER = re.compile(r"checkpoint_(\d+)")
_DOT = re.compile(r"\.")


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
    path: as for `open_t5x`.
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
  params, state = (
    jax.tree.map(lambda array: array.whole(), named_trees.nested(arrays))
    for arrays in (opened.params, opened.optimizer_state)
  )
  return params, state or None, opened.step


def open_t5x(
  path: str | pathlib.Path, *, max_bytes: int = MAX_BYTES
) -> T5xCheckpoint:
  """Opens a checkpoint that T5X wrote.

  Args:
    path: the folder `checkpoint_<step>`, or one that holds such folders; then
      the latest is taken.
    max_bytes: the most that its arrays may declare, in bytes.

  Raises:
    UserError: if the folder holds no checkpoint, or a broken one.
  """
  folder = find(pathlib.Path(path))
  if folder is None:
    raise UserError(
      f"{str(path)!r} is no T5X checkpoint: expected a folder with a file"
      " 'checkpoint' or a folder 'state', or folders checkpoint_<step>",
      fields="TrainConfig.initial_checkpoint_path",
    )
  with bounds.reading(folder, "checkpoint"):
    if (folder / "checkpoint").is_file():
      return _open_legacy(folder, Budget(max_bytes))
    arrays = open_state(folder / "state", Budget(max_bytes))
    params = below(arrays, "target")
    if not params:
      raise MalformedError("it has no 'target'")
    step = _checked_step(arrays.get("state/step", 0))
    slots = below(arrays, "state/param_states")
    return T5xCheckpoint(folder, params, slots, step)


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


def open_state(folder: pathlib.Path, budget: Budget) -> dict[str, LazyArray]:
  """The arrays that Orbax saved in a folder: `a.b.c` is named `a/b/c`.

  Raises:
    MalformedError: for a folder with a broken array, or with none.
  """
  store = ZarrStore(folder, budget)
  names = store.names()
  if not names:
    raise MalformedError(f"its folder {folder.name!r} has no zarr arrays")
  trees = {name[: dot.start()] for name in names for dot in _DOT.finditer(name)}
  if both := trees.intersection(names):
    raise MalformedError(f"{min(both)} is an array and has arrays below it")
  return {name.replace(".", "/"): store.open(name) for name in names}


def below(arrays: Mapping[str, LazyArray], name: str) -> dict[str, LazyArray]:
  """The arrays below a path, by the rest of their paths."""
  return {
    path.removeprefix(f"{name}/"): array
    for path, array in arrays.items()
    if path.startswith(f"{name}/")
  }


def _open_legacy(folder: pathlib.Path, budget: Budget) -> T5xCheckpoint:
  """Opens the msgpack file and the zarr folders it points to."""
  content = flax_msgpack.read_tree(folder / "checkpoint")
  if not isinstance(content, dict) or not isinstance(
    content.get("optimizer"), dict
  ):
    raise MalformedError("its msgpack has no 'optimizer'")
  tree = _resolve(content["optimizer"], ZarrStore(folder, budget), budget)
  params, state = tree.get("target"), tree.get("state")
  if not isinstance(params, dict) or not isinstance(state, dict):
    raise MalformedError("it has no 'target' and 'state'")
  slots = state.get("param_states")
  return T5xCheckpoint(
    folder,
    flax_msgpack.flatten(params),
    flax_msgpack.flatten(slots) if isinstance(slots, dict) else {},
    _checked_step(state.get("step", 0)),
  )


def _resolve(node: Any, store: ZarrStore, budget: Budget) -> Any:
  """Replaces descriptions of zarr arrays in the tree by the arrays."""
  if isinstance(node, LazyArray):
    budget.take("an inline array", node.shape, node.dtype)
  if not isinstance(node, dict):
    return node
  if "driver" in node and isinstance(node.get("kvstore"), dict):
    if node["driver"] != "zarr":
      raise MalformedError(f"driver {node['driver']!r} is not zarr")
    location = str(node["kvstore"].get("path", "")).rstrip("/")
    # Only the last part counts: the file may have been written elsewhere.
    return store.open(location.rsplit("/", 1)[-1])
  return {key: _resolve(child, store, budget) for key, child in node.items()}


def _checked_step(step: Any) -> int:
  if (
    isinstance(step, LazyArray)
    and step.size == 1  # before it is read: any size may be declared
    and np.issubdtype(step.dtype, np.integer)
  ):
    step = step.whole().item()
  if type(step) is not int or not 0 <= step < 2**63:
    raise MalformedError("its step is no whole number")
  return step
