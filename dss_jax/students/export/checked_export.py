"""An export from start to end: written, checked, and only then in its place."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from dss_jax.base import file_checksums
from dss_jax.base.atomic_files import write_atomically
from dss_jax.datasets import DataOptions
from dss_jax.pretrained import student_card
from dss_jax.students.export import (
  answer_checks,
  folders,
  formats,
  model_card,
  tokenizer_files,
)
from dss_jax.students.export.answer_checks import Agreement
from dss_jax.students.student import Student
from dss_jax.training import train_config

# The share of identical labels (outputs, where there are none) that is asked
# for. Rounding may turn a choice between two equally probable tokens, and 8 bits
# somewhere in a long text will.
_LEAST_AGREEMENT = {"float32": 0.95, "int8": 0.9}
_LEAST_AGREEMENT_OF_INT8_TEXTS = 0.5
# What the hub calls the library that reads a format.
_LIBRARIES = {"huggingface": "transformers", "peft": "peft"}


def export(
  student: Student,
  output: str,
  name: str,
  options: formats.ExportOptions | None = None,
  *,
  count: int,
  least: float | None = None,
  data: DataOptions | None = None,
  overwrite: bool = False,
  report: Callable[[str], None] = lambda _: None,
) -> list[Agreement]:
  """Writes a student in a format, and checks it before it is there.

  Args:
    student: what to export.
    output: the folder.
    name: of the format, as `dss-jax export --format` takes it: "huggingface".
    options: what else there is to choose.
    count: inputs of each sub-task that the result is asked; 0 for no check.
    least: share that must agree; None takes the quantization's.
    data: where the dataset's records come from.
    overwrite: whether an earlier export is replaced.
    report: is called with what is being done, in words.

  Returns:
    What the check found, for each sub-task.

  Raises:
    UserError: where the result does not answer as the student does, or the
      student cannot be exported so.
    StorageError: for a disk that is full or fails.
  """
  options = options or formats.ExportOptions()
  form = formats.get(name, checked=count > 0)
  train_config.check_vocabulary(student.vocabulary, student.model)
  answer_checks.check_finite(student)
  with folders.new_folder(output, overwrite=overwrite) as folder:
    report(f"writing {formats.FORMATS[name]}")
    form.write(student, folder, options)
    student_card.write(folder, student.card())
    agreements = []
    if count:
      report(f"asking {count} inputs of each sub-task")
      asked = answer_checks.questions(student, count, data)
      agreements = _check(student, folder, form, options, asked, least)
    # Of all but the card, which is for people and may be edited.
    file_checksums.write(folder, top=True)
    card = model_card.Export(
      title=model_card.title(output),
      format=formats.FORMATS[name],
      usage=form.usage(student, options),
      agreements=agreements,
      library_name=_LIBRARIES.get(name),
    )
    write_atomically(folder / model_card.FILE, model_card.render(student, card))
  return agreements


def _check(
  student: Student,
  folder: pathlib.Path,
  form: formats.Format,
  options: formats.ExportOptions,
  questions: list[answer_checks.Questions],
  least: float | None,
) -> list[Agreement]:
  ours = answer_checks.student_answers(
    student, options.num_beams, own_dtype=form.OWN_DTYPE
  )
  theirs = form.answers(student, folder, options)
  longest = answer_checks.output_tokens(student)
  agreements = []
  for asked in questions:
    if form.HAS_TOKENIZER and asked.evaluation is not None:
      tokenizer_files.check(student, folder, asked.evaluation.input_texts)
    agreement = answer_checks.compare(
      student,
      asked,
      ours(asked.inputs, longest),
      theirs(asked.inputs, longest),
    )
    answer_checks.check(
      agreement,
      least=_least(options, agreement) if least is None else least,
      exact=options.quantization == "float32",
      longest=longest,
    )
    agreements.append(agreement)
  return agreements


def _least(options: formats.ExportOptions, agreement: Agreement) -> float:
  """The share that must agree where nobody says."""
  if options.quantization == "int8" and agreement.labels is None:
    return _LEAST_AGREEMENT_OF_INT8_TEXTS
  return _LEAST_AGREEMENT[options.quantization]
