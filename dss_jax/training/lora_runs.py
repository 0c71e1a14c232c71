"""A run that trains adapters: its frozen base, on disk and on the mesh.

Checkpoints of such a run hold what is trained and, beside it, whose adapters
they are: where the base lies, the SHA-256 of its weights, and how adapters
count. Whoever reads one gets the base from there, or a UserError.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax

from dss_jax.base.errors import UserError
from dss_jax.models import abstract_params, lora
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import initialization
from dss_jax.training.train_config import TrainConfig

PyTree = Any

# Values of a checkpoint's note about its base, and the macros that set them.
_MACROS = {
  "rank": "LORA_RANK",
  "alpha": "LORA_ALPHA",
  "targets": "LORA_TARGETS",
  "also_train": "LORA_ALSO_TRAIN",
}


@dataclasses.dataclass(frozen=True)
class Base:
  """The base of a run that trains adapters.

  Attributes:
    adapters: the functions of its adapters.
    params: the base's parameters, on the run's mesh; training leaves them.
    note: JSON values, which go into every checkpoint.
  """

  adapters: lora.LoraModel
  params: PyTree
  note: Mapping[str, Any]

  def merge(self, trained: PyTree) -> PyTree:
    """The student's parameters, as an `EncoderDecoderModel` takes them."""
    return self.adapters.merge(self.params, trained)

  def describe(self) -> str:
    """A line for people."""
    trained = self.adapters.num_trained()
    total = sum(leaf.size for leaf in jax.tree.leaves(self.params))
    return (
      f"LoRA: {trained:,} parameters are trained beside the {total:,} of"
      f" {self.note['path']} ({100 * trained / total:.2g}%)"
    )

  def as_json(self) -> dict[str, Any]:
    """What run.json says of it."""
    return {**self.note, "trained_parameters": self.adapters.num_trained()}


def open_base(
  config: TrainConfig,
  saved: checkpoints_lib.Checkpoints,
  step: int | None,
) -> Base | None:
  """The base of a run, checked against the run's checkpoint.

  Args:
    config: the run.
    saved: its checkpoints.
    step: the checkpoint that will be read; None where there is none yet.

  Returns:
    None for a run that trains all parameters.

  Raises:
    UserError: where the base is not there, or not the one that the checkpoint
      was made with.
  """
  earlier = None if step is None else saved.base(step)
  if step is not None:
    _check_same_kind(config, saved, earlier)
  if config.lora is None:
    return None
  path = config.initial_checkpoint_path
  assert path is not None  # TrainConfig sees to it
  if earlier is not None:
    _check_same_adapters(config.lora, saved, earlier)
    # Paths in configurations are relative to where training was started.
    if not _is_here(path) and _is_here(earlier["path"]):
      path = earlier["path"]
  shardings = config.partitioner.param_shardings(
    abstract_params.param_shapes(config.model), config.model.param_axes()
  )
  try:
    params = initialization.load_params(
      path, config.model, config.vocabulary, shardings
    )
  except UserError as error:
    raise UserError(
      f"INITIAL_CHECKPOINT_PATH, the base of the adapters in {saved.folder}:"
      f" {error}",
      details=error.details,
    ) from error
  sha256 = lora.weights_hash(params)
  if earlier is not None and earlier["sha256"] != sha256:
    raise UserError(
      f"INITIAL_CHECKPOINT_PATH {path!r} holds other weights (SHA-256"
      f" {sha256[:12]}) than those that the adapters in {saved.folder} were"
      f" trained on ({earlier['sha256'][:12]}): give that base"
    )
  note = {"path": _absolute(path), "sha256": sha256}
  note |= dataclasses.asdict(config.lora)
  return Base(lora.LoraModel(config.model, config.lora), params, note)


def restore_merged(
  config: TrainConfig, saved: checkpoints_lib.Checkpoints, step: int, base: Base
) -> PyTree:
  """The student's parameters at `step` of a run that trains adapters.

  Raises:
    UserError: for a damaged checkpoint.
  """
  shapes = abstract_params.param_shapes(base.adapters)
  shardings = config.partitioner.param_shardings(
    shapes, base.adapters.param_axes()
  )
  trained = saved.restore_params(
    step, abstract_params.with_shardings(shapes, shardings)
  )
  return base.merge(trained)


def _is_here(path: str) -> bool:
  """Whether it is on this machine, and not in a store or on the hub."""
  return os.path.exists(os.path.expanduser(path))


def _absolute(path: str) -> str:
  return os.path.abspath(os.path.expanduser(path)) if _is_here(path) else path


def _check_same_kind(
  config: TrainConfig,
  saved: checkpoints_lib.Checkpoints,
  earlier: Mapping[str, Any] | None,
) -> None:
  """A run trains adapters from its beginning to its end, or never."""
  if (earlier is None) == (config.lora is None):
    return
  if earlier is None:
    found, remedy = "all parameters", "leave out lora.gin"
  else:
    found, remedy = "adapters (LoRA)", "add --gin_file=lora.gin"
  raise UserError(
    f"{saved.folder} holds a run that trains {found}, unlike this"
    f" configuration: {remedy}, or give another MODEL_DIR"
  )


def _check_same_adapters(
  options: lora.LoraOptions,
  saved: checkpoints_lib.Checkpoints,
  earlier: Mapping[str, Any],
) -> None:
  for name, macro in _MACROS.items():
    value = getattr(options, name)
    value = list(value) if isinstance(value, tuple) else value
    if earlier[name] != value:
      raise UserError(
        f"{macro} is {value!r}, but the adapters in {saved.folder} are trained"
        f" with {earlier[name]!r}: give that, or another MODEL_DIR"
      )
