"""A run that trains adapters: its frozen base, on disk and on the mesh.

Checkpoints of such a run hold what is trained and a note about its base: where
the base lies, the SHA-256 of its weights, and the options of the adapters. A
reader of a checkpoint gets the base from there, or a UserError.
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

_BASE_FIELD = "TrainConfig.initial_checkpoint_path"


@dataclasses.dataclass(frozen=True)
class Base:
  """The base of a run that trains adapters.

  Attributes:
    adapters: the functions of its adapters.
    params: the base's parameters, on the run's mesh; training does not change
      them.
    note: JSON values, saved with every checkpoint.
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
      f"LoRA: {trained:,} parameters are trained, next to the {total:,} of"
      f" {self.note['path']} ({100 * trained / total:.2g}%)"
    )

  def as_json(self) -> dict[str, Any]:
    """What run.json says about the base."""
    return {**self.note, "trained_parameters": self.adapters.num_trained()}


def open_base(
  config: TrainConfig,
  saved: checkpoints_lib.Checkpoints,
  step: int | None,
) -> Base | None:
  """The base of a run, checked against the run's checkpoint.

  Args:
    config: the run.
    saved: the run's checkpoints.
    step: the checkpoint that will be read; None where there is none yet.

  Returns:
    None for a run that trains all parameters.

  Raises:
    UserError: where the base is missing, or is not the one that the checkpoint
      was made with.
  """
  earlier = None if step is None else saved.base(step)
  if step is not None:
    _check_same_kind(config, saved, earlier)
  if config.lora is None:
    return None
  path = config.initial_checkpoint_path
  assert path is not None  # TrainConfig refuses it
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
      f"initial_checkpoint_path, the base of the adapters in {saved.folder}:"
      f" {error}",
      details=error.details,
      fields=(*error.fields, _BASE_FIELD),
    ) from error
  sha256 = lora.weights_hash(params)
  if earlier is not None and earlier["sha256"] != sha256:
    raise UserError(
      f"initial_checkpoint_path {path!r} holds other weights (SHA-256"
      f" {sha256[:12]}) than those that the adapters in {saved.folder} were"
      f" trained on ({earlier['sha256'][:12]}): name that base",
      fields=_BASE_FIELD,
    )
  note = {"path": _absolute(path), "sha256": sha256}
  note |= dataclasses.asdict(config.lora)
  return Base(lora.LoraModel(config.model, config.lora), params, note)


def restore_student(
  config: TrainConfig,
  saved: checkpoints_lib.Checkpoints,
  step: int,
  base: Base | None,
) -> PyTree:
  """The whole student's parameters at `step`, on the run's mesh.

  Args:
    config: the run.
    saved: the run's checkpoints.
    step: a step that has one.
    base: what `open_base` returned for the run.

  Raises:
    UserError: for a damaged checkpoint, or one of another model.
  """
  model = base.adapters if base else config.model
  shapes = abstract_params.param_shapes(model)
  shardings = config.partitioner.param_shardings(shapes, model.param_axes())
  trained = saved.restore_params(
    step, abstract_params.with_shardings(shapes, shardings)
  )
  return base.merge(trained) if base else trained


def _is_here(path: str) -> bool:
  """Whether a path is on this machine, and not in a store or on the hub."""
  return os.path.exists(os.path.expanduser(path))


def _absolute(path: str) -> str:
  return os.path.abspath(os.path.expanduser(path)) if _is_here(path) else path


def _check_same_kind(
  config: TrainConfig,
  saved: checkpoints_lib.Checkpoints,
  earlier: Mapping[str, Any] | None,
) -> None:
  """Refuses to train adapters for a part of a run only."""
  if (earlier is None) == (config.lora is None):
    return
  if earlier is None:
    found, remedy = "all parameters", "train without lora (lora.gin)"
  else:
    found, remedy = "adapters (LoRA)", "train with lora (lora.gin)"
  raise UserError(
    f"{saved.folder} holds a run that trains {found}, unlike this"
    f" configuration: {remedy}, or choose another model_dir",
    fields="TrainConfig.model_dir",
  )


def _check_same_adapters(
  options: lora.LoraOptions,
  saved: checkpoints_lib.Checkpoints,
  earlier: Mapping[str, Any],
) -> None:
  for field in dataclasses.fields(options):
    value = getattr(options, field.name)
    value = list(value) if isinstance(value, tuple) else value
    if earlier[field.name] != value:
      raise UserError(
        f"{field.name} is {value!r}, but the adapters in {saved.folder} are"
        f" trained with {earlier[field.name]!r}: set that, or choose another"
        " model_dir",
        fields=f"LoraOptions.{field.name}",
      )
