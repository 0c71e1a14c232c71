"""`dss-jax export`: a student, checked, in the format of another program."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import TYPE_CHECKING

from dss_jax.base import checks
from dss_jax.cli import flags, run_flags
from dss_jax.students.export import formats

if TYPE_CHECKING:
  from dss_jax.datasets import DataOptions
  from dss_jax.students.export.answer_checks import Agreement
  from dss_jax.students.student import Student

EPILOG = """\
examples:
  dss-jax export --model_dir=runs/taxonli_dss --output_dir=exports/taxonli
  dss-jax export --model_dir=runs/taxonli_dss --format=ctranslate2 \\
    --quantization=int8 --check=1000 --output_dir=exports/taxonli_int8

The exported student is asked test inputs of its dataset, and must answer as
the student does; otherwise nothing is written.
"""

# The share of identical labels (outputs, where there are none) that is asked
# for. Rounding may turn a choice between two equally probable tokens, and 8 bits
# somewhere in a long text will.
_LEAST_AGREEMENT = {"float32": 0.95, "int8": 0.9}
_LEAST_AGREEMENT_OF_INT8_TEXTS = 0.5


@dataclasses.dataclass(frozen=True)
class ExportFlags:
  """What is written, and how it is checked.

  Attributes:
    format: the program's format.
    output_dir: the folder to write.
    overwrite: replace an earlier export there.
    check: ask the exported student N inputs of each sub-task, and compare; 0
      leaves it unchecked.
    min_agreement: share of identical labels (outputs, where there are none)
      below which nothing is written; default: 0.95; for int8 0.9, and 0.5 of
      texts.
  """

  output_dir: str
  format: str = "huggingface"
  overwrite: bool = False
  check: int = 64
  min_agreement: float | None = None

  def __post_init__(self):
    checks.in_range("ExportFlags.check", self.check, 0)
    checks.in_range(
      "ExportFlags.min_agreement", self.min_agreement, 0, 1, or_none=True
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  flags.add_flags(
    parser, run_flags.StudentFlags, checkpoint={"metavar": "STEP"}
  )
  flags.add_flags(
    parser,
    ExportFlags,
    title="the exported student",
    format={"choices": formats.FORMATS, "metavar": None},
  )
  flags.add_flags(
    parser,
    "students.export.formats.ExportOptions",
    title="options of some formats",
    quantization={"choices": formats.QUANTIZATIONS, "metavar": None},
    t5x_layout={"choices": formats.LAYOUTS, "metavar": None},
  )
  run_flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
  """Runs the mode: loads, writes a new folder, checks it and publishes it."""
  wanted = flags.build(ExportFlags, args)
  options = flags.build(formats.ExportOptions, args)
  options.check_format(wanted.format)
  from dss_jax.students.export import folders

  folders.check_free(wanted.output_dir, overwrite=wanted.overwrite)
  form = formats.get(wanted.format, checked=wanted.check > 0)
  started = time.monotonic()
  student, data = _open(args)
  agreements = export(
    student,
    wanted.output_dir,
    wanted.format,
    form,
    options,
    count=wanted.check,
    least=wanted.min_agreement,
    data=data,
    overwrite=wanted.overwrite,
  )
  for agreement in agreements:
    print(agreement)
  if not agreements:
    print("not checked (--check=0)")
  print(f"{wanted.output_dir}: {formats.FORMATS[wanted.format]}", end="")
  print(f", in {time.monotonic() - started:.0f} s")
  return 0


def _open(args: argparse.Namespace) -> tuple[Student, DataOptions]:
  """The student, and the options of the data that it is checked with."""
  from dss_jax.datasets import DataOptions

  _report("reading the student")
  if not run_flags.is_run(args.model_dir):
    return run_flags.open_student(args), DataOptions(data_dir=args.data_dir)
  from dss_jax.students import student

  config = run_flags.read_run(args)
  loaded = student.load_run(config, args.checkpoint or "best")
  return loaded, config.train_dataset_cfg.data


def export(
  student: Student,
  output: str,
  name: str,
  form: formats.Format,
  options: formats.ExportOptions,
  *,
  count: int,
  least: float | None = None,
  data: DataOptions | None = None,
  overwrite: bool = False,
) -> list[Agreement]:
  """Writes a student in a format, and checks it before it is there.

  Args:
    student: what to export.
    output: the folder.
    name: of the format.
    form: the format.
    options: what else there is to choose.
    count: inputs of each sub-task that the result is asked; 0 for no check.
    least: share that must agree; None takes the quantization's.
    data: where the dataset's records come from.
    overwrite: whether an earlier export is replaced.

  Returns:
    What the check found, for each sub-task.

  Raises:
    UserError: where the result does not answer as the student does, or the
      student cannot be exported so.
    StorageError: for a disk that is full or fails.
  """
  from dss_jax.base.atomic_files import write_atomically
  from dss_jax.pretrained import student_card
  from dss_jax.students.export import answer_checks, folders, model_card
  from dss_jax.training import train_config

  train_config.check_vocabulary(student.vocabulary, student.model)
  answer_checks.check_finite(student)
  with folders.new_folder(output, overwrite=overwrite) as folder:
    _report(f"writing {formats.FORMATS[name]}")
    form.write(student, folder, options)
    student_card.write(folder, student.card())
    agreements = []
    if count:
      agreements = _check(student, folder, form, options, count, least, data)
    card = model_card.Export(
      title=model_card.title(output),
      format=formats.FORMATS[name],
      usage=form.usage(student, options),
      agreements=agreements,
      library_name="transformers" if name == "huggingface" else None,
    )
    write_atomically(folder / model_card.FILE, model_card.render(student, card))
  return agreements


def _check(
  student, folder, form, options, count, least, data
) -> list[Agreement]:
  from dss_jax.students.export import answer_checks, tokenizer_files

  ours = answer_checks.student_answers(
    student, options.num_beams, own_dtype=form.OWN_DTYPE
  )
  theirs = form.answers(student, folder, options)
  longest = answer_checks.output_tokens(student)
  agreements = []
  for asked in answer_checks.questions(student, count, data):
    if form.HAS_TOKENIZER and asked.evaluation is not None:
      tokenizer_files.check(student, folder, asked.evaluation.input_texts)
    _report(f"asking {len(asked.inputs)} inputs of {asked.subtask.name}")
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
  """The share that must agree where the flags do not say."""
  if options.quantization == "int8" and agreement.labels is None:
    return _LEAST_AGREEMENT_OF_INT8_TEXTS
  return _LEAST_AGREEMENT[options.quantization]


def _report(text: str) -> None:
  print(f"{text} ...", file=sys.stderr, flush=True)
