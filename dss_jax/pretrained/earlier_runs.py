"""Parameters that runs of this library have trained, as a start for others."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import jax

from dss_jax import checkpoints as checkpoints_lib
from dss_jax import lora, train_state
from dss_jax.errors import UserError
from dss_jax.models import encoder_decoder, layer_stacking
from dss_jax.placement import place

PyTree = Any


class Loads(Protocol):
  """What has a student's parameters."""

  def load(self, model: Any, shardings: PyTree = None) -> PyTree: ...


@dataclasses.dataclass(frozen=True)
class EarlierRun:
  """A run whose model is the student's, whatever that is.

  Attributes:
    folder: its MODEL_DIR.
    step: of the checkpoint to take.
  """

  folder: pathlib.Path
  step: int

  def load(self, model: Any, shardings: PyTree = None) -> PyTree:
    """Its parameters, restored onto their devices."""
    return _restore(self.folder, self.step, model, shardings)


@dataclasses.dataclass(frozen=True)
class AdaptedRun:
  """A run that trained adapters (LoRA) beside the parameters of a base.

  Attributes:
    folder: its MODEL_DIR.
    step: of the checkpoint to take.
    note: what the checkpoint says of its base and adapters.
    base: what the note's path holds.
  """

  folder: pathlib.Path
  step: int
  note: Mapping[str, Any]
  base: Loads

  def load(self, model: Any, shardings: PyTree = None) -> PyTree:
    """The base's parameters with the adapters added, merged on one device.

    Raises:
      UserError: where the base is not the one that the adapters belong to.
    """
    with checkpoints_lib.Checkpoints(self.folder, read_only=True) as saved:
      same_layout = with_layout_of(saved.param_shapes(self.step), model)
    params = self.base.load(same_layout)
    if lora.weights_hash(same_layout, params) != self.note["sha256"]:
      raise UserError(
        f"the adapters in {self.folder} were trained on other weights than"
        f" those in {self.note['path']!r} now: put those back, or give another"
        " INITIAL_CHECKPOINT_PATH"
      )
    adapters = lora.LoraModel(
      same_layout,
      lora.LoraOptions(
        **{
          field.name: self.note[field.name]
          for field in dataclasses.fields(lora.LoraOptions)
        }
      ),
    )
    trained = _restore(self.folder, self.step, adapters, None)
    params = adapters.merge(params, trained)
    scanned = same_layout.config.scan_layers
    if scanned != model.config.scan_layers:
      change = layer_stacking.unstack_layers
      params = (change if scanned else layer_stacking.stack_layers)(params)
    return params if shardings is None else place(params, shardings)


def with_layout_of(paths: Collection[str], model: Any) -> Any:
  """The model with its layers scanned or apart, as in these paths."""
  scanned = not any("/layers_" in path for path in paths)
  return encoder_decoder.EncoderDecoderModel(
    dataclasses.replace(model.config, scan_layers=scanned)
  )


def _restore(
  folder: pathlib.Path, step: int, model: Any, shardings: PyTree
) -> PyTree:
  """A run's own arrays; without shardings on the first device."""
  shapes = train_state.param_shapes(model)
  if shardings is None:
    shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  if isinstance(shardings, jax.sharding.Sharding):
    one = shardings
    shardings = jax.tree.map(lambda _: one, shapes)
  with checkpoints_lib.Checkpoints(folder, read_only=True) as saved:
    return saved.restore_params(
      step, train_state.with_shardings(shapes, shardings)
    )
