"""Rows to examples, in TensorFlow: what a Task does after its cache."""

import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import flat_records, subtasks, task_options
from dss_jax.data.seqio.record_source import SPLIT_CODES, RowsOf
from dss_jax.data.seqio.seqio_vocabularies import encode_text

# Feature name -> seqio.Feature.
OutputFeatures = Mapping[str, Any]


def make_examples(
  dataset: tf.data.Dataset,
  *,
  rows_of: RowsOf,
  task_name: str,
  subtask: subtasks.SubTask,
  output_features: OutputFeatures,
) -> tf.data.Dataset:
  """Rows -> examples of the split, fraction, filter and texts asked for.

  The rules are those of `flat_records.text_examples`. Examples have `inputs` and
  `targets` (ids without the end id), their texts as `*_pretokenized`, and what
  evaluation needs: id, label, rationale, record_id (the record's position in
  the split), rationale_index and weight.
  """
  method_options = task_options.current().method
  parts = {
    "inputs": subtask.input_parts(method_options),
    "targets": subtask.target_parts(method_options),
  }
  ids = functools.cache(lambda: _train_ids(rows_of, task_name))
  # The split is known while a DssTask gives its dataset; a Task derived from
  # one (seqio.helpers) looks its rows' split up.
  split_read = split_being_read.get()
  splits = flat_records.SPLITS if split_read is None else (split_read,)
  rank_fns = [_rank_fn(rows_of, ids, split) for split in splits]

  def record_id(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
    branches = [functools.partial(fn, row["record"]) for fn in rank_fns]
    if len(branches) == 1:
      return branches[0]()
    return tf.switch_case(row["split"], branches)

  def is_kept(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
    by_rule = tf.where(
      row["split"] == SPLIT_CODES[flat_records.TRAIN],
      _trains(
        row, subtask, method_options, output_features["targets"].vocabulary
      ),
      _evaluates(row, subtask),
    )
    return (record_id(row) >= 0) & by_rule

  def example(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    made = {name: row[name] for name in _KEPT_FIELDS}
    made["record_id"] = record_id(row)
    is_training = row["split"] == SPLIT_CODES[flat_records.TRAIN]
    made["weight"] = tf.where(is_training, row["weight"], 1.0)
    for name, feature in output_features.items():
      text = _filled(parts[name], row)
      made[f"{name}_pretokenized"] = text
      made[name] = encode_text(text, feature.vocabulary)
    return made

  # Nothing here is for autograph to convert, and looking costs time.
  plain = tf.autograph.experimental.do_not_convert
  return dataset.filter(plain(is_kept)).map(
    plain(example), num_parallel_calls=tf.data.AUTOTUNE
  )


_KEPT_FIELDS = ("id", "label", "rationale", "rationale_index")


def _filled(
  parts: Sequence[subtasks.Part], row: Mapping[str, tf.Tensor]
) -> tf.Tensor:
  """The text of a template for a row; see `subtasks.fill`."""
  return tf.strings.join(
    [row[p.text] if p.is_field else tf.constant(p.text) for p in parts]
  )


# The split that is being read, within DssTask.get_dataset.
split_being_read: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "dss_jax_split_read", default=None
)


def _rank_fn(
  rows_of: RowsOf, ids: Callable[[], list[str]], split: str
) -> Callable[[tf.Tensor], tf.Tensor]:
  """A function from a record's position in the source to that in the split.

  It gives -1 for records that are not in the split. `ids` are those of the
  training source, asked for only where a split is cut from it.
  """
  chosen = task_options.current().data
  spec = datasets.get(rows_of.dataset)
  limit = chosen.max_records or np.iinfo(np.int32).max
  ranks = None
  found_splits = datasets.source_splits(spec, rows_of.read_options())
  if split not in found_splits or split == flat_records.TRAIN:
    train, validation = datasets.split_positions(spec, ids(), chosen)
    positions = train if split == flat_records.TRAIN else validation
    ranks = np.full(len(ids()), -1, np.int32)
    ranks[positions] = np.arange(len(positions), dtype=np.int32)

  def rank(record: tf.Tensor) -> tf.Tensor:
    found = record if ranks is None else tf.gather(tf.constant(ranks), record)
    return tf.where(found < limit, found, -1)

  return rank


def _train_ids(rows_of: RowsOf, task_name: str) -> list[str]:
  """The ids of the training source, from the data or else from a cache."""
  try:
    return [record.id for record in rows_of.records(flat_records.TRAIN)]
  except UserError:
    task = seqio.TaskRegistry.get(task_name)
    if not task.cache_dir:
      raise
  found: dict[int, str] = {}
  for row in cached_rows(task, flat_records.TRAIN):
    found[int(row["record"])] = row["id"].decode()
  return [found[record] for record in sorted(found)]


def cached_rows(task: seqio.Task, split: str) -> Iterator[Any]:
  source = task._get_cached_source(split)
  return source.get_dataset(split=split, shuffle=False).as_numpy_iterator()


def _trains(
  row: Mapping[str, tf.Tensor],
  subtask: subtasks.SubTask,
  method_options: subtasks.MethodOptions,
  vocabulary: seqio.Vocabulary,
) -> tf.Tensor:
  """Whether a training row gives an example; see `flat_records._training_reason`."""
  has_rationale = row["rationale_index"] >= 0
  if not subtask.uses_rationale:
    return tf.logical_not(has_rationale) & (row["has_label"] > 0)
  kept = has_rationale & (row["weight"] > 0)
  if subtask.uses_label:
    kept &= row["has_label"] > 0
  if method_options.rationale_filter != "all":
    kept &= row["usable"] > 0
  if method_options.rationale_filter == "agrees":
    kept &= row["agrees"] > 0
  limit = method_options.max_rationale_tokens
  if limit is not None:
    kept &= tf.size(encode_text(row["rationale"], vocabulary)) <= limit
  return kept


def _evaluates(
  row: Mapping[str, tf.Tensor], subtask: subtasks.SubTask
) -> tf.Tensor:
  """Whether an evaluation row does; see `flat_records._evaluation_reason`."""
  if not subtask.uses_rationale:
    return (row["rationale_index"] < 0) & (row["has_label"] > 0)
  needed = row["has_label"] if subtask.uses_label else row["usable"]
  return (row["represents"] > 0) & (needed > 0)
