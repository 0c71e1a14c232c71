"""What scoring a student on a Task of SeqIO needs."""

import itertools
from collections.abc import Mapping

import seqio

from dss_jax.data.seqio.providers import find_provider
from dss_jax.data.seqio.seqio_evaluation import SeqioEvaluation, feature_text
from dss_jax.data.seqio.task_reading import iter_examples, read_task, token_ids
from dss_jax.data.tokens import examples


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
    feature_lengths: "inputs" cuts what is read; targets are never cut.
    use_cached: read SeqIO's offline cache instead of the source.
    max_examples: only the first so many of each Task.

  Returns:
    Sub-task name -> evaluation.
  """
  lengths = examples.check_feature_lengths(feature_lengths)
  lengths.pop("targets", None)
  return {
    leaf.name: _evaluation(leaf.task, split, lengths, use_cached, max_examples)
    for leaf in find_provider(name, split).leaves
    if leaf.task.metric_objs
  }


def _evaluation(
  task: seqio.Task,
  split: str,
  lengths: Mapping[str, int],
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
    longest_target=max(
      (len(example["targets"]) for example in found), default=1
    ),
    task=task,
    features=found,
  )
