"""One door to all checkpoints: what they are, how large, what lies in them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dss_jax import vocabularies
from dss_jax.base import file_checksums
from dss_jax.base.errors import UserError, one_line
from dss_jax.models import encoder_decoder
from dss_jax.models.config import T5Config
from dss_jax.pretrained import (
  huggingface_folder,
  huggingface_weights,
  layouts,
  locations,
  mismatch,
  t5x_checkpoints,
  tokenizers,
)
from dss_jax.pretrained.files import bounds, lazy_arrays
from dss_jax.pretrained.files.lazy_arrays import LazyArray
from dss_jax.vocabularies import Vocabulary

HUGGINGFACE, T5X, RUN = "huggingface", "t5x", "run"

# Fields of the configuration that parameters have the shape of.
_SIZES = (
  "vocab_size",
  "emb_dim",
  "num_heads",
  "num_encoder_layers",
  "num_decoder_layers",
  "head_dim",
  "mlp_dim",
  "logits_via_embedding",
  "relpos_bias_per_layer",
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A checkpoint that was opened; its numbers are read by `load`.

  Attributes:
    kind: `huggingface`, `t5x` or `run` (of this library's own training).
    source: the user's name for it.
    folder: where it lies on this machine.
    config: its sizes. Activations of T5X's checkpoints and of runs are a
      guess: gated ones are taken for GELU, single ones for ReLU.
    arrays: its parameters under T5X's paths, layers apart.
    vocabulary: the name of the checkpoint's vocabulary; None where it has none
      that can be used.
    vocabulary_problem: why the one there cannot be used; another may be given.
    step: steps it was trained for; None where it does not say.
    optimizer_state: Adafactor's slots below the parameters' paths, in the
      layout they were saved in; empty where there is none.
  """

  kind: str
  source: str
  folder: pathlib.Path
  config: T5Config
  arrays: Mapping[str, LazyArray]
  vocabulary: str | None = None
  vocabulary_problem: UserError | None = None
  step: int | None = None
  optimizer_state: Mapping[str, LazyArray] = dataclasses.field(
    default_factory=dict
  )

  @property
  def num_parameters(self) -> int:
    """How many numbers its parameters are."""
    return sum(array.size for array in self.arrays.values())

  def own_vocabulary(self) -> str | None:
    """The name of its vocabulary; None where it has none.

    Raises:
      UserError: where it has one that cannot be used.
    """
    if self.vocabulary_problem is not None:
      raise self.vocabulary_problem
    return self.vocabulary

  def check(
    self,
    model: encoder_decoder.EncoderDecoderModel,
    vocabulary: Vocabulary | None = None,
  ) -> None:
    """Compares it with a student, by shapes; nothing is read.

    Args:
      model: the student.
      vocabulary: the student's; None does not look at it.

    Raises:
      UserError: with a table of all that differs as its details.
    """
    more = self._vocabulary_differences(vocabulary)
    changes = {
      f"T5Config.{name}": getattr(self.config, name)
      for name in _SIZES
      if getattr(self.config, name) != getattr(model.config, name)
    }
    activations = self.config.mlp_activations
    if len(activations) != len(model.config.mlp_activations):
      changes["T5Config.mlp_activations"] = activations
    if more and self.vocabulary:
      changes["TrainConfig.vocabulary"] = self.vocabulary
    remedy = "take the configuration of the model it was trained as"
    if changes:
      wanted = ", ".join(
        f"{field.rpartition('.')[2]} = {value!r}"
        for field, value in changes.items()
      )
      remedy = f"set {wanted}, or take the student's sizes from the checkpoint"
    mismatch.check(
      {name: array.shape for name, array in self.arrays.items()},
      huggingface_weights.flat_shapes(model.config),
      f"the checkpoint {self.source!r} is of another model",
      columns=("checkpoint", "student"),
      remedy=remedy,
      more=more,
      fields=tuple(changes),
    )

  def _vocabulary_differences(
    self, vocabulary: Vocabulary | None
  ) -> list[mismatch.Difference]:
    if vocabulary is None:
      return []
    found, wanted = self.config.vocab_size, vocabulary.vocab_size
    if wanted > found:
      return [
        mismatch.Difference("vocabulary", f"{found} ids", f"{wanted} ids")
      ]
    if self.vocabulary is None:
      return []
    stored = vocabularies.from_name(self.vocabulary)
    if vocabularies.extends(vocabulary, stored):
      return []
    return [mismatch.Difference("vocabulary", stored.name, vocabulary.name)]

  def load(
    self,
    model: encoder_decoder.EncoderDecoderModel,
    shardings: Any = None,
  ) -> Any:
    """Its parameters as the student's, read straight onto their devices.

    Args:
      model: the student.
      shardings: where the parameters go, in their structure, or one for all;
        None puts them on the first device.

    Returns:
      Nested dict of float32 arrays, with the student's paths.

    Raises:
      UserError: where it does not fit the student, is damaged, or holds values
        that are not finite.
    """
    self.check(model)
    tree = layouts.for_model(
      {
        name: lazy_arrays.finite(
          array, f"{name} in the checkpoint {self.source!r}"
        )
        for name, array in self.arrays.items()
      },
      model.config,
    )
    if shardings is None:
      shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(shardings, jax.sharding.Sharding):
      return jax.tree.map(lambda leaf: leaf.place(shardings, "float32"), tree)
    return jax.tree.map(
      lambda leaf, sharding: leaf.place(sharding, "float32"), tree, shardings
    )


def open_pretrained(path: str) -> Pretrained:
  """Opens a checkpoint that another library wrote.

  Args:
    path: a folder of Hugging Face's (config.json and weights) or of T5X's, or
      a model on the Hugging Face hub (`org/name[@revision]`), or
      `gs://bucket/path`.

  Raises:
    UserError: where there is no checkpoint, or a broken one.
  """
  folder = locations.to_folder(path)
  if huggingface_folder.is_folder(folder):
    _check_unchanged(folder)
    config, arrays = huggingface_folder.open_folder(folder)
    vocabulary, problem = None, None
    try:
      vocabulary = tokenizers.vocabulary_name(folder, config.vocab_size)
    except UserError as error:
      problem = error
    return Pretrained(
      HUGGINGFACE, path, folder, config, arrays, vocabulary, problem
    )
  if t5x_checkpoints.find(folder) is not None:
    opened = t5x_checkpoints.open_t5x(folder)
    _check_unchanged(opened.folder.parent, opened.folder.name)
    return _with_sizes(
      T5X,
      path,
      opened.folder,
      opened.params,
      step=opened.step,
      optimizer_state=opened.optimizer_state,
    )
  problem = "is no folder on this machine"
  if folder.is_dir():
    problem = "holds no checkpoint"
  raise UserError(
    f"the checkpoint {path!r} {problem}; give the folder of a training run, one"
    " with config.json and weights (Hugging Face), or one with"
    " checkpoint_<step> (T5X), a hub id org/name, or gs://bucket/path"
  )


def _check_unchanged(folder: pathlib.Path, part: str = "") -> None:
  """Raises UserError where an exported student is not as it was written."""
  try:
    # From a hub, only some of its files may have been fetched.
    file_checksums.check(folder, part, missing=True)
  except (ValueError, OSError) as error:
    raise UserError(
      f"the student in {str(folder)!r} is not as it was exported"
      f" ({one_line(error)}): export it again, or delete its"
      f" {file_checksums.FILE} if you changed it yourself"
    ) from error


def open_run_step(source: str, folder: pathlib.Path, step: int) -> Pretrained:
  """Opens the parameters of one checkpoint of this library's own training.

  Args:
    source: the user's name for it.
    folder: the checkpoint's, with the arrays in its `state`.
    step: steps it was trained for.

  Raises:
    UserError: for a damaged checkpoint.
  """
  with bounds.reading(folder, "checkpoint"):
    file_checksums.check(folder, "state")
    arrays = t5x_checkpoints.open_state(folder / "state", bounds.Budget())
  params = t5x_checkpoints.below(arrays, "params")
  return _with_sizes(RUN, source, folder, params, step=step)


def _with_sizes(
  kind: str,
  source: str,
  folder: pathlib.Path,
  params: Mapping[str, LazyArray],
  **fields: Any,
) -> Pretrained:
  """A checkpoint that has parameters in any layout, and no configuration."""
  where = f"the checkpoint {str(folder)!r}"
  with bounds.reading(folder, "checkpoint"):
    for name, array in params.items():
      if array.dtype.name not in bounds.FLOATS:
        raise bounds.MalformedError(
          f"{name} has dtype {array.dtype.name}, and parameters are one of"
          f" {', '.join(bounds.FLOATS)}"
        )
    arrays = layouts.layers_apart(params, where)
    config = layouts.config_of(arrays, where)
  return Pretrained(kind, source, folder, config, arrays, **fields)


def bindings(opened: Pretrained) -> dict[str, Any]:
  """The fields of a student's `T5Config` that a checkpoint decides."""
  names = (*_SIZES, "mlp_activations")
  return {name: getattr(opened.config, name) for name in names}


def describe(opened: Pretrained) -> str:
  """What there is to know about a checkpoint, for people."""
  dtypes = {np.dtype(array.dtype).name for array in opened.arrays.values()}
  entries = [
    ("kind", opened.kind),
    ("folder", str(opened.folder)),
    ("step", "unknown" if opened.step is None else f"{opened.step:,}"),
    (
      "vocabulary",
      opened.vocabulary
      or str(opened.vocabulary_problem or "none next to the weights"),
    ),
    ("parameters", f"{opened.num_parameters:,}"),
    ("stored as", ", ".join(sorted(dtypes))),
    ("optimizer state", "Adafactor" if opened.optimizer_state else "none"),
  ]
  lines = [f"{name:<16}{value}" for name, value in entries]
  lines += ["", "network.T5Config:"]
  lines += [f"  {name} = {value!r}" for name, value in bindings(opened).items()]
  return "\n".join(lines)
