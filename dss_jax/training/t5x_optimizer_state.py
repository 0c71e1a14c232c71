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
from dss_jax.pretrained import huggingface_weights
from dss_jax.pretrained.files import lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LazyArray
from dss_jax.pretrained.opening import Pretrained
from dss_jax.training import adafactor_slots
from dss_jax.training.optimizers import adafactor


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
  slots = {
    name: lazy_arrays.finite(
      array, f"the optimizer state of {name} in {opened.source!r}"
    )
    for name, array in opened.optimizer_state.items()
  }
  if template.m is None and any(
    name.endswith("/m") and array.shape != adafactor_slots.UNUSED_SHAPE
    for name, array in slots.items()
  ):
    raise UserError(
      f"the optimizer state in {opened.source!r} has momentum, and beta1 is"
      " None: set it to the checkpoint's, or restore_optimizer to False",
      fields=("Adafactor.beta1", "TrainConfig.restore_optimizer"),
    )

  def read(array: LazyArray, like: jax.ShapeDtypeStruct) -> jax.Array:
    return array.place(like.sharding, like.dtype)

  slots = _as_ours(slots, config, template)
  state = from_t5x(named_trees.nested(slots), opened.step or 0, template, read)
  count = jax.device_put(state.count, template.count.sharding)
  return state._replace(count=count)


def groups(config: T5Config, *, stack: bool) -> dict[str, list[str]]:
  """A model's parameters, and for each those of its layers in their order.

  Args:
    config: the model's.
    stack: whether layers are stacked; each parameter is a group of its own
      where they are not.
  """
  result: dict[str, list[str]] = {}
  for path in huggingface_weights.flat_shapes(config):
    stacked_path, layer = layer_stacking.place_in_stack(path)
    key = stacked_path if stack and layer is not None else path
    result.setdefault(key, []).append(path)
  return result


def moments(
  slots: Mapping[str, LazyArray], config: T5Config, *, by_name: bool
) -> dict[str, adafactor_slots.Moments]:
  """Each parameter's, by its path with layers apart, of slots in any layout.

  Args:
    slots: of a checkpoint.
    config: the model's.
    by_name: as for `adafactor_slots.find`.
  """
  counts = {
    "encoder": config.num_encoder_layers,
    "decoder": config.num_decoder_layers,
  }
  return {
    path: adafactor_slots.find(
      slots,
      path,
      shape,
      config.num_heads,
      counts.get(path.partition("/")[0], 0),
      by_name=by_name,
    )
    for path, shape in huggingface_weights.flat_shapes(config).items()
  }


def _as_ours(
  slots: Mapping[str, LazyArray],
  config: T5Config,
  template: adafactor.AdafactorState,
) -> dict[str, LazyArray]:
  """The slots in the student's layout; what the checkpoint lacks is left out."""
  shapes = huggingface_weights.flat_shapes(config)
  unfactored = {
    param.path
    for param in logical_axes.named_params(template.v)
    if tuple(param.value.shape) != adafactor_slots.UNUSED_SHAPE
  }
  found = moments(slots, config, by_name=True)
  result: dict[str, LazyArray] = {}
  for key, paths in groups(config, stack=config.scan_layers).items():
    row = None
    if key not in unfactored:
      row = adafactor_slots.row_by_size(shapes[paths[0]])
    arrays = adafactor_slots.of_layers(
      [found[path] for path in paths],
      momentum=template.m is not None,
      row=row,
      stack=key != paths[0],
    )
    result |= {f"{key}/{slot}": array for slot, array in arrays.items()}
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
        wanted = tuple(param.value.shape)
        raise UserError(
          f"optimizer state of {param.path}: {slot} has shape {shape} in the"
          f" checkpoint, {wanted} in this run; {_remedy(slot, wanted)}, or"
          " restore_optimizer to False",
          fields=(
            "Adafactor.min_dim_size_to_factor",
            "Adafactor.beta1",
            "TrainConfig.restore_optimizer",
          ),
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


def _remedy(slot: str, shape: tuple[int, ...]) -> str:
  """What makes a run keep what a checkpoint has."""
  if slot == "v" and len(shape) > 1:
    smallest = min(shape[0], shape[-1])  # layers may lie between them
    return (
      "the checkpoint may keep averages only: set min_dim_size_to_factor to"
      f" {smallest} or less"
    )
  return "set min_dim_size_to_factor and beta1 to those of the checkpoint"
