"""One door to all checkpoints: what they are, how large, what lies in them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from dss_jax import vocabularies
from dss_jax.base.errors import UserError, one_line
from dss_jax.models import encoder_decoder
from dss_jax.models.config import T5Config
from dss_jax.pretrained import (
  huggingface_folder,
  huggingface_weights,
  inferred,
  layouts,
  locations,
  mismatch,
  t5x_checkpoints,
  tokenizers,
)
from dss_jax.pretrained.files import lazy_arrays, tensorstore_arrays
from dss_jax.pretrained.files.bounds import Budget, broken
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
  """A checkpoint that was looked at; its numbers are read by `load`.

  Attributes:
    kind: `huggingface`, `t5x` or `run` (of this library's own training).
    source: what the user called it.
    folder: where it lies on this machine.
    config: its sizes. Activations of T5X's checkpoints and of runs are a
      guess: gated ones are taken for GELU, single ones for ReLU.
    arrays: its parameters under T5X's paths, layers apart.
    vocabulary: as VOCABULARY names it; None where the checkpoint has none.
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
  step: int | None = None
  optimizer_state: Mapping[str, LazyArray] = dataclasses.field(
    default_factory=dict
  )

  @property
  def num_parameters(self) -> int:
    """How many numbers its parameters are."""
    return sum(array.size for array in self.arrays.values())

  def check(
    self,
    model: encoder_decoder.EncoderDecoderModel,
    vocabulary: Vocabulary | None = None,
  ) -> None:
    """Compares it with a student, by shapes; nothing is read.

    Args:
      model: the student.
      vocabulary: that it is used with; None does not look at it.

    Raises:
      UserError: with a table of all that differs as its details.
    """
    mismatch.check(
      {name: array.shape for name, array in self.arrays.items()},
      huggingface_weights.flat_shapes(model.config),
      f"the checkpoint {self.source!r} is of another model",
      columns=("checkpoint", "student"),
      remedy=self._remedy(model.config, vocabulary),
      more=self._vocabulary_rows(vocabulary),
    )

  def _vocabulary_rows(
    self, vocabulary: Vocabulary | None
  ) -> Sequence[mismatch.Row]:
    if vocabulary is None:
      return ()
    rows = self.config.vocab_size
    if vocabulary.vocab_size > rows:
      return (
        mismatch.Row(
          "VOCABULARY", f"{rows} ids", f"{vocabulary.vocab_size} ids"
        ),
      )
    if self.vocabulary is None:
      return ()
    own = vocabularies.from_name(self.vocabulary)
    if _pieces(own) != _pieces(vocabulary):
      return (mismatch.Row("VOCABULARY", own.name, vocabulary.name),)
    return ()

  def _remedy(self, config: T5Config, vocabulary: Vocabulary | None) -> str:
    """The bindings that would make the student fit."""
    wanted = [
      f"network.T5Config.{name} = {getattr(self.config, name)!r}"
      for name in _SIZES
      if getattr(self.config, name) != getattr(config, name)
    ]
    ours, theirs = config.mlp_activations, self.config.mlp_activations
    if len(ours) != len(theirs):
      wanted.append(f"network.T5Config.mlp_activations = {theirs!r}")
    if self._vocabulary_rows(vocabulary) and self.vocabulary:
      wanted.append(f"VOCABULARY = {self.vocabulary!r}")
    if not wanted:
      return "give the models/*.gin it was trained with"
    return f"set {', '.join(wanted)}, or add models/from_checkpoint.gin"

  def load(
    self,
    model: encoder_decoder.EncoderDecoderModel,
    shardings: Any = None,
  ) -> Any:
    """Its parameters as the student's, read straight to where they belong.

    Args:
      model: the student.
      shardings: of the parameters, in their structure, or one for all; None
        puts them on the first device.

    Returns:
      Nested dict of float32 arrays, with the student's paths.

    Raises:
      UserError: where it does not fit the student, is damaged, or holds what
        is no finite number.
    """
    self.check(model)
    if shardings is None:
      shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    where = f"in the checkpoint {self.source!r}"
    arrays = {
      name: lazy_arrays.finite(array, f"{name} {where}")
      for name, array in self.arrays.items()
    }
    tree = layouts.for_model(arrays, model.config)
    return layouts.place(tree, shardings)


def _pieces(vocabulary: Vocabulary) -> str:
  """What the ids of a vocabulary stand for, sentinels aside."""
  return vocabulary.name.partition("extra_ids=")[0]


def open_pretrained(path: str) -> Pretrained:
  """Looks at a checkpoint of another library's.

  Args:
    path: a folder of Hugging Face's (config.json and weights) or of T5X's, or
      a model on the Hugging Face hub (`org/name[@revision]`), or
      `gs://bucket/path`.

  Raises:
    UserError: where there is no checkpoint, or a broken one.
  """
  folder = locations.to_folder(path)
  if huggingface_folder.is_folder(folder):
    return _open_huggingface(path, folder)
  if t5x_checkpoints.find(folder) is not None:
    return _open_t5x(path, folder)
  there = "is no folder on this machine"
  if folder.is_dir():
    there = "holds no checkpoint"
  raise UserError(
    f"the checkpoint {path!r} {there}; give a run's MODEL_DIR, a"
    " folder with config.json and weights (Hugging Face), or one with"
    " checkpoint_<step> (T5X), a hub id org/name, or gs://bucket/path"
  )


def _open_huggingface(source: str, folder: pathlib.Path) -> Pretrained:
  opened = huggingface_folder.open_folder(folder)
  return Pretrained(
    kind=HUGGINGFACE,
    source=source,
    folder=folder,
    config=opened.config,
    arrays=opened.arrays,
    vocabulary=tokenizers.vocabulary_name(folder, opened.config.vocab_size),
  )


def _open_t5x(source: str, folder: pathlib.Path) -> Pretrained:
  opened = t5x_checkpoints.open_t5x(folder)
  where = f"the checkpoint {str(opened.folder)!r}"
  arrays = layouts.layers_apart(opened.params, where)
  return Pretrained(
    kind=T5X,
    source=source,
    folder=opened.folder,
    config=_inferred(arrays, where),
    arrays=arrays,
    step=opened.step,
    optimizer_state=opened.optimizer_state,
  )


def open_run_step(source: str, place: pathlib.Path, step: int) -> Pretrained:
  """The parameters of one checkpoint of this library's own training.

  Args:
    source: what the user called it.
    place: the checkpoint's folder, with the arrays in its `state`.
    step: steps it was trained for.

  Raises:
    UserError: for a damaged checkpoint.
  """
  try:
    stored = tensorstore_arrays.open_arrays(place / "state", Budget(place))
  except UserError:
    raise
  except Exception as error:  # whatever is made of damaged bytes
    raise broken(place, one_line(error) or type(error).__name__) from error
  params = {
    name.removeprefix("params.").replace(".", "/"): array
    for name, array in stored.items()
    if name.startswith("params.")
  }
  where = f"the checkpoint {str(place)!r}"
  arrays = layouts.layers_apart(params, where)
  return Pretrained(
    kind=RUN,
    source=source,
    folder=place,
    config=_inferred(arrays, where),
    arrays=arrays,
    step=step,
  )


def _inferred(arrays: Mapping[str, LazyArray], where: str) -> T5Config:
  shapes = {name: array.shape for name, array in arrays.items()}
  return inferred.config_from_shapes(shapes, where)


def bindings(opened: Pretrained) -> dict[str, Any]:
  """The fields of a student's `T5Config` that a checkpoint decides."""
  names = (*_SIZES, "mlp_activations")
  return {name: getattr(opened.config, name) for name in names}


def describe(opened: Pretrained) -> str:
  """What there is to know of a checkpoint, for people."""
  rows = [
    ("kind", opened.kind),
    ("folder", str(opened.folder)),
    ("step", "not said" if opened.step is None else f"{opened.step:,}"),
    ("vocabulary", opened.vocabulary or "none beside the weights"),
    ("parameters", f"{opened.num_parameters:,}"),
    ("stored as", huggingface_folder.float_types(opened.arrays)),
    ("optimizer state", "Adafactor" if opened.optimizer_state else "none"),
  ]
  lines = [f"{name:<16}{value}" for name, value in rows]
  lines += ["", "network.T5Config:"]
  lines += [f"  {name} = {value!r}" for name, value in bindings(opened).items()]
  return "\n".join(lines)
