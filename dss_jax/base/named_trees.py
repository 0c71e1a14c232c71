"""Trees of arrays by their leaves' names: shapes, hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

PyTree = Any


def path_name(path: Sequence[Any]) -> str:
  """`params/encoder/layers_0/...`, the same for every kind of container."""
  return "/".join(
    str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))
    for key in path
  )


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """The shape of each array, by its path: `params/encoder/...`."""
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda leaf: hasattr(leaf, "shape")
  )
  return {
    path_name(path): tuple(leaf.shape)
    for path, leaf in leaves
    if hasattr(leaf, "shape")
  }


def tree_hash(tree: PyTree) -> str:
  """SHA-256 over the names, types, shapes and bytes of all leaves."""
  digest = hashlib.sha256()
  leaves = {
    path_name(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  for name in sorted(leaves):  # one at a time: they may be large
    array = np.asarray(leaves[name])
    digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Leaves by their paths, `a/b/c` -> dicts in dicts."""
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split("/")
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return tree
