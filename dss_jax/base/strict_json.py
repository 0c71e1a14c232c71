"""JSON from files nobody has checked: bounded, and without silent surprises.

The standard parser keeps the last of two equal keys, accepts NaN, turns 1e999
into infinity and lets half a surrogate pair through. Each of these would be
lost or would break a file written later, so here each is an error with a reason.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from dss_jax.base.errors import JsonError, UserError

# Nesting of a value, in brackets. Records need four.
MAX_DEPTH = 64
# Values in a text. Each takes some 60 bytes of memory, and two of the text.
MAX_VALUES = 2**25

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(text: str, *, finite: bool = True) -> Any:
  """Parses one JSON value.

  Args:
    text: the value.
    finite: whether NaN and infinity are errors. JSON has none, and many
      programs write them; who takes them must look at each number.

  Raises:
    JsonError: with the reason, for anything that is not plain JSON.
  """
  if sum(map(text.count, ",[{")) > MAX_VALUES:
    raise JsonError(f"not usable JSON: more than {MAX_VALUES} values")
  try:
    value = (_DECODER if finite else _LENIENT_DECODER).decode(text)
  except json.JSONDecodeError as error:
    raise JsonError(f"not JSON: {error.msg} at character {error.pos}") from None
  except RecursionError:
    raise JsonError("not usable JSON: nested too deeply") from None
  except JsonError:
    raise
  except ValueError:  # Python's own bound on the digits of an integer
    raise JsonError("not usable JSON: a number has too many digits") from None
  if text.count("[") + text.count("{") > MAX_DEPTH:
    _check_depth(value)
  if _SURROGATE_ESCAPE.search(text):
    try:
      json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
      raise JsonError(
        "not valid UTF-8: half of a surrogate pair (\\ud800-\\udfff)"
      ) from None
  return value


def dumps(value: Any) -> str:
  """One line of JSON, UTF-8 text as it is.

  Raises:
    UserError: if `value` holds something JSON cannot.
  """
  try:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
  except (TypeError, ValueError, RecursionError) as error:
    raise UserError(f"cannot be written as JSON: {error}") from None


def _check_depth(value: Any):
  """Refuses a value nested deeper than MAX_DEPTH; itself free of recursion."""
  level, depth = [value], 0
  while level:
    depth += 1
    if depth > MAX_DEPTH + 1:
      raise JsonError(f"not usable JSON: nested deeper than {MAX_DEPTH} levels")
    inner: list[Any] = []
    for item in level:
      if isinstance(item, dict):
        inner.extend(item.values())
      elif isinstance(item, list):
        inner.extend(item)
    level = inner


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  value = dict(pairs)
  if len(value) != len(pairs):
    seen: set[str] = set()
    for key, _ in pairs:
      if key in seen:
        raise JsonError(f"not usable JSON: key {key[:64]!r} appears twice")
      seen.add(key)
  return value


def _float(text: str) -> float:
  value = float(text)
  if math.isinf(value):
    raise JsonError(f"not usable JSON: {text[:32]} is too large a number")
  return value


def _constant(name: str) -> Any:
  raise JsonError(f"not usable JSON: {name} is no JSON value")


# Made once: json.loads would build a decoder per call for these hooks.
_DECODER = json.JSONDecoder(
  object_pairs_hook=_object, parse_float=_float, parse_constant=_constant
)
_LENIENT_DECODER = json.JSONDecoder(object_pairs_hook=_object)
