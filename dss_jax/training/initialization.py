"""Parameters to start training from: another run's, or a published model's."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from dss_jax.base import named_trees
from dss_jax.base.errors import UserError
from dss_jax.models import (
  abstract_params,
  encoder_decoder,
  layer_stacking,
  lora,
)
from dss_jax.models.partitioning import Partitioner, place
from dss_jax.pretrained import huggingface_folder, mismatch, opening
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import t5x_optimizer_state, train_state
from dss_jax.vocabularies import Vocabulary

PyTree = Any

_TABLE = "token_embedder/embedding"  # every T5 has it
_PATH_FIELD = "TrainConfig.initial_checkpoint_path"


@dataclasses.dataclass(frozen=True)
class EarlierRun:
  """A training run of the student's own model, which need not be a T5.

  Attributes:
    folder: the run's.
    step: the checkpoint to take.
  """

  folder: pathlib.Path
  step: int

  def load(self, model: Any, shardings: PyTree = None) -> PyTree:
    """Its parameters, restored onto their devices."""
    shapes = abstract_params.param_shapes(model)
    if shardings is None:
      shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(shardings, jax.sharding.Sharding):
      shardings = jax.tree.map(lambda _, one=shardings: one, shapes)
    with checkpoints_lib.Checkpoints(self.folder, read_only=True) as saved:
      return saved.restore_params(
        self.step, abstract_params.with_shardings(shapes, shardings)
      )


@dataclasses.dataclass(frozen=True)
class EarlierAdapters:
  """A run that trained adapters to the parameters of a base.

  Attributes:
    folder: the run's.
    step: the checkpoint to take.
    base: the checkpoint's note about its base.
    scanned: whether the layers of its adapters are stacked.
  """

  folder: pathlib.Path
  step: int
  base: Mapping[str, Any]
  scanned: bool

  def load(
    self,
    model: encoder_decoder.EncoderDecoderModel,
    shardings: PyTree = None,
    above: frozenset[pathlib.Path] = frozenset(),
  ) -> PyTree:
    """The parameters of its base, changed by the adapters.

    Args:
      model: the student.
      shardings: where the parameters go; None puts them on the first device.
      above: folders of the adapters that have this as their base.

    Raises:
      UserError: where the base has changed.
    """
    if self.scanned != model.config.scan_layers:
      config = dataclasses.replace(model.config, scan_layers=self.scanned)
      scanned = encoder_decoder.EncoderDecoderModel(config)
      params = self.load(scanned, above=above)
      if self.scanned:
        params = layer_stacking.unstack_layers(params)
      else:
        params = layer_stacking.stack_layers(params)
      return params if shardings is None else place(params, shardings)
    above |= {self.folder.resolve()}
    opened = open_initial(self.base["path"], model)
    if not isinstance(opened, EarlierAdapters):
      params = opened.load(model, shardings)
    elif opened.folder.resolve() not in above:
      params = opened.load(model, shardings, above)
    else:  # a circle of bases
      raise self._other_base()
    if lora.weights_hash(params) != self.base["sha256"]:
      raise self._other_base()
    options = {
      field.name: self.base[field.name]
      for field in dataclasses.fields(lora.LoraOptions)
    }
    adapters = lora.LoraModel(model, lora.LoraOptions(**options))
    trained = EarlierRun(self.folder, self.step).load(adapters)
    # From the host they go to the devices of the base.
    return adapters.merge(params, jax.tree.map(np.asarray, trained))

  def _other_base(self) -> UserError:
    return UserError(
      f"the adapters in {str(self.folder)!r} were trained on other weights than"
      f" those in {self.base['path']!r} now: put those back, or start from"
      " another checkpoint",
      fields=_PATH_FIELD,
    )


# Something to start from, which was opened and fits the student.
Initial = opening.Pretrained | EarlierRun | EarlierAdapters


def open_initial(
  path: str,
  model: encoder_decoder.EncoderDecoderModel,
  vocabulary: Vocabulary | None = None,
  *,
  optimizer_state: bool = False,
) -> Initial:
  """Opens a checkpoint and compares it with the student.

  Args:
    path: as for `open_checkpoint`.
    model: the student.
    vocabulary: the student's; None does not look at it.
    optimizer_state: whether the checkpoint must have one too.

  Raises:
    UserError: where there is no checkpoint, or one of another model or
      vocabulary; the table of all that differs is in its details.
  """
  if not path:
    raise UserError(
      "initial_checkpoint_path is empty; it must be a checkpoint, or None to"
      " start from random parameters",
      fields=_PATH_FIELD,
    )
  folder = pathlib.Path(os.path.expanduser(path))
  if (folder / checkpoints_lib.FOLDER).is_dir():
    run = _open_run(path, folder, model)
    if run is not None and not optimizer_state:
      return run
  opened = open_checkpoint(path)
  if optimizer_state and not opened.optimizer_state:
    raise UserError(
      f"restore_optimizer is True, but {path!r} has no optimizer state of"
      " T5X's: set it to False (an interrupted run continues by itself in its"
      " own folder)",
      fields="TrainConfig.restore_optimizer",
    )
  opened.check(model, vocabulary)
  return opened


def _open_run(
  path: str, folder: pathlib.Path, model: Any
) -> EarlierRun | EarlierAdapters | None:
  """A run of the student's own model; None for a T5 of another layout or size.

  Raises:
    UserError: for a run of another model that is no T5.
  """
  with checkpoints_lib.Checkpoints(folder, read_only=True) as saved:
    step = saved.resolve_step("best")
    base = saved.base(step)
    found = saved.param_shapes(step)
  if base is not None:
    scanned = layer_stacking.is_stacked(found)
    if scanned is None:
      scanned = model.config.scan_layers
    return EarlierAdapters(folder, step, base, scanned)
  wanted = named_trees.shapes(abstract_params.param_shapes(model))
  if found != wanted and _TABLE in found and _TABLE in wanted:
    return None
  mismatch.check(
    found,
    wanted,
    f"the checkpoint {path!r} is of another model",
    columns=("checkpoint", "student"),
    remedy="take the configuration of the model it was trained as",
    fields=(_PATH_FIELD,),
  )
  return EarlierRun(folder, step)


def open_checkpoint(path: str) -> opening.Pretrained:
  """Opens a T5's checkpoint of any kind; nothing is compared.

  Args:
    path: as for `opening.open_pretrained`; or the folder of a training run,
      whose best checkpoint is taken.

  Raises:
    UserError: where there is no checkpoint, a broken one, or adapters only.
  """
  folder = pathlib.Path(os.path.expanduser(path))
  is_run = (folder / checkpoints_lib.FOLDER).is_dir()
  if not is_run or huggingface_folder.is_folder(folder):
    return opening.open_pretrained(path)
  with checkpoints_lib.Checkpoints(folder, read_only=True) as saved:
    step = saved.resolve_step("best")
    base = saved.base(step)
  if base is not None:
    raise UserError(
      f"the checkpoint {path!r} holds adapters (LoRA) only, and no sizes: take"
      f" those of their base, {base['path']!r}, or configure the model"
    )
  return opening.open_run_step(
    path, folder / checkpoints_lib.FOLDER / str(step), step
  )


def load_params(
  path: str,
  model: encoder_decoder.EncoderDecoderModel,
  vocabulary: Vocabulary | None = None,
  shardings: PyTree = None,
) -> PyTree:
  """The parameters at `path`, checked against the student.

  Args:
    path: as for `open_checkpoint`.
    model: the student.
    vocabulary: the student's; None does not look at it.
    shardings: where the parameters go; None puts them on the first device.

  Returns:
    Nested dict of float32 arrays, with the student's paths.

  Raises:
    UserError: as for `open_initial`.
  """
  return open_initial(path, model, vocabulary).load(model, shardings)


def initial_state(
  opened: Initial,
  model: Any,
  tx: optax.GradientTransformation,
  partitioner: Partitioner,
  *,
  optimizer_state: bool = False,
) -> tuple[train_state.TrainState, train_state.TrainState]:
  """The state at step 0 of a run that starts from a checkpoint.

  Parameters go from the files straight onto their devices.

  Args:
    opened: from `open_initial`.
    model: the student.
    tx: the optimizer.
    partitioner: says where everything lives.
    optimizer_state: whether to continue with the checkpoint's Adafactor state;
      steps are counted from 0 all the same.

  Returns:
    The state, and its shardings in the same structure.

  Raises:
    UserError: where a file is damaged, or for another optimizer.
  """
  axes = model.param_axes()
  shapes = abstract_params.param_shapes(model)
  params = opened.load(model, partitioner.param_shardings(shapes, axes))
  state, shardings = train_state.state_from_params(
    params, tx, partitioner, axes, copy=False
  )
  if optimizer_state and isinstance(opened, opening.Pretrained):
    template = abstract_params.with_shardings(
      state.opt_state, shardings.opt_state
    )
    opt_state = t5x_optimizer_state.load(opened, model.config, template)
    state = state.replace(opt_state=opt_state)
  return state, shardings
