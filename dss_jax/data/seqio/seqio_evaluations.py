"""Scoring a student on the Tasks of other projects, by their own metrics."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from dss_jax.base.errors import UserError
from dss_jax.data.seqio.task_lookup import (
  find_provider,
  iter_examples,
  read_task,
  token_ids,
)
from dss_jax.data.tokens import tokenization


@dataclasses.dataclass(frozen=True)
class SeqioEvaluation:
  """What evaluation needs of a Task of another project.

  The counterpart of `evaluations.Evaluation`, with the same attributes and
  methods.

  Attributes:
    name: the Task's name.
    split: which of its splits.
    ids: the examples' positions, as text.
    input_texts: what the student reads.
    inputs: token ids of that.
    targets: the Task's targets after its postprocessor: any objects.
    longest_target: tokens of the longest output asked for, its end id included.
    task: the Task.
    features: the examples' features, for the postprocessor.
  """

  name: str
  split: str
  ids: list[str]
  input_texts: list[str]
  inputs: list[list[int]]
  targets: list[Any]
  longest_target: int
  task: Any
  features: list[Mapping[str, Any]]

  def __len__(self) -> int:
    return len(self.inputs)

  @property
  def metric_names(self) -> tuple[str, ...]:
    """Names of the metric functions that `score` calls."""
    return tuple(
      getattr(fn, "__name__", type(fn).__name__)
      for fn in self.task.predict_metric_fns
    )

  @property
  def unsupported_metrics(self) -> tuple[str, ...]:
    """Metrics of the Task that need more than predictions: not computed."""
    others = [
      *self.task.score_metric_fns,
      *self.task.predict_with_aux_metric_fns,
      *self.task._metric_objs_constructor_args,
    ]
    return tuple(getattr(fn, "__name__", type(fn).__name__) for fn in others)

  def text_report(self) -> list[str]:
    """A line about targets that hold unknown tokens, if any do."""
    unknown = self.task.output_features["targets"].vocabulary.unk_id
    lossy = [
      example
      for example in self.features
      if unknown is not None and unknown in example["targets"]
    ]
    if not lossy:
      return []
    kept = all("targets_pretokenized" in example for example in lossy)
    return [
      f"{self.name} {self.split}: {len(lossy)} of {len(self)} targets hold tokens"
      " that the vocabulary does not know; "
      + (
        "they are compared as the texts that they were"
        if kept
        else "SeqIO kept no text of them, so unknown tokens count as right"
      )
    ]

  def predictions(self, texts: Sequence[str]) -> list[Any]:
    """Decoded outputs after the Task's postprocessor."""
    return [
      self.task.postprocess_fn(text, example=example, is_target=False)
      for text, example in zip(texts, self.features, strict=True)
    ]

  def score(self, predictions: Sequence[Any]) -> dict[str, float]:
    """The Task's metrics, of `predictions` in the order of the examples."""
    scores: dict[str, float] = {}
    for metric_fn in self.task.predict_metric_fns:
      for key, value in metric_fn(self.targets, list(predictions)).items():
        if key in scores:
          raise UserError(f"two metrics of Task {self.name!r} give {key!r}.")
        value = getattr(value, "value", value)
        if np.ndim(value) == 0:  # histograms and texts are not numbers
          scores[key] = float(value)
    return scores

  def correct(self, predictions: Sequence[Any]) -> list[bool] | None:
    """None: a Task's metrics judge all predictions together."""
    del predictions
    return None


def feature_text(task: Any, example: Mapping[str, Any], feature: str) -> str:
  """A feature as text: as it was before tokenisation, if SeqIO kept that."""
  text = example.get(f"{feature}_pretokenized")
  if isinstance(text, bytes):
    return text.decode("utf-8", "replace")
  if isinstance(text, str):
    return text
  ids = [int(token) for token in example[feature]]
  return task.output_features[feature].vocabulary.decode(ids)


def seqio_evaluations(
  name: str,
  split: str,
  *,
  feature_lengths: Mapping[str, int] | None = None,
  use_cached: bool = False,
  max_examples: int | None = None,
) -> dict[str, SeqioEvaluation]:
  """The evaluations of a Task or Mixture: one per Task that has metrics.

  Args:
    name: registered with SeqIO.
    split: one of its splits.
    feature_lengths: "inputs" cuts what is read, "targets" bounds what is
      written; what is compared with is never cut.
    use_cached: read SeqIO's offline cache instead of the source.
    max_examples: only the first so many of each Task.

  Returns:
    Sub-task name -> evaluation.
  """
  lengths = tokenization.check_feature_lengths(feature_lengths)
  longest = lengths.pop("targets", None)
  return {
    leaf.name: _evaluation(
      leaf.task, split, lengths, longest, use_cached, max_examples
    )
    for leaf in find_provider(name, split).leaves
    if leaf.task.metric_objs
  }


def _evaluation(
  task: seqio.Task,
  split: str,
  lengths: Mapping[str, int],
  longest: int | None,
  use_cached: bool,
  max_examples: int | None,
) -> SeqioEvaluation:
  dataset = read_task(task, split, lengths, use_cached=use_cached)
  found = list(
    itertools.islice(iter_examples(dataset, task.name), max_examples)
  )
  return SeqioEvaluation(
    name=task.name,
    split=split,
    ids=[str(position) for position in range(len(found))],
    input_texts=[feature_text(task, example, "inputs") for example in found],
    inputs=[token_ids(example["inputs"], task).tolist() for example in found],
    targets=[
      task.postprocess_fn(
        feature_text(task, example, "targets"), example=example, is_target=True
      )
      for example in found
    ],
    longest_target=longest
    or max((len(example["targets"]) for example in found), default=1),
    task=task,
    features=found,
  )
