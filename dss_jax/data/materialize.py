"""Any SeqIO Task or Mixture as token arrays, evaluations or a stream.

    materialize("their_mixture", "train", cache_dir=..., feature_lengths=...)

reads each leaf Task once, unshuffled, into memory-mapped token arrays; rates
come from the Mixture, nested or callable as SeqIO allows. Every leaf Task is
one sub-task, named by the Task; of our own Tasks and Mixtures sub-tasks keep
the names they have without SeqIO, and so do tokens and fingerprints.

`seqio_evaluations` gives what is needed to score decoded outputs with a
Task's own postprocessor and metrics. `ExampleStream` is for corpora too large
to materialise: it follows SeqIO's own shuffled iterators.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from dss_jax.data import describe, examples, options, subtasks, vocabularies
from dss_jax.data.seqio_evaluation import SeqioEvaluation, feature_text
from dss_jax.data.streaming import StreamExample
from dss_jax.data.tasks import DssTask
from dss_jax.data.token_arrays import ExampleSet, TokenArrays
from dss_jax.errors import UserError

# The accelerator is JAX's; TensorFlow only reads data, and would take most of
# its memory at the first operation. Too late if another project has used it.
with contextlib.suppress(RuntimeError):
  tf.config.set_visible_devices([], "GPU")

_Features = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Leaf:
  """One Task of a Mixture: its name as a sub-task, and its rate."""

  name: str
  task: seqio.Task
  rate: float


@dataclasses.dataclass(frozen=True)
class _Provider:
  """A Task or Mixture for one split, taken apart."""

  name: str
  split: str
  leaves: tuple[_Leaf, ...]
  provider: Any
  own: subtasks.TaskName | None

  @property
  def paired(self) -> bool:
    return self.own is not None and self.own.method.paired


def _provider(name: str, split: str) -> _Provider:
  """Looks a name up.

  Raises:
    UserError: an unknown name, a split it lacks, or rates that cannot be.
  """
  provider: Any = None
  if name in seqio.MixtureRegistry.names():
    provider = seqio.MixtureRegistry.get(name)
  elif name in seqio.TaskRegistry.names():
    provider = seqio.TaskRegistry.get(name)
  if provider is None:
    raise UserError(
      f"SeqIO knows no Task or Mixture {name!r}:"
      f" {subtasks.similar_name_hint(name)}name the module that"
      " registers it with --module (dss_jax.tasks for those of dss_jax), or"
      " correct MIXTURE_OR_TASK_NAME, EVAL_TASKS or --task."
    )
  if split not in provider.splits:
    raise UserError(
      f"{name!r} has no split {split!r}; it has"
      f" {', '.join(sorted(provider.splits))}."
    )
  if isinstance(provider, seqio.Task):
    own_task = isinstance(provider, DssTask)
    subtask = provider.subtask.name if own_task else name
    leaves = (_Leaf(subtask, provider, 1.0),)
    return _Provider(name, split, leaves, provider, _own_name(leaves, name))
  tasks = [task for task in provider.tasks if split in task.splits]
  try:
    rates = [float(provider.get_rate(task)) for task in tasks]
  except (TypeError, ValueError) as error:
    raise UserError(
      f"the rates of Mixture {name!r} cannot be used: {error}"
    ) from error
  if not all(0 <= rate < float("inf") for rate in rates) or not any(rates):
    raise UserError(
      f"Mixture {name!r} has the rates {rates}; they must be at least 0 and"
      " not all 0."
    )
  leaves = tuple(
    _Leaf(task.name, task, rate)
    for task, rate in zip(tasks, rates, strict=True)
  )
  own = _own_name(leaves, name)
  if own is not None:  # sub-tasks in the order of the method, by their names
    by_name = _own_leaves(leaves)
    leaves = tuple(
      dataclasses.replace(by_name[subtask.name], name=subtask.name)
      for subtask in own.method.subtasks
    )
  return _Provider(name, split, leaves, provider, own)


def _own_leaves(leaves: Sequence[_Leaf]) -> dict[str, _Leaf]:
  """Those of our own Tasks, by the names of their sub-tasks."""
  return {
    leaf.task.subtask.name: leaf
    for leaf in leaves
    if isinstance(leaf.task, DssTask)
  }


def _own_name(leaves: Sequence[_Leaf], name: str) -> subtasks.TaskName | None:
  """Our name, if it is one and nobody has put other Tasks under it."""
  parsed = subtasks.parse_task_name(name)
  if parsed is None:
    return None
  wanted = {subtask.name for subtask in parsed.method.subtasks}
  is_ours = len(leaves) == len(wanted) and wanted == set(_own_leaves(leaves))
  return parsed if is_ours else None


# --- vocabularies ------------------------------------------------------------


class SeqioVocabulary:
  """Any other SeqIO vocabulary in the form that dss_jax uses."""

  def __init__(self, vocabulary: seqio.Vocabulary):
    self.seqio_vocabulary = vocabulary
    self.name = f"seqio({describe.fingerprint(str(vocabulary))[:16]})"
    self.vocab_size = int(vocabulary.vocab_size)
    self.extra_ids = int(vocabulary.extra_ids)
    self.pad_id = vocabulary.pad_id
    # Some have neither; 1 and 2 are what they are everywhere else.
    self.eos_id = _or_default(vocabulary.eos_id, vocabularies.EOS_ID)
    self.unk_id = _or_default(vocabulary.unk_id, vocabularies.UNK_ID)

  def encode(self, text: str) -> list[int]:
    return [int(i) for i in self.seqio_vocabulary.encode(text)]

  def decode(self, ids: Iterable[int]) -> str:
    return self.seqio_vocabulary.decode([int(i) for i in ids if i >= 0])


def _or_default(value: int | None, default: int) -> int:
  return default if value is None else int(value)


def from_seqio(vocabulary: seqio.Vocabulary) -> vocabularies.Vocabulary:
  """Our vocabulary of the same ids, or a wrapper around SeqIO's."""
  if type(vocabulary) is seqio.ByteVocabulary:
    return vocabularies.ByteVocabulary(vocabulary.extra_ids)
  if (
    type(vocabulary) is seqio.SentencePieceVocabulary
    and vocabulary._normalizer_spec_overrides is None
    and vocabulary._reverse_extra_ids
    and pathlib.Path(vocabulary.sentencepiece_model_file).is_file()
  ):
    return vocabularies.SentencePieceVocabulary(
      vocabulary.sentencepiece_model_file, vocabulary.extra_ids
    )
  return SeqioVocabulary(vocabulary)


def output_vocabulary(name: str) -> vocabularies.Vocabulary:
  """The vocabulary that a Task's or Mixture's targets are written in."""
  provider = seqio.get_mixture_or_task(name)
  return from_seqio(provider.output_features["targets"].vocabulary)


# --- reading -----------------------------------------------------------------


def _read(
  task: seqio.Task,
  split: str,
  feature_lengths: Mapping[str, int],
  *,
  use_cached: bool,
  shuffle: bool = False,
  seed: int = 0,
  num_epochs: int | None = 1,
) -> tf.data.Dataset:
  """A Task's dataset; fails with one line."""
  for name in examples.FEATURES:
    if name not in task.output_features:
      raise UserError(
        f"Task {task.name!r} has no feature {name!r}; an encoder-decoder"
        " student needs Tasks with 'inputs' and 'targets'."
      )
  with _one_line_errors(task.name):
    return task.get_dataset(
      dict(feature_lengths) or None,
      split=split,
      use_cached=use_cached,
      shuffle=shuffle,
      seed=seed if _takes_seed(task, use_cached) else None,
      num_epochs=num_epochs,
    )


def _takes_seed(task: seqio.Task, use_cached: bool) -> bool:
  """Whether SeqIO lets this Task's source be read with a seed."""
  source = task.source
  if use_cached or not isinstance(source, seqio.FunctionDataSource):
    return True
  return "seed" in inspect.signature(source._dataset_fn).parameters


@contextlib.contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
  """Turns what TensorFlow and SeqIO raise about data into a UserError."""
  try:
    yield
  except UserError:
    raise
  except (tf.errors.OpError, OSError, ValueError, AssertionError) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(
      f"the data of Task {name!r} cannot be read: {lines[0]}"
    ) from error


def _examples(dataset: tf.data.Dataset, name: str) -> Iterator[_Features]:
  with _one_line_errors(name):
    examples_read: Any = dataset.as_numpy_iterator()
    yield from examples_read


def _subtask_arrays(
  leaf: _Leaf,
  split: str,
  feature_lengths: Mapping[str, int],
  use_cached: bool,
) -> TokenArrays:
  """The examples of one Task, in their order (ours: in that of records)."""
  dataset = _read(leaf.task, split, feature_lengths, use_cached=use_cached)
  inputs, targets, records, order, weights = [], [], [], [], []
  for example in _examples(dataset, leaf.task.name):
    if not len(example["inputs"]) or not len(example["targets"]):
      continue  # nothing to read or nothing to write
    inputs.append(_ids(example["inputs"], leaf.task))
    targets.append(_ids(example["targets"], leaf.task))
    is_own = isinstance(leaf.task, DssTask)
    records.append(int(example["record_id"]) if is_own else len(records))
    order.append(int(example["rationale_index"]) if is_own else 0)
    weights.append(float(example["weight"]) if is_own else 1.0)
  # Caches hold examples in any order.
  places = np.lexsort((order, records)) if records else []
  return TokenArrays.from_lists(
    leaf.name,
    [inputs[i] for i in places],
    [targets[i] for i in places],
    record_ids=[records[i] for i in places],
    weights=[weights[i] for i in places],
  )


def _ids(value: np.ndarray, task: seqio.Task) -> np.ndarray:
  if value.ndim != 1 or not np.issubdtype(value.dtype, np.integer):
    raise UserError(
      f"Task {task.name!r} gives {value.dtype} features of {value.ndim}"
      " dimensions; token ids of 1 dimension are needed."
    )
  return value.astype(np.int32)


def add_cache_dirs(folders: Sequence[str]) -> None:
  """Tells SeqIO where offline caches of Tasks lie."""
  seqio.add_global_cache_dirs(list(folders))


def materialize(
  name: str,
  split: str,
  *,
  cache_dir: str | os.PathLike[str],
  feature_lengths: Mapping[str, int] | None = None,
  use_cached: bool = False,
  refresh: bool = False,
) -> ExampleSet:
  """The token arrays of a Task or Mixture, from `cache_dir` if they are there.

  Args:
    name: registered with SeqIO, by us or by another project.
    split: one of its splits.
    cache_dir: where token arrays are kept, one folder per fingerprint.
    feature_lengths: {"inputs": ..., "targets": ...} in tokens.
    use_cached: read SeqIO's offline cache instead of the source.
    refresh: make the arrays anew even if they are there.

  Raises:
    UserError: an unknown name or split, unreadable data, a cache that does not
      fit, features that are no token ids.
  """
  provider = _provider(name, split)
  lengths = examples.check_feature_lengths(feature_lengths)
  fingerprint = task_fingerprint(
    name, split, feature_lengths=lengths, use_cached=use_cached
  )

  def build() -> ExampleSet:
    arrays = tuple(
      _subtask_arrays(leaf, split, lengths, use_cached)
      for leaf in provider.leaves
    )
    highest = max(
      (int(each.record_ids.max()) for each in arrays if len(each)), default=-1
    )
    num_records = highest + 1
    if provider.own is not None and not use_cached:
      num_records = examples.count_records(
        provider.own.dataset, split, options.current().data
      )
    return ExampleSet(
      subtasks=arrays,
      rates=tuple(leaf.rate for leaf in provider.leaves),
      paired=provider.paired,
      num_records=num_records,
      fingerprint=fingerprint,
      vocabulary=output_vocabulary(name).name,
      task_name=name,
      split=split,
    )

  if refresh:
    folder = examples.example_folder(cache_dir, name, split, fingerprint)
    shutil.rmtree(folder, ignore_errors=True)
  return examples.open_or_build(cache_dir, name, split, fingerprint, build)


def task_fingerprint(
  name: str,
  split: str,
  *,
  feature_lengths: Mapping[str, int] | None = None,
  use_cached: bool = False,
) -> str:
  """Identifies the tokens of a Task or Mixture.

  Of our own it is the fingerprint they have without SeqIO: by the content of
  their records. Of others, and of SeqIO's caches, it is made of what the Tasks
  are defined by (`data/describe.py`).
  """
  provider = _provider(name, split)
  lengths = examples.check_feature_lengths(feature_lengths)
  if provider.own is not None and not use_cached:
    chosen = options.current()
    return examples.task_fingerprint(
      name,
      split,
      output_vocabulary(name),
      chosen.data,
      chosen.method,
      lengths,
    )
  described = [
    [
      leaf.name,
      leaf.rate,
      _describe_task(leaf.task, split, use_cached),
    ]
    for leaf in provider.leaves
  ]
  return describe.fingerprint(name, split, provider.paired, lengths, described)


def _describe_task(task: seqio.Task, split: str, use_cached: bool) -> list[Any]:
  """What decides a Task's tokens."""
  vocabulary_names = {
    name: [from_seqio(feature.vocabulary).name, feature.add_eos]
    for name, feature in task.output_features.items()
    if name in examples.FEATURES
  }
  described: list[Any] = [seqio.__version__, task.name, vocabulary_names]
  if isinstance(task, DssTask):
    chosen = options.current()
    data = dataclasses.replace(chosen.data, data_dir=None)
    described += [task.subtask, chosen.method, data]
    if not use_cached:
      described.append(task.rows_of.fingerprint(split, with_data=True))
  else:
    described += list(task.preprocessors)
  with _one_line_errors(task.name):
    if use_cached and task.supports_caching:
      if isinstance(task, DssTask):
        task.check_cache(split)
      task.assert_cached()
      folder = pathlib.Path(str(task.cache_dir))
      paths = [str(path) for path in sorted(folder.glob(f"*{split}*"))]
      return [*described, describe.files(paths)]
    source = task.source
    described.append(describe.files(source.list_shards(split)))
  if isinstance(source, seqio.FunctionDataSource):
    return [*described, source._dataset_fn]
  if isinstance(source, seqio.TfdsDataSource):
    return [*described, str(source), source.splits]
  return [*described, source]


# --- evaluation --------------------------------------------------------------


def seqio_evaluations(
  name: str,
  split: str,
  *,
  feature_lengths: Mapping[str, int] | None = None,
  use_cached: bool = False,
  max_examples: int | None = None,
) -> dict[str, SeqioEvaluation]:
  """The evaluations of a Task or Mixture: one per Task that has metrics.

  Args:
    name: registered with SeqIO.
    split: one of its splits.
    feature_lengths: "inputs" cuts what is read; targets are never cut.
    use_cached: read SeqIO's offline cache instead of the source.
    max_examples: only the first so many of each Task.

  Returns:
    Sub-task name -> evaluation.
  """
  lengths = examples.check_feature_lengths(feature_lengths)
  lengths.pop("targets", None)
  return {
    leaf.name: _evaluation(leaf.task, split, lengths, use_cached, max_examples)
    for leaf in _provider(name, split).leaves
    if leaf.task.metric_objs
  }


def _evaluation(
  task: seqio.Task,
  split: str,
  lengths: Mapping[str, int],
  use_cached: bool,
  max_examples: int | None,
) -> SeqioEvaluation:
  dataset = _read(task, split, lengths, use_cached=use_cached)
  found = list(itertools.islice(_examples(dataset, task.name), max_examples))
  return SeqioEvaluation(
    name=task.name,
    split=split,
    ids=[str(position) for position in range(len(found))],
    input_texts=[feature_text(task, example, "inputs") for example in found],
    inputs=[_ids(example["inputs"], task).tolist() for example in found],
    targets=[
      task.postprocess_fn(
        feature_text(task, example, "targets"), example=example, is_target=True
      )
      for example in found
    ],
    longest_target=max(
      (len(example["targets"]) for example in found), default=1
    ),
    task=task,
    features=found,
  )


# --- streaming ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ExampleStream:
  """A Task or Mixture as an endless stream of shuffled, mixed examples.

  For corpora too large to materialise; see `streaming.StreamingBatches`. The
  order is SeqIO's: each Task's own shuffling, mixed at random by the rates. It
  depends on the seed alone, so a stream can be continued by skipping, which
  reads (but does not keep) what is skipped.

  Attributes:
    name: registered with SeqIO.
    split: one of its splits.
    seed: of shuffling, mixing and random preprocessors.
    feature_lengths: {"inputs": ..., "targets": ...} in tokens.
    use_cached: read SeqIO's offline cache instead of the source.
  """

  name: str
  split: str
  seed: int
  feature_lengths: Mapping[str, int] | None = None
  use_cached: bool = False

  @functools.cached_property
  def _provider(self) -> _Provider:
    provider = _provider(self.name, self.split)
    if provider.paired:
      raise UserError(
        f"{self.name!r} keeps a record's examples in one batch, which a"
        " stream cannot promise: materialise it, or train the unpaired"
        " mixture."
      )
    return provider

  @property
  def subtask_names(self) -> tuple[str, ...]:
    return tuple(leaf.name for leaf in self._provider.leaves)

  @property
  def rates(self) -> tuple[float, ...]:
    return tuple(leaf.rate for leaf in self._provider.leaves)

  @property
  def vocabulary(self) -> vocabularies.Vocabulary:
    return output_vocabulary(self.name)

  @property
  def fingerprint(self) -> str:
    """By definition only: the corpus is not read for it."""
    return hashlib.sha256(
      f"stream {self.seed} ".encode()
      + task_fingerprint(
        self.name,
        self.split,
        feature_lengths=self.feature_lengths,
        use_cached=self.use_cached,
      ).encode()
    ).hexdigest()

  def open(self, skip: int = 0) -> Iterator[StreamExample]:
    """The stream from its example number `skip` on."""
    lengths = examples.check_feature_lengths(self.feature_lengths)
    datasets = []
    for index, leaf in enumerate(self._provider.leaves):
      dataset = _read(
        leaf.task,
        self.split,
        lengths,
        use_cached=self.use_cached,
        shuffle=True,
        seed=self.seed,
        num_epochs=None,
      )
      tagged = dataset.map(_tagged(index, isinstance(leaf.task, DssTask)))
      datasets.append(tagged.filter(_is_not_empty))
    dataset = datasets[0]
    if len(datasets) > 1:
      # SeqIO's own mixing: a Mixture may bring its own sample function.
      dataset = self._provider.provider._sample_fn(
        datasets, list(self.rates), self.seed
      )
    for example in _examples(dataset.skip(skip), self.name):
      yield StreamExample(
        subtask=int(example["subtask"]),
        inputs=example["inputs"],
        targets=example["targets"],
        weight=float(example["weight"]),
      )


def _is_not_empty(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
  return (tf.size(example["inputs"]) > 0) & (tf.size(example["targets"]) > 0)


def _tagged(
  index: int, is_own: bool
) -> Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]:
  """Keeps what a batch needs and adds the sub-task's position."""

  def tag(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {
      "inputs": tf.cast(example["inputs"], tf.int32),
      "targets": tf.cast(example["targets"], tf.int32),
      "weight": example["weight"] if is_own else tf.constant(1.0),
      "subtask": tf.constant(index, tf.int32),
    }

  return tag
