"""A student as the server's backend, and what the server says about it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dss_jax.base.errors import UserError
from dss_jax.students.predict_options import OUTPUTS, PredictOptions
from dss_jax.students.predictions import (
  PredictInput,
  Prediction,
)
from dss_jax.students.serving.jobs import Wanted

if TYPE_CHECKING:
  from dss_jax.students.predictor import Predictor
  from dss_jax.students.student import Student

_EXAMPLES = {
  "taxonli": "A poodle is in a kitchen.</s>An animal is in a room.",
}


@dataclasses.dataclass(frozen=True)
class ModelCard:
  """What the server says about its model.

  Attributes:
    name: a few words.
    outputs: what requests may ask for, a part of OUTPUTS.
    labels: the closed set of labels; None for free text.
    num_best: the most alternatives that requests may ask for.
    facts: further JSON values, such as the step and the dataset.
    example: an input to try.
  """

  name: str
  outputs: tuple[str, ...] = ("label",)
  labels: tuple[str, ...] | None = None
  num_best: int = 1
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  example: str = ""

  def to_dict(self) -> dict[str, Any]:
    return {"name": self.name, **self.facts}


class StudentBackend:
  """Answers with a student's predictors, one for each kind of text.

  A student that writes label and rationale in one text is always asked for
  both; any other student is asked only for what is wanted.
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
      student: the student.
      outputs: what requests may ask for, a part of OUTPUTS.
      options: how answers are found; its outputs do not matter.
      batch_sizes: numbers of inputs that are computed together; a call takes
        the smallest that holds it.
      lengths: lengths in tokens that inputs are padded to; None takes the
        predictor's default.
      say: called with a line about what is being warmed up.

    Raises:
      UserError: if the student cannot be asked in this way.
    """
    from dss_jax.students.predictor import Predictor

    self._say = say
    together = any(
      task.uses_label and task.writes_rationale for task in student.subtasks
    )
    kinds = [tuple(outputs)] if together else [(name,) for name in outputs]
    # Kinds of text, each with its predictors: for one text, and for several.
    self._predictors: dict[tuple[str, ...], tuple[Predictor, Predictor]] = {}
    for kind in kinds:
      asked = dataclasses.replace(options, outputs=kind)
      if "label" in outputs and "label" not in kind:
        asked = dataclasses.replace(asked, labels=None)  # for the other kind
      several = single = Predictor(student, asked, batch_sizes, lengths=lengths)
      # A student that scores all labels has their order at no cost.
      if asked.num_best > 1 and not several.is_exhaustive:
        asked = dataclasses.replace(asked, num_best=1)
        single = Predictor(student, asked, batch_sizes, lengths=lengths)
      if single.needs_rationale:
        raise UserError(
          "this student reads a rationale next to its input, which requests do"
          " not bring; ask it with `dss-jax infer`",
          fields="model_dir",
        )
      self._predictors[kind] = single, several

  def warm_up(self) -> None:
    """Compiles everything that requests can ask for.

    Raises:
      UserError: if the student's answers are not numbers.
    """
    for kind, predictors in self._predictors.items():
      for predictor in dict.fromkeys(predictors):
        sizes = ", ".join(map(str, predictor.batch_sizes))
        lengths = ", ".join(map(str, predictor.lengths))
        best = predictor.options.num_best
        what = " and ".join(kind) + (f", {best} best" if best > 1 else "")
        self._say(f"warming up {what}: {sizes} inputs of {lengths} tokens")
        predictor.warm_up()
        _ask(predictor, [PredictInput("a")])

  def predict(self, inputs: Sequence[str], wanted: Wanted) -> list[Prediction]:
    """Returns one prediction for each input, with at least what is wanted.

    Raises:
      UserError: if the student's answers are not numbers.
    """
    items = [PredictInput(text) for text in inputs]
    found: list[Prediction] = []
    for kind, (single, several) in self._predictors.items():
      if set(kind) & set(wanted.outputs):
        predictor = several if wanted.num_best > 1 else single
        kept = wanted.num_best if wanted.num_best > 1 else 0
        more = [
          dataclasses.replace(answer, alternatives=answer.alternatives[:kept])
          for answer in _ask(predictor, items)
        ]
        found = [_merged(*both) for both in zip(found, more)] or more
    return found


def _ask(
  predictor: Predictor, items: Sequence[PredictInput]
) -> list[Prediction]:
  """The predictor's answers.

  Raises:
    UserError: where no answer is the student's fault, and not the input's.
  """
  answers = predictor.predict(items)
  for item, answer in zip(items, answers, strict=True):
    if answer.error and item.problem() is None:
      raise UserError(answer.error, fields="checkpoint")
  return answers


def _merged(first: Prediction, second: Prediction) -> Prediction:
  """The label of the first prediction and the rationale of the second."""
  return dataclasses.replace(
    first,
    rationale=second.rationale,
    rationale_score=second.rationale_score,
    alternatives=(*first.alternatives, *second.alternatives),
    truncated=first.truncated or second.truncated,
    num_tokens=max(first.num_tokens, second.num_tokens),
    unknown_tokens=max(first.unknown_tokens, second.unknown_tokens),
    error=first.error or second.error,
  )


def declared_batch_sizes(max_batch: int) -> list[int]:
  """Numbers of inputs that are computed together, ascending.

  A single input is answered soon; a few do not cost as much as many.
  """
  return sorted({1, max(max_batch // 4, 1), max_batch})


def offered_outputs(
  student: Student, wanted: Sequence[str] | None = None
) -> tuple[str, ...]:
  """What requests may ask a student for.

  Args:
    student: the student.
    wanted: a part of OUTPUTS; None for all that the student was taught.

  Raises:
    UserError: if the student was not taught one of the wanted outputs.
  """
  writes = {
    "label": any(task.uses_label for task in student.subtasks),
    "rationale": any(s.writes_rationale for s in student.subtasks),
  }
  offered = tuple(name for name in OUTPUTS if writes[name])
  for name in wanted or ():
    if name not in offered:
      raise UserError(
        f"outputs has {name!r}, which this student was not taught; it must be"
        f" among {', '.join(offered)}",
        fields="outputs",
      )
  return offered if wanted is None else tuple(n for n in OUTPUTS if n in wanted)


def card_of(
  student: Student, outputs: tuple[str, ...], options: PredictOptions
) -> ModelCard:
  """What the server says about a student: not where its files are."""
  description = student.description
  source = pathlib.PurePath(str(description.get("source") or "student"))
  names = ("step", "task", "dataset")
  return ModelCard(
    name=source.name or "student",
    outputs=outputs,
    labels=student.labels if options.labels is None else options.labels,
    num_best=options.num_best,
    facts={n: description[n] for n in names if description.get(n) is not None},
    example=_EXAMPLES.get(str(description.get("dataset")), ""),
  )
