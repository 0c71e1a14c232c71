"""`dss-jax infer`: let a student answer the lines of a file or a pipe."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.cli import flags, run_flags
from dss_jax.cli.data_flags import parse_field_mapping

if TYPE_CHECKING:
  from dss_jax.students.predict_options import PredictOptions

EPILOG = """\
examples:
  dss-jax infer --model_dir=runs/taxonli_dss --input=new.jsonl --output=answers.jsonl
  dss-jax infer --model_dir=runs/taxonli_dss --input=new.csv \\
    --field_mapping input=question label=answer --output=answers.parquet \\
    --outputs=label,rationale
  echo 'some squares are red.</s>no square is red.' | dss-jax infer \\
    --model_dir=runs/taxonli_dss --input_format=text

A run that was stopped resumes when it is started again with the same flags.
Lines that bring a label are scored.
"""

# Larger windows would gain nothing.
MAX_WINDOW = 1 << 20
MAX_LABELS_BYTES = 16 << 20
MAX_TIMED = 10_000

# Only flags that were given are set, so that they can be distinguished from
# defaults.
_GIVEN = {"default": argparse.SUPPRESS}


@dataclasses.dataclass(frozen=True)
class FileFlags:
  """What is read and written.

  Attributes:
    input: .jsonl, .ndjson, .json, .csv, .tsv (packed too: .gz, .bz2, .zst),
      .parquet, .txt, or - for standard input.
    input_format: of a file whose name does not say it; text: an input a line.
    field_mapping: which key holds a field: input=question label=answer;
      'input={premise}</s>{hypothesis}' joins keys.
    limit: only the first N lines.
    output: .jsonl, .csv, .tsv, .parquet, or - for standard output.
    no_input: do not repeat the inputs in the output.
    overwrite: begin anew, whatever is there.
  """

  input: str = "-"
  input_format: str | None = None
  field_mapping: tuple[str, ...] = ()
  limit: int | None = None
  output: str = "-"
  no_input: bool = False
  overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class SearchFlags:
  """What is predicted beyond `PredictOptions`.

  Attributes:
    num_beams: search with N beams; default: take the likeliest token each time.
    labels: predict one of these only, separated by commas; or a file with one a
      line.
    constrain: whether only known labels can be predicted; auto: where the
      dataset has a closed set of them and the student writes nothing else.
  """

  num_beams: int | None = None
  labels: str | None = None
  constrain: str = "auto"


@dataclasses.dataclass(frozen=True)
class SpeedFlags:
  """How many inputs are answered at a time.

  Attributes:
    batch_size: inputs decoded together.
    window: lines that are sorted by length, decoded and written together.
    time_requests: ask the first N inputs once more, one at a time, and note in
      OUTPUT.infer.json how long a request takes that comes alone.
  """

  batch_size: int = 128
  window: int = 4096
  time_requests: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  flags.add_flags(
    parser, run_flags.StudentFlags, checkpoint={"metavar": "STEP"}
  )
  flags.add_flags(
    parser,
    FileFlags,
    title="files",
    input_format={"choices": ("jsonl", "csv", "tsv", "parquet", "text")},
    field_mapping={"metavar": "FIELD=KEY"},
  )
  title = "what to predict, and how"
  flags.add_flags(
    parser,
    "students.predict_options.PredictOptions",
    *("outputs", "num_best", "samples", "max_input_length", "seed"),
    title=title,
    outputs=flags.NAMES,
  )
  flags.add_flags(
    parser,
    SearchFlags,
    title=title,
    labels={"metavar": "A,B,..."},
    constrain={"choices": ("auto", "on", "off")},
  )
  flags.add_flags(
    parser,
    "models.decoding.decode_options.DecodeOptions",
    *("temperature", "topk", "topp", "max_length"),
    title=title,
    temperature=_GIVEN,
    topk=_GIVEN | {"flag": "top_k"},
    topp=_GIVEN | {"flag": "top_p"},
    max_length=_GIVEN | {"flag": "max_output_length"},
  )
  flags.add_flags(parser, SpeedFlags, title="speed")
  run_flags.add_gin_flags(parser, "module")


def run(args: argparse.Namespace) -> int:
  """Runs the mode.

  Raises:
    UserError: for wrong flags or files.
  """
  files = flags.build(FileFlags, args)
  speed = flags.build(SpeedFlags, args)
  _check(args)

  from dss_jax.datasets.records import FieldMapping
  from dss_jax.students.bulk import input_records, prediction_files

  kind = input_records.format_of(files.input, files.input_format)
  mapping = FieldMapping.parse(parse_field_mapping(files.field_mapping))
  prediction_files.check_path(files.output, files.input)
  options = _options(args)
  student = run_flags.open_student(args)

  from dss_jax.students.bulk import bulk_inference
  from dss_jax.students.predictor import Predictor

  source = bulk_inference.Source(
    files.input, kind, mapping, files.limit, speed.window
  )
  # A line that arrives alone in a pipe need not be answered in a full batch.
  size = speed.batch_size if source.is_pipe else [speed.batch_size]
  return bulk_inference.infer(
    Predictor(student, options, size),
    source,
    bulk_inference.Target(
      files.output,
      files.overwrite,
      not files.no_input,
      speed.time_requests,
    ),
  )


def _check(args: argparse.Namespace) -> None:
  """Raises UserError for flags that are wrong in themselves."""
  checks.in_range("SpeedFlags.batch_size", args.batch_size, 1, 1 << 16)
  checks.in_range("SpeedFlags.window", args.window, 1, MAX_WINDOW)
  checks.in_range("SpeedFlags.time_requests", args.time_requests, 0, MAX_TIMED)
  checks.in_range("FileFlags.limit", args.limit, 1, or_none=True)
  checks.in_range("SearchFlags.num_beams", args.num_beams, 1, 64, or_none=True)
  checks.in_range(
    "DecodeOptions.max_length",
    getattr(args, "max_output_length", None),
    1,
    1 << 16,
    or_none=True,
  )
  if args.input != "-" and not pathlib.Path(args.input).exists():
    raise UserError(f"--input: no such file: {args.input}")
  for name in ("temperature", "top_k", "top_p"):
    if hasattr(args, name) and not args.samples:
      raise UserError(f"--{name} is for --samples")


def _options(args: argparse.Namespace) -> PredictOptions:
  from dss_jax.models.decoding.decode_options import DecodeOptions
  from dss_jax.students.predict_options import PredictOptions

  search = flags.build(SearchFlags, args)
  beam = {"strategy": "beam", "num_beams": search.num_beams}
  return flags.build(
    PredictOptions,
    args,
    outputs=tuple(dict.fromkeys(args.outputs)),
    decode=flags.build(
      DecodeOptions, args, **(beam if search.num_beams else {})
    ),
    labels=None if search.labels is None else read_labels(search.labels),
    constrain={"auto": None, "on": True, "off": False}[search.constrain],
  )


def read_labels(value: str) -> tuple[str, ...]:
  """The labels that `--labels` lists, or those in the file that it names.

  Raises:
    UserError: there is no label, or one occurs twice.
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
