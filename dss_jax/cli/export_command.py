"""`dss-jax export`: a student, checked, in the format of another program."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import TYPE_CHECKING

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.cli import flags, run_flags
from dss_jax.students.export import formats

if TYPE_CHECKING:
  from dss_jax.datasets import DataOptions
  from dss_jax.students.student import Student

EPILOG = """\
examples:
  dss-jax export --model_dir=runs/taxonli_dss --output_dir=exports/taxonli
  dss-jax export --model_dir=runs/taxonli_dss --format=ctranslate2 \\
    --quantization=int8 --check=1000 --output_dir=exports/taxonli_int8
  dss-jax export --model_dir=runs/esnli_lora --format=peft \\
    --output_dir=exports/esnli_lora --push_to_hub=me/esnli-lora

The exported student is asked test inputs of its dataset, and must answer as
the student does; otherwise nothing is written.
"""


@dataclasses.dataclass(frozen=True)
class ExportFlags:
  """What is written, and how it is checked.

  Attributes:
    format: the program's format.
    output_dir: the folder to write.
    overwrite: replace an earlier export there.
    check: ask the exported student N inputs of each sub-task, and compare; 0
      leaves it unchecked.
    push_to_hub: upload the folder to this repository of the Hugging Face hub,
      USER/NAME or ORGANISATION/NAME, which is made if it is not there: private,
      unless public is set.
    public: let everybody read the repository.
    min_agreement: share of identical labels (outputs, where there are none)
      below which nothing is written; default: 0.95; for int8 0.9, and 0.5 of
      texts.
  """

  output_dir: str
  format: str = "huggingface"
  overwrite: bool = False
  check: int = 64
  push_to_hub: str | None = None
  public: bool = False
  min_agreement: float | None = None

  def __post_init__(self):
    checks.in_range("ExportFlags.check", self.check, 0)
    if self.public and self.push_to_hub is None:
      raise UserError(
        "public is set, and nothing is uploaded: set push_to_hub too",
        fields=("public", "push_to_hub"),
      )
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
  formats.get(wanted.format, checked=wanted.check > 0)
  from dss_jax.students.export import checked_export, hub_upload

  upload = None
  if wanted.push_to_hub is not None:  # refused now, not after an hour
    upload = hub_upload.Upload(wanted.push_to_hub, public=wanted.public)
  started = time.monotonic()
  student, data = _open(args)
  agreements = checked_export.export(
    student,
    wanted.output_dir,
    wanted.format,
    options,
    count=wanted.check,
    least=wanted.min_agreement,
    data=data,
    overwrite=wanted.overwrite,
    report=_report,
  )
  for agreement in agreements:
    print(agreement)
  if not agreements:
    print("not checked (--check=0)")
  print(f"{wanted.output_dir}: {formats.FORMATS[wanted.format]}", end="")
  print(f", in {time.monotonic() - started:.0f} s")
  if upload is not None:
    print(f"uploaded: {upload.send(wanted.output_dir, _report)}")
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


def _report(text: str) -> None:
  print(f"{text} ...", file=sys.stderr, flush=True)
