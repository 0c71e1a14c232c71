"""A Task or Mixture as an endless stream, for corpora too large to keep."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.seqio.dss_task import DssTask
from dss_jax.data.seqio.fingerprints import task_fingerprint
from dss_jax.data.seqio.providers import (
  Provider,
  find_provider,
  output_vocabulary,
)
from dss_jax.data.seqio.task_reading import iter_examples, read_task
from dss_jax.data.tokens import examples
from dss_jax.data.tokens.example_stream import StreamExample


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
    lengths = examples.check_feature_lengths(self.feature_lengths)
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
