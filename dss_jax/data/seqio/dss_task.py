"""One sub-task of a dataset as a SeqIO Task."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import flat_records, subtasks, task_options
from dss_jax.data.seqio.example_mapping import (
  OutputFeatures,
  cached_rows,
  make_examples,
  split_being_read,
)
from dss_jax.data.seqio.record_source import RowsOf
from dss_jax.data.seqio.seqio_vocabularies import to_seqio
from dss_jax.data.tokens import evaluations
from dss_jax.datasets import metrics


class RowSource(seqio.FunctionDataSource):
  """A SeqIO source of rows; reads nothing until it is asked for them."""

  def __init__(self, rows_of: RowsOf):
    self._rows_of = rows_of
    spec = datasets.get(rows_of.dataset)
    # Validation is cut from the training data where there is none.
    splits = {"train", "validation", *spec.source_splits}
    super().__init__(
      dataset_fn=self._dataset,
      splits=[split for split in flat_records.SPLITS if split in splits],
    )

  @property
  def splits(self) -> Sequence[str]:
    """Those of the dataset, or of the folder of records in its place."""
    read_options = self._rows_of.read_options()
    if read_options.source != "records":
      return self._splits
    spec = datasets.get(self._rows_of.dataset)
    try:
      found = datasets.source_splits(spec, read_options)
    except UserError:  # told when somebody asks for the data
      return self._splits
    return tuple(
      split
      for split in flat_records.SPLITS
      if split in found or split == "validation"
    )

  def _dataset(
    self, split: str, shuffle_files: bool, seed: int | None = None
  ) -> tf.data.Dataset:
    del shuffle_files, seed  # one in-memory shard: SeqIO shuffles examples
    columns: Any = self._rows_of.arrays(split)
    return tf.data.Dataset.from_tensor_slices(columns)

  def num_input_examples(self, split: str) -> int:
    """Records of the source split."""
    return len(self._rows_of.records(split))


class DssTask(seqio.Task):
  """A Task whose vocabulary is the one that options name at the time.

  Attributes:
    rows_of: what its source depends on.
    subtask: how its rows become examples.
  """

  def __init__(self, name: str, rows_of: RowsOf, subtask: subtasks.SubTask):
    self.rows_of = rows_of
    self.subtask = subtask
    super().__init__(
      name,
      source=RowSource(rows_of),
      output_features=self.output_features,
      preprocessors=[
        seqio.CacheDatasetPlaceholder(),
        functools.partial(
          make_examples, rows_of=rows_of, task_name=name, subtask=subtask
        ),
        seqio.preprocessors.append_eos_after_trim,
      ],
      postprocess_fn=functools.partial(
        _postprocess, dataset=rows_of.dataset, subtask=subtask
      ),
      metric_fns=[_metric_fn(rows_of.dataset, subtask)],
    )

  @property
  def output_features(self) -> OutputFeatures:
    name = task_options.current().vocabulary_of(self.rows_of.dataset)
    feature = seqio.Feature(to_seqio(name), add_eos=True)
    return {"inputs": feature, "targets": feature}

  def get_dataset(
    self,
    sequence_length: Mapping[str, int] | None = None,
    split: str = "train",
    use_cached: bool = False,
    *args: Any,
    **kwargs: Any,
  ) -> tf.data.Dataset:
    """As `seqio.Task.get_dataset`; also checks a cache before it is used.

    Raises:
      UserError: a split or cache that is missing, unreadable, or made from
        other data.
    """
    if split not in self.splits:
      raise UserError(
        f"task {self.name!r} has no split {split!r}; it has"
        f" {', '.join(self.splits)}."
      )
    if use_cached:
      self.check_cache(split)
    token = split_being_read.set(split)
    try:
      return super().get_dataset(
        sequence_length, split, use_cached, *args, **kwargs
      )
    finally:
      split_being_read.reset(token)

  def check_cache(self, split: str) -> None:
    """Raises UserError unless the cache holds what the options ask for."""
    if not self.cache_dir:
      raise UserError(
        f"task {self.name!r} is not cached in"
        f" {', '.join(seqio.get_global_cache_dirs()) or 'any folder'}: run"
        " seqio_cache_tasks, name its folder to"
        " seqio.add_global_cache_dirs, or set USE_CACHED_TASKS = False."
      )
    try:
      row = next(iter(cached_rows(self, split)))
      found = row["fingerprint"].decode()
    except (
      tf.errors.OpError,
      OSError,
      ValueError,
      KeyError,
      StopIteration,
    ) as error:
      raise UserError(
        f"the cache of task {self.name!r} in {self.cache_dir} cannot be read"
        f" ({type(error).__name__}): cache it again."
      ) from error
    try:
      expected = self.rows_of.fingerprint(split, with_data=True)
      is_same = found.partition("-")[2] == expected.partition("-")[2]
    except UserError:  # the data itself is not here, which a cache is for
      expected = self.rows_of.fingerprint(split, with_data=False)
      is_same = found.partition("-")[0] == expected
    if not is_same:
      raise UserError(
        f"the cache of task {self.name!r} in {self.cache_dir} was made from"
        f" other data: its fingerprint is {found}, the options ask for"
        f" {expected}; cache it again or change DataOptions back."
      )


def _postprocess(
  text: str | bytes,
  *,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
  dataset: str,
  subtask: subtasks.SubTask,
) -> str:
  """The label (or rationale) in a decoded output, or that of a target."""
  current = task_options.current()
  if is_target and example is not None:
    wanted = example["label" if subtask.uses_label else "rationale"]
    name = current.vocabulary_of(dataset)
    return evaluations.evaluation_target(
      wanted.decode() if isinstance(wanted, bytes) else str(wanted),
      vocabularies.from_name(name),
    )
  if isinstance(text, bytes):
    text = text.decode()
  return subtasks.extract_label(subtask, text, current.method)


def _metric_fn(
  dataset: str, subtask: subtasks.SubTask
) -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
  def score(targets, predictions):
    names = evaluations.metric_names(dataset, subtask)
    return metrics.score(names, list(targets), list(predictions))

  return score
