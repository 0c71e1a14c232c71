"""What is fuzzed: a parser, small valid inputs, and what it may raise."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator

from dss_jax.base.errors import UserError

FAMILIES = (
  "batches",
  "checkpoints",
  "completions",
  "expressions",
  "http",
  "prompts",
  "records",
  "released",
  "tables",
  "tokenizers",
)


@dataclasses.dataclass(frozen=True)
class Target:
  """A parser under test.

  Attributes:
    parse: takes any bytes; whatever it raises, but for `refusals`, is a fault.
    seeds: makes small inputs that it accepts.
    words: parts of inputs that random changes would hardly find.
    refusals: the errors by which it says that it does not take an input.
    max_bytes: of an input.
  """

  parse: Callable[[bytes], object]
  seeds: Callable[[], Iterable[bytes]]
  words: tuple[str, ...] = ()
  refusals: tuple[type[Exception], ...] = (UserError,)
  max_bytes: int = 4096

  def accepts(self, data: bytes) -> bool:
    """Whether the parser takes an input; raises what a fault raises."""
    try:
      self.parse(data)
    except self.refusals:
      return False
    return True


def all_targets() -> Iterator[tuple[str, Target]]:
  """The name and the target of each, as `family.name`."""
  for family in FAMILIES:
    module = importlib.import_module(f"fuzz.{family}")
    for name, target in module.TARGETS.items():
      yield f"{family}.{name}", target


def find(name: str) -> Target:
  """The target of that name; raises KeyError where there is none."""
  family, _, short = name.partition(".")
  if family not in FAMILIES:
    raise KeyError(name)
  return importlib.import_module(f"fuzz.{family}").TARGETS[short]


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
  return tempfile.TemporaryDirectory(prefix="dss-fuzz-")


def scratch(name: str) -> pathlib.Path:
  """A path for a target's file or folder, whose parent is there."""
  path = pathlib.Path(_folder().name, name)
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def text_of(data: bytes) -> str:
  """Text of any bytes; all texts that UTF-8 can hold, and no others."""
  return data.decode("utf-8", errors="replace")
