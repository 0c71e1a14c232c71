"""gin's errors about a user's configuration, in one line each."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import tokenize
from collections.abc import Iterator

from dss_jax.base.errors import UserError, one_line
from dss_jax.cli import gin_registry


@contextlib.contextmanager
def told_in_a_line(binding: str = "", where: str = "") -> Iterator[None]:
  """Turns gin's errors about the user's configuration into one line each.

  Args:
    binding: what is parsed, where it is not a file.
    where: precedes the message, such as a file's name.
  """
  try:
    yield
  except UserError as error:
    # gin appends its own trace of scopes to the message: keep the first line.
    raise UserError(
      str(error).split("\n")[0], details=error.details, fields=error.fields
    ) from error
  except (
    ValueError,
    RuntimeError,
    TypeError,
    SyntaxError,
    OSError,
    tokenize.TokenError,
  ) as error:
    message = _one_line(error, binding)
    if message is None:
      raise
    raise UserError(f"{where}{message}") from error


def _one_line(error: Exception, binding: str) -> str | None:
  """What gin says of the configuration, shortened; None if it is not gin's."""
  text = str(error)
  unknown = re.search(
    r"No configurable matching (?:reference )?'@?([^'()]+)", text
  )
  if unknown:
    return _unknown_name(unknown.group(1))
  if isinstance(error, tokenize.TokenError):
    what = repr(binding) if binding else "a binding"
    return f"gin cannot read {what}: {error.args[0]}; write NAME = VALUE"
  if isinstance(error, SyntaxError) and binding:
    return f"gin cannot read {binding!r}: {error.msg} Write NAME = VALUE"
  if isinstance(error, SyntaxError):
    where = f" (line {error.lineno})" if error.lineno else ""
    reason = one_line(error.msg.split("\n")[0])
    if "malformed node" in reason:  # Python's words, with an address in them
      reason = "write numbers, quoted strings, lists, @references, %MACROS"
    return f"gin cannot read {one_line(repr(error.text))}{where}: {reason}"
  no_parameter = re.search(
    r"(?:Configurable|Class|Function) '?([\w./]+)'? doesn't have a parameter"
    r" named '([^']+)'",
    text,
  )
  if no_parameter:
    return _unknown_parameter(*no_parameter.groups())
  if "gin" in text.lower() or "configurable" in text.lower():
    return " ".join(text.split("\n")[0].split())
  return None


def _unknown_name(name: str) -> str:
  known = sorted(gin_registry.configurables)
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  allowed = " or ".join(close) or ", ".join(known)
  return f"gin binding: nothing is called {name!r}; there is {allowed}"


def _unknown_parameter(name: str, parameter: str) -> str:
  matches = [
    target
    for known, target in gin_registry.configurables.items()
    if f".{known}".endswith(f".{name}")
  ]
  known = list(inspect.signature(matches[0]).parameters) if matches else []
  close = difflib.get_close_matches(parameter, known, n=3, cutoff=0.5)
  allowed = " or ".join(close) or ", ".join(known)
  return (
    f"gin binding: {name} has no parameter {parameter!r}; there is {allowed}"
  )
