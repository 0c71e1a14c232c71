"""`dss-jax serve`: a student behind HTTP.

The web framework and JAX are imported when a student is served.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from dss_jax.base.errors import UserError, one_line
from dss_jax.cli import student_flags
from dss_jax.cli.infer import read_labels
from dss_jax.students.serving.settings import TOKEN_VARIABLE, ServeSettings

if TYPE_CHECKING:
  from dss_jax.students.student import Student

EPILOG = f"""\
examples:
  dss-jax serve --model_dir=runs/taxonli_dss
  {TOKEN_VARIABLE}=$(openssl rand -hex 16) dss-jax serve \\
    --model_dir=exported/taxonli_dss --host=0.0.0.0
  curl -s http://127.0.0.1:8080/v1/predict -H 'Content-Type: application/json' \\
    -d '{{"input": "A poodle is in a kitchen.</s>An animal is in a room."}}'

A page to try the student is at http://127.0.0.1:8080/. SIGTERM and Ctrl-C
answer what was accepted, then stop.
"""

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")

# Flag -> what it says; types and defaults are those of the settings.
_ADDRESS_FLAGS = {
  "host": f"address to listen on; others than the loopback need {TOKEN_VARIABLE}",
  "port": "0 takes any free one and says which",
}
_BATCHING_FLAGS = {
  "max_batch": "most inputs computed together",
  "max_wait_ms": "how long the first input of a batch waits for others",
  "max_queue": "most inputs that wait; beyond, requests are answered 429",
  "timeout_s": "within which a request is answered, else 504",
}
_LIMIT_FLAGS = {
  "max_input_chars": "characters of one input",
  "max_items": "inputs of one request",
  "max_body_bytes": "bytes of one request",
  "max_connections": "connections open at a time; further ones are closed",
  "read_timeout_s": "within which a request must have come",
  "keep_alive_s": "after which an idle connection is closed",
  "drain_s": "how long accepted requests may take after a signal to stop",
  "stuck_after_s": "after which a batch that still runs makes /healthz fail",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the mode's flags."""
  student_flags.add_student_flags(parser)
  group = parser.add_argument_group("answers")
  group.add_argument(
    "--outputs",
    metavar="NAMES",
    help="what requests may ask for: label, rationale or label,rationale;"
    " default: all that the student was taught",
  )
  group.add_argument(
    "--labels",
    metavar="A,B,...",
    help="all labels there are, or a file with one a line; default: those that"
    " the student knows",
  )
  group.add_argument(
    "--lengths",
    metavar="NUMBERS",
    help="row lengths in tokens to compile, separated by commas; fewer warm up"
    " sooner and waste more; default: many, up to the longest input",
  )
  _add_flags(parser.add_argument_group("address"), _ADDRESS_FLAGS)
  parser.add_argument(
    "--allowed_host",
    action="append",
    default=[],
    metavar="NAME",
    help="a further name by which clients address the server, as behind a"
    " proxy; repeat it",
  )
  _add_flags(parser.add_argument_group("batching"), _BATCHING_FLAGS)
  _add_flags(parser.add_argument_group("limits"), _LIMIT_FLAGS)
  parser.add_argument(
    "--access_log",
    action="store_true",
    help="write a line for each request to standard error; never its texts",
  )


def _add_flags(group: argparse._ArgumentGroup, flags: dict[str, str]) -> None:
  for name, told in flags.items():
    default = getattr(ServeSettings, name)
    group.add_argument(
      f"--{name}",
      type=type(default),
      default=default,
      metavar={int: "N", float: "X"}.get(type(default), name.upper()),
      help=f"{told}; default: %(default)s",
    )


def settings_of(args: argparse.Namespace) -> ServeSettings:
  """The settings that flags and environment ask for.

  Raises:
    UserError: naming the flag.
  """
  names = (*_ADDRESS_FLAGS, *_BATCHING_FLAGS, *_LIMIT_FLAGS)
  return ServeSettings(
    **{name: getattr(args, name) for name in names},
    token=os.environ.get(TOKEN_VARIABLE) or None,
    allowed_hosts=tuple(args.allowed_host),
    access_log=args.access_log,
  )


def run(
  args: argparse.Namespace,
  open_student: Callable[[argparse.Namespace], Student],
) -> int:
  """Runs the mode until a signal stops it.

  Args:
    args: with what `add_arguments` declares.
    open_student: loads the student that they name.

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
  outputs = _names(args.outputs)
  labels = None if args.labels is None else read_labels(args.labels)
  lengths = _lengths(args.lengths)

  from dss_jax.students.serving import server

  with server.bind(settings) as bound:
    _say("loading the student")
    student = open_student(args)

    from dss_jax.students.predict_options import PredictOptions
    from dss_jax.students.serving import student_backend

    offered = student_backend.offered_outputs(student, outputs)
    backend = student_backend.StudentBackend(
      student,
      offered,
      PredictOptions(labels=labels),
      student_backend.declared_batch_sizes(settings.max_batch),
      lengths,
      _say,
    )
    server.log_to_stderr()
    card = student_backend.card_of(student, offered, labels)
    return server.serve(backend, card, settings, bound, _say)


def _names(value: str | None) -> tuple[str, ...] | None:
  if value is None:
    return None
  return tuple(name.strip() for name in value.split(","))


def _lengths(value: str | None) -> list[int] | None:
  names = _names(value)
  if names is None:
    return None
  if not all(n.isdecimal() and 0 < int(n) <= 1 << 16 for n in names):
    raise UserError(
      f"--lengths is {one_line(value)!r}; give whole numbers from 1 to 65536,"
      " separated by commas"
    )
  return sorted({int(name) for name in names})


def _say(line: str) -> None:
  print(f"dss-jax serve: {line}", flush=True, file=sys.stdout)
