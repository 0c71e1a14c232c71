"""What a SeqIO Task is made of, as data that can be hashed.

The token arrays of another project's Task are kept under a fingerprint of
the Task itself: its source (with sizes and times of its files), its
preprocessors, its features. Functions are described by their code and by the
values they close over, so editing a preprocessor makes new arrays. A change
further down (in a function that a preprocessor calls, in remote data) is not
seen: then the arrays must be made anew with `refresh`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import types
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

# Things described at most; a closure may hold a whole library's state. More
# than any preprocessor has, less than takes a second.
_MAX_PARTS = 20_000

_SIMPLE = (type(None), bool, int, float, str)


def fingerprint(*values: Any) -> str:
  """SHA-256 of what `describe` says of the values."""
  text = json.dumps([describe(value) for value in values], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def describe(value: Any) -> Any:
  """JSON-like data that is equal for equal definitions, in any process.

  Never an address or a time of construction: objects of unknown kinds are
  described by their class and their attributes.
  """
  return _Describer().describe(value)


class _Describer:
  """Describes a value, and each object in it once."""

  def __init__(self):
    # Objects met -> their number. Kept, so that no id is used twice.
    self._met: dict[int, tuple[int, Any]] = {}

  def describe(self, value: Any) -> Any:
    if isinstance(value, _SIMPLE):
      return repr(value) if isinstance(value, float) else value
    if isinstance(value, bytes):
      return hashlib.sha256(value).hexdigest()
    if isinstance(value, os.PathLike):
      return os.fspath(value)
    if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
      return _name(value)
    if id(value) in self._met:
      return ["again", self._met[id(value)][0]]
    self._met[id(value)] = (len(self._met), value)
    if len(self._met) > _MAX_PARTS:
      return _name(type(value))
    return self._compound(value)

  def _compound(self, value: Any) -> Any:
    """An object that has parts."""
    every = self.describe
    if isinstance(value, np.ndarray | np.generic):
      return self._array(np.asarray(value))
    if isinstance(value, Mapping):
      return {str(key): every(item) for key, item in value.items()}
    if isinstance(value, Set):
      return sorted(json.dumps(every(item), sort_keys=True) for item in value)
    if isinstance(value, Sequence):
      return [every(item) for item in value]
    if isinstance(value, functools.partial):
      return ["partial", *map(every, (value.func, value.args, value.keywords))]
    if isinstance(value, types.FunctionType):
      return self._function(value)
    if isinstance(value, types.MethodType):
      return ["method", every(value.__func__), every(value.__self__)]
    if dataclasses.is_dataclass(value):
      fields = {
        field.name: every(getattr(value, field.name, None))
        for field in dataclasses.fields(value)
        if field.compare
      }
      return [_name(type(value)), fields]
    # A decorated function carries the original; its wrapper says nothing.
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is not None:
      return [_name(type(value)), every(wrapped)]
    attributes = dict(getattr(value, "__dict__", {}))
    return [_name(type(value)), every(attributes)]

  def _array(self, array: np.ndarray) -> Any:
    if array.dtype == object:
      return [self.describe(item) for item in array.ravel().tolist()]
    content = hashlib.sha256(array.tobytes()).hexdigest()
    return [str(array.dtype), list(array.shape), content]

  def _function(self, function: types.FunctionType) -> list[Any]:
    """Its code, its defaults, the values it closes over or names."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    scope = function.__globals__
    named = {
      name: scope[name]
      for name in function.__code__.co_names
      if name in scope and isinstance(scope[name], _SIMPLE)
    }
    parts = (function.__defaults__, function.__kwdefaults__, cells, named)
    return [
      _name(function),
      _code(function.__code__),
      *map(self.describe, parts),
    ]


def _name(value: Any) -> str:
  module = getattr(value, "__module__", "")
  return f"{module}.{getattr(value, '__qualname__', type(value).__name__)}"


def _code(code: types.CodeType) -> str:
  """A digest of compiled code, without file names and line numbers."""
  digest = hashlib.sha256(code.co_code)
  digest.update(repr((code.co_names, code.co_varnames)).encode())
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      digest.update(_code(constant).encode())
    elif isinstance(constant, frozenset):
      digest.update(repr(sorted(map(repr, constant))).encode())
    else:
      digest.update(repr(constant).encode())
  return digest.hexdigest()


def files(paths: Sequence[str]) -> list[list[Any]]:
  """Path, size in bytes and time of change (ns) of those that are local."""
  found: list[list[Any]] = []
  for path in sorted(paths):
    try:
      stat = pathlib.Path(path).stat()
    except OSError:  # remote, or only the name of a shard
      found.append([path])
    else:
      found.append([path, stat.st_size, stat.st_mtime_ns])
  return found
