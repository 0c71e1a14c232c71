"""The texts that a student is asked to write, and what finds each of them."""

from __future__ import annotations

import dataclasses

from dss_jax.base.errors import UserError
from dss_jax.data.pairs.output_reading import OutputReader
from dss_jax.data.pairs.subtasks import SubTask
from dss_jax.data.tokens import text_checks
from dss_jax.models.decoding import generation
from dss_jax.students import text_generators
from dss_jax.students.predict_options import PredictOptions
from dss_jax.students.student import Student
from dss_jax.students.text_generators import (
  FreeTextGenerator,
  LabelSet,
  TextGenerator,
)

# Tokens of the longest target of a student whose training lengths are not
# known: what answers seldom exceed.
DEFAULT_MAX_TARGET = 128


@dataclasses.dataclass(frozen=True)
class Query:
  """One text that the student writes for each input.

  Attributes:
    subtask: the sub-task whose text it is.
    reader: takes the text apart.
    generator: finds the text.
    label: whether its label is wanted.
    rationale: whether its rationale is wanted.
    is_closed: whether it is one of a closed set of labels.
  """

  subtask: SubTask
  reader: OutputReader
  generator: TextGenerator
  label: bool
  rationale: bool
  is_closed: bool


def make(
  student: Student, options: PredictOptions, batch_size: int
) -> list[Query]:
  """The texts to ask for: a single one if it holds all outputs.

  Args:
    student: the student that is asked.
    options: what it is asked for, and how texts are found.
    batch_size: the most inputs answered together.

  Raises:
    UserError: for options that the student cannot serve.
  """
  label = _writer(student, "label") if "label" in options.outputs else None
  rationale = None
  if "rationale" in options.outputs:
    rationale = _writer(student, "rationale", first=label)
  if options.samples and not (label and label.writes_rationale):
    raise UserError(
      f"samples is {options.samples}; votes are on labels of texts that"
      " reason first, and this student writes its labels alone: set it to 0",
      fields="PredictOptions.samples",
    )
  wanted = [subtask for subtask in (label, rationale) if subtask]
  closed = _closed_set(student, options, label)
  return [
    Query(
      subtask,
      OutputReader.of(subtask, student.options, student.vocabulary),
      _generator(
        student,
        options,
        subtask,
        closed if subtask is label else None,
        batch_size,
      ),
      label=subtask is label,
      rationale=subtask is rationale,
      is_closed=closed is not None and subtask is label,
    )
    for subtask in dict.fromkeys(wanted)
  ]


def _closed_set(
  student: Student, options: PredictOptions, label: SubTask | None
) -> LabelSet | None:
  """The labels that can be predicted; None if any text can be.

  Raises:
    UserError: if a closed set was asked for that this student cannot have.
  """
  known = options.labels or student.labels
  asked = options.constrain or options.labels is not None
  if options.constrain is False or not (asked or known):
    return None
  if label is None or label.writes_rationale:
    if not asked:
      return None
    reason = (
      "outputs does not have label"
      if label is None
      else "this student writes a rationale in the same text"
    )
    raise UserError(
      "labels and constrain are for labels that are written alone, but"
      f" {reason}",
      fields=[
        f"PredictOptions.{name}" for name in ("labels", "constrain", "outputs")
      ],
    )
  if known is None:
    raise UserError(
      "constrain is on, which needs labels: the student's dataset has no"
      " closed set of labels",
      fields=("PredictOptions.constrain", "PredictOptions.labels"),
    )
  return LabelSet(student, known)


def _writer(
  student: Student, output: str, first: SubTask | None = None
) -> SubTask:
  """The sub-task whose text holds an output; `first`, if its text does."""
  for subtask in (first, *student.subtasks):
    if subtask is not None and (
      subtask.uses_label if output == "label" else subtask.writes_rationale
    ):
      return subtask
  raise UserError(
    f"outputs has {output!r}, which this student was not taught to write; its"
    f" sub-tasks are {', '.join(s.name for s in student.subtasks)}",
    fields="PredictOptions.outputs",
  )


def _generator(
  student: Student,
  options: PredictOptions,
  subtask: SubTask,
  closed: LabelSet | None,
  batch_size: int,
) -> TextGenerator:
  if closed:
    return text_generators.label_generator(
      student, closed, num_best=options.num_best, batch_size=batch_size
    )
  decode = options.decode
  if options.samples:
    decode = dataclasses.replace(
      decode,
      strategy="sample",
      num_return=options.samples,
      rescale_log_probs=False,
    )
  elif options.num_best > 1:
    decode = dataclasses.replace(
      decode,
      strategy="beam",
      num_beams=max(decode.num_beams, options.num_best),
      num_return=options.num_best,
    )
  return FreeTextGenerator(
    student,
    decode,
    _max_output(student, options, subtask),
    batch_size=batch_size,
  )


def _max_output(
  student: Student, options: PredictOptions, subtask: SubTask
) -> int:
  """Longest output in tokens, end id included."""
  if options.decode.max_length is not None:
    return options.decode.max_length
  longest = text_checks.longest_output(
    subtask,
    student.options,
    student.labels,
    student.feature_lengths.get("targets"),
    student.vocabulary,
  )
  return generation.decode_length(longest or DEFAULT_MAX_TARGET)
