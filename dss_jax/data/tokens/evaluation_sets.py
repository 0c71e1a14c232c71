"""What there is to score: inputs, targets and metrics, without TensorFlow."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.data.pairs import task_names
from dss_jax.data.pairs.output_reading import OutputReader
from dss_jax.data.pairs.subtasks import SubTask
from dss_jax.data.tokens import text_checks
from dss_jax.data.tokens.tokenization import TaskSource
from dss_jax.datasets import metrics


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What evaluation needs of one sub-task: inputs, targets, how to score.

  `data.seqio.SeqioEvaluation` has the same attributes and methods for Tasks
  of other projects.

  Attributes:
    name: the Task's registered name, such as "cqa_label".
    split: "validation" or "test" (or "train").
    ids: the records' ids, one per example.
    input_texts: what the student reads.
    inputs: token ids of that, end id included.
    targets: the label (of `rationale`: the rationale) as the user wrote it.
    longest_target: tokens of the longest output asked for, its end id included;
      as `dss-jax infer` asks for it.
    metric_names: names for `metrics.score`.
    subtask: the sub-task.
    reader: finds the label in an output.
    never_right: how many targets no output can equal, for the vocabulary or the
      length of targets; they count as wrong.
  """

  name: str
  split: str
  ids: list[str]
  input_texts: list[str]
  inputs: list[list[int]]
  targets: list[str]
  longest_target: int
  metric_names: tuple[str, ...]
  subtask: SubTask
  reader: OutputReader
  never_right: int = 0

  def __len__(self) -> int:
    return len(self.inputs)

  def text_report(self) -> list[str]:
    """A line about targets that no output can equal, if there are any."""
    if not self.never_right:
      return []
    return [
      f"{self.name} {self.split}: {self.never_right} of {len(self)} targets cannot"
      " be written with this vocabulary and length of targets; they count as"
      " wrong"
    ]

  def predictions(self, texts: Sequence[str]) -> list[str]:
    """The labels (or rationales) in decoded outputs, one per example."""
    return [self.reader.label(text) for text in texts]

  def score(self, predictions: Sequence[Any]) -> dict[str, float]:
    """Metrics by name, of `predictions` in the order of the examples."""
    return metrics.score(self.metric_names, self.targets, list(predictions))

  def correct(self, predictions: Sequence[Any]) -> list[bool] | None:
    """Which predictions are right; None if no metric says so of each."""
    metric = metrics.judging_metric(self.metric_names)
    if metric is None:
      return None
    return [
      metrics.is_correct(metric, target, prediction)
      for target, prediction in zip(self.targets, predictions, strict=True)
    ]


RATIONALE_METRICS = ("bleu", "rouge1", "rouge2", "rougeL")


def metric_names(dataset: str, subtask: SubTask) -> tuple[str, ...]:
  """Metrics of a sub-task: the dataset's for labels, overlap for rationales."""
  if subtask.uses_label:
    return tuple(datasets.get(dataset).metrics)
  return RATIONALE_METRICS


def build_evaluations(
  source: TaskSource, *, max_examples: int | None = None
) -> dict[str, Evaluation]:
  """The evaluation of each sub-task of a task of ours.

  Args:
    source: the task with its records, options and lengths, as trained with;
      the length of "inputs" cuts what is read, that of "targets" bounds what
      is written; what is compared with is never cut. A split "train" is scored on its training targets. A mixture gives one
      evaluation per sub-task.
    max_examples: only the first so many.

  Returns:
    Sub-task name -> evaluation, in the method's order. Of `<dataset>_dss` that
    is `label` (every record with a gold label) and `rationale` (every record
    with a usable rationale).
  """
  return {
    subtask.name: _evaluation(source, subtask, max_examples)
    for subtask in source.task.method.subtasks
  }


def _evaluation(
  source: TaskSource, subtask: SubTask, max_examples: int | None
) -> Evaluation:
  task = source.task
  pairs = source.pairs(subtask)[:max_examples]
  checks = source.target_checks(subtask)
  for pair in pairs:
    checks.add(pair.flat_record.label, source.vocabulary.encode(pair.targets))
  longest = text_checks.longest_output(
    subtask,
    source.options,
    datasets.get(task.dataset).labels,
    source.lengths.get("targets"),
    source.vocabulary,
  )
  return Evaluation(
    name=task_names.task_name(task.dataset, subtask.name, task.label_source),
    split=source.split,
    ids=[pair.flat_record.id for pair in pairs],
    input_texts=[pair.inputs for pair in pairs],
    inputs=[source.inputs(pair) for pair in pairs],
    targets=[
      pair.flat_record.label
      if subtask.uses_label
      else pair.flat_record.rationale
      for pair in pairs
    ],
    longest_target=longest or max(checks.longest, 1),
    metric_names=metric_names(task.dataset, subtask),
    subtask=subtask,
    reader=source.reader(subtask),
    never_right=checks.num_lost,
  )
