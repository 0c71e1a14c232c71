"""A training run as shapes: its state, batch and step, on no device yet."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import optax

from dss_jax.data.feeding import training_data
from dss_jax.data.packing import packed_features, packing_plans
from dss_jax.models import abstract_params, lora
from dss_jax.models.partitioning import logical_axes
from dss_jax.models.partitioning.logical_axes import DATA_AXIS
from dss_jax.planning.expected_traffic import PlacedParam
from dss_jax.training import start_or_resume, train_state
from dss_jax.training.train_config import TrainConfig, check_vocabulary

PyTree = Any

# With these options XLA's CPU compiler schedules and places arrays all the same,
# and makes slow code in half the time.
_ONLY_TO_READ = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


def bytes_per_device(shapes: PyTree) -> int:
  """Bytes that each device stores of arrays.

  Args:
    shapes: pytree of arrays, or of `jax.ShapeDtypeStruct`s with shardings.
  """
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(shapes)
  )


@dataclasses.dataclass(frozen=True)
class AbstractRun:
  """What a run would put onto the mesh.

  All arrays are `jax.ShapeDtypeStruct`s with shardings.

  Attributes:
    config: the run.
    shape: of its batches.
    subtask_names: what it trains on.
    state: parameters that are trained, optimizer state, step.
    shardings: of the state.
    frozen: parameters that are not trained; empty where all are.
    adapters: of a run that trains these.
    tx: the optimizer.
  """

  config: TrainConfig
  shape: packing_plans.BatchShape
  subtask_names: tuple[str, ...]
  state: train_state.TrainState
  shardings: train_state.TrainState
  frozen: PyTree
  adapters: lora.LoraModel | None
  tx: optax.GradientTransformation

  @property
  def backend(self) -> str:
    """As JAX names it: cpu, gpu, tpu."""
    return self.config.partitioner.mesh.devices.flat[0].platform

  def batch(self, rows: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch, of so many rows."""
    sharding = self.config.partitioner.batch_sharding()
    return {
      name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)
      for name, spec in packed_features.feature_specs(
        rows or self.shape.rows,
        self.shape.encoder_length,
        self.shape.decoder_length,
      ).items()
    }

  def compile(self, rows: int | None = None) -> jax.stages.Compiled:
    """The program that training would run, for batches of so many rows.

    Compiling for many rows takes no more memory than for few.
    """
    adapted = (self.adapters.on, self.frozen) if self.adapters else None
    step = start_or_resume.jit_step(
      self.config,
      self.subtask_names,
      self.tx,
      self.shardings,
      adapted=adapted,
    )
    options = _ONLY_TO_READ if self.backend == "cpu" else None
    return step.lower(self.state, self.batch(rows)).compile(options)

  def placed_params(self) -> list[PlacedParam]:
    """All parameters, and how the mesh holds them."""
    data_size = self.config.partitioner.mesh.shape[DATA_AXIS]
    found = []
    for tree, trained in ((self.state.params, True), (self.frozen, False)):
      for param in logical_axes.named_params(tree):
        spec = param.value.sharding.spec
        axes = {a for entry in spec for a in logical_axes.mesh_axes_of(entry)}
        fetched = DATA_AXIS in axes and data_size > 1
        stored = bytes_per_device(param.value)
        found.append(
          PlacedParam(
            param.path, stored * (data_size if fetched else 1), fetched, trained
          )
        )
    return found


def abstract_run(config: TrainConfig) -> AbstractRun:
  """Returns the shapes of a new run; reads the data as training would.

  Raises:
    UserError: for a configuration that cannot run.
  """
  check_vocabulary(config.vocabulary, config.model)
  partitioner = config.partitioner
  data = training_data.load(
    config.train_dataset_cfg,
    config.vocabulary,
    seed=config.random_seed,
    steps=range(config.total_steps),
    rows_multiple_of=partitioner.batch_shards * config.num_microbatches,
  )
  start_or_resume.check_pairs(config, data)
  return of_shape(config, data.shape, data.subtask_names)


def of_shape(
  config: TrainConfig,
  shape: packing_plans.BatchShape,
  subtask_names: tuple[str, ...],
) -> AbstractRun:
  """The shapes of a run on batches of a given shape, without its data."""
  partitioner = config.partitioner
  partitioner.check_batch_size(shape.rows, config.num_microbatches)
  adapters, frozen = None, {}
  if config.lora is not None:
    adapters = lora.LoraModel(config.model, config.lora)
    shapes = abstract_params.param_shapes(config.model)
    frozen = abstract_params.with_shardings(
      shapes, partitioner.param_shardings(shapes, config.model.param_axes())
    )
  model: Any = adapters or config.model
  tx = config.optimizer.transform(
    config.learning_rate_fn,
    abstract_params.param_shapes(model),
    model.param_axes(),
  )
  state, shardings = train_state.abstract_state(model, tx, partitioner)
  return AbstractRun(
    config, shape, subtask_names, state, shardings, frozen, adapters, tx
  )
