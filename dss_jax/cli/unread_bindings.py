"""Bindings of the user's that nothing reads.

gin takes any name for a macro or a scope, and bindings of what is never made,
so a line that has no effect would pass unnoticed. One that another line of the
user's replaced is none of these: overriding a value of a shared file is what
gin is for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gin.config

from dss_jax.base.errors import UserError
from dss_jax.cli import gin_registry, gin_statements, t5x_dialect
from dss_jax.cli.gin_registry import MACRO, is_reference
from dss_jax.cli.gin_statements import Statement

# (scope, name) of a configurable.
_Made = tuple[str, str]


def check_all_is_read(
  own: Sequence[Statement],
  parsed: Sequence[Statement],
  root: str,
  read_directly: Iterable[str] = (),
) -> None:
  """Raises UserError for a statement that nothing reads.

  Args:
    own: the user's statements.
    parsed: all statements, with those of packaged files.
    root: the configurable from which all others are made.
    read_directly: macros that the command line reads.
  """
  made = _made(root, own)
  if len(made) == 1:  # no run is configured, which is reported later
    return
  macros = {
    *read_directly,
    *referenced_macros(),
    *(
      each
      for statement in parsed
      for each in gin_statements.references(statement.value)
      if isinstance(each, gin_statements.Macro)
    ),
  }
  for each in own:
    if each.is_macro and each.name not in macros:
      advice = t5x_dialect.MACROS.get(each.name)
      raise UserError(
        f"{each.place}gin macro {each.name} is used nowhere;"
        f" {_advice(advice, each.name, macros)}"
      )
    if each.parameter:
      _check_is_read(each, own, made)


def _check_is_read(
  each: Statement, own: Sequence[Statement], made: set[_Made]
) -> None:
  """Raises UserError where no object that is made takes the binding."""
  scopes = {scope for scope, name in made if _matches(name, each.name)}
  within = {scope for scope in scopes if _contains(each.scope, scope)}
  name = f"{each.scope}/{each.name}".lstrip("/")
  if not within:
    there = {f"{scope}/{each.name}".lstrip("/") for scope in scopes}
    advice = t5x_dialect.of_scope(each.scope)
    made_names = there or {name for _, name in made}
    raise UserError(
      f"{each.place}nothing reads {name}.{each.parameter};"
      f" {_advice(advice, name, made_names)}"
    )
  winners = {_winner(each, scope) for scope in within}
  if each.scope in winners or any(
    other.scope in winners and _same_parameter(each, other) for other in own
  ):
    return
  first = min(winners)
  raise UserError(
    f"{each.place}nothing reads {name}.{each.parameter}:"
    f" {first}/{each.name}.{each.parameter} is bound and wins; bind that"
  )


def _contains(outer: str, inner: str) -> bool:
  """Whether what is bound in a scope holds in another one."""
  return not outer or f"{inner}/".startswith(f"{outer}/")


def _winner(each: Statement, scope: str) -> str:
  """The scope whose binding of a parameter holds for what is made in one."""
  bound = [
    candidate
    for (candidate, name), values in gin.config._CONFIG.items()
    if _matches(name, each.name)
    and each.parameter in values
    and _contains(candidate, scope)
  ]
  return max(bound, key=len)


def _same_parameter(one: Statement, other: Statement) -> bool:
  return one.parameter == other.parameter and (
    _matches(one.name, other.name) or _matches(other.name, one.name)
  )


def _advice(t5x: str | None, name: str, known: Iterable[str]) -> str:
  if t5x:
    return f"it is T5X's; here: {t5x}"
  close = difflib.get_close_matches(name, known, n=3)
  if close:
    return f"did you mean {' or '.join(close)}?"
  return f"there are {gin_statements.some_of(known)}"


def _matches(full: str, written: str) -> bool:
  """Whether gin takes a name as written for a configurable's full name."""
  return f".{full}".endswith(f".{written}")


def _made(root: str, own: Sequence[Statement]) -> set[_Made]:
  """Every configurable that making `root` asks for.

  With those that a statement of the user's refers to, though a later one may
  have taken its place.
  """
  waiting = [("", root)]
  for statement in own:
    for each in gin_statements.references(statement.value):
      if isinstance(each, gin_statements.Reference):
        scope, _, name = each.rpartition("/")
        waiting += [
          (scope or statement.scope, full)
          for full in gin_registry.configurables
          if _matches(full, name)
        ]
  found: set[_Made] = set()
  while waiting:
    scope, name = waiting.pop()
    if (scope, name) in found:
      continue
    found.add((scope, name))
    parts = scope.split("/") if scope else []
    for i in range(len(parts) + 1):
      bound = gin.config._CONFIG.get(("/".join(parts[:i]), name), {})
      for reference in _references(bound):
        # A reference without a scope is made in that of who refers to it.
        inner = "/".join(reference.scopes) or scope
        waiting.append((inner, reference.selector))
  return found


def _references(value: Any) -> Iterator[Any]:
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, list | tuple):
    for each in value:
      yield from _references(each)
  elif is_reference(value):
    yield value


def referenced_macros() -> set[str]:
  """The macros that some binding refers to."""
  return {
    "/".join(reference.scopes)
    for reference in _references(gin.config._CONFIG)
    if reference.selector == MACRO
  }
