"""What is wrong with a gin configuration, in one line each.

A parsed configuration is checked before anything is built from it.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import tokenize
from collections.abc import Iterable, Iterator
from typing import Any

import gin
import gin.config

from dss_jax.base import value_types
from dss_jax.base.errors import UserError, one_line
from dss_jax.cli import gin_registry, gin_statements, t5x_dialect
from dss_jax.cli.gin_registry import (
  CONSTANT,
  MACRO,
  PACKAGED_FOLDER,
  is_reference,
  is_reference_to,
)

# ------------------------------------------------- parsed configurations


def check_types() -> None:
  """Raises UserError where a plain value is not of its parameter's type."""
  for (_, selector), bindings in gin.config._CONFIG.items():
    target = gin_registry.configurables.get(selector)
    hints = value_types.parameter_types(target) if target else {}
    for parameter, bound in bindings.items():
      value, name = _follow_macros(bound)
      hint = hints.get(parameter, Any)
      if value_types.matches(value, hint, is_reference):
        continue
      binding = f"{selector}.{parameter}"
      allowed = value_types.describe(hint)
      shown = one_line(repr(value))
      raise UserError(
        f"{name} is {shown}; {binding} must be {allowed}"
        if name
        else f"{binding} is {shown}; it must be {allowed}"
      )


def _follow_macros(value: Any) -> tuple[Any, str | None]:
  """What a binding ends at, and the last macro on the way there.

  Raises:
    UserError: where macros stand for each other in a circle.
  """
  names: list[str] = []
  while is_reference_to(value, MACRO):
    name = "/".join(value.scopes)
    if name in names:
      raise UserError(
        f"gin macro {name} stands for itself"
        f" ({' -> '.join([*names, name])}): give it a value"
      )
    names.append(name)
    bindings = gin.config._CONFIG.get((name, MACRO), {})
    if "value" not in bindings:
      break
    value = bindings["value"]
  return value, names[-1] if names else None


def check_complete(name: str) -> None:
  """Raises UserError naming every macro that `name` needs and nobody set."""
  config = gin.config._CONFIG
  if not any(selector == name for _, selector in config):
    raise UserError(
      f"nothing configures {name}: add --gin_file=runs/train.gin, or another"
      " run"
    )
  missing: dict[str, None] = {}  # in order of appearance
  seen = set()
  waiting: list[Any] = [
    bindings for (_, selector), bindings in config.items() if selector == name
  ]
  while waiting:
    value = waiting.pop(0)
    if isinstance(value, dict):
      waiting += value.values()
    elif isinstance(value, list | tuple):
      waiting += value
    elif is_reference(value):
      key = ("/".join(value.scopes), value.selector)
      if key in seen:
        continue
      seen.add(key)
      if value.selector == MACRO:
        bound = config.get(key, {}).get("value", gin.REQUIRED)
        if bound is gin.REQUIRED or is_reference_to(bound, CONSTANT):
          missing[key[0]] = None
        else:
          waiting.append(bound)
      else:
        waiting += [
          bindings
          for (scope, selector), bindings in config.items()
          if selector == value.selector and scope in ("", key[0])
        ]
  if missing:
    are = "is" if len(missing) == 1 else "are"
    raise UserError(
      f"{', '.join(missing)} {are} not set: add {_how_to_set(missing)}"
    )


def _how_to_set(macros: Iterable[str]) -> str:
  """The flags that set macros: packaged files where there are such."""
  flags: dict[str, list[str]] = {}
  for name in macros:
    setting = re.compile(rf"^{name} = (?!%gin\.REQUIRED)", re.MULTILINE)
    folders = {
      path.parent.name
      for path in PACKAGED_FOLDER.rglob("*.gin")
      if path.parent.name not in ("runs", "paper")  # whole runs
      and setting.search(path.read_text(encoding="utf-8"))
    }
    folder = "models" if "t5_1_1" in folders else min(folders, default=None)
    flag = f"--gin_file={folder}/..." if folder else f"--gin.{name}=..."
    flags.setdefault(flag, []).append(name)
  parts = []
  for flag, names in flags.items():
    if not flag.startswith("--gin_file"):
      parts.append(flag)
    elif "=models/" in flag:
      parts.append(f"{flag} (for {', '.join(names)})")
    else:
      alone = " ".join(f"--gin.{name}=..." for name in names)
      parts.append(f"{flag} (or {alone})")
  return " ".join(parts)


# -------------------------------------------------------- errors of gin


@contextlib.contextmanager
def one_line_errors(binding: str = "", where: str = "") -> Iterator[None]:
  """Turns gin's errors about the user's configuration into one line each.

  Args:
    binding: what is parsed, if it is not a file.
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
    message = _shortened(error, binding)
    if message is None:
      raise
    raise UserError(f"{where}{message}") from error


def _shortened(error: Exception, binding: str) -> str | None:
  """gin's message, shortened; None for an error that is not gin's."""
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
  if t5x := t5x_dialect.of_name(name):
    return f"gin binding: {name} is T5X's; here: {t5x}"
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  allowed = " or ".join(close) or gin_statements.some_of(known)
  return f"gin binding: nothing is called {name!r}; there is {allowed}"


def _unknown_parameter(name: str, parameter: str) -> str:
  matches = [
    target
    for known, target in gin_registry.configurables.items()
    if f".{known}".endswith(f".{name}")
  ]
  known = list(inspect.signature(matches[0]).parameters) if matches else []
  close = difflib.get_close_matches(parameter, known, n=3, cutoff=0.5)
  allowed = " or ".join(close) or gin_statements.some_of(known)
  return (
    f"gin binding: {name} has no parameter {parameter!r}; there is {allowed}"
  )
