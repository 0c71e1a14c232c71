"""Which dimension of which array is split over which mesh axes.

Follows from the names of dimensions and the rules of `logical_axes.py` alone:
nothing here knows devices, only how many there are along each mesh axis.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import PartitionSpec

from dss_jax.base.errors import UserError
from dss_jax.models.partitioning import logical_axes
from dss_jax.models.partitioning.logical_axes import (
  DATA_AXIS,
  MeshAxes,
  NamedParam,
  mesh_axes_of,
)


@dataclasses.dataclass(frozen=True)
class ParamSplitter:
  """Splits parameters by rules over a mesh of a given shape.

  Attributes:
    rules: `(logical name, mesh axis, axes or None)`, earlier ones first.
    mesh_shape: devices along each mesh axis.
    fully_sharded_min_size: elements (per layer) from which parameters are
      split over `data` as well; None for never.
  """

  rules: tuple[tuple[str, MeshAxes], ...]
  mesh_shape: Mapping[str, int]
  fully_sharded_min_size: int | None

  def spec(self, param: NamedParam) -> PartitionSpec:
    """How one parameter is split.

    For each rule in order, a dimension of that name takes the rule's mesh axes
    if no other dimension has them yet, as in T5X and Flax. A dimension that
    the axes do not divide stays whole.

    Raises:
      UserError: for a name without a rule, or one whose rules all want mesh
        axes that are taken, and none says that it may stay whole.
    """
    settled: dict[str, MeshAxes] = {}
    taken: dict[str, str] = {}
    for name, entry in self.rules:
      axes = mesh_axes_of(entry)
      free = not any(axis in taken for axis in axes)
      if name in param.axes and name not in settled and free:
        settled[name] = entry
        taken.update(dict.fromkeys(axes, name))
    for name in param.axes:
      if name is not None and name not in settled:
        raise self._unsettled(param, name, taken)
    spec = []
    for name, size in zip(param.axes, param.value.shape, strict=True):
      entry = None if name is None else settled[name]
      shards = math.prod(self.mesh_shape[axis] for axis in mesh_axes_of(entry))
      spec.append(entry if shards > 1 and size % shards == 0 else None)
    return PartitionSpec(*self._over_data_too(param, spec))

  def _unsettled(
    self, param: NamedParam, name: str, taken: Mapping[str, str]
  ) -> UserError:
    wanted = [axis for n, axis in self.rules if n == name]
    if not wanted:
      problem = "has no rule"
    else:
      problem = f"wants {wanted[-1]!r}, taken by {sorted(set(taken.values()))}"
    return UserError(
      f"logical axis {name!r} of parameter {param.path} {param.axes}"
      f" {problem}; allowed is a free mesh axis, or ({name!r}, None) to keep"
      " it whole",
      fields=(
        "Partitioner.logical_axis_rules",
        "standard_logical_axis_rules.additional_rules",
      ),
    )

  def _over_data_too(
    self, param: NamedParam, spec: list[MeshAxes]
  ) -> list[MeshAxes]:
    """Adds `data` to a whole, divisible dimension of a block that has a name.

    To that of the vocabulary, by far the largest, or else to the first: a part
    is then in one piece, which XLA scatters sums into more readily.
    """
    data_size = self.mesh_shape[DATA_AXIS]
    if self.fully_sharded_min_size is None or data_size == 1:
      return spec
    if any(DATA_AXIS in mesh_axes_of(entry) for entry in spec):
      return spec
    shape = param.value.shape
    # Never along stacked layers: a scan takes one at a time.
    block = logical_axes.block_dims(param.axes)
    if math.prod(shape[dim] for dim in block) < self.fully_sharded_min_size:
      return spec
    usable = [
      dim
      for dim in block
      if param.axes[dim] is not None
      and spec[dim] is None
      and shape[dim] % data_size == 0
    ]
    if not usable:
      return spec
    split = next((d for d in usable if param.axes[d] == "vocab"), usable[0])
    return [DATA_AXIS if d == split else entry for d, entry in enumerate(spec)]


def optimizer_state_specs(opt_state: Any, params: Any, specs: Any) -> Any:
  """Splits an optimizer's state like the parameters it belongs to.

  Each part that has the structure of the parameters (moments, factors) is
  split like them: a leaf of the parameter's shape takes its spec; one with
  some of its dimensions (a factor of Adafactor's) the specs of those, if it is
  clear which they are; anything else is on every device.

  Args:
    opt_state: pytree of arrays or shapes.
    params: the parameters, or their shapes.
    specs: their `PartitionSpec`s, in the same structure.

  Returns:
    Pytree of `PartitionSpec`s like `opt_state`.
  """
  structure = jax.tree.structure(params)
  values = jax.tree.leaves(params)
  flat_specs = structure.flatten_up_to(specs)

  def is_param_like(node):
    return jax.tree.structure(node) == structure

  def split(node):
    if not is_param_like(node):
      return PartitionSpec()
    return structure.unflatten(
      _reduced_spec(leaf.shape, value.shape, spec)
      for leaf, value, spec in zip(
        jax.tree.leaves(node), values, flat_specs, strict=True
      )
    )

  return jax.tree.map(split, opt_state, is_leaf=is_param_like)


def _reduced_spec(
  shape: tuple[int, ...], param_shape: tuple[int, ...], spec: PartitionSpec
) -> PartitionSpec:
  """The spec of an array that has some of a parameter's dimensions.

  Adafactor's factors lack dimensions of their parameter, so its spec does not
  fit them. Where two choices of dimensions give the shape and different specs
  (a square parameter), the array is not split.
  """
  candidates = {
    tuple(spec[dim] for dim in dims)
    for dims in itertools.combinations(range(len(param_shape)), len(shape))
    if tuple(param_shape[dim] for dim in dims) == tuple(shape)
  }
  if len(candidates) != 1:
    return PartitionSpec()
  return PartitionSpec(*candidates.pop())
