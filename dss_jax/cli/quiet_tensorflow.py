"""Keeps what TensorFlow prints while it is imported from standard error.

Its C++ code reports what it was built with, before any of its settings count.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence

# Leaves out information and warnings of its logs, and what it says of them;
# missing plugins for GPUs, which it calls errors. A process of its own does so:
# it still shows the last words of one that aborts.
_FILTER = r"""
import re, sys
noise = re.compile(
  rb"WARNING: All log messages before absl|[IW]\d{4} |[\d-]+ [\d:.]+: [IW] "
  rb"|E\d{4} .*(Unable to register|factory for plugin)"
  rb"|To enable the following instructions"
)
for line in sys.stdin.buffer:
  if not noise.match(line):
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""


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
      # The loader itself stays: others ask it for the package's files.
      execute = spec.loader.exec_module

      def execute_quietly(module: types.ModuleType) -> None:
        with _without_noise():
          execute(module)

      spec.loader.exec_module = execute_quietly
    return spec


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
  """Sends standard error through the filter."""
  sys.stderr.flush()
  try:
    shown = os.dup(2)
  except OSError:  # there is no standard error
    yield
    return
  # Ctrl-C is for this process: in a session of its own the filter stays.
  with subprocess.Popen(
    [sys.executable, "-I", "-S", "-c", _FILTER],
    stdin=subprocess.PIPE,
    stdout=shown,
    start_new_session=True,
  ) as filtering:
    assert filtering.stdin is not None
    os.dup2(filtering.stdin.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(shown, 2)
      os.close(shown)
