"""Evaluation by decoding: inputs in, predictions and scores out."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dss_jax import vocabularies
from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.data import pipeline
from dss_jax.models.decoding import decode_options, generation
from dss_jax.training import run_directory

PyTree = Any


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What is scored while a student trains.

  Attributes:
    tasks: registered names, or one; None takes the tasks that write labels
      among those of the training mixture (`svamp_dss` -> `svamp_label`).
    split: the split that selects the best checkpoint.
    metric: the metric that selects; None takes the first task's first one.
    max_examples: how many examples of each task; None takes all.
    loss_batches: batches of the split whose teacher-forced losses are measured
      too (T5X's EVAL_STEPS); None takes the whole split, 0 none.
    batch_size: sequences decoded together.
    decode: how to decode.
    test_split: scored once, after training, at the selected checkpoint; None
      leaves it out.
    samples: predictions of each evaluation that are shown.
  """

  tasks: Sequence[str] | str | None = None
  split: str = "validation"
  metric: str | None = None
  max_examples: int | None = None
  loss_batches: int | None = 20
  batch_size: int = 128
  decode: decode_options.DecodeOptions = dataclasses.field(
    default_factory=decode_options.DecodeOptions
  )
  test_split: str | None = "test"
  samples: int = 2

  def __post_init__(self):
    if isinstance(self.tasks, str):
      object.__setattr__(self, "tasks", (self.tasks,))
    where = "EvaluationConfig"
    checks.in_range(f"{where}.max_examples", self.max_examples, 1, or_none=True)
    checks.in_range(f"{where}.loss_batches", self.loss_batches, 0, or_none=True)
    checks.in_range(f"{where}.batch_size", self.batch_size, 1)
    checks.in_range(f"{where}.samples", self.samples, 0, whole=True)


@dataclasses.dataclass(frozen=True)
class Scores:
  """What one evaluation found.

  Attributes:
    task: the task's name.
    split: the split.
    metrics: name -> value, the most important one first.
    predictions: what eval/<task>/<step>.jsonl holds, in the data's order.
  """

  task: str
  split: str
  metrics: Mapping[str, float]
  predictions: Sequence[Mapping[str, Any]]


class Evaluator:
  """Scores a student on tasks by decoding.

  Attributes:
    generator: decodes.
    vocabulary: turns ids into text.
    tasks: what is decoded and scored.
  """

  def __init__(
    self,
    generator: generation.Generator,
    vocabulary: vocabularies.Vocabulary,
    tasks: Sequence[pipeline.EvaluationTask],
  ):
    self.generator = generator
    self.vocabulary = vocabulary
    self.tasks = list(tasks)

  def run(
    self, params: PyTree, *, progress: Callable[[str], None] | None = None
  ) -> list[Scores]:
    """Decodes and scores every task, in their order.

    Args:
      params: the student's parameters, on the generator's mesh.
      progress: called with a short text from time to time.
    """
    return [self._run_task(params, task, progress) for task in self.tasks]

  def describe(self) -> list[str]:
    """Lines about targets that the vocabulary cannot write."""
    return [line for task in self.tasks for line in task.text_report()]

  def _run_task(
    self,
    params: PyTree,
    task: pipeline.EvaluationTask,
    progress: Callable[[str], None] | None,
  ) -> Scores:
    def report(done: int) -> None:
      if progress:
        progress(f"{task.name} {task.split} {done}/{len(task)}")

    outputs, log_probs = self.generator(
      params,
      task.inputs,
      max_decode_length=generation.decode_length(task.longest_target),
      progress=report,
    )
    decoded = [self.vocabulary.decode(output) for output in outputs]
    answers = task.predictions(decoded)
    correct = task.correct(answers) or [None] * len(task)
    predictions = [
      {
        "id": task.ids[i],
        "input": task.input_texts[i],
        "target": task.targets[i],
        "prediction": answers[i],
        "correct": correct[i],
        "output": decoded[i],
        "log_prob": round(float(log_probs[i]), 5),
      }
      for i in range(len(task))
    ]
    return Scores(task.name, task.split, task.score(answers), predictions)


def write_predictions(
  folder: pathlib.Path, step: int, scores: Sequence[Scores]
) -> None:
  """Writes `<folder>/<task>/<step>.jsonl` for each task.

  For other splits than validation, the task's folder is `<task>-<split>`.
  """
  for score in scores:
    suffix = "" if score.split == "validation" else f"-{score.split}"
    run_directory.write_jsonl(
      folder / f"{score.task}{suffix}" / f"{step}.jsonl", score.predictions
    )


def flat_metrics(scores: Sequence[Scores]) -> dict[str, float]:
  """`<task>/<split>/<metric>` -> value, for metrics.jsonl and TensorBoard."""
  return {
    f"{score.task}/{score.split}/{metric}": value
    for score in scores
    for metric, value in score.metrics.items()
  }


def check_metric(
  tasks: Sequence[pipeline.EvaluationTask], metric: str | None
) -> None:
  """Raises UserError now for a metric that would be missing after training.

  The metrics of SeqIO's tasks are known only when their functions return.
  """
  names = [getattr(task, "metric_names", None) for task in tasks]
  known = list(dict.fromkeys(itertools.chain(*(n or () for n in names))))
  if metric is not None and None not in names and metric not in known:
    raise _unknown_metric(metric, known)


def _unknown_metric(metric: str, known: Sequence[str]) -> UserError:
  return UserError(
    f"metric is {metric!r}; the evaluated tasks have {', '.join(known)}",
    fields="EvaluationConfig.metric",
  )


def selection_value(scores: Sequence[Scores], metric: str | None) -> float:
  """The number that selects the best checkpoint; larger is better.

  Raises:
    UserError: where no task has the metric.
  """
  first = scores[0].metrics
  if metric is None:
    return next(iter(first.values()))
  for score in scores:
    if metric in score.metrics:
      return score.metrics[metric]
  raise _unknown_metric(metric, list(first))
