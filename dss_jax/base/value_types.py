"""Does a configured value have the type its parameter declares?

A configuration is text: a number in quotes, or a word where a number is meant,
would otherwise surface deep inside JAX. Only plain values are judged; objects
and functions check themselves.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_NAMES = {
  bool: "True or False",
  int: "a whole number",
  float: "a finite number",
  str: "a string",
  type(None): "None",
}
_SEQUENCES = (list, tuple, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


@functools.cache
def parameter_types(target: Callable[..., Any]) -> Mapping[str, Any]:
  """Parameter -> declared type, of a function or a dataclass."""
  hints = typing.get_type_hints(target)
  if isinstance(target, type) and not hints:
    hints = typing.get_type_hints(target.__init__)
  known = inspect.signature(target).parameters
  return {name: hint for name, hint in hints.items() if name in known}


def matches(
  value: Any, hint: Any, is_unknown: Callable[[Any], bool] = lambda _: False
) -> bool:
  """Whether `value` may be given where `hint` is declared.

  Lists pass for tuples. Hints that say nothing of plain values (classes,
  protocols, callables) let everything pass.

  Args:
    value: the value.
    hint: a type, a union, or a container of them.
    is_unknown: tells values that are not known yet; they pass.
  """
  if is_unknown(value):
    return True
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(matches(value, member, is_unknown) for member in arguments)
  if hint in _NAMES:
    return _is_plain(value, hint)
  if origin in _MAPPINGS:
    key, item = arguments
    return isinstance(value, Mapping) and all(
      matches(k, key, is_unknown) and matches(v, item, is_unknown)
      for k, v in value.items()
    )
  if origin in _SEQUENCES:
    if isinstance(value, str) or not isinstance(value, Sequence):
      return False
    varying = origin is not tuple or arguments[-1] is Ellipsis
    return (varying or len(value) == len(arguments)) and all(
      matches(item, arguments[0 if varying else i], is_unknown)
      for i, item in enumerate(value)
    )
  return True


def _is_plain(value: Any, kind: type) -> bool:
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if kind is float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer may be too large for a float.
    return number and abs(value) <= sys.float_info.max
  return isinstance(value, kind)


def describe(hint: Any) -> str:
  """What a hint allows, in words: `a whole number or None`."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return " or ".join(dict.fromkeys(map(describe, arguments)))
  if hint in _NAMES:
    return _NAMES[hint]
  if origin in _MAPPINGS:
    key, item = map(describe, arguments)
    return f"a dictionary from {key} to {item}"
  if origin in _SEQUENCES:
    return f"a list, each {describe(arguments[0])}"
  return getattr(hint, "__name__", None) or str(hint)
