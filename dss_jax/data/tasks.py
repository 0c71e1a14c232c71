"""SeqIO Tasks and Mixtures over records and sub-tasks.

    add_dss_tasks("svamp")                                  # a known dataset
    add_dss_tasks("mine", {"train": "mine.jsonl"}, field_mapping={...})

registers `<name>_standard`, `_label`, `_rationale`, `_dss`, `_dss_paired`,
`_rationale_then_label`, `_label_then_rationale` and `_rationale_as_input`, each
also with `_teacher` appended. Sub-tasks are Tasks, `dss` and `dss_paired` are
Mixtures. They are ordinary SeqIO: T5X, `seqio.get_dataset`, converters, the
Evaluator and `seqio_cache_tasks` take them as they are.

A Task's pipeline:

    rows (data/rows.py)  <- the records of the source split, parsed
    CacheDatasetPlaceholder
    make_examples  <- splits, training fraction, rationale filter, prefixes,
                      vocabulary; "</s>" in a text becomes the end id
    append_eos_after_trim

What comes before the placeholder depends only on the call and, for the
released data, on the options that say how it is read (`data_dir`, parser);
all other options are read when a dataset is asked for, after the placeholder,
so one cache serves every fraction, filter, prefix and vocabulary. Cached rows
carry a fingerprint of the data they were made from; a cache made from other
data is refused.

SeqIO sees the two examples of a record of `dss_paired` without adjacency; our
trainer keeps them in one batch.
"""

import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from dss_jax import datasets, metrics
from dss_jax.data import (
  evaluations,
  options,
  rows,
  sources,
  subtasks,
  vocabularies,
)
from dss_jax.data.row_source import SPLIT_CODES, RowsOf
from dss_jax.errors import UserError
from dss_jax.records import RATIONALE_FIELDS

# Feature name -> seqio.Feature.
OutputFeatures = Mapping[str, Any]


def to_seqio(name: Any) -> seqio.Vocabulary:
  """SeqIO's vocabulary of the same ids; reads no file until it is used.

  Args:
    name: a vocabulary, or what `vocabularies.from_name` takes.
  """
  wrapped = getattr(name, "seqio_vocabulary", None)
  if wrapped is not None:  # another project's; see materialize.from_seqio
    return wrapped
  if isinstance(name, vocabularies.ByteVocabulary):
    name = f"bytes:{name.extra_ids}"
  elif isinstance(name, vocabularies.SentencePieceVocabulary):
    name = f"{name.path}:{name.extra_ids}"
  return _to_seqio(name)


@functools.lru_cache(maxsize=16)
def _to_seqio(name: str) -> seqio.Vocabulary:
  _, extra_ids = vocabularies.split_name(name)
  path = vocabularies.model_path(name)
  if path is None:
    return seqio.ByteVocabulary(extra_ids=extra_ids)
  return seqio.SentencePieceVocabulary(str(path), extra_ids=extra_ids)


# --- the source: rows of records ---------------------------------------------


class RowSource(seqio.FunctionDataSource):
  """A SeqIO source of rows; reads nothing until it is asked for them."""

  def __init__(self, rows_of: RowsOf):
    self._rows_of = rows_of
    spec = datasets.get(rows_of.dataset)
    # Validation is cut from the training data where there is none.
    splits = {"train", "validation", *spec.source_splits}
    super().__init__(
      dataset_fn=self._dataset,
      splits=[split for split in rows.SPLITS if split in splits],
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
      split for split in rows.SPLITS if split in found or split == "validation"
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


def tfrecord_source(
  files: Mapping[str, str],
  *,
  num_input_examples: Mapping[str, int] | None = None,
) -> seqio.TFExampleDataSource:
  """A SeqIO source of TFRecord files of records, for Tasks of one's own.

  Args:
    files: split -> file or pattern of files, as `rationales.outputs` writes
      them. Several files are read in parallel, and by Beam.
    num_input_examples: split -> number of records, for mixing rates.

  Returns:
    A source of `id`, `input`, `label` ("" where there is none) and the
    rationales' parallel lists `rationale_text`, `_label`, `_source`, `_weight`
    and `_status`, one entry a rationale.
  """
  text = tf.io.FixedLenFeature([], tf.string, default_value="")
  description: dict[str, Any] = dict.fromkeys(("id", "input", "label"), text)
  for name in RATIONALE_FIELDS:
    kind = tf.float32 if name == "weight" else tf.string
    description[f"rationale_{name}"] = tf.io.RaggedFeature(kind)
  return seqio.TFExampleDataSource(
    split_to_filepattern=dict(files),
    feature_description=description,
    num_input_examples=num_input_examples and dict(num_input_examples),
  )


# --- after the cache ---------------------------------------------------------


def make_examples(
  dataset: tf.data.Dataset,
  *,
  rows_of: RowsOf,
  task_name: str,
  subtask: subtasks.SubTask,
  output_features: OutputFeatures,
) -> tf.data.Dataset:
  """Rows -> examples of the split, fraction, filter and texts asked for.

  The rules are those of `rows.text_examples`. Examples have `inputs` and
  `targets` (ids without the end id), their texts as `*_pretokenized`, and what
  evaluation needs: id, label, rationale, record_id (the record's position in
  the split), rationale_index and weight.
  """
  method_options = options.current().method
  parts = {
    "inputs": subtask.input_parts(method_options),
    "targets": subtask.target_parts(method_options),
  }
  ids = functools.cache(lambda: _train_ids(rows_of, task_name))
  # The split is known while a DssTask gives its dataset; a Task derived from
  # one (seqio.helpers) looks its rows' split up.
  split_read = _split_read.get()
  splits = rows.SPLITS if split_read is None else (split_read,)
  rank_fns = [_rank_fn(rows_of, ids, split) for split in splits]

  def record_id(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
    branches = [functools.partial(fn, row["record"]) for fn in rank_fns]
    if len(branches) == 1:
      return branches[0]()
    return tf.switch_case(row["split"], branches)

  def is_kept(row: Mapping[str, tf.Tensor]) -> tf.Tensor:
    by_rule = tf.where(
      row["split"] == SPLIT_CODES[rows.TRAIN],
      _trains(
        row, subtask, method_options, output_features["targets"].vocabulary
      ),
      _evaluates(row, subtask),
    )
    return (record_id(row) >= 0) & by_rule

  def example(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    made = {name: row[name] for name in _KEPT_FIELDS}
    made["record_id"] = record_id(row)
    is_training = row["split"] == SPLIT_CODES[rows.TRAIN]
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
_split_read: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "dss_jax_split_read", default=None
)


def _rank_fn(
  rows_of: RowsOf, ids: Callable[[], list[str]], split: str
) -> Callable[[tf.Tensor], tf.Tensor]:
  """A function from a record's position in the source to that in the split.

  It gives -1 for records that are not in the split. `ids` are those of the
  training source, asked for only where a split is cut from it.
  """
  chosen = options.current().data
  spec = datasets.get(rows_of.dataset)
  limit = chosen.max_records or np.iinfo(np.int32).max
  ranks = None
  found_splits = datasets.source_splits(spec, rows_of.read_options())
  if split not in found_splits or split == rows.TRAIN:
    train, validation = datasets.split_positions(spec, ids(), chosen)
    positions = train if split == rows.TRAIN else validation
    ranks = np.full(len(ids()), -1, np.int32)
    ranks[positions] = np.arange(len(positions), dtype=np.int32)

  def rank(record: tf.Tensor) -> tf.Tensor:
    found = record if ranks is None else tf.gather(tf.constant(ranks), record)
    return tf.where(found < limit, found, -1)

  return rank


def _train_ids(rows_of: RowsOf, task_name: str) -> list[str]:
  """The ids of the training source, from the data or else from a cache."""
  try:
    return [record.id for record in rows_of.records(rows.TRAIN)]
  except UserError:
    task = seqio.TaskRegistry.get(task_name)
    if not task.cache_dir:
      raise
  found: dict[int, str] = {}
  for row in _cached_rows(task, rows.TRAIN):
    found[int(row["record"])] = row["id"].decode()
  return [found[record] for record in sorted(found)]


def _cached_rows(task: seqio.Task, split: str) -> Iterator[Any]:
  source = task._get_cached_source(split)
  return source.get_dataset(split=split, shuffle=False).as_numpy_iterator()


def _trains(
  row: Mapping[str, tf.Tensor],
  subtask: subtasks.SubTask,
  method_options: subtasks.MethodOptions,
  vocabulary: seqio.Vocabulary,
) -> tf.Tensor:
  """Whether a training row gives an example; see `rows._training_reason`."""
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
  """Whether an evaluation row does; see `rows._evaluation_reason`."""
  if not subtask.uses_rationale:
    return (row["rationale_index"] < 0) & (row["has_label"] > 0)
  needed = row["has_label"] if subtask.uses_label else row["usable"]
  return (row["represents"] > 0) & (needed > 0)


def encode_text(text: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.Tensor:
  """[length] int32 ids, with the end id for every "</s>" in the text."""
  eos = vocabulary.eos_id
  if type(vocabulary) is seqio.ByteVocabulary:
    # 0xff is no byte of UTF-8: it stands for the end id on the way.
    marked = tf.strings.regex_replace(text, vocabularies.EOS_TEXT, b"\xff")
    ids = vocabulary.encode_tf(marked)
    return tf.where(ids == vocabulary.encode_tf(b"\xff")[0], eos, ids)
  parts = tf.strings.split(text, vocabularies.EOS_TEXT)
  if type(vocabulary) is seqio.SentencePieceVocabulary:
    ragged = vocabulary.encode_tf(parts)
  else:
    ragged = tf.map_fn(
      vocabulary.encode_tf,
      parts,
      fn_output_signature=tf.RaggedTensorSpec([None], tf.int32),
    )
  ends = tf.fill([ragged.nrows(), 1], eos)
  return tf.concat([ragged, tf.cast(ends, tf.int32)], axis=1).flat_values[:-1]


# --- Tasks and Mixtures ------------------------------------------------------


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
    name = options.current().vocabulary_of(self.rows_of.dataset)
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
    token = _split_read.set(split)
    try:
      return super().get_dataset(
        sequence_length, split, use_cached, *args, **kwargs
      )
    finally:
      _split_read.reset(token)

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
      row = next(iter(_cached_rows(self, split)))
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
  current = options.current()
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


def _rate(task: seqio.Task, *, method: str, subtask: str) -> float:
  """A mixing rate, read from the options when a mixture is used."""
  del task
  chosen = subtasks.METHODS[method]
  names = [each.name for each in chosen.subtasks]
  return chosen.rates(options.current().method)[names.index(subtask)]


# Registered names -> what they were registered for.
_REGISTERED: dict[str, Any] = {}


def add_dss_tasks(
  name: str,
  source: sources.Source | datasets.DatasetSpec | None = None,
  *,
  field_mapping: Mapping[str, str | Sequence[str]] | None = None,
  skip_malformed: bool = False,
  metric_names: Sequence[str] = ("accuracy",),
  labels: Sequence[str] | None = None,
  vocabulary: str | None = None,
  data_options: datasets.DataOptions | None = None,
) -> tuple[str, ...]:
  """Registers all Tasks and Mixtures of a dataset, with and without TensorFlow.

  The same call again changes nothing. Nothing is read before a dataset is
  asked for.

  Args:
    name: heads the registered names.
    source: None for a dataset that dss_jax knows; else files, records or
      callables, as `sources.register_dataset` takes them.
    field_mapping: for files; record field -> key of the file.
    skip_malformed: for files; leave out malformed lines instead of stopping.
    metric_names: metrics of the label; the first decides what is correct.
    labels: all labels there are, if that is known.
    vocabulary: the vocabulary where a configuration names none.
    data_options: if given, the source is read by these options, whatever the
      configuration says (it still decides on splits and fractions).

  Returns:
    The registered names.

  Raises:
    UserError: a name that is taken or cannot be used.
  """
  sources.register_dataset(
    name,
    source,
    field_mapping=field_mapping,
    skip_malformed=skip_malformed,
    metrics=metric_names,
    labels=labels,
    vocabulary=vocabulary,
  )
  providers = _providers(name, data_options)
  missing = [each for each in providers if not _is_registered(each)]
  for provider_name in missing:
    if provider_name in _seqio_names():
      raise UserError(
        f"SeqIO already has a task or mixture named {provider_name!r};"
        f" register dataset {name!r} under another name."
      )
  for provider_name, described in providers.items():
    if provider_name in missing:
      continue
    if _REGISTERED[provider_name] != described:
      raise UserError(
        f"{provider_name!r} is already registered with other arguments of"
        " add_dss_tasks (data_options); choose another name."
      )
  for provider_name in missing:
    _add(provider_name, *providers[provider_name])
    _REGISTERED[provider_name] = providers[provider_name]
  return tuple(providers)


def _seqio_names() -> set[str]:
  return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def _is_registered(name: str) -> bool:
  """Whether we have registered `name`, and nobody has removed it since."""
  return name in _REGISTERED and name in _seqio_names()


def _providers(
  dataset: str, pinned: datasets.DataOptions | None
) -> dict[str, tuple[RowsOf, subtasks.Method | subtasks.SubTask]]:
  """Names to register -> what they are; sub-tasks come before mixtures."""
  tasks: dict[str, Any] = {}
  mixtures: dict[str, Any] = {}
  for label_source in subtasks.LABEL_SOURCES:
    for method in subtasks.METHODS.values():
      for subtask in method.subtasks:
        name = subtasks.task_name(dataset, subtask.name, label_source)
        rows_of = RowsOf(
          dataset, label_source, subtask.rationale_source, pinned
        )
        tasks[name] = (rows_of, subtask)
      if method.is_mixture:
        name = subtasks.task_name(dataset, method.name, label_source)
        mixtures[name] = (
          RowsOf(dataset, label_source, None, pinned),
          method,
        )
  return {**tasks, **mixtures}


def _add(
  name: str, rows_of: RowsOf, what: subtasks.Method | subtasks.SubTask
) -> None:
  if isinstance(what, subtasks.SubTask):
    seqio.TaskRegistry.add_provider(name, DssTask(name, rows_of, what))
    return
  seqio.MixtureRegistry.add(
    name,
    [
      (
        subtasks.task_name(rows_of.dataset, subtask.name, rows_of.label_source),
        functools.partial(_rate, method=what.name, subtask=subtask.name),
      )
      for subtask in what.subtasks
    ],
  )
