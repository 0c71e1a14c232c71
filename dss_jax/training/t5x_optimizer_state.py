"""Adafactor's state in T5X's checkpoints, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.base import named_trees
from dss_jax.base.errors import UserError
from dss_jax.models import layer_stacking
from dss_jax.models.config import T5Config
from dss_jax.models.partitioning import logical_axes
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LazyArray
from dss_jax.pretrained.opening import Pretrained
from dss_jax.training.optimizers import adafactor

_UNUSED = (1,)  # the shape of a slot that is not used


def load(
  opened: Pretrained, config: T5Config, template: Any
) -> adafactor.AdafactorState:
  """The state, read straight onto its devices.

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
      f"the optimizer state in {opened.source!r} is Adafactor's: set optimizer"
      " to Adafactor, or restore_optimizer to False",
      fields=("TrainConfig.optimizer", "TrainConfig.restore_optimizer"),
    )
  slots = opened.optimizer_state
  if config.scan_layers:
    slots = _stacked(slots, opened.arrays)

  def read(array: LazyArray, like: jax.ShapeDtypeStruct) -> jax.Array:
    return array.place(like.sharding, like.dtype)

  state = from_t5x(named_trees.nested(slots), opened.step or 0, template, read)
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
  stacks: dict[str, dict[int, str]] = {}  # stacked name -> layer -> name
  for name, array in slots.items():
    stacked_name, layer = layer_stacking.place_in_stack(name)
    if layer is None:
      result[name] = array
    else:
      stacks.setdefault(stacked_name, {})[layer] = name
  for stacked_name, names in stacks.items():
    layers = [slots[names[i]] for i in sorted(names)]
    name, _, slot = names[min(names)].rpartition("/")
    param = params.get(name)
    if param is None or len({layer.shape for layer in layers}) > 1:
      continue  # the student's slots that need it are then missing
    if layers[0].shape == _UNUSED:
      result[stacked_name] = layers[0]
      continue
    axis = layer_stacking.LAYERS_AXIS
    if slot in ("v_row", "v_col"):
      # As T5X orders them: the larger dimension, or the second, is the column.
      first_is_row = param.shape[0] <= param.shape[-1]
      kept_first = first_is_row == (slot == "v_row")
      axis = 1 if kept_first else 0
    result[stacked_name] = lazy_arrays.stacked(layers, axis)
  return result


def to_t5x(state: adafactor.AdafactorState) -> dict[str, Any]:
  """T5X's `param_states`; its step is `state.count`.

  Nested like the parameters, with `{"m", "v", "v_row", "v_col"}` in place of
  each, unused ones zeros of shape (1,).
  """
  structure = jax.tree.structure(state.v)
  unused = jnp.zeros((1,), jnp.float32)
  m = [unused] * structure.num_leaves
  if state.m is not None:
    m = jax.tree.leaves(state.m)
  leaves = zip(
    m, *map(jax.tree.leaves, (state.v, state.v_row, state.v_col)), strict=True
  )
  names = ("m", "v", "v_row", "v_col")
  return structure.unflatten(dict(zip(names, x)) for x in leaves)


def from_t5x(
  param_states: Mapping[str, Any],
  step: int,
  template: adafactor.AdafactorState,
  read: Callable[[Any, Any], jax.Array] | None = None,
) -> adafactor.AdafactorState:
  """The `adafactor.AdafactorState` of a T5X optimizer state.

  Args:
    param_states: as in T5X's checkpoints (`t5x_checkpoints.load_t5x`).
    step: the checkpoint's.
    template: the state (or its shapes) of the run that continues with it.
    read: (slot of the checkpoint, leaf of `template`) -> array; None for slots
      that are arrays, which go to the first device.

  Raises:
    UserError: if a parameter is missing or its slots have other shapes.
  """
  read = read or (lambda node, like: jnp.asarray(node, like.dtype))

  def pick(slot: str, tree: Any) -> Any:
    if tree is None:
      return None
    leaves = []
    for param in logical_axes.named_params(tree):
      node: Any = param_states
      for part in [*param.path.split("/"), slot]:
        node = node.get(part) if isinstance(node, Mapping) else None
      shape = None if node is None else tuple(np.shape(node))
      if shape != tuple(param.value.shape):
        raise UserError(
          f"optimizer state of {param.path}: {slot} has shape {shape} in the"
          f" checkpoint, {tuple(param.value.shape)} in this run; set"
          " min_dim_size_to_factor and beta1 to those of the checkpoint, or"
          " restore parameters only",
          fields=("Adafactor.min_dim_size_to_factor", "Adafactor.beta1"),
        )
      leaves.append(read(node, param.value))
    return jax.tree.structure(tree).unflatten(leaves)

  return adafactor.AdafactorState(
    count=jnp.asarray(step, jnp.int32),
    v_row=pick("v_row", template.v_row),
    v_col=pick("v_col", template.v_col),
    v=pick("v", template.v),
    m=pick("m", template.m),
  )
