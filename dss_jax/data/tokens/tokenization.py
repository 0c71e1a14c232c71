"""From records to token arrays and evaluation sets, without TensorFlow.

    dataset name, options -> records -> pairs -> ids -> ExampleSet

The same tokens come out of SeqIO's path (`data/seqio`); a test
compares them for every task. An `ExampleSet` is kept on disk under its
fingerprint, which names the records, the sub-tasks with their options, the
vocabulary and the lengths: anything that could change a token.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import flat_records, task_names
from dss_jax.data.pairs.output_reading import OutputReader
from dss_jax.data.pairs.subtasks import MethodOptions, SubTask
from dss_jax.data.pairs.task_names import TaskName
from dss_jax.data.tokens import text_checks
from dss_jax.data.tokens.text_checks import TargetChecks
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays
from dss_jax.datasets import metrics
from dss_jax.datasets.records import Record
from dss_jax.vocabularies import Vocabulary, with_eos

# Changes when the same records and options would give other tokens.
FORMAT_VERSION = 1

FEATURES = ("inputs", "targets")


def check_feature_lengths(
  feature_lengths: Mapping[str, int] | None,
) -> dict[str, int]:
  """The lengths in tokens, end id included; missing ones are unlimited.

  Raises:
    UserError: an unknown feature or a length below 1.
  """
  lengths = dict(feature_lengths or {})
  for feature, length in lengths.items():
    if feature not in FEATURES or not isinstance(length, int) or length < 1:
      raise UserError(
        f"task_feature_lengths has {feature!r}: {length!r}; it may hold"
        " 'inputs' and 'targets', each with a number of tokens of at least 1",
        fields="DatasetConfig.task_feature_lengths",
      )
  return lengths


def records_digest(records: Iterable[Record]) -> str:
  """SHA-256 over everything of the records that can reach a token."""
  digest = hashlib.sha256()
  for record in records:
    fields = [
      record.id,
      record.input,
      record.label,
      [
        [r.text, r.label, r.source, r.weight, r.status]
        for r in record.rationales
      ],
    ]
    digest.update(json.dumps(fields).encode())
    digest.update(b"\n")
  return digest.hexdigest()


def fingerprint(
  task: TaskName,
  split: str,
  digest: str,
  vocabulary: Vocabulary,
  options: MethodOptions,
  feature_lengths: Mapping[str, int],
) -> str:
  """Identifies the tokens of a task.

  Args:
    task: dataset, method and label source.
    split: "train", "validation" or "test".
    digest: `records_digest` of the split's records.
    vocabulary: by its name, which is by content.
    options: prefixes, separators, filters and rates.
    feature_lengths: see `check_feature_lengths`.
  """
  described = {
    "version": FORMAT_VERSION,
    "task": str(task),
    "split": split,
    "records": digest,
    "metrics": list(datasets.get(task.dataset).metrics),
    "method": dataclasses.asdict(task.method),
    "label_source": task.label_source,
    "options": dataclasses.asdict(options),
    "vocabulary": vocabulary.name,
    "feature_lengths": dict(feature_lengths),
  }
  text = json.dumps(described, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def agreement(dataset: str) -> flat_records.Agrees:
  """How the dataset compares a teacher's label with the gold one."""
  metric = metrics.judging_metric(datasets.get(dataset).metrics) or "accuracy"
  return lambda gold, label: metrics.is_correct(metric, gold, label)


def _check_split(split: str) -> None:
  if split not in flat_records.SPLITS:
    raise UserError(
      f"no split {split!r}; allowed: {', '.join(flat_records.SPLITS)}."
    )


class _Examples(NamedTuple):
  """The examples of a sub-task, and what became of its texts."""

  arrays: TokenArrays
  left_out: dict[str, int]
  cut: dict[str, int]
  same_labels: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class TaskSource:
  """What a task is built from: checked arguments and loaded records."""

  task: TaskName
  split: str
  records: Sequence[Record]
  vocabulary: Vocabulary
  options: MethodOptions
  lengths: dict[str, int]

  @classmethod
  def load(
    cls,
    task_name: str,
    split: str,
    vocabulary: Vocabulary,
    data_options: datasets.DataOptions | None = None,
    method_options: MethodOptions | None = None,
    feature_lengths: Mapping[str, int] | None = None,
  ) -> "TaskSource":
    """Checks the arguments and reads the records.

    Args:
      task_name: a registered name, such as "cqa_dss".
      split: "train", "validation" or "test".
      vocabulary: turns text into ids.
      data_options: where the data lies, splits, training fraction.
      method_options: prefixes, filters, rates.
      feature_lengths: {"inputs": ..., "targets": ...} in tokens; longer ones
        are cut before their end id.

    Raises:
      UserError: a name, split, option or file that does not exist or fit.
    """
    _check_split(split)
    task = task_names.get_task(task_name)
    options = method_options or MethodOptions()
    task.method.rates(options)  # wrong rates are reported before the data
    lengths = check_feature_lengths(feature_lengths)
    records = datasets.load_split(
      task.dataset, split, options=data_options or datasets.DataOptions()
    )
    return cls(task, split, records, vocabulary, options, lengths)

  def fingerprint(self) -> str:
    """Identifies the tokens; see the function of that name."""
    return fingerprint(
      self.task,
      self.split,
      records_digest(self.records),
      self.vocabulary,
      self.options,
      self.lengths,
    )

  def pairs(
    self, subtask: SubTask, left_out: collections.Counter[str] | None = None
  ) -> list[flat_records.Pair]:
    """The pairs of one sub-task."""
    flattened = flat_records.flatten(
      self.records,
      self.split,
      agrees=agreement(self.task.dataset),
      label_source=self.task.label_source,
      rationale_source=subtask.rationale_source,
    )
    chosen = None
    if self.split == flat_records.TRAIN:
      ids = [record.id for record in self.records]
      chosen = flat_records.with_rationales(ids, self.options)
    return list(
      flat_records.make_pairs(
        flattened,
        subtask,
        self.options,
        self.split,
        self.vocabulary,
        left_out,
        None if chosen is None else frozenset(chosen),
      )
    )

  def inputs(self, pair: flat_records.Pair) -> list[int]:
    ids = self.vocabulary.encode(pair.inputs)
    return with_eos(ids, self.lengths.get("inputs"))

  def reader(self, subtask: SubTask) -> OutputReader:
    """What takes apart the outputs of a sub-task."""
    return OutputReader.of(subtask, self.options, self.vocabulary)

  def target_checks(self, subtask: SubTask) -> TargetChecks:
    """What looks at the targets of a sub-task."""
    return TargetChecks(
      subtask, self.options, self.vocabulary, self.lengths.get("targets")
    )

  def example_set(self) -> ExampleSet:
    """The token arrays, in memory.

    Raises:
      UserError: in training, a label that a student could never write, or one
        that the length of targets cuts off.
    """
    labels = datasets.get(self.task.dataset).labels
    writes_labels = any(s.uses_label for s in self.task.method.subtasks)
    if labels and writes_labels and self.split == flat_records.TRAIN:
      text_checks.check_labels(labels, self.vocabulary)
    found = [self._examples(s) for s in self.task.method.subtasks]
    return ExampleSet(
      subtasks=tuple(made.arrays for made in found),
      rates=self.task.method.rates(self.options),
      paired=self.task.method.paired,
      num_records=len(self.records),
      fingerprint=self.fingerprint(),
      vocabulary=self.vocabulary.name,
      task_name=str(self.task),
      split=self.split,
      left_out={made.arrays.name: made.left_out for made in found},
      cut={made.arrays.name: made.cut for made in found},
      same_labels=[pair for made in found for pair in made.same_labels],
    )

  def _examples(self, subtask: SubTask) -> _Examples:
    reasons: collections.Counter[str] = collections.Counter()
    pairs = self.pairs(subtask, reasons)
    checks = self.target_checks(subtask)
    inputs, targets, cut_inputs = [], [], 0
    for pair in pairs:
      ids = self.vocabulary.encode(pair.inputs)
      inputs.append(with_eos(ids, self.lengths.get("inputs")))
      cut_inputs += len(inputs[-1]) <= len(ids)
      ids = self.vocabulary.encode(pair.targets)
      targets.append(with_eos(ids, self.lengths.get("targets")))
      checks.add(pair.flat_record.label, ids)
    if self.split == flat_records.TRAIN:
      checks.check()  # what is only compared with counts as wrong
    return _Examples(
      TokenArrays.from_lists(
        subtask.name,
        inputs,
        targets,
        record_ids=[pair.record for pair in pairs],
        weights=[pair.weight for pair in pairs],
      ),
      left_out=dict(reasons),
      cut={"inputs": cut_inputs, "targets": checks.cut},
      same_labels=checks.same_labels(),
    )

  def open_or_build(self, cache_dir: str | os.PathLike[str]) -> ExampleSet:
    """Opens the token arrays in `cache_dir`, building them if needed.

    The records are read either way: their content is part of the fingerprint,
    so data that changed under an old name is never taken from the cache.
    """
    return open_or_build(
      cache_dir,
      str(self.task),
      self.split,
      self.fingerprint(),
      self.example_set,
    )


def build_examples(
  task_name: str,
  split: str,
  vocabulary: Vocabulary,
  data_options: datasets.DataOptions | None = None,
  method_options: MethodOptions | None = None,
  feature_lengths: Mapping[str, int] | None = None,
) -> ExampleSet:
  """Builds the token arrays of a task of ours, in memory.

  Takes, and raises, what `TaskSource.load` does.
  """
  source = TaskSource.load(
    task_name,
    split,
    vocabulary,
    data_options,
    method_options,
    feature_lengths,
  )
  return source.example_set()


def example_folder(
  cache_dir: str | os.PathLike[str],
  task_name: str,
  split: str,
  fingerprint: str,
) -> pathlib.Path:
  """Where the example set of this fingerprint lies in `cache_dir`."""
  # Task names may hold ":" and "#", which not every file system takes.
  name = "".join(c if c.isalnum() or c in "_." else "-" for c in task_name)
  return pathlib.Path(cache_dir) / f"{name}-{split}-{fingerprint[:16]}"


def open_or_build(
  cache_dir: str | os.PathLike[str],
  task_name: str,
  split: str,
  fingerprint: str,
  build: Callable[[], ExampleSet],
) -> ExampleSet:
  """The example set of this fingerprint in `cache_dir`, memory-mapped.

  A folder that is absent or damaged is written (again) by `build`; several
  processes may do so at once, since folders appear whole.
  """
  folder = example_folder(cache_dir, task_name, split, fingerprint)
  if folder.is_dir():
    try:
      return ExampleSet.load(folder, fingerprint=fingerprint)
    except UserError:
      pass  # half deleted or damaged: it can be made again
  build().save(folder)
  return ExampleSet.load(folder, fingerprint=fingerprint)
