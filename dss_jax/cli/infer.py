"""`dss-jax infer`: rows in, predictions out."""

from __future__ import annotations

import argparse
import collections
import pathlib
from typing import TYPE_CHECKING

from dss_jax.base.errors import UserError
from dss_jax.cli import student_flags

if TYPE_CHECKING:
  from dss_jax.students.predict_options import PredictOptions

_EPILOG = """\
examples:
  dss-jax infer --model_dir=runs/taxonli_dss --input=new.jsonl --output=answers.jsonl
  dss-jax infer --model_dir=runs/taxonli_dss --input=new.csv \\
    --field_mapping input=question label=answer --output=answers.parquet \\
    --outputs=label,rationale
  echo 'some squares are red.</s>no square is red.' | dss-jax infer \\
    --model_dir=runs/taxonli_dss --input_format=text

A run that was stopped goes on when it is started again with the same flags.
Rows that bring a label are scored.
"""

# Windows of more rows would gain nothing.
MAX_WINDOW = 1 << 20
MAX_LABELS_BYTES = 16 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the mode's flags."""
  parser.epilog = _EPILOG
  student_flags.add_student_flags(parser)
  _add_file_flags(parser.add_argument_group("files"))
  _add_output_flags(parser.add_argument_group("what to predict, and how"))
  group = parser.add_argument_group("speed")
  group.add_argument(
    "--batch_size",
    type=int,
    default=128,
    metavar="N",
    help="inputs decoded together; default: %(default)s",
  )
  group.add_argument(
    "--window",
    type=int,
    default=4096,
    metavar="N",
    help="rows that are sorted by length, decoded and written together;"
    " default: %(default)s",
  )


def _add_file_flags(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    "--input",
    default="-",
    metavar="FILE",
    help=".jsonl, .json, .csv, .tsv, .parquet, .txt, or - for standard input"
    " (default)",
  )
  group.add_argument(
    "--input_format",
    choices=("jsonl", "csv", "tsv", "parquet", "text"),
    help="where the file's name does not say it; text: an input a line",
  )
  group.add_argument(
    "--field_mapping",
    nargs="+",
    default=[],
    metavar="FIELD=KEY",
    help="which key holds a field: input=question label=answer;"
    " 'input={premise}</s>{hypothesis}' joins keys",
  )
  group.add_argument(
    "--limit", type=int, metavar="N", help="only the first N rows"
  )
  group.add_argument(
    "--output",
    default="-",
    metavar="FILE",
    help=".jsonl, .csv, .tsv, .parquet, or - for standard output (default)",
  )
  group.add_argument(
    "--no_input",
    action="store_true",
    help="do not repeat the inputs in the output",
  )
  group.add_argument(
    "--overwrite",
    action="store_true",
    help="begin anew, whatever is there",
  )


def _add_output_flags(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    "--outputs",
    default="label",
    metavar="NAMES",
    help="label (default), rationale, or label,rationale",
  )
  group.add_argument(
    "--num_best",
    type=int,
    default=1,
    metavar="N",
    help="tell of the N best outputs, found by beam search",
  )
  group.add_argument(
    "--num_beams",
    type=int,
    metavar="N",
    help="search with N beams; default: take the likeliest token each time",
  )
  group.add_argument(
    "--labels",
    metavar="A,B,...",
    help="predict one of these only; or a file with one a line",
  )
  group.add_argument(
    "--constrain",
    choices=("auto", "on", "off"),
    default="auto",
    help="whether only known labels can be predicted; auto (default): where"
    " the dataset has a closed set of them and nothing is written beside them",
  )
  group.add_argument(
    "--samples",
    type=int,
    default=0,
    metavar="N",
    help="sample N texts that reason, and take the label most of them name",
  )
  group.add_argument(
    "--temperature", type=float, metavar="T", help="of sampling; default: 1"
  )
  group.add_argument(
    "--topk", type=int, metavar="K", help="sample among K tokens; default: all"
  )
  group.add_argument(
    "--topp",
    type=float,
    metavar="P",
    help="sample among the likeliest tokens that hold this probability",
  )
  group.add_argument("--seed", type=int, default=0, help="of sampling")
  group.add_argument(
    "--max_input_length",
    type=int,
    metavar="TOKENS",
    help="cut longer inputs; default: as in training",
  )
  group.add_argument(
    "--max_output_length",
    type=int,
    metavar="TOKENS",
    help="default: a quarter more than in training",
  )


def run(
  args: argparse.Namespace, open_student: student_flags.OpenStudent
) -> int:
  """The mode.

  Args:
    args: the flags.
    open_student: see `loading`.

  Raises:
    UserError: for wrong flags or files.
  """
  _check(args)

  from dss_jax.cli.data import field_mapping
  from dss_jax.datasets.records import FieldMapping
  from dss_jax.students.bulk import input_records, prediction_files

  kind = input_records.format_of(args.input, args.input_format)
  mapping = FieldMapping.parse(field_mapping(args))
  prediction_files.check_path(args.output, args.input)
  options = _options(args)
  student = open_student(args)

  from dss_jax.students.bulk import bulk_inference
  from dss_jax.students.predictor import Predictor

  source = bulk_inference.Source(
    args.input, kind, mapping, args.limit, args.window
  )
  # What comes alone from a pipe need not be answered in a full batch.
  size = args.batch_size if source.is_pipe else [args.batch_size]
  return bulk_inference.infer(
    Predictor(student, options, size),
    source,
    bulk_inference.Target(args.output, args.overwrite, not args.no_input),
  )


def _check(args: argparse.Namespace) -> None:
  """Raises UserError for flags that are wrong in themselves."""
  for name, least, most in (
    ("batch_size", 1, 1 << 16),
    ("window", 1, MAX_WINDOW),
    ("limit", 1, None),
    ("num_beams", 1, 64),
    ("max_output_length", 1, 1 << 16),
    ("temperature", 0, None),
    ("topk", 0, None),
    ("topp", 0, 1),
  ):
    value = getattr(args, name)
    if value is None:
      continue
    if not (value >= least and (most is None or value <= most)):  # or NaN
      kind = "whole numbers" if isinstance(value, int) else "numbers"
      bounds = f"from {least}" + (f" to {most}" if most else "")
      raise UserError(f"--{name} is {value}; allowed: {kind} {bounds}")
  if args.input != "-" and not pathlib.Path(args.input).exists():
    raise UserError(f"--input: no such file: {args.input}")
  sampling = ("temperature", "topk", "topp")
  given = [name for name in sampling if getattr(args, name) is not None]
  if given and not args.samples:
    raise UserError(f"--{given[0]} is for --samples")


def _options(args: argparse.Namespace) -> PredictOptions:
  from dss_jax.models.decoding.generation import DecodeOptions
  from dss_jax.students.predict_options import PredictOptions

  fields = {
    "num_beams": args.num_beams,
    "temperature": args.temperature,
    "topk": args.topk,
    "topp": args.topp,
    "max_length": args.max_output_length,
  }
  decode = DecodeOptions(
    strategy="beam" if args.num_beams else "greedy",
    **{name: value for name, value in fields.items() if value is not None},
  )
  return PredictOptions(
    outputs=tuple(
      dict.fromkeys(name.strip() for name in args.outputs.split(","))
    ),
    decode=decode,
    num_best=args.num_best,
    samples=args.samples,
    labels=None if args.labels is None else read_labels(args.labels),
    constrain={"auto": None, "on": True, "off": False}[args.constrain],
    max_input_length=args.max_input_length,
    seed=args.seed,
  )


def read_labels(value: str) -> tuple[str, ...]:
  """The labels that `--labels` lists, or that the file it names has.

  Raises:
    UserError: there are none, or one is there twice.
  """
  labels = value.split(",")
  path = pathlib.Path(value)
  if "," not in value and path.is_file():
    if path.stat().st_size > MAX_LABELS_BYTES:
      raise UserError(
        f"--labels: {value} has more than {MAX_LABELS_BYTES} bytes"
      )
    try:
      labels = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
      raise UserError(
        f"--labels: {value} is not valid UTF-8 (byte {error.start})"
      ) from None
  labels = [label.strip() for label in labels if label.strip()]
  if not labels:
    raise UserError(f"--labels is {value!r}; it names no label")
  for label, times in collections.Counter(labels).items():
    if times > 1:
      raise UserError(f"--labels has {label!r} twice")
  return tuple(labels)
