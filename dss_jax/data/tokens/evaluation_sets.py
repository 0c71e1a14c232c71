"""What there is to score: inputs, targets and metrics, without TensorFlow."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.data.pairs import subtasks, task_names
from dss_jax.data.pairs.subtasks import MethodOptions, SubTask
from dss_jax.data.tokens.tokenization import TaskSource
from dss_jax.datasets import metrics
from dss_jax.vocabularies import Vocabulary


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
    targets: the label (of `rationale`: the rationale) as the vocabulary writes
      it, so that a student who writes every token right is right.
    longest_target: tokens of the longest whole output asked for, its end id
      included.
    metric_names: names for `metrics.score`.
    subtask: how to find the label in an output.
    options: the separators.
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
  options: MethodOptions

  def __len__(self) -> int:
    return len(self.inputs)

  def predictions(self, texts: Sequence[str]) -> list[str]:
    """The labels (or rationales) in decoded outputs, one per example."""
    return [
      subtasks.extract_label(self.subtask, text, self.options) for text in texts
    ]

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


def evaluation_target(text: str, vocabulary: Vocabulary) -> str:
  """A label (or rationale) as a student who writes every token right writes it.

  Vocabularies may not give a text back as it was (T5's drops line breaks), and
  an unknown character is unknown on both sides, as in the official code.
  """
  return vocabulary.decode(vocabulary.encode(text)).strip()


def build_evaluations(
  source: TaskSource, *, max_examples: int | None = None
) -> dict[str, Evaluation]:
  """The evaluation of each sub-task of a task of ours.

  Args:
    source: the task with its records, options and lengths, as trained with;
      the length of "inputs" cuts what is read, targets are never cut here. A
      split "train" is scored on its training targets. A mixture gives one
      evaluation per sub-task.
    max_examples: only the first so many.

  Returns:
    Sub-task name -> evaluation, in the method's order. Of `<dataset>_dss` that
    is `label` (every record with a gold label) and `rationale` (every record
    with a usable rationale).
  """
  task = source.task
  evaluations = {}
  for subtask in task.method.subtasks:
    pairs = source.pairs(subtask)[:max_examples]
    evaluations[subtask.name] = Evaluation(
      name=task_names.task_name(task.dataset, subtask.name, task.label_source),
      split=source.split,
      ids=[pair.flat_record.id for pair in pairs],
      input_texts=[pair.inputs for pair in pairs],
      inputs=[source.inputs(pair) for pair in pairs],
      targets=[
        evaluation_target(
          pair.flat_record.label
          if subtask.uses_label
          else pair.flat_record.rationale,
          source.vocabulary,
        )
        for pair in pairs
      ],
      longest_target=max(
        (len(source.targets(pair)) for pair in pairs), default=1
      ),
      metric_names=metric_names(task.dataset, subtask),
      subtask=subtask,
      options=source.options,
    )
  return evaluations
