"""Names of dimensions, and the rules that map them to the mesh.

A model's `param_axes()` has the structure of its parameters with, in place of
each array, one name per dimension: `("embed", "mlp")`. Partitioning maps the
names to mesh axes; optimizers learn from them which dimensions stack separate
parameters. `partitioner` makes the mesh itself.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from dss_jax.base.errors import UserError

# Dimensions along which separate parameters are stacked (scanned layers, fused
# projections). Norms and averages are never taken over them.
BATCH_AXES = ("layers", "stack")

# The mesh's axes: `replica` and `data` split the batch, `model` splits single
# layers. Parameters may be split over `data`, of which `replica` makes copies.
REPLICA_AXIS = "replica"
DATA_AXIS = "data"
MODEL_AXIS = "model"

LogicalAxes = tuple[str | None, ...]
MeshAxes = str | tuple[str, ...] | None
Rules = Sequence[tuple[str, MeshAxes]]


class NamedParam(NamedTuple):
  """One parameter: its path, its shape or array, its dimensions' names."""

  path: str  # "decoder/layers_0/mlp/wi_0/kernel"
  value: Any
  axes: LogicalAxes


def named_params(params: Any, param_axes: Any = None) -> Iterator[NamedParam]:
  """Yields the parameters in the order of `jax.tree.leaves(params)`.

  Args:
    params: pytree of arrays or `jax.ShapeDtypeStruct`s.
    param_axes: same structure, a tuple of names for each array; None leaves
      every dimension unnamed.

  Raises:
    ValueError: if the two do not match, naming the parameter.
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(params)
  if param_axes is None:
    axes_of_leaf = [(None,) * len(leaf.shape) for _, leaf in leaves]
  else:
    axes_of_leaf = structure.flatten_up_to(param_axes)
  for (key_path, leaf), axes in zip(leaves, axes_of_leaf, strict=True):
    path = jax.tree_util.keystr(key_path, simple=True, separator="/")
    axes = tuple(axes)
    names = [name for name in axes if name is not None]
    if len(axes) != len(leaf.shape) or len(set(names)) != len(names):
      raise ValueError(
        f"parameter {path} of shape {tuple(leaf.shape)} has logical axes"
        f" {axes}; it needs one name per dimension, each used once"
      )
    yield NamedParam(path, leaf, axes)


def block_dims(axes: LogicalAxes) -> tuple[int, ...]:
  """Positions of the dimensions of one parameter block: all but the stacked."""
  return tuple(i for i, name in enumerate(axes) if name not in BATCH_AXES)


def mesh_axes_of(entry: MeshAxes) -> tuple[str, ...]:
  """The mesh axes of one rule, as a tuple."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def standard_logical_axis_rules(
  activation_partitioning_dims: int = 1,
  parameter_partitioning_dims: int = 1,
  additional_rules: Rules = (),
) -> tuple[tuple[str, MeshAxes], ...]:
  """T5X's rules: which mesh axis a named dimension is split over.

  ============================  ========================
  dims (activation, parameter)  embed
  ============================  ========================
  1, 1                          whole
  2, 1                          model
  1, 2                          data
  2, 2                          model, where taken, data
  ============================  ========================

  Always: batch over `data`; vocab, mlp, heads, joined_kv over `model`; all
  other names whole. Earlier rules win: an array uses a mesh axis only once.

  Args:
    activation_partitioning_dims: 2 splits activations over `model` by their
      `embed` dimension too.
    parameter_partitioning_dims: 2 splits parameters over `data` by their
      `embed` dimension too.
    additional_rules: `(logical name, mesh axis)` pairs, appended.

  Raises:
    UserError: for dimensions other than 1 and 2.
  """
  dims = (activation_partitioning_dims, parameter_partitioning_dims)
  embed_rules = {
    (1, 1): (),
    (2, 1): (("embed", MODEL_AXIS),),
    (1, 2): (("embed", DATA_AXIS),),
    (2, 2): (("embed", MODEL_AXIS), ("embed", DATA_AXIS)),
  }
  if dims not in embed_rules:
    raise UserError(
      f"activation and parameter partitioning dims are {dims}; allowed are 1"
      " and 2",
      fields=(
        "standard_logical_axis_rules.activation_partitioning_dims",
        "standard_logical_axis_rules.parameter_partitioning_dims",
      ),
    )
  split = ("vocab", "mlp", "heads", "joined_kv")
  whole = (
    "embed kv relpos_buckets abspos_buckets length layers stack mlp_activations"
  )
  return (
    ("batch", DATA_AXIS),
    *((name, MODEL_AXIS) for name in split),
    *embed_rules[dims],
    # Last, so that "whole" is also what is left when axes are taken.
    *((name, None) for name in whole.split()),
    *((name, axis) for name, axis in additional_rules),
  )
