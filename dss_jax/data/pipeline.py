"""From a task's name to its examples and evaluations.

Datasets of dss_jax are built straight from records, without TensorFlow. Any
other name is looked up among SeqIO's Tasks and Mixtures and materialised
through SeqIO, which imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dss_jax import datasets, vocabularies
from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks, task_names, task_options
from dss_jax.data.tokens import evaluation_sets, token_arrays, tokenization


def task_name(
  dataset: str, method: str = "dss", label_source: str = "gold"
) -> str:
  """The registered name of a method on a dataset: `svamp_dss_teacher`.

  Raises:
    UserError: for an unknown dataset, method or label source.
  """
  checks.one_of(
    "task_name.label_source", label_source, task_names.LABEL_SOURCES
  )
  return str(
    task_names.get_task(task_names.task_name(dataset, method, label_source))
  )


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """What to read and how to batch it; T5X's `utils.DatasetConfig`.

  Attributes:
    mixture_or_task_name: a name of dss_jax (`svamp_dss`) or of any SeqIO Task
      or Mixture.
    task_feature_lengths: longest `inputs` and `targets`, in tokens with EOS;
      longer examples are cut.
    split: `train`, `validation` or `test`.
    batch_size: packed rows in a batch (T5X's meaning); None derives it from
      `records_per_batch`. Without `records_per_batch` a row has the lengths of
      `task_feature_lengths`, as T5X's have.
    records_per_batch: records in a batch, all their sub-tasks included; None
      derives it from `batch_size`. The paper's recipe has 64.
    encoder_length: length of a packed row on the encoder's side; None chooses
      it from the lengths in the data.
    decoder_length: the same for the decoder.
    attention_length: what attention costs when the shape is chosen; see
      `batch_shapes.choose_batch_shape`. Lower values give shorter rows: 600
      suits CPUs, 1300 GPUs without fused attention.
    max_row_length: longest row to choose, in tokens.
    length_multiple: what chosen row lengths are multiples of; 128 on TPUs.
    pack: whether several short examples share a row.
    data: where records come from, their splits and fractions.
    method: prefixes, rates and filters of the sub-tasks.
    use_cached: whether SeqIO must read its own cache (SeqIO tasks only).
    materialize_dir: where token arrays are kept between runs; None keeps those
      of SeqIO tasks under the user's cache folder, and others in memory only.
    batch_files: train on the batches in this folder, written by `dss-jax data
      batches`, instead of packing them.
    streaming: train on SeqIO's shuffled stream of a task, for corpora too
      large to materialise; resuming reads again what it skips.
  """

  mixture_or_task_name: str
  task_feature_lengths: Mapping[str, int] | None = None
  split: str = "train"
  batch_size: int | None = None
  records_per_batch: int | None = None
  encoder_length: int | None = None
  decoder_length: int | None = None
  attention_length: int = 4096
  max_row_length: int = 1024
  length_multiple: int = 8
  pack: bool = True
  data: datasets.DataOptions = dataclasses.field(
    default_factory=datasets.DataOptions
  )
  method: subtasks.MethodOptions = dataclasses.field(
    default_factory=subtasks.MethodOptions
  )
  use_cached: bool = False
  materialize_dir: str | None = None
  batch_files: str | None = None
  streaming: bool = False

  def feature_lengths(self) -> dict[str, int]:
    """`task_feature_lengths`, checked."""
    given = self.task_feature_lengths
    lengths = dict(given) if isinstance(given, Mapping) else {}
    for name in ("inputs", "targets"):
      if not isinstance(lengths.get(name), int) or lengths[name] < 2:
        raise UserError(
          f"task_feature_lengths is {self.task_feature_lengths!r}; it must hold"
          " the tokens of both, such as {'inputs': 256, 'targets': 128}",
          fields="DatasetConfig.task_feature_lengths",
        )
    return lengths


class EvaluationTask(Protocol):
  """What scoring by decoding needs of a task.

  `evaluation_sets.Evaluation` is one for dss_jax's datasets,
  `seqio_data.SeqioEvaluation` for any SeqIO Task.
  """

  @property
  def name(self) -> str: ...

  @property
  def split(self) -> str: ...

  @property
  def ids(self) -> Sequence[str]: ...

  @property
  def input_texts(self) -> Sequence[str]: ...

  @property
  def inputs(self) -> Sequence[Sequence[int]]: ...

  @property
  def targets(self) -> Sequence[Any]: ...

  @property
  def longest_target(self) -> int: ...

  def __len__(self) -> int: ...

  def text_report(self) -> list[str]: ...

  def predictions(self, texts: Sequence[str]) -> list[Any]: ...

  def score(self, predictions: Sequence[Any]) -> dict[str, float]: ...

  def correct(self, predictions: Sequence[Any]) -> list[bool] | None: ...


def load_examples(
  config: DatasetConfig,
  vocabulary: vocabularies.Vocabulary,
  *,
  may_be_empty: bool = False,
) -> token_arrays.ExampleSet:
  """The token arrays of a dataset's split.

  Args:
    config: what to read.
    vocabulary: as the student's.
    may_be_empty: whether sub-tasks may have no examples.

  Raises:
    UserError: for an unknown task, missing data, or a task without examples.
  """
  name = config.mixture_or_task_name
  lengths = config.feature_lengths()
  if task_names.parse_task_name(name) and not config.use_cached:
    source = tokenization.TaskSource.load(
      name, config.split, vocabulary, config.data, config.method, lengths
    )
    if config.materialize_dir:
      examples = source.open_or_build(config.materialize_dir)
    else:
      examples = source.example_set()
  else:
    check_seqio_is_known(name)
    from dss_jax.data import seqio as seqio_data

    with task_options.using(task_options_of(config, vocabulary)):
      examples = seqio_data.materialize(
        name,
        config.split,
        cache_dir=config.materialize_dir or default_materialize_dir(),
        feature_lengths=lengths,
        use_cached=config.use_cached,
      )
    check_same_vocabulary(name, examples.vocabulary, vocabulary)
  # A sub-task that is never drawn from may be empty: rates of 0 are how one
  # trains on data without rationales.
  empty = [
    subtask.name
    for subtask, rate in zip(examples.subtasks, examples.rates, strict=True)
    if not len(subtask) and (rate > 0 or examples.paired)
  ]
  if empty and not may_be_empty:
    raise UserError(
      f"{name} has no examples of {' and '.join(empty)} in split"
      f" {config.split!r}; look at it with `dss-jax data stats`"
    )
  return examples


def load_evaluations(
  name: str,
  split: str,
  vocabulary: vocabularies.Vocabulary,
  config: DatasetConfig,
  *,
  labels_only: bool = False,
  max_examples: int | None = None,
) -> Sequence[EvaluationTask]:
  """Loads what a task is scored on: one evaluation per sub-task.

  Args:
    name: a registered name; a mixture gives the evaluation of each part.
    split: `validation` or `test`.
    vocabulary: as trained with.
    config: the training dataset, for its options and input length.
    labels_only: leave out sub-tasks that write no label, if others do.
    max_examples: only the first so many of each.
  """
  lengths = config.feature_lengths()
  if task_names.parse_task_name(name):
    source = tokenization.TaskSource.load(
      name, split, vocabulary, config.data, config.method, lengths
    )
    built = evaluation_sets.build_evaluations(source, max_examples=max_examples)
    labels = [made for made in built.values() if made.subtask.uses_label]
    return labels if labels_only and labels else list(built.values())
  check_seqio_is_known(name)
  from dss_jax.data import seqio as seqio_data

  with task_options.using(task_options_of(config, vocabulary)):
    found = seqio_data.seqio_evaluations(
      name,
      split,
      feature_lengths=lengths,
      use_cached=config.use_cached,
      max_examples=max_examples,
    )
  return list(found.values())


def check_seqio_is_known(name: str) -> None:
  """Raises UserError for a name that nobody can have registered.

  Registering a SeqIO Task imports SeqIO, so a misspelt name is reported without
  waiting for TensorFlow.
  """
  if "seqio" not in sys.modules and not task_names.parse_task_name(name):
    task_names.get_task(name)


def task_options_of(
  config: DatasetConfig, vocabulary: vocabularies.Vocabulary
) -> task_options.TaskOptions:
  """Returns the options that registered Tasks read."""
  return task_options.TaskOptions(config.data, config.method, vocabulary)


def default_materialize_dir() -> pathlib.Path:
  """Where token arrays of SeqIO tasks are kept: the user's cache folder."""
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(cache).expanduser() / "dss_jax" / "examples"


def check_same_vocabulary(
  task_name: str, found: str, vocabulary: vocabularies.Vocabulary
) -> None:
  """Raises UserError where a task's tokens are not the student's."""
  if found != vocabulary.name:
    raise UserError(
      f"the task {task_name} has the vocabulary {found}, the student"
      f" {vocabulary.name}: set vocabulary to the task's",
      fields="TrainConfig.vocabulary",
    )
