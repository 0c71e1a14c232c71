"""Where arrays live: the mesh, logical axis rules, shardings.

The mesh has three axes. `data` splits the batch; `model` splits single layers.
Which dimension goes where follows from rules that map the names of dimensions
(`logical_axes.py`) to mesh axes, in T5X's form and with T5X's defaults. With
`fully_sharded`, parameters and optimizer state are split over `data` as well
(ZeRO stage 3, arXiv:1910.02054), so that each device stores only its part.
`replica` splits the batch, too, but no parameters: the devices along `data`
hold a copy of all between them (hybrid sharding, as in arXiv:2304.11277).

Sizes of batches here are global, over all hosts, unless a name says `local`.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dss_jax.base.errors import UserError
from dss_jax.models.partitioning import (
  logical_axes,
  partition_specs,
  placement,
)
from dss_jax.models.partitioning.logical_axes import (
  DATA_AXIS,
  MODEL_AXIS,
  REPLICA_AXIS,
  MeshAxes,
  Rules,
  mesh_axes_of,
  standard_logical_axis_rules,
)


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """Mesh and shardings of a run; T5X's `PjitPartitioner`.

  Attributes:
    num_partitions: devices that compute each layer together, the size of the
      mesh's `model` axis. All others split the batch.
    model_parallel_submesh: T5X's other way to say so, a tile of the hardware
      mesh such as (2, 2, 1, 1); its product counts. JAX places the axes.
    logical_axis_rules: `(logical name, mesh axis or None)`, earlier ones first;
      None takes `standard_logical_axis_rules()`.
    fully_sharded: split parameters and optimizer state over `data` too, each
      by a dimension that is whole and divisible.
    fully_sharded_min_size: parameters of fewer elements (per layer) stay
      whole over `data`: fetching them would cost more than they take.
    fully_sharded_devices: the size of the mesh's `data` axis: over so many
      devices parameters are split at most, and the others hold copies. None
      takes all of a TPU slice or of a host's GPUs; fully sharded, all devices
      where that is one.
    devices: those to use (`jax.Device`); None takes all of all hosts.
  """

  num_partitions: int | None = 1
  model_parallel_submesh: tuple[int, ...] | None = None
  logical_axis_rules: Rules | None = None
  fully_sharded: bool = False
  fully_sharded_min_size: int = 2**14
  fully_sharded_devices: int | None = None
  devices: Sequence[Any] | None = None

  def __post_init__(self):
    for name, entry in self.logical_axis_rules or ():
      axes = mesh_axes_of(entry)
      if not set(axes) <= {DATA_AXIS, MODEL_AXIS} or len(set(axes)) < len(axes):
        raise UserError(
          f"logical axis {name!r} is mapped to {entry!r}; allowed are 'data',"
          " 'model', a tuple of both, and None",
          fields="Partitioner.logical_axis_rules",
        )

  @property
  def rules(self) -> tuple[tuple[str, MeshAxes], ...]:
    """The logical axis rules in force.

    Rules know nothing of copies: where they split the batch over `data`, it is
    split over `replica`, too.
    """
    rules = self.logical_axis_rules
    if rules is None:
      rules = standard_logical_axis_rules()
    return tuple(
      (name, (REPLICA_AXIS, *axes))
      if name == "batch" and DATA_AXIS in (axes := mesh_axes_of(entry))
      else (name, entry)
      for name, entry in rules
    )

  @property
  def model_size(self) -> int:
    """Devices along the mesh's `model` axis."""
    if self.model_parallel_submesh is None:
      return 1 if self.num_partitions is None else self.num_partitions
    size = math.prod(self.model_parallel_submesh)
    if self.num_partitions not in (None, 1, size):
      raise UserError(
        f"num_partitions is {self.num_partitions} and"
        f" model_parallel_submesh {self.model_parallel_submesh}; give one of"
        " them",
        fields=(
          "Partitioner.num_partitions",
          "Partitioner.model_parallel_submesh",
        ),
      )
    return size

  @property
  def batch_shards(self) -> int:
    """Devices that split the batch, along `replica` and `data`."""
    return self.mesh.shape[REPLICA_AXIS] * self.mesh.shape[DATA_AXIS]

  @functools.cached_property
  def mesh(self) -> Mesh:
    """The mesh `replica` × `data` × `model`, axes of type Auto.

    Auto, because `jax.make_mesh` defaults to Explicit, under which sharding
    constraints become assertions. Several TPU slices, whose chips have no links
    to each other's, are taken one after another along the first axes.

    Raises:
      UserError: if the number of devices is not a multiple of `model_size`, or
        the others of `fully_sharded_devices`.
    """
    devices = list(self.devices or jax.devices())
    size = self.model_size
    if not isinstance(size, int) or size < 1 or len(devices) % size:
      raise UserError(
        f"num_partitions is {size}, which does not divide the"
        f" {len(devices)} devices; it must be a divisor of {len(devices)}",
        fields="Partitioner.num_partitions",
      )
    rows = len(devices) // size
    data = self.fully_sharded_devices
    if data is None:
      data = rows // math.gcd(rows, placement.num_slices(devices))
      # Of hosts with one GPU each, a copy on each would split nothing.
      if data == 1 and self.fully_sharded:
        data = rows
    elif not isinstance(data, int) or data < 1 or rows % data:
      raise UserError(
        f"fully_sharded_devices is {data}, which does not divide the {rows}"
        f" devices that split the batch; it must be a divisor of {rows}",
        fields="Partitioner.fully_sharded_devices",
      )
    shape = (rows // data, data, size)
    return Mesh(
      placement.mesh_devices(devices, shape),
      (REPLICA_AXIS, DATA_AXIS, MODEL_AXIS),
      axis_types=(AxisType.Auto,) * 3,
    )

  @contextlib.contextmanager
  def activate(self) -> Iterator[Mesh]:
    """Makes mesh and rules known to everything traced within.

    Trace (jit, lower) steps inside: under `with mesh:` alone, or with neither,
    the model's sharding constraints vanish without a word.
    """
    # Here and not above, so that this module can be used without Flax.
    from dss_jax.models.partitioning import constraints

    with (
      jax.set_mesh(self.mesh),
      constraints.logical_axis_rules(self.rules),
    ):
      yield self.mesh

  # ---- Parameters and optimizer state ----------------------------------------

  def param_spec(self, param: logical_axes.NamedParam) -> PartitionSpec:
    """How one parameter is split; see `partition_specs.ParamSplitter`."""
    return partition_specs.ParamSplitter(
      self.rules,
      self.mesh.shape,
      self.fully_sharded_min_size if self.fully_sharded else None,
    ).spec(param)

  def param_specs(self, params_shape: Any, param_axes: Any) -> Any:
    """Pytree of `PartitionSpec`s like the parameters."""
    structure = jax.tree.structure(params_shape)
    return structure.unflatten(
      self.param_spec(param)
      for param in logical_axes.named_params(params_shape, param_axes)
    )

  def param_shardings(self, params_shape: Any, param_axes: Any) -> Any:
    """Pytree of `NamedSharding`s like the parameters."""
    return self._named(self.param_specs(params_shape, param_axes))

  def state_shardings(self, state_shapes: Any, param_axes: Any) -> Any:
    """Shardings of a whole `TrainState`, from its shapes.

    The optimizer's state is split like the parameters it belongs to; see
    `partition_specs.optimizer_state_specs`.
    """
    params = state_shapes.params
    specs = self.param_specs(params, param_axes)
    state = dataclasses.replace(
      state_shapes,
      step=PartitionSpec(),
      params=specs,
      opt_state=partition_specs.optimizer_state_specs(
        state_shapes.opt_state, params, specs
      ),
    )
    return self._named(state)

  def _named(self, specs: Any) -> Any:
    return jax.tree.map(
      lambda spec: NamedSharding(self.mesh, spec),
      specs,
      is_leaf=lambda node: isinstance(node, PartitionSpec),
    )

  def replicated(self) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(self.mesh, PartitionSpec())

  # ---- Batches ---------------------------------------------------------------

  def batch_sharding(self) -> NamedSharding:
    """The sharding of any batch feature: rows over `replica` and `data`."""
    return NamedSharding(self.mesh, PartitionSpec((REPLICA_AXIS, DATA_AXIS)))

  def check_batch_size(self, rows: int, num_microbatches: int = 1) -> None:
    """Raises unless every micro-batch has equally many rows on each device.

    Raises:
      UserError: naming the sizes.
    """
    unit = self.batch_shards * num_microbatches
    if rows < 1 or rows % unit:
      nearest = max(unit, round(rows / unit) * unit)
      micro = ""
      if num_microbatches > 1:
        micro = f" times {num_microbatches} micro-batches"
      raise UserError(
        f"batch_size is {rows} rows, not a multiple of {unit}:"
        f" {self.mesh.size} devices with num_partitions={self.model_size}"
        f" leave {self.batch_shards} to split the batch over{micro}; set"
        f" batch_size to {nearest}, say, or change num_partitions",
        fields=("DatasetConfig.batch_size", "Partitioner.num_partitions"),
      )

  def process_rows(self, rows: int) -> np.ndarray:
    """Which rows of a global batch this host must supply.

    A mesh follows the links between chips, not the hosts, so that on larger TPU
    slices the rows of a host lie in several places.

    Returns:
      [local rows] int, ascending.

    Raises:
      UserError: if `rows` cannot be split.
    """
    self.check_batch_size(rows)
    indices = self.batch_sharding().devices_indices_map((rows,))
    return np.unique(
      [
        row
        for device, (index,) in indices.items()
        if device.process_index == jax.process_index()
        for row in range(rows)[index]
      ]
    )

  def put_batch(
    self,
    local_batch: Mapping[str, np.ndarray],
    global_shapes: Mapping[str, tuple[int, ...]] | None = None,
  ) -> dict[str, jax.Array]:
    """Makes global arrays of this host's rows.

    Args:
      local_batch: features `[local rows, ...]`, those of `process_rows`.
      global_shapes: `[rows, ...]` of each feature over all hosts; None where
        this host is the only one.

    Raises:
      UserError: if the global rows do not split over the devices.
    """
    if global_shapes is None:
      global_shapes = {k: np.shape(v) for k, v in local_batch.items()}
    for rows in {shape[0] for shape in global_shapes.values()}:
      self.check_batch_size(rows)
    sharding = self.batch_sharding()
    return {
      name: jax.make_array_from_process_local_data(
        sharding, np.asarray(value), tuple(global_shapes[name])
      )
      for name, value in local_batch.items()
    }
