"""`dss-jax export`: a student, checked, in the format of another program."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from dss_jax.base.errors import UserError
from dss_jax.cli import student_flags
from dss_jax.students.export import formats

if TYPE_CHECKING:
  from dss_jax.datasets import DataOptions
  from dss_jax.students.export.answer_checks import Agreement
  from dss_jax.students.student import Student
  from dss_jax.training.train_config import TrainConfig

EPILOG = """\
examples:
  dss-jax export --model_dir=runs/taxonli_dss --output=exports/taxonli
  dss-jax export --model_dir=runs/taxonli_dss --format=ctranslate2 \\
    --quantization=int8 --check=1000 --output=exports/taxonli_int8

The exported student is asked test inputs of its dataset, and must answer as
the student does; otherwise nothing is written.
"""

CHECKED_INPUTS = 64
# The share of identical labels (outputs, where there are none) that is asked
# for. Rounding may turn a choice between two equally probable tokens, and 8 bits
# somewhere in a long text will.
_LEAST_AGREEMENT = {"float32": 0.95, "int8": 0.9}
_LEAST_AGREEMENT_OF_INT8_TEXTS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the mode's flags."""
  student_flags.add_student_flags(parser)
  parser.add_argument(
    "--format",
    choices=formats.FORMATS,
    default="huggingface",
    help="default: %(default)s",
  )
  parser.add_argument(
    "--output", required=True, metavar="FOLDER", help="the folder to write"
  )
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace an earlier export there",
  )
  parser.add_argument(
    "--quantization",
    choices=formats.QUANTIZATIONS,
    default="float32",
    help="of the weights; int8 for ctranslate2 only; default: %(default)s",
  )
  parser.add_argument(
    "--t5x_layout",
    choices=formats.LAYOUTS,
    default="legacy",
    help="of a T5X checkpoint: msgpack and zarr, which all of T5X's tools read,"
    " or Orbax; default: %(default)s",
  )
  parser.add_argument(
    "--num_beams",
    type=int,
    default=1,
    help="width of the beam search in the exported program (stablehlo only);"
    " default: 1, greedy",
  )
  parser.add_argument(
    "--check",
    type=int,
    default=CHECKED_INPUTS,
    metavar="N",
    help="ask the exported student N inputs of each sub-task, and compare;"
    " 0 leaves it unchecked; default: %(default)s",
  )
  parser.add_argument(
    "--min_agreement",
    type=float,
    metavar="SHARE",
    help="share of identical labels (outputs, where there are none) below"
    " which nothing is written; default: 0.95; for int8 0.9, and 0.5 of texts",
  )


def run(args: argparse.Namespace, read_run: student_flags.ReadRun) -> int:
  """The mode: loads, writes beside the output, checks, publishes."""
  _check_flags(args)
  from dss_jax.students.export import folders

  folders.check_free(args.output, overwrite=args.overwrite)
  options = formats.ExportOptions(
    args.quantization, args.t5x_layout, args.num_beams
  )
  form = formats.get(args.format, checked=args.check > 0)
  started = time.monotonic()
  student, data = _open(args, read_run)
  agreements = export(
    student,
    args.output,
    args.format,
    form,
    options,
    count=args.check,
    least=args.min_agreement,
    data=data,
    overwrite=args.overwrite,
  )
  for agreement in agreements:
    print(agreement)
  if not agreements:
    print("not checked (--check=0)")
  print(f"{args.output}: {formats.FORMATS[args.format]}", end="")
  print(f", in {time.monotonic() - started:.0f} s")
  return 0


def _check_flags(args: argparse.Namespace) -> None:
  if args.check < 0:
    raise UserError(f"--check is {args.check}; give 0 or more inputs")
  least = args.min_agreement
  if least is not None and not 0 <= least <= 1:
    raise UserError(f"--min_agreement is {least}; give a share from 0 to 1")
  if args.num_beams < 1:
    raise UserError(f"--num_beams is {args.num_beams}; give at least 1")
  for flag, value, usual, where in (
    ("quantization", args.quantization, "float32", "ctranslate2"),
    ("t5x_layout", args.t5x_layout, "legacy", "t5x"),
    ("num_beams", args.num_beams, 1, "stablehlo"),
  ):
    if value != usual and args.format != where:
      raise UserError(
        f"--{flag} is {value}, which --format={args.format} does not have; it"
        f" belongs to --format={where}"
      )


def _open(
  args: argparse.Namespace, read_run: student_flags.ReadRun
) -> tuple[Student, DataOptions | None]:
  """The student, and where the data of its check are."""
  from dss_jax.datasets import DataOptions

  runs: list[TrainConfig] = []

  def read(args: argparse.Namespace) -> TrainConfig:
    runs.append(read_run(args))
    return runs[-1]

  _tell("reading the student")
  student = student_flags.open_student(args, read)
  if runs:
    return student, runs[0].train_dataset_cfg.data
  return student, DataOptions(data_dir=args.data_dir)


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
    _tell(f"writing {formats.FORMATS[name]}")
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
    _tell(f"asking {len(asked.inputs)} inputs of {asked.subtask.name}")
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


def _tell(text: str) -> None:
  print(f"{text} ...", file=sys.stderr, flush=True)
