"""What the loop trains on: batches packed as it goes, from files, or streamed.

All three are read by step: `data.batches[step]` is this host's rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data import pipeline
from dss_jax.data.feeding import batch_files, batches, prefetching, streaming
from dss_jax.data.packing import batch_shapes, packing_plans
from dss_jax.data.pairs import task_names, task_options
from dss_jax.data.tokens import text_checks, token_arrays
from dss_jax.datasets import extra_records

# Examples of a stream that the shape of its batches is chosen by.
_SAMPLE = 4096
# The share of positions from which on it is worth a hint.
_MUCH_PADDING = 0.15


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """What the training loop reads.

  Attributes:
    task_name: what is trained on.
    fingerprint: of its examples.
    subtask_names: in the order of `decoder_subtask_ids`, from 1.
    num_records: records of the split; None where nobody counted them.
    batches: `batches[step]` is this host's rows of the batch of a step.
    text_report: lines about what the vocabulary does not know and what is cut;
      of batches in files, `dss-jax data batches` printed them.
  """

  task_name: str
  fingerprint: str
  subtask_names: tuple[str, ...]
  num_records: int | None
  batches: batches.Batches
  text_report: Sequence[str] = ()

  @property
  def shape(self) -> packing_plans.BatchShape:
    """The one shape of all batches."""
    return self.batches.shape

  @property
  def global_shapes(self) -> dict[str, tuple[int, ...]]:
    """Feature -> [rows, length] over all hosts."""
    return {
      name: tuple(spec.shape)
      for name, spec in self.batches.feature_specs.items()
    }

  def describe(self, step: int, rows_multiple_of: int = 1) -> list[str]:
    """Describes the batches from `step` on, and what was left out of them.

    Args:
      step: the step whose padding is reported.
      rows_multiple_of: what rows were rounded up to.
    """
    packed = self.batches
    if not isinstance(packed, batches.PackedBatches):
      return list(self.text_report)  # the rest stands where they were written
    shape = self.shape
    padding = packed.packing_statistics(step)["padding"]
    hint = ""
    if rows_multiple_of > 1 and padding > _MUCH_PADDING:
      hint = (
        f" (rows are a multiple of {rows_multiple_of}, for devices and"
        " micro-batches: another records_per_batch may fill them better)"
      )
    lines = [
      f"batches: about {shape.records_per_batch} records in {shape.rows} rows of"
      f" {shape.encoder_length} + {shape.decoder_length} tokens,"
      f" {100 * padding:.0f}% padding{hint}"
    ]
    for name, reasons in packed.example_set.left_out.items():
      if reasons:
        counts = ", ".join(f"{n} {why}" for why, n in reasons.items())
        lines.append(f"sub-task {name}: left out {counts}")
    return [*lines, *self.text_report]

  def prefetch(
    self, start: int, stop: int, transform: Callable[[Any], Any]
  ) -> prefetching.Prefetcher:
    """Iterates over (step, batch), built and transformed in a thread."""
    return prefetching.Prefetcher(
      lambda step: transform(self.batches[step]), start, stop
    )


def load(
  config: pipeline.DatasetConfig,
  vocabulary: vocabularies.Vocabulary,
  *,
  seed: int,
  steps: range | None = None,
  rows_multiple_of: int = 1,
  rows_of_process: Callable[[int], batches.HostRows] = lambda rows: slice(rows),
  earlier_shape: Mapping[str, Any] | None = None,
) -> TrainingData:
  """The batches of a configuration, and what they are made of.

  Args:
    config: what to read and how to batch it.
    vocabulary: as the student's.
    seed: of the order of the data.
    steps: those that will be read; files must hold them all.
    rows_multiple_of: what the rows of a batch must be a multiple of: data
      shards times micro-batches.
    rows_of_process: rows of the global batch -> those that this host builds.
    earlier_shape: the fields of the `BatchShape` with which a run began. It is
      kept, so that the run's batches stay the same on other devices, unless
      its rows no longer divide or the configuration asks for other numbers.

  Raises:
    UserError: for missing data, or batch files of another task, vocabulary,
      seed, shape or range of steps.
  """
  if config.batch_files:
    return _from_files(
      config, vocabulary, seed, steps, rows_multiple_of, rows_of_process
    )

  if config.streaming:
    return _streamed(
      config, vocabulary, seed, rows_multiple_of, rows_of_process, earlier_shape
    )
  packed = load_packed(
    config,
    vocabulary,
    seed=seed,
    rows_multiple_of=rows_multiple_of,
    rows_of_process=rows_of_process,
    earlier_shape=earlier_shape,
  )
  examples = packed.example_set
  return TrainingData(
    examples.task_name,
    examples.fingerprint,
    tuple(subtask.name for subtask in examples.subtasks),
    examples.num_records,
    packed,
    text_report(config, vocabulary, examples),
  )


def load_packed(
  config: pipeline.DatasetConfig,
  vocabulary: vocabularies.Vocabulary,
  *,
  seed: int,
  rows_multiple_of: int = 1,
  rows_of_process: Callable[[int], batches.HostRows] = lambda rows: slice(rows),
  earlier_shape: Mapping[str, Any] | None = None,
) -> batches.PackedBatches:
  """Batches packed from the examples themselves; arguments as of `load`."""
  examples = pipeline.load_examples(config, vocabulary)
  shape = _shape(config, examples, rows_multiple_of, earlier_shape)
  return batches.PackedBatches(
    examples, shape, seed=seed, host_rows=rows_of_process(shape.rows)
  )


def text_report(
  config: pipeline.DatasetConfig,
  vocabulary: vocabularies.Vocabulary,
  examples: token_arrays.ExampleSet,
  *,
  num_seen: str = "",
) -> list[str]:
  """Lines about what the vocabulary does not know and what is cut.

  Args:
    config: what was read.
    vocabulary: as the student's.
    examples: what came of it, or a sample.
    num_seen: such as " of the first 4096 examples", where it is a sample.
  """
  task = task_names.parse_task_name(config.mixture_or_task_name)
  templates = task.method.subtasks if task else ()
  missing = text_checks.missing_in_templates(
    templates, config.method, vocabulary
  )
  if missing:
    missing.append(
      "add these characters to the vocabulary, or choose other prefixes and"
      " separators"
    )
  return [
    *_extra_records_report(config, task),
    *missing,
    *text_checks.describe(
      examples, vocabulary, config.feature_lengths(), num_seen=num_seen
    ),
  ]


def _extra_records_report(
  config: pipeline.DatasetConfig, task: task_names.TaskName | None
) -> list[str]:
  """A line about extra records, whose labels are mostly the teacher's."""
  source = config.data.extra_records
  if source is None or task is None or config.split != "train":
    return []
  counts = extra_records.count(
    datasets.load_extra_records(task.dataset, config.data), task.label_source
  )
  lines = [
    f"extra records of {source}: {counts['rows']}; labels:"
    f" {counts['gold_labels']} gold, {counts['teacher_labels']} the teacher's,"
    f" {counts['no_label']} missing"
  ]
  left_out = datasets.num_held_out_extra_records(task.dataset, config.data)
  if left_out:
    lines.append(
      f"extra records of {source}: {left_out} more are left out, whose inputs"
      " are validated or tested on"
    )
  return lines


def vocabulary_of(
  config: pipeline.DatasetConfig,
  name: str | vocabularies.Vocabulary | None = None,
) -> vocabularies.Vocabulary:
  """The vocabulary of that name, or the one that suits the task's dataset."""
  ours = task_names.parse_task_name(config.mixture_or_task_name)
  default = vocabularies.default_name(ours.dataset) if ours else "bytes"
  return vocabularies.from_name(name or default)


def _shape(
  config: pipeline.DatasetConfig,
  examples: token_arrays.ExampleSet,
  rows_multiple_of: int,
  earlier: Mapping[str, Any] | None,
) -> packing_plans.BatchShape:
  """The shape a run began with, or one that suits the examples."""
  kept = _kept_shape(config, earlier, rows_multiple_of)
  lengths: Mapping[str, int] = {}
  if config.batch_size is not None and config.records_per_batch is None:
    lengths = config.feature_lengths()  # T5X's rows
  return kept or batch_shapes.choose_batch_shape(
    examples,
    records_per_batch=config.records_per_batch,
    rows=config.batch_size,
    encoder_length=config.encoder_length or lengths.get("inputs"),
    decoder_length=config.decoder_length or lengths.get("targets"),
    rows_multiple_of=rows_multiple_of,
    pack=config.pack,
    length_multiple=config.length_multiple,
    max_row_length=config.max_row_length,
    attention_length=config.attention_length,
  )


def _asked_shape(config: pipeline.DatasetConfig) -> dict[str, Any]:
  """What a configuration demands of the batches' shape; None leaves it open."""
  return {
    "rows": config.batch_size,
    "records_per_batch": config.records_per_batch,
    "encoder_length": config.encoder_length,
    "decoder_length": config.decoder_length,
    "pack": config.pack,
  }


def _kept_shape(
  config: pipeline.DatasetConfig,
  earlier: Mapping[str, Any] | None,
  rows_multiple_of: int,
) -> packing_plans.BatchShape | None:
  """The shape a run began with, where it still fits what is asked for."""
  if earlier is None:
    return None
  same = all(
    value is None or earlier.get(name) == value
    for name, value in _asked_shape(config).items()
  )
  if not same or earlier["rows"] % rows_multiple_of:
    return None
  return packing_plans.BatchShape(**earlier)


# --- from files ----------------------------------------------------------------


def _from_files(
  config: pipeline.DatasetConfig,
  vocabulary: vocabularies.Vocabulary,
  seed: int,
  steps: range | None,
  rows_multiple_of: int,
  rows_of_process: Callable[[int], batches.HostRows],
) -> TrainingData:
  """Batches from a folder, checked against all that the run says of them."""
  folder = str(config.batch_files)
  shape = batch_files.BatchFiles(folder).shape
  found = batch_files.BatchFiles(folder, host_rows=rows_of_process(shape.rows))
  asked = {
    "task": (
      found.task_name,
      config.mixture_or_task_name,
      ("task_name.dataset", "task_name.method"),
    ),
    "split": (found.split, config.split, "DatasetConfig.split"),
    "vocabulary": (
      found.vocabulary,
      vocabulary.name,
      "TrainConfig.vocabulary",
    ),
    "seed": (found.seed, seed, "TrainConfig.random_seed"),
  } | {
    name: (
      getattr(shape, name),
      value,
      f"DatasetConfig.{'batch_size' if name == 'rows' else name}",
    )
    for name, value in _asked_shape(config).items()
  }
  for name, (value, wanted, fields) in asked.items():
    if wanted is not None and value != wanted:
      raise UserError(
        f"batch_files {folder!r} holds batches of {name} {value!r}, the run"
        f" asks for {wanted!r}: change the run, or write them again with"
        " `dss-jax data batches`",
        fields=fields,
      )
  if shape.rows % rows_multiple_of:
    raise UserError(
      f"batch_files {folder!r} holds batches of {shape.rows} rows, which"
      f" {rows_multiple_of} device shards and micro-batches do not divide:"
      f" write them with rows_multiple_of={rows_multiple_of}"
    )
  if steps and (steps[0] not in found.steps or steps[-1] not in found.steps):
    raise UserError(
      f"batch_files {folder!r} holds the batches of steps"
      f" {found.steps.start} to {found.steps.stop - 1}, the run needs"
      f" {steps[0]} to {steps[-1]}: write more, or lower total_steps",
      fields="TrainConfig.total_steps",
    )
  return TrainingData(
    found.task_name,
    found.fingerprint,
    found.subtask_names,
    found.num_records,
    found,
  )


# --- streamed ------------------------------------------------------------------


def _streamed(
  config: pipeline.DatasetConfig,
  vocabulary: vocabularies.Vocabulary,
  seed: int,
  rows_multiple_of: int,
  rows_of_process: Callable[[int], batches.HostRows],
  earlier_shape: Mapping[str, Any] | None,
) -> TrainingData:
  """Batches of the stream of a SeqIO Task or Mixture."""
  name = config.mixture_or_task_name
  pipeline.check_seqio_is_known(name)
  from dss_jax.data import seqio as seqio_data

  with task_options.using(pipeline.task_options_of(config, vocabulary)):
    stream = seqio_data.ExampleStream(
      name, config.split, seed, config.feature_lengths(), config.use_cached
    )
    pipeline.check_same_vocabulary(name, stream.vocabulary.name, vocabulary)
    if (task := task_names.parse_task_name(name)) and (
      labels := datasets.get(task.dataset).labels
    ):
      # The records themselves are too many to look at before training.
      text_checks.check_labels(labels, vocabulary)
    sample = streaming.sample(stream, _SAMPLE)
    shape = _shape(config, sample, rows_multiple_of, earlier_shape)
    rows = rows_of_process(shape.rows)
    return TrainingData(
      stream.name,
      stream.fingerprint,
      stream.subtask_names,
      None,
      streaming.StreamingBatches(stream, shape, host_rows=rows),
      text_report(
        config,
        vocabulary,
        sample,
        num_seen=f" of the first {sample.num_records} examples",
      ),
    )
