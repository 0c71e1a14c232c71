"""A student as the server's backend."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dss_jax.base.errors import UserError
from dss_jax.students.predict_options import PredictOptions
from dss_jax.students.predictions import (
  PredictInput,
  Prediction,
  writes_rationale,
)
from dss_jax.students.serving.service import OUTPUTS, ModelCard

if TYPE_CHECKING:
  from dss_jax.students.predictor import Predictor
  from dss_jax.students.student import Student

_EXAMPLES = {
  "taxonli": "A poodle is in a kitchen.</s>An animal is in a room.",
}


class StudentBackend:
  """Answers with a student's predictors, one for each kind of decoding.

  A student that writes label and rationale in one text is asked once for
  both; another one is asked for what is wanted only.
  """

  def __init__(
    self,
    student: Student,
    outputs: Sequence[str],
    options: PredictOptions,
    batch_sizes: Sequence[int],
    lengths: Sequence[int] | None = None,
    say: Callable[[str], None] = lambda line: None,
  ):
    """Compiles nothing yet.

    Args:
      student: whom to ask.
      outputs: what requests may ask for, of OUTPUTS.
      options: how; its outputs do not matter.
      batch_sizes: numbers of inputs that are computed together; a call that
        has fewer takes the next larger one.
      lengths: numbers of tokens of an input; likewise. None takes the
        predictor's own.
      say: told what is being warmed up.

    Raises:
      UserError: the student cannot be asked so.
    """
    from dss_jax.students.predictor import Predictor

    self._say = say
    together = any(
      task.uses_label and writes_rationale(task) for task in student.subtasks
    )
    kinds = [tuple(outputs)] if together else [(name,) for name in outputs]
    self._predictors: dict[tuple[str, ...], Predictor] = {}
    for kind in kinds:
      asked = dataclasses.replace(options, outputs=kind)
      if "label" in outputs and "label" not in kind:
        asked = dataclasses.replace(asked, labels=None)  # of the others
      predictor = Predictor(student, asked, batch_sizes, lengths=lengths)
      if predictor.needs_rationale:
        raise UserError(
          "--model_dir: this student reads a rationale beside its input, which"
          " requests do not bring; ask it with `dss-jax infer`"
        )
      self._predictors[kind] = predictor

  def warm_up(self) -> None:
    """Compiles all that requests can ask for."""
    for kind, predictor in self._predictors.items():
      sizes = ", ".join(map(str, predictor.batch_sizes))
      lengths = ", ".join(map(str, predictor.lengths))
      self._say(
        f"warming up {' and '.join(kind)}: {sizes} inputs of {lengths} tokens"
      )
      predictor.warm_up()

  def predict(
    self, inputs: Sequence[str], outputs: tuple[str, ...]
  ) -> list[Prediction]:
    """One prediction for each input, with at least the outputs wanted."""
    asked = [PredictInput(text) for text in inputs]
    found: list[Prediction] = []
    for kind, predictor in self._predictors.items():
      if set(kind) & set(outputs):
        more = predictor.predict(asked)
        found = [_merged(*both) for both in zip(found, more)] or list(more)
    return found


def _merged(first: Prediction, second: Prediction) -> Prediction:
  """The label of one and the rationale of the other."""
  return dataclasses.replace(
    first,
    rationale=second.rationale,
    rationale_score=second.rationale_score,
    truncated=first.truncated or second.truncated,
    error=first.error or second.error,
  )


def declared_batch_sizes(max_batch: int) -> list[int]:
  """Numbers of inputs that are computed together, ascending.

  One alone is answered soon; a few do not cost what many do.
  """
  return sorted({1, max(max_batch // 4, 1), max_batch})


def offered_outputs(
  student: Student, wanted: Sequence[str] | None = None
) -> tuple[str, ...]:
  """What requests may ask a student for.

  Args:
    student: whom.
    wanted: of OUTPUTS; None for all that the student was taught.

  Raises:
    UserError: it was not taught one of those wanted.
  """
  knows = {
    "label": any(task.uses_label for task in student.subtasks),
    "rationale": any(map(writes_rationale, student.subtasks)),
  }
  offered = tuple(name for name in OUTPUTS if knows[name])
  for name in wanted or ():
    if name not in offered:
      raise UserError(
        f"--outputs has {name!r}, which this student was not taught; allowed:"
        f" {', '.join(offered)}"
      )
  return offered if wanted is None else tuple(n for n in OUTPUTS if n in wanted)


def card_of(
  student: Student, outputs: tuple[str, ...], labels: Sequence[str] | None
) -> ModelCard:
  """What is told of a student: not where on this machine it lies."""
  told = student.description
  source = pathlib.PurePath(str(told.get("source") or "student"))
  names = ("step", "task", "dataset")
  known = student.labels if labels is None else tuple(labels)
  return ModelCard(
    name=source.name or "student",
    outputs=outputs,
    labels=known,
    facts={n: told[n] for n in names if told.get(n) is not None},
    example=_EXAMPLES.get(str(told.get("dataset")), ""),
  )
