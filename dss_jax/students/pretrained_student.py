"""A published or exported model as a student."""

from __future__ import annotations

import dataclasses
from typing import Any

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.models import abstract_params, encoder_decoder, partitioning
from dss_jax.pretrained import student_card
from dss_jax.students.student import Student
from dss_jax.training import initialization


def load_pretrained(
  path: str,
  *,
  partitioner: partitioning.Partitioner | None = None,
  vocabulary: vocabularies.Vocabulary | str | None = None,
  dtype: str = "float32",
  **changes: Any,
) -> Student:
  """Loads a model as a student.

  Args:
    path: as for `initialization.open_checkpoint`.
    partitioner: the mesh; None takes all devices.
    vocabulary: the student's, or its name; None takes the one in the folder of
      the weights.
    dtype: the type of the activations.
    **changes: further fields of the student's `T5Config`, such as
      `scan_layers`.

  Returns:
    The student, with the sub-tasks, options and lengths that the folder's
    `dss_jax.json` names. Without that file its inputs stay as they are.

  Raises:
    UserError: where there is no checkpoint, a broken one, or no vocabulary.
  """
  opened = initialization.open_checkpoint(path)
  if vocabulary is None:
    vocabulary = opened.own_vocabulary()
  if vocabulary is None:
    raise UserError(
      f"there is no vocabulary in {path!r}: put the tokenizer's files there,"
      " which are tokenizer.json or spiece.model, or for ByT5"
      " tokenizer_config.json",
      fields="load_pretrained.vocabulary",
    )
  vocabulary = vocabularies.from_name(vocabulary)
  config = dataclasses.replace(opened.config, dtype=dtype, **changes)
  model = encoder_decoder.EncoderDecoderModel(config)
  opened.check(model, vocabulary)
  partitioner = partitioner or partitioning.Partitioner()
  shardings = partitioner.param_shardings(
    abstract_params.param_shapes(model), model.param_axes()
  )
  card = student_card.read(opened.folder) or student_card.StudentCard()
  return Student(
    model=model,
    params=opened.load(model, shardings),
    vocabulary=vocabulary,
    partitioner=partitioner,
    subtasks=card.subtasks,
    options=card.options,
    feature_lengths=card.feature_lengths,
    labels=card.labels,
    description={
      "kind": opened.kind,
      "step": opened.step,
      "task": None,
      "dataset": None,
      "metric": None,
      **{name: value for name, value in card.description.items() if value},
      "source": path,
    },
  )
