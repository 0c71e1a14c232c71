"""Parameter trees with the layers apart, or stacked for scanning.

Apart (T5X's `t5`): `encoder/layers_0/mlp/wo/kernel` [mlp, emb], ...
Stacked (T5X's `scalable_t5`): `encoder/encoder/mlp/wo/kernel`
[mlp, layers, emb]: layers are axis 1 of every array.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]

LAYERS_AXIS = 1
_STACKS = ("encoder", "decoder")
_PREFIX = "layers_"


def stack_layers(params: Mapping[str, Any]) -> Params:
  """Layers apart -> layers stacked. Arrays stay NumPy if they are NumPy.

  Raises:
    ValueError: if a stack's layers are not `layers_0`, `layers_1`, ….
  """
  result = dict(params)
  for name in _STACKS:
    stack = params[name]
    layers = {k: v for k, v in stack.items() if k.startswith(_PREFIX)}
    ordered = [f"{_PREFIX}{i}" for i in range(len(layers))]
    if not layers or set(ordered) != set(layers):
      raise ValueError(f"{name} has no layers to stack: {sorted(stack)}")
    rest = {k: v for k, v in stack.items() if k not in layers}
    stacked = jax.tree.map(_stack, *[layers[layer] for layer in ordered])
    result[name] = {name: stacked, **rest}
  return result


def unstack_layers(params: Mapping[str, Any]) -> Params:
  """Layers stacked -> layers apart: the inverse of `stack_layers`.

  Raises:
    ValueError: if the layers are not stacked, or not all equally many.
  """
  result = dict(params)
  for name in _STACKS:
    stack = dict(params[name])
    if name not in stack:
      raise ValueError(f"{name} has no stacked layers: {sorted(stack)}")
    stacked = stack.pop(name)
    counts = {x.shape[LAYERS_AXIS] for x in jax.tree.leaves(stacked)}
    if len(counts) != 1:
      raise ValueError(f"{name} has stacks of {sorted(counts)} layers")
    for i in range(counts.pop()):
      stack[f"{_PREFIX}{i}"] = jax.tree.map(
        lambda x, i=i: x[(slice(None),) * LAYERS_AXIS + (i,)], stacked
      )
    result[name] = stack
  return result


def place_in_stack(path: str) -> tuple[str, int | None]:
  """A parameter's path as if layers were stacked, and its layer.

  `encoder/layers_1/mlp/wo/kernel` -> `encoder/encoder/mlp/wo/kernel`, 1. The
  layer is None where the path names no single one.
  """
  stack, _, rest = path.partition("/")
  layer, _, inner = rest.partition("/")
  number = layer.removeprefix(_PREFIX)
  if stack in _STACKS and number != layer and number.isdigit():
    return f"{stack}/{stack}/{inner}", int(number)
  return path, None


def is_stacked(paths: Iterable[str]) -> bool | None:
  """Whether parameters of these paths are stacked; None where any layout fits."""
  for path in paths:
    stack, _, rest = path.partition("/")
    if stack in _STACKS and rest.startswith((f"{stack}/", _PREFIX)):
      return not rest.startswith(_PREFIX)
  return None


def one_by_one(
  path: str, array: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
  """An array with its path, or that of each layer with its own."""
  if not is_stacked([path]):
    yield path, array
    return
  stack, _, inner = path.split("/", 2)
  for i in range(array.shape[LAYERS_AXIS]):
    yield f"{stack}/{_PREFIX}{i}/{inner}", array.take(i, LAYERS_AXIS)


def _stack(*arrays):
  library = np if isinstance(arrays[0], np.ndarray) else jnp
  return library.stack(arrays, axis=LAYERS_AXIS)
