"""`dss-jax serve`: a student behind HTTP.

The web framework and JAX are imported when a student is served.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys

from dss_jax.base.errors import UserError, one_line
from dss_jax.cli import flags, run_flags
from dss_jax.cli.infer_command import read_labels
from dss_jax.students.serving.settings import TOKEN_VARIABLE, ServeSettings

EPILOG = f"""\
examples:
  dss-jax serve --model_dir=runs/taxonli_dss
  {TOKEN_VARIABLE}=$(openssl rand -hex 16) dss-jax serve \\
    --model_dir=exported/taxonli_dss --host=0.0.0.0
  curl -s http://127.0.0.1:8080/v1/predict -H 'Content-Type: application/json' \\
    -d '{{"input": "A poodle is in a kitchen.</s>An animal is in a room."}}'

A page to try the student is at http://127.0.0.1:8080/. SIGTERM and Ctrl-C
answer what was accepted, then stop; docs/serving.md says what scores mean.
"""

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@dataclasses.dataclass(frozen=True)
class AnswerFlags:
  """What is served.

  Attributes:
    outputs: what requests may ask for: label, rationale or label,rationale;
      default: all that the student was taught.
    labels: all labels there are, separated by commas, or a file with one a
      line; default: those that the student knows.
    num_best: the most alternatives that requests may ask for, found by beam
      search; more than one takes another warm-up, except for a closed set of
      labels.
    lengths: input lengths in tokens to compile, separated by commas; fewer warm
      up sooner and waste more; default: many, up to the longest input.
  """

  outputs: tuple[str, ...] | None = None
  labels: str | None = None
  lengths: str | None = None
  num_best: int = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the mode's flags."""
  flags.add_flags(
    parser, run_flags.StudentFlags, checkpoint={"metavar": "STEP"}
  )
  flags.add_flags(
    parser,
    AnswerFlags,
    title="answers",
    outputs=flags.NAMES,
    labels={"metavar": "A,B,..."},
    lengths={"metavar": "NUMBERS"},
  )
  flags.add_flags(
    parser,
    "students.serving.settings.ServeSettings",
    title="the server",
    token=None,  # never on a command line, which other users can read
    allowed_hosts={"flag": "allowed_host"},
  )
  run_flags.add_gin_flags(parser, "module")


def settings_of(args: argparse.Namespace) -> ServeSettings:
  """The settings that flags and environment ask for.

  Raises:
    UserError: for a value that is not allowed.
  """
  token = os.environ.get(TOKEN_VARIABLE) or None
  return flags.build(ServeSettings, args, token=token)


def run(args: argparse.Namespace) -> int:
  """Runs the mode until a signal stops it.

  Returns:
    The exit status: 0 after a signal, 1 when the predictor has died.

  Raises:
    UserError: for wrong flags, an address that is taken, a student that
      cannot be loaded or a package that is not installed.
  """
  settings = settings_of(args)
  missing = [p for p in _PACKAGES if importlib.util.find_spec(p) is None]
  if missing:
    raise UserError(
      f"`serve` needs {', '.join(missing)}: pip install 'dss_jax[serve]'"
    )
  labels = None if args.labels is None else read_labels(args.labels)
  lengths = _lengths(args.lengths)

  from dss_jax.students.serving import server

  with server.bind(settings) as bound:
    _say("loading the student")
    student = run_flags.open_student(args)

    from dss_jax.students.predict_options import PredictOptions
    from dss_jax.students.serving import student_backend

    options = PredictOptions(labels=labels, num_best=args.num_best)
    offered = student_backend.offered_outputs(student, args.outputs)
    backend = student_backend.StudentBackend(
      student,
      offered,
      options,
      student_backend.declared_batch_sizes(settings.max_batch),
      lengths,
      _say,
    )
    server.log_to_stderr()
    card = student_backend.card_of(student, offered, options)
    return server.serve(backend, card, settings, bound, _say)


def _lengths(value: str | None) -> list[int] | None:
  if value is None:
    return None
  lengths = [text.strip() for text in value.split(",")]
  if not all(n.isdecimal() and 0 < int(n) <= 1 << 16 for n in lengths):
    raise UserError(
      f"--lengths is {one_line(value)!r}; give whole numbers from 1 to 65536,"
      " separated by commas"
    )
  return sorted({int(length) for length in lengths})


def _say(line: str) -> None:
  print(f"dss-jax serve: {line}", flush=True, file=sys.stdout)
