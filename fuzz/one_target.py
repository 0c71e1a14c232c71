"""Fuzzes one target in this process: `python -m fuzz.one_target NAME -runs=...`

The options are libFuzzer's.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from typing import Any

import atheris
from atheris.import_hook import instrument_imports


def main() -> None:
  """Fuzzes until libFuzzer ends the process."""
  _, name, *options = sys.argv
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  logging.disable()
  # Modules are imported late, too.
  with instrument_imports(include=["dss_jax"]):
    from fuzz import __main__ as runner
    from fuzz import targets

    target = targets.find(name)
    run = functools.partial(_run, target, runner.HANG_SECONDS)
    atheris.Setup([name, *options], run)
    atheris.Fuzz()


def _run(target: Any, hang_seconds: float, data: bytes) -> None:
  started = time.process_time()
  target.accepts(data)
  took = time.process_time() - started
  if took > hang_seconds:
    raise TimeoutError(f"{len(data)} bytes took {took:.1f} s of CPU time")


if __name__ == "__main__":
  main()
