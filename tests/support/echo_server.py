"""A server whose model takes a while and repeats its input, backwards.

    python tests/support/echo_server.py --port=0 --seconds=0.05

Takes settings of the server as flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time

from dss_jax.base.errors import UserError
from dss_jax.students.predictions import Alternative
from dss_jax.students.serving.jobs import Wanted
from dss_jax.students.serving.settings import ServeSettings


@dataclasses.dataclass(frozen=True)
class Echo:
  """A prediction."""

  label: str | None = None
  label_score: float | None = -0.25
  label_scores: dict[str, float] | None = None
  rationale: str | None = None
  rationale_score: float | None = None
  alternatives: tuple[Alternative, ...] = ()
  truncated: bool = False
  num_tokens: int = 4
  unknown_tokens: int = 0
  error: str | None = None


def backwards(text: str) -> str:
  """What the model says."""
  return text[::-1]


class EchoBackend:
  """Sleeps, then repeats; `calls` are the inputs of each call."""

  def __init__(self, seconds: float = 0.0, warm_up_s: float = 0.0):
    self.seconds = seconds
    self.warm_up_s = warm_up_s
    self.calls: list[list[str]] = []

  def warm_up(self) -> None:
    time.sleep(self.warm_up_s)

  def predict(self, inputs, wanted: Wanted) -> list[Echo]:
    self.calls.append(list(inputs))
    time.sleep(self.seconds)
    if any(text.startswith("poison") for text in inputs):
      raise ValueError("poisoned")
    if any(text.startswith("die") for text in inputs):
      raise SystemExit("dead")
    if any(text.startswith("short") for text in inputs):
      return []
    return [
      Echo(
        label=backwards(text),
        label_scores={"entailment": 0.9, "neutral": 0.1, backwards(text): 0.9},
        rationale=f"because {text}" if "rationale" in wanted.outputs else None,
        alternatives=tuple(
          Alternative(-0.25 - i, backwards(text))
          for i in range(wanted.num_best)
        ),
        unknown_tokens=text.count("{"),
        truncated=len(text) > 1000,
        error="it cannot be asked" if text == "refuse" else None,
      )
      for text in inputs
    ]


def main() -> int:
  from dss_jax.students.serving import server
  from dss_jax.students.serving.student_backend import ModelCard

  parser = argparse.ArgumentParser()
  parser.add_argument("--seconds", type=float, default=0.0)
  parser.add_argument("--warm_up_s", type=float, default=0.0)
  for field in dataclasses.fields(ServeSettings):
    if isinstance(field.default, (int, float, str)):
      parser.add_argument(
        f"--{field.name}", type=type(field.default), default=field.default
      )
  parser.add_argument("--token", default=None)
  parser.add_argument("--pure_python", action="store_true")
  args = vars(parser.parse_args())
  if args.pop("pure_python"):
    server.FASTEST = server.PURE_PYTHON
  backend = EchoBackend(args.pop("seconds"), args.pop("warm_up_s"))
  try:
    settings = ServeSettings(**args)
    bound = server.bind(settings)
  except UserError as error:
    print(error, file=sys.stderr)
    return 2
  server.log_to_stderr()
  say = functools.partial(print, flush=True)
  card = ModelCard(
    "echo",
    ("label", "rationale"),
    ("entailment", "neutral"),
    4,
    {"step": 3},
    "A poodle is in a kitchen.",
  )
  return server.serve(backend, card, settings, bound, say)


if __name__ == "__main__":
  sys.exit(main())
