"""A trained student with all that predicting needs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks, task_names
from dss_jax.data.pairs.subtasks import MethodOptions, SubTask
from dss_jax.datasets import metrics
from dss_jax.models import encoder_decoder, partitioning
from dss_jax.pretrained import student_card
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training import lora_runs, train_config

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Student:
  """A model with its parameters, its vocabulary and what it was trained to do.

  Attributes:
    model: the network and its sizes.
    params: nested dict of float32 arrays under T5X's paths, on the
      partitioner's mesh.
    vocabulary: turns text into token ids and back.
    partitioner: the mesh.
    subtasks: what it can be asked to do; sub-tasks with labels come first. A
      model about which nothing is known has one sub-task that passes its input
      on unchanged.
    options: prefixes and separators, as in training.
    feature_lengths: longest `inputs` and `targets` in tokens, end id included;
      longer inputs are cut as in training. A missing key means no limit.
    labels: the closed set of labels; None for free text.
    description: where the student comes from, as JSON values: `source`, `step`,
      `task`, `dataset`, `metric`, ...
  """

  model: encoder_decoder.EncoderDecoderModel
  params: PyTree
  vocabulary: vocabularies.Vocabulary
  partitioner: partitioning.Partitioner = dataclasses.field(
    default_factory=partitioning.Partitioner
  )
  subtasks: tuple[SubTask, ...] = (subtasks.STANDARD,)
  options: MethodOptions = dataclasses.field(default_factory=MethodOptions)
  feature_lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  labels: tuple[str, ...] | None = None
  description: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def subtask(self, name: str) -> SubTask:
    """The sub-task of that name.

    Raises:
      UserError: if there is none; the message names all sub-tasks.
    """
    for subtask in self.subtasks:
      if subtask.name == name:
        return subtask
    raise UserError(
      f"this student was not taught the sub-task {name!r}; it knows"
      f" {', '.join(subtask.name for subtask in self.subtasks)}"
    )

  def input_text(
    self, subtask: SubTask, text: str, rationale: str | None = None
  ) -> str:
    """The text that the student reads for an input, prefix included.

    Args:
      subtask: what it is asked to do.
      text: a record's input.
      rationale: a record's rationale, if the sub-task reads it.

    Raises:
      UserError: if the sub-task reads a rationale and there is none.
    """
    fields = {"input": text}
    if rationale is not None:
      fields["rationale"] = rationale
    try:
      return subtasks.fill(subtask.input_parts(self.options), fields)
    except KeyError as error:
      raise UserError(
        f"the sub-task {subtask.name!r} reads a {error.args[0]} next to the"
        " input; there is none"
      ) from None

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, end id included, cut as in training."""
    return vocabularies.with_eos(
      self.vocabulary.encode(text), self.feature_lengths.get("inputs")
    )

  def card(self) -> student_card.StudentCard:
    """What `dss_jax.json` says about it, next to exported weights.

    The SentencePiece model is named `student_card.MODEL_FILE` there.
    """
    is_bytes = isinstance(self.vocabulary, vocabularies.ByteVocabulary)
    return student_card.StudentCard(
      subtasks=self.subtasks,
      options=self.options,
      feature_lengths={
        side: self.feature_lengths[side]
        for side in student_card.SIDES
        if side in self.feature_lengths
      },
      labels=self.labels,
      vocabulary_file=None if is_bytes else student_card.MODEL_FILE,
      extra_ids=self.vocabulary.extra_ids,
      added_tokens=getattr(self.vocabulary, "added_tokens", ()),
      description={
        key: _public(self.description[key])
        for key in student_card.DESCRIPTION
        if self.description.get(key) is not None
      },
    )


def _public(value: Any) -> Any:
  """A folder's name in place of its path, which would name the exporter."""
  if isinstance(value, str) and os.path.isdir(value):
    return os.path.basename(os.path.abspath(value))
  return value


def load_params(
  config: train_config.TrainConfig, checkpoint: str | int = "best"
) -> tuple[int, PyTree]:
  """The parameters of a run's checkpoint, on the run's mesh.

  Adapters (LoRA) are merged into the kernels of their base.

  Args:
    config: the run; its `model_dir` holds the checkpoint.
    checkpoint: `best` (by validation), `latest` or a step.

  Returns:
    The checkpoint's step and the parameters.

  Raises:
    UserError: for a checkpoint that is missing, damaged or of another model, or
      whose base model is missing or changed.
  """
  with checkpoints_lib.Checkpoints(config.model_dir, read_only=True) as saved:
    step = saved.resolve_step(checkpoint)
    base = lora_runs.open_base(config, saved, step)
    return step, lora_runs.restore_student(config, saved, step, base)


def load_run(
  config: train_config.TrainConfig, checkpoint: str | int = "best"
) -> Student:
  """The student that a run has trained; takes the arguments of `load_params`."""
  vocabulary = vocabularies.from_name(config.vocabulary)
  train_config.check_vocabulary(vocabulary, config.model)
  step, params = load_params(config, checkpoint)
  dataset = config.train_dataset_cfg
  name = dataset.mixture_or_task_name
  task = task_names.parse_task_name(name)
  trained = task.method.subtasks if task else (subtasks.STANDARD,)
  spec = datasets.get(task.dataset) if task else None
  return Student(
    model=config.model,
    params=params,
    vocabulary=vocabulary,
    partitioner=config.partitioner,
    # The label's come first, in whatever order they were trained.
    subtasks=tuple(sorted(trained, key=lambda subtask: not subtask.uses_label)),
    options=dataset.method,
    feature_lengths=dataset.feature_lengths(),
    labels=spec.labels if spec else None,
    description={
      "source": config.model_dir,
      "step": step,
      "task": name,
      "dataset": spec.name if spec else None,
      "metric": metrics.judging_metric(spec.metrics) if spec else None,
    },
  )
