"""From whatever layout parameters were saved in to layers apart, and back.

T5X has four: layers apart or stacked on axis 1 (`scan_layers`), and attention
kernels with heads and head_dim joined (`t5`) or as two dimensions
(`scalable_t5`). Whatever is read is first brought to one form, layers apart
and heads joined, in which everything is compared; then to the student's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax

from dss_jax.base.errors import UserError, one_line, printable
from dss_jax.models.config import T5Config
from dss_jax.pretrained import huggingface_weights
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LAYERS_AXIS, LazyArray

Arrays = Mapping[str, LazyArray]
_STACKS = ("encoder", "decoder")
MAX_LAYERS = 1000  # of a stack; a file may declare any number
_ATTENTION = re.compile(r".*attention/(query|key|value|out)/kernel")


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
    stack, _, rest = name.partition("/")
    inner, _, below = rest.partition("/")
    if stack not in _STACKS or inner != stack:
      result[name] = _joined_heads(name, array)
      continue
    layers = array.shape[LAYERS_AXIS] if len(array.shape) > LAYERS_AXIS else 0
    if not 1 <= layers <= MAX_LAYERS:
      raise UserError(
        f"{where}: {printable(one_line(name))} has shape {list(array.shape)};"
        f" on axis {LAYERS_AXIS} there must be 1 to {MAX_LAYERS} layers"
      )
    for i in range(layers):
      ours = f"{stack}/layers_{i}/{below}"
      result[ours] = _joined_heads(ours, lazy_arrays.layer_of(array, i))
  return result


def _joined_heads(name: str, array: LazyArray) -> LazyArray:
  match = _ATTENTION.fullmatch(name)
  if match is None or len(array.shape) != 3:
    return array
  return lazy_arrays.joined(array, 0 if match.group(1) == "out" else 1)


def for_model(arrays: Arrays, config: T5Config) -> dict[str, Any]:
  """Nested as a student's parameters are, stacked where it scans its layers.

  Args:
    arrays: layers apart; those of the configuration, all of them.
    config: the student's.
  """
  flat: dict[str, LazyArray] = {}
  for path in huggingface_weights.flat_shapes(config):
    stack, _, rest = path.partition("/")
    layer, _, below = rest.partition("/")
    if not (config.scan_layers and layer.startswith("layers_")):
      flat[path] = arrays[path]
      continue
    whole = f"{stack}/{stack}/{below}"
    if whole not in flat:
      count = getattr(config, f"num_{stack}_layers")
      flat[whole] = lazy_arrays.stacked(
        [arrays[f"{stack}/layers_{i}/{below}"] for i in range(count)]
      )
  tree: dict[str, Any] = {}
  for path, array in flat.items():
    *parents, last = path.split("/")
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = array
  return tree


def place(tree: Any, shardings: Any, dtype: str = "float32") -> Any:
  """Reads arrays one by one, each straight to where it belongs.

  Args:
    tree: nested dict of `LazyArray`.
    shardings: the same structure, or one sharding for all.
    dtype: to store them in.
  """
  leaves, structure = jax.tree.flatten(
    tree, is_leaf=lambda leaf: isinstance(leaf, LazyArray)
  )
  if isinstance(shardings, jax.sharding.Sharding):
    places = [shardings] * len(leaves)
  else:
    places = structure.flatten_up_to(shardings)
  return structure.unflatten(
    leaf.place(place, dtype) for leaf, place in zip(leaves, places, strict=True)
  )
