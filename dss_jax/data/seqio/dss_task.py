"""One sub-task of a dataset as a SeqIO Task: its source, and what follows."""

import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import flat_records, subtasks, task_options
from dss_jax.data.pairs.output_reading import OutputReader
from dss_jax.data.seqio.seqio_vocabularies import encode_text, to_seqio
from dss_jax.data.seqio.task_records import SPLIT_CODES, TaskRecords
from dss_jax.data.tokens import evaluation_sets
from dss_jax.datasets import metrics

# Feature name -> seqio.Feature.
OutputFeatures = Mapping[str, Any]

# The split that is being read, within DssTask.get_dataset.
_split_being_read: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "dss_jax_split_read", default=None
)
# Features of a flat record that its examples keep.
_KEPT_FIELDS = ("id", "label", "rationale", "rationale_index")


class FlatRecordSource(seqio.FunctionDataSource):
  """A SeqIO source of flat records; reads nothing until they are asked for."""

  def __init__(self, task_records: TaskRecords):
    self._task_records = task_records
    spec = datasets.get(task_records.dataset)
    # Validation is cut from the training data where there is none.
    splits = {"train", "validation", *spec.source_splits}
    super().__init__(
      dataset_fn=self._dataset,
      splits=[split for split in flat_records.SPLITS if split in splits],
    )

  @property
  def splits(self) -> Sequence[str]:
    """The splits of the dataset, or of the folder of records in its place."""
    read_options = self._task_records.read_options()
    if read_options.source != "records":
      return self._splits
    spec = datasets.get(self._task_records.dataset)
    try:
      found = datasets.source_splits(spec, read_options)
    except UserError:  # raised again when the data is asked for
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
    columns: Any = self._task_records.arrays(split)
    return tf.data.Dataset.from_tensor_slices(columns)

  def num_input_examples(self, split: str) -> int:
    """Records of the source split."""
    return len(self._task_records.records(split))


class DssTask(seqio.Task):
  """A Task whose vocabulary is the one that options name at the time.

  Attributes:
    task_records: what its source depends on.
    subtask: how its flat records become examples.
  """

  def __init__(
    self, name: str, task_records: TaskRecords, subtask: subtasks.SubTask
  ):
    self.task_records = task_records
    self.subtask = subtask
    super().__init__(
      name,
      source=FlatRecordSource(task_records),
      output_features=self.output_features,
      preprocessors=[
        seqio.CacheDatasetPlaceholder(),
        functools.partial(
          make_examples,
          task_records=task_records,
          task_name=name,
          subtask=subtask,
        ),
        seqio.preprocessors.append_eos_after_trim,
      ],
      postprocess_fn=functools.partial(
        _postprocess, dataset=task_records.dataset, subtask=subtask
      ),
      metric_fns=[_metric_fn(task_records.dataset, subtask)],
    )

  @property
  def output_features(self) -> OutputFeatures:
    name = task_options.current().vocabulary_of(self.task_records.dataset)
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
    token = _split_being_read.set(split)
    try:
      return super().get_dataset(
        sequence_length, split, use_cached, *args, **kwargs
      )
    finally:
      _split_being_read.reset(token)

  def check_cache(self, split: str) -> None:
    """Raises UserError unless the cache holds what the options ask for."""
    if not self.cache_dir:
      raise UserError(
        f"task {self.name!r} is not cached in"
        f" {', '.join(seqio.get_global_cache_dirs()) or 'any folder'}: run"
        " seqio_cache_tasks, name its folder to"
        " seqio.add_global_cache_dirs, or set use_cached to False",
        fields="DatasetConfig.use_cached",
      )
    try:
      flat_record = next(iter(cached_records(self, split)))
      found = flat_record["fingerprint"].decode()
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
      expected = self.task_records.fingerprint(split, with_data=True)
      is_same = found.partition("-")[2] == expected.partition("-")[2]
    except UserError:  # the data itself is not here, which a cache is for
      expected = self.task_records.fingerprint(split, with_data=False)
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
  if is_target and example is not None:
    wanted = example["label" if subtask.uses_label else "rationale"]
    return wanted.decode() if isinstance(wanted, bytes) else str(wanted)
  if isinstance(text, bytes):
    text = text.decode()
  current = task_options.current()
  vocabulary = vocabularies.from_name(current.vocabulary_of(dataset))
  return OutputReader.of(subtask, current.method, vocabulary).label(text)


def _metric_fn(
  dataset: str, subtask: subtasks.SubTask
) -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
  def score(targets, predictions):
    names = evaluation_sets.metric_names(dataset, subtask)
    return metrics.score(names, list(targets), list(predictions))

  return score


def make_examples(
  dataset: tf.data.Dataset,
  *,
  task_records: TaskRecords,
  task_name: str,
  subtask: subtasks.SubTask,
  output_features: OutputFeatures,
) -> tf.data.Dataset:
  """Turns flat records into the examples that the options ask for.

  The rules are those of `flat_records.make_pairs`. Examples have `inputs` and
  `targets` (ids without the end id), their texts as `*_pretokenized`, and what
  evaluation needs: id, label, rationale, record_id (the record's position in
  the split), rationale_index and weight.
  """
  method_options = task_options.current().method
  parts = {
    "inputs": subtask.input_parts(method_options),
    "targets": subtask.target_parts(method_options),
  }
  ids = functools.cache(lambda: _train_ids(task_records, task_name))
  # The split is known while a DssTask gives its dataset; a Task derived from
  # one (seqio.helpers) looks its records' split up.
  split_read = _split_being_read.get()
  splits = flat_records.SPLITS if split_read is None else (split_read,)
  rank_fns = [_rank_fn(task_records, ids, split) for split in splits]
  in_fraction = None
  if (
    subtask.uses_rationale
    and flat_records.TRAIN in splits
    and method_options.rationale_fraction < 1
  ):
    in_fraction = _in_fraction(task_records, ids(), method_options)

  def record_id(flat_record: Mapping[str, tf.Tensor]) -> tf.Tensor:
    branches = [functools.partial(fn, flat_record["record"]) for fn in rank_fns]
    if len(branches) == 1:
      return branches[0]()
    return tf.switch_case(flat_record["split"], branches)

  def is_kept(flat_record: Mapping[str, tf.Tensor]) -> tf.Tensor:
    by_rule = tf.where(
      flat_record["split"] == SPLIT_CODES[flat_records.TRAIN],
      _trains(
        flat_record,
        subtask,
        method_options,
        output_features["targets"].vocabulary,
      ),
      _evaluates(flat_record, subtask),
    )
    rank = record_id(flat_record)
    kept = (rank >= 0) & by_rule
    if in_fraction is not None:
      is_training = flat_record["split"] == SPLIT_CODES[flat_records.TRAIN]
      place = tf.where(is_training & kept, rank, 0)
      chosen = tf.gather(tf.constant(in_fraction), place)
      kept &= tf.logical_or(tf.logical_not(is_training), chosen)
    return kept

  def example(flat_record: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    made = {name: flat_record[name] for name in _KEPT_FIELDS}
    made["record_id"] = record_id(flat_record)
    is_training = flat_record["split"] == SPLIT_CODES[flat_records.TRAIN]
    if method_options.rationale_weights == "equal":
      made["weight"] = tf.constant(1.0)
    else:
      made["weight"] = tf.where(is_training, flat_record["weight"], 1.0)
    for name, feature in output_features.items():
      text = _filled(parts[name], flat_record)
      made[f"{name}_pretokenized"] = text
      made[name] = encode_text(text, feature.vocabulary)
    return made

  # Nothing here is for autograph to convert, and looking costs time.
  plain = tf.autograph.experimental.do_not_convert
  return dataset.filter(plain(is_kept)).map(
    plain(example), num_parallel_calls=tf.data.AUTOTUNE
  )


def _filled(
  parts: Sequence[subtasks.Part], flat_record: Mapping[str, tf.Tensor]
) -> tf.Tensor:
  """The text of a template for a flat record; see `subtasks.fill`."""
  return tf.strings.join(
    [flat_record[p.text] if p.is_field else tf.constant(p.text) for p in parts]
  )


def _rank_fn(
  task_records: TaskRecords, ids: Callable[[], list[str]], split: str
) -> Callable[[tf.Tensor], tf.Tensor]:
  """A function from a record's position in the source to that in the split.

  It gives -1 for records that are not in the split. `ids` are those of the
  training source, asked for only where a split is cut from it.
  """
  chosen = task_options.current().data
  spec = datasets.get(task_records.dataset)
  ranks = None
  found_splits = datasets.source_splits(spec, task_records.read_options())
  if split not in found_splits or split == flat_records.TRAIN:
    train, validation = datasets.split_positions(spec, ids(), chosen)
    positions = train if split == flat_records.TRAIN else validation
    ranks = np.full(len(ids()), -1, np.int32)
    ranks[positions] = np.arange(len(positions), dtype=np.int32)

  def rank(record: tf.Tensor) -> tf.Tensor:
    if ranks is not None:
      return tf.gather(tf.constant(ranks), record)
    limit = chosen.max_records or np.iinfo(np.int32).max
    return tf.where(record < limit, record, -1)

  return rank


def _in_fraction(
  task_records: TaskRecords,
  ids: Sequence[str],
  method_options: subtasks.MethodOptions,
) -> np.ndarray:
  """Whether the rationales of each record of the training split are used.

  `ids` are those of the training source; [records of the split] bool.
  """
  data = task_options.current().data
  spec = datasets.get(task_records.dataset)
  train, _ = datasets.split_positions(spec, list(ids), data)
  split_ids = [ids[position] for position in train]
  mask = np.zeros(len(split_ids), bool)
  mask[flat_records.with_rationales(split_ids, method_options)] = True
  return mask


def _train_ids(task_records: TaskRecords, task_name: str) -> list[str]:
  """The ids of the training source, from the data or else from a cache."""
  try:
    return [record.id for record in task_records.records(flat_records.TRAIN)]
  except UserError:
    task = seqio.TaskRegistry.get(task_name)
    if not task.cache_dir:
      raise
  found: dict[int, str] = {}
  for flat_record in cached_records(task, flat_records.TRAIN):
    found[int(flat_record["record"])] = flat_record["id"].decode()
  return [found[record] for record in sorted(found)]


def cached_records(task: seqio.Task, split: str) -> Iterator[Any]:
  source = task._get_cached_source(split)
  return source.get_dataset(split=split, shuffle=False).as_numpy_iterator()


def _trains(
  flat_record: Mapping[str, tf.Tensor],
  subtask: subtasks.SubTask,
  method_options: subtasks.MethodOptions,
  vocabulary: seqio.Vocabulary,
) -> tf.Tensor:
  """Whether a training record gives an example; see `flat_records._training_reason`."""
  has_rationale = flat_record["rationale_index"] >= 0
  has_label = flat_record["has_label"] > 0
  if method_options.unreadable_labels == "blank":
    has_label |= flat_record["unreadable"] > 0
  if not subtask.uses_rationale:
    return tf.logical_not(has_rationale) & has_label
  kept = has_rationale & (flat_record["weight"] > 0)
  kept &= flat_record["weight"] >= flat_records.least_weight(method_options)
  if subtask.uses_label:
    kept &= has_label
  if method_options.rationale_filter != "all":
    kept &= flat_record["usable"] > 0
  if method_options.rationale_filter == "agrees":
    kept &= flat_record["agrees"] > 0
  limit = method_options.max_rationale_tokens
  if limit is not None:
    kept &= tf.size(encode_text(flat_record["rationale"], vocabulary)) <= limit
  return kept


def _evaluates(
  flat_record: Mapping[str, tf.Tensor], subtask: subtasks.SubTask
) -> tf.Tensor:
  """Whether an evaluation record does; see `flat_records._evaluation_reason`."""
  if not subtask.uses_rationale:
    return (flat_record["rationale_index"] < 0) & (flat_record["has_label"] > 0)
  needed = (
    flat_record["has_label"] if subtask.uses_label else flat_record["usable"]
  )
  return (flat_record["represents"] > 0) & (needed > 0)
