"""Keeps what TensorFlow prints while it is imported from standard error.

Its C++ code reports what it was built with, before any of its settings count.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence

# Information and warnings of its logs, and what it says of them; missing
# plugins for GPUs, which it calls errors.
_NOISE = re.compile(
  rb"WARNING: All log messages before absl|[IW]\d{4} |[\d-]+ [\d:.]+: [IW] "
  rb"|E\d{4} .*(Unable to register|factory for plugin)"
  rb"|To enable the following instructions"
)


def install() -> None:
  """Makes TensorFlow's import quiet, if it is imported at all."""
  if "tensorflow" not in sys.modules and not any(
    isinstance(finder, _Finder) for finder in sys.meta_path
  ):
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
  """Finds TensorFlow, once, where Python would."""

  def find_spec(
    self,
    fullname: str,
    path: Sequence[str] | None,
    target: types.ModuleType | None = None,
  ) -> importlib.machinery.ModuleSpec | None:
    if fullname != "tensorflow":
      return None
    sys.meta_path.remove(self)
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if spec is not None and spec.loader is not None:
      spec.loader = _Loader(spec.loader)
    return spec


class _Loader(importlib.abc.Loader):
  """Loads as another loader does, without the noise."""

  def __init__(self, loader: importlib.abc.Loader):
    self._loader = loader

  def create_module(self, spec):
    return self._loader.create_module(spec)

  def exec_module(self, module):
    with _without_noise():
      self._loader.exec_module(module)


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
  """Holds back what is written to standard error; the noise for ever."""
  sys.stderr.flush()
  try:
    shown = os.dup(2)
  except OSError:  # there is no standard error
    yield
    return
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(shown, 2)
      os.close(shown)
      held.seek(0)
      for line in held:
        if not _NOISE.match(line):
          os.write(2, line)
