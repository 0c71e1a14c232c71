"""A Task or Mixture as token arrays on disk, or as an endless stream."""

import collections
import contextvars
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import flat_records, task_options
from dss_jax.data.seqio.dss_task import DssTask
from dss_jax.data.seqio.seqio_vocabularies import from_seqio
from dss_jax.data.seqio.task_lookup import (
  Leaf,
  Provider,
  find_provider,
  iter_examples,
  output_vocabulary,
  read_task,
  task_fingerprint,
  token_ids,
)
from dss_jax.data.tokens import tokenization
from dss_jax.data.tokens.example_stream import StreamExample
from dss_jax.data.tokens.text_checks import TargetChecks
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays


class _Examples(NamedTuple):
  """The examples of a Task, and how many are cut, where that is known."""

  arrays: TokenArrays
  cut: dict[str, int] | None


def _subtask_examples(
  leaf: Leaf,
  split: str,
  feature_lengths: Mapping[str, int],
  use_cached: bool,
) -> _Examples:
  """The examples of one Task, in their order (ours: in that of records)."""
  dataset = read_task(leaf.task, split, feature_lengths, use_cached=use_cached)
  checks = _target_checks(leaf.task, feature_lengths)
  inputs, targets, records, order, weights = [], [], [], [], []
  cut: collections.Counter[str] = collections.Counter()
  is_known = True
  for example in iter_examples(dataset, leaf.task.name):
    if not len(example["inputs"]) or not len(example["targets"]):
      continue  # nothing to read or nothing to write
    inputs.append(token_ids(example["inputs"], leaf.task))
    targets.append(token_ids(example["targets"], leaf.task))
    for side in tokenization.FEATURES:
      whole = _whole(leaf.task, example, side, feature_lengths.get(side))
      is_known &= whole is not None
      if whole is not None:
        cut[side] += len(whole) > len(_without_end(example[side]))
        if checks and side == "targets":
          checks.add(_text(example["label"]), whole)
    is_dss_task = isinstance(leaf.task, DssTask)
    records.append(int(example["record_id"]) if is_dss_task else len(records))
    order.append(int(example["rationale_index"]) if is_dss_task else 0)
    weights.append(float(example["weight"]) if is_dss_task else 1.0)
  if checks and split == flat_records.TRAIN:
    checks.check()
  # Caches hold examples in any order.
  places = np.lexsort((order, records)) if records else []
  arrays = TokenArrays.from_lists(
    leaf.name,
    [inputs[i] for i in places],
    [targets[i] for i in places],
    record_ids=[records[i] for i in places],
    weights=[weights[i] for i in places],
  )
  counts = {side: cut[side] for side in tokenization.FEATURES}
  return _Examples(arrays, counts if is_known else None)


def _target_checks(
  task: Any, feature_lengths: Mapping[str, int]
) -> TargetChecks | None:
  """What looks at the targets of a Task of ours."""
  if not isinstance(task, DssTask):
    return None
  return TargetChecks(
    task.subtask,
    task_options.current().method,
    from_seqio(task.output_features["targets"].vocabulary),
    feature_lengths.get("targets"),
  )


def _whole(
  task: Any, example: Mapping[str, Any], side: str, limit: int | None
) -> list[int] | None:
  """All tokens of a feature without the end id; None where nobody knows.

  A feature that is shorter than the limit is whole. A longer one is made again
  of its text, if SeqIO kept that and its tokens begin with those there are.
  """
  ids = _without_end(example[side])
  if limit is None or len(example[side]) < limit:
    return ids
  text = example.get(f"{side}_pretokenized")
  vocabulary = from_seqio(task.output_features[side].vocabulary)
  if not isinstance(text, bytes | str) or vocabulary.unk_id < 0:
    return None
  whole = vocabulary.encode(_text(text))
  return whole if whole[: len(ids)] == ids else None


def _without_end(ids: np.ndarray) -> list[int]:
  found = ids.tolist()
  return found[:-1] if found[-1] == vocabularies.EOS_ID else found


def _text(value: bytes | str) -> str:
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def materialize(
  name: str,
  split: str,
  *,
  cache_dir: str | os.PathLike[str],
  feature_lengths: Mapping[str, int] | None = None,
  use_cached: bool = False,
) -> ExampleSet:
  """The token arrays of a Task or Mixture, from `cache_dir` if they are there.

  Args:
    name: registered with SeqIO, by us or by another project.
    split: one of its splits.
    cache_dir: where token arrays are kept, one folder per fingerprint.
    feature_lengths: {"inputs": ..., "targets": ...} in tokens.
    use_cached: read SeqIO's offline cache instead of the source.

  Raises:
    UserError: an unknown name or split, unreadable data, a cache that does not
      fit, features that are no token ids.
  """
  provider = find_provider(name, split)
  lengths = tokenization.check_feature_lengths(feature_lengths)
  fingerprint = task_fingerprint(
    name, split, feature_lengths=lengths, use_cached=use_cached
  )

  def build() -> ExampleSet:
    found = [
      _subtask_examples(leaf, split, lengths, use_cached)
      for leaf in provider.leaves
    ]
    arrays = tuple(made.arrays for made in found)
    highest = max(
      (int(subtask.record_ids.max()) for subtask in arrays if len(subtask)),
      default=-1,
    )
    num_records = highest + 1
    if provider.dss_name is not None and not use_cached:
      records = datasets.load_split(
        provider.dss_name.dataset, split, options=task_options.current().data
      )
      num_records = len(records)
    return ExampleSet(
      subtasks=arrays,
      rates=tuple(leaf.rate for leaf in provider.leaves),
      paired=provider.paired,
      num_records=num_records,
      fingerprint=fingerprint,
      vocabulary=output_vocabulary(name).name,
      task_name=name,
      split=split,
      cut={made.arrays.name: made.cut for made in found if made.cut},
    )

  return tokenization.open_or_build(cache_dir, name, split, fingerprint, build)


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
  # The options in force here, for reading in whatever thread.
  _context: contextvars.Context = dataclasses.field(
    default_factory=contextvars.copy_context, compare=False, repr=False
  )

  @functools.cached_property
  def _provider(self) -> Provider:
    provider = find_provider(self.name, self.split)
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
    found = self._context.run(self._open, skip)
    while (example := self._context.run(next, found, None)) is not None:
      yield example

  def _open(self, skip: int) -> Iterator[StreamExample]:
    lengths = tokenization.check_feature_lengths(self.feature_lengths)
    datasets = []
    for index, leaf in enumerate(self._provider.leaves):
      dataset = read_task(
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
      dataset = self._provider.registered._sample_fn(
        datasets, list(self.rates), self.seed
      )
    for example in iter_examples(dataset.skip(skip), self.name):
      yield StreamExample(
        subtask=int(example["subtask"]),
        inputs=example["inputs"],
        targets=example["targets"],
        weight=float(example["weight"]),
      )


def _is_not_empty(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
  return (tf.size(example["inputs"]) > 0) & (tf.size(example["targets"]) > 0)


def _tagged(
  index: int, is_dss_task: bool
) -> Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]:
  """Keeps what a batch needs and adds the sub-task's position."""

  def tag(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {
      "inputs": tf.cast(example["inputs"], tf.int32),
      "targets": tf.cast(example["targets"], tf.int32),
      "weight": example["weight"] if is_dss_task else tf.constant(1.0),
      "subtask": tf.constant(index, tf.int32),
    }

  return tag
