"""The Adafactor state of a T5X checkpoint, for a run that goes on with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax

from dss_jax.base.errors import UserError
from dss_jax.models.config import T5Config
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LAYERS_AXIS, LazyArray
from dss_jax.pretrained.opening import Pretrained
from dss_jax.training.optimizers import adafactor

_LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.*)/(v|v_row|v_col|m)")
_UNUSED = (1,)


def load(
  opened: Pretrained, config: T5Config, template: Any
) -> adafactor.AdafactorState:
  """The state, read straight to where it belongs.

  Args:
    opened: a checkpoint with an optimizer state.
    config: the student's.
    template: shapes, types and shardings of the student's optimizer state.

  Raises:
    UserError: where the student has another optimizer, or one that keeps other
      arrays.
  """
  if not isinstance(template, adafactor.AdafactorState):
    raise UserError(
      f"the optimizer state in {opened.source!r} is Adafactor's: set OPTIMIZER"
      " to @adafactor.Adafactor(), or RESTORE_OPTIMIZER to False"
    )
  slots = opened.optimizer_state
  if config.scan_layers:
    slots = _stacked(slots, opened.arrays)
  tree: dict[str, Any] = {}
  for name, array in slots.items():
    *parents, last = name.split("/")
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = array

  def read(array: LazyArray, like: jax.ShapeDtypeStruct) -> jax.Array:
    return array.place(like.sharding, like.dtype)

  state = adafactor.adafactor_state_from_t5x(
    tree, opened.step or 0, template, read
  )
  count = jax.device_put(state.count, template.count.sharding)
  return state._replace(count=count)


def _stacked(
  slots: Mapping[str, LazyArray], params: Mapping[str, LazyArray]
) -> dict[str, LazyArray]:
  """Slots of layers apart -> of layers stacked, where they are apart.

  A factor has lost one of its parameter's two dimensions, so the layers, on
  axis 1 of the parameter, are on axis 0 of a factor that kept the second.
  """
  result: dict[str, LazyArray] = {}
  groups: dict[tuple[str, str, str], dict[int, LazyArray]] = {}
  for name, array in slots.items():
    match = _LAYER.fullmatch(name)
    if match is None:
      result[name] = array
      continue
    stack, i, below, slot = match.groups()
    groups.setdefault((stack, below, slot), {})[int(i)] = array
  for (stack, below, slot), layers in groups.items():
    ordered = [layers[i] for i in sorted(layers)]
    param = params.get(f"{stack}/layers_0/{below}")
    if param is None or len({layer.shape for layer in ordered}) > 1:
      continue  # what is wanted of them is then told to be missing
    name = f"{stack}/{stack}/{below}/{slot}"
    if ordered[0].shape == _UNUSED:
      result[name] = ordered[0]
      continue
    axis = LAYERS_AXIS
    if slot in ("v_row", "v_col"):
      # As T5X orders them: the larger dimension, or the second, is the column.
      first_is_row = param.shape[0] <= param.shape[-1]
      kept_first = first_is_row == (slot == "v_row")
      axis = 1 if kept_first else 0
    result[name] = lazy_arrays.stacked(ordered, axis)
  return result
