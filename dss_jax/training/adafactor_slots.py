"""Adafactor's slots in each layout of parameters: from any, to any.

A kernel's second moment is kept whole, or as two averages: one for each entry
of its first dimension, one for each of its second. Which of the two is called
the row differs. T5X's `t5`, and this library, take the smaller dimension (of
equal ones the first); `scalable_t5`, whose kernels have more than two
dimensions, takes the one that is called `embed`. There the layers are stacked
and heads lie apart from head_dim, in averages as in parameters.

Averages can be made from a whole second moment, exactly: both are updated by
the same rule. The reverse is lost.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from dss_jax.models import layer_stacking
from dss_jax.models.layer_stacking import LAYERS_AXIS
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LazyArray

UNUSED_SHAPE = (1,)  # of a slot that is not used
Shape = tuple[int, ...]
Slots = Mapping[str, LazyArray]
_LAYERS = -1  # in place of the parameter's dimension
# Sizes, and the dimension of the parameter that each is (a part of).
_Dims = list[tuple[int, int]]
_KERNEL = re.compile(r".*/(?:(\w*attention)|mlp)/(\w+)/kernel")


@dataclasses.dataclass(frozen=True)
class Moments:
  """What Adafactor remembers of one parameter of one layer, heads joined.

  Attributes:
    momentum: in the parameter's shape; None where none is kept.
    whole: the second moment in the parameter's shape; None if factored.
    kept: its averages for each entry of dimension 0 and of dimension 1; None
      if not factored.
  """

  momentum: LazyArray | None = None
  whole: LazyArray | None = None
  kept: tuple[LazyArray, LazyArray] | None = None

  def averages(self) -> tuple[LazyArray, LazyArray] | None:
    """The averages, made of the whole if need be; None where there are none."""
    if self.kept is None and self.whole is not None:
      first, second = (
        lazy_arrays.averaged(self.whole, axis) for axis in (1, 0)
      )
      return first, second
    return self.kept


def unused() -> LazyArray:
  """A slot that is not used."""
  zeros = np.zeros(UNUSED_SHAPE, np.float32)
  return LazyArray(UNUSED_SHAPE, zeros.dtype, lambda index: zeros[index])


def row_by_size(shape: Shape) -> int:
  """Which dimension of a matrix is the row where sizes decide."""
  return 0 if shape[0] <= shape[1] else 1


def row_by_name(path: str) -> int | None:
  """Which dimension of a kernel is `embed`; None for what is no kernel."""
  match = _KERNEL.fullmatch(path)
  if match is None:
    return None
  return 1 if match.group(2) in ("out", "wo") else 0


def find(
  slots: Slots,
  path: str,
  shape: Shape,
  num_heads: int,
  num_layers: int,
  *,
  by_name: bool,
) -> Moments:
  """The moments of one parameter, wherever the slots have them.

  Args:
    slots: `<path of a parameter>/<slot>` -> array, in any layout.
    path: the parameter's, with layers apart.
    shape: the parameter's, with heads joined.
    num_heads: of the attention.
    num_layers: of the parameter's stack.
    by_name: whether names decide about kernels of more than two dimensions, if
      sizes leave it open.
  """
  stacked, layer = layer_stacking.place_in_stack(path)
  if layer is not None and f"{stacked}/v" in slots:
    path = stacked
  else:
    layer = None
  layers = None if layer is None else num_layers
  found = {
    name: slots.get(f"{path}/{name}") for name in ("m", "v", "v_row", "v_col")
  }
  used = {
    name: array
    for name, array in found.items()
    if array is not None and array.shape != UNUSED_SHAPE
  }
  moments = Moments()
  for dims in _forms(path, shape, num_heads, layers):

    def part(array: LazyArray, kept: Shape, dims: _Dims = dims) -> LazyArray:
      return _part(array, _kept(dims, kept), layer)

    every = tuple(range(len(shape)))
    whole = _sizes(_kept(dims, every))
    for name, field in (("m", "momentum"), ("v", "whole")):
      if name in used and used[name].shape == whole:
        array = part(used[name], every)
        moments = dataclasses.replace(moments, **{field: array})
    if "v_row" in used and "v_col" in used and len(shape) == 2:
      row, column = used["v_row"], used["v_col"]
      first = _first_is_row(path, dims, row.shape, column.shape, by_name)
      if first is not None:
        kept = (row, column) if first else (column, row)
        averages = part(kept[0], (0,)), part(kept[1], (1,))
        moments = dataclasses.replace(moments, kept=averages)
  return moments


def _forms(
  path: str, shape: Shape, num_heads: int, layers: int | None
) -> list[_Dims]:
  """The dimensions that a parameter may have in a file."""
  plain = [(size, i) for i, size in enumerate(shape)]
  forms = [plain]
  match = _KERNEL.fullmatch(path)
  if match and match.group(1) and len(shape) == 2:
    joined = 0 if match.group(2) == "out" else 1
    apart = [(num_heads, joined), (shape[joined] // num_heads, joined)]
    forms.append([*plain[:joined], *apart, *plain[joined + 1 :]])
  if layers is not None:
    for dims in forms:
      dims.insert(LAYERS_AXIS, (layers, _LAYERS))
  return forms


def _kept(dims: _Dims, kept: Shape) -> _Dims:
  return [dim for dim in dims if dim[1] in (*kept, _LAYERS)]


def _sizes(dims: _Dims) -> Shape:
  return tuple(size for size, _ in dims)


def _first_is_row(
  path: str, dims: _Dims, row: Shape, column: Shape, by_name: bool
) -> bool | None:
  """Whether `v_row` keeps dimension 0; None where the shapes are others."""
  first, second = (_sizes(_kept(dims, (i,))) for i in (0, 1))
  if (row, column) == (first, second) != (column, row):
    return True
  if (row, column) == (second, first) != (column, row):
    return False
  if row != first or column != second:
    return None
  if by_name and len(dims) > 2:
    return row_by_name(path) != 1
  return True  # of equal ones the first


def _part(array: LazyArray, dims: _Dims, layer: int | None) -> LazyArray:
  """One layer of a slot, heads and head_dim joined."""
  kinds = [kind for _, kind in dims]
  if layer is not None:
    axis = kinds.index(_LAYERS)
    array = lazy_arrays.layer_of(array, layer, axis)
    kinds.pop(axis)
  for i in range(len(kinds) - 1):
    if kinds[i] == kinds[i + 1]:
      return lazy_arrays.joined(array, i)
  return array


def of_layers(
  layers: Sequence[Moments],
  *,
  momentum: bool,
  row: int | None,
  stack: bool,
) -> dict[str, LazyArray]:
  """The slots of a parameter; those that its moments do not have are left out.

  Args:
    layers: its moments, one where it is of a single layer.
    momentum: whether the momentum is kept.
    row: the dimension that `v_row` keeps; None keeps the whole second moment.
    stack: whether the layers are stacked.
  """
  slots: dict[str, LazyArray | None] = {
    name: unused() for name in ("m", "v", "v_row", "v_col")
  }
  if momentum:
    momenta = [layer.momentum for layer in layers]
    slots["m"] = _stacked(momenta, LAYERS_AXIS, stack)
  if row is None:
    wholes = [layer.whole for layer in layers]
    slots["v"] = _stacked(wholes, LAYERS_AXIS, stack)
  else:
    averages = [layer.averages() for layer in layers]
    for name, kept in (("v_row", row), ("v_col", 1 - row)):
      # In a slot that lost dimension 0 the layers come first.
      each = [pair and pair[kept] for pair in averages]
      slots[name] = _stacked(each, 1 - kept, stack)
  return {name: array for name, array in slots.items() if array is not None}


def _stacked(
  layers: Sequence[LazyArray | None], axis: int, stack: bool
) -> LazyArray | None:
  """A slot of all layers, or the one there is; None where one is missing."""
  there = [layer for layer in layers if layer is not None]
  if len(there) < len(layers) or len({array.shape for array in there}) > 1:
    return None
  return lazy_arrays.stacked(there, axis) if stack else there[0]


def heads_apart(path: str, array: np.ndarray, num_heads: int) -> np.ndarray:
  """A stacked kernel of the attention with heads and head_dim as two dimensions.

  Args:
    path: the parameter's.
    array: the kernel, its momentum or second moment, or the averages that keep
      its heads; anything else is returned as it is.
    num_heads: of the attention.
  """
  match = _KERNEL.fullmatch(path)
  if match is None or not match.group(1) or array.shape == UNUSED_SHAPE:
    return array
  shape = array.shape
  if match.group(2) != "out":
    return array.reshape(*shape[:-1], num_heads, -1)
  array = array.reshape(num_heads, -1, *shape[1:])
  return np.moveaxis(array, LAYERS_AXIS + 1, LAYERS_AXIS)  # the layers' too
