"""The command line: `dss-jax MODE ...` or `python -m dss_jax.main MODE ...`.

Nothing heavy is imported before a mode runs.
"""

from __future__ import annotations

import os
import sys

from dss_jax.cli import process
from dss_jax.cli.command_line import main, make_parser

__all__ = ["main", "make_parser", "run"]


def run() -> None:
  """Entry point of the `dss-jax` script."""
  # The script has its own folder on the path; --module and gin's imports name
  # modules of the user's. Last, so that none of them hides a library.
  if not {"", os.getcwd()} & set(sys.path):
    sys.path.append(os.getcwd())
  process.end(main(sys.argv[1:]))


if __name__ == "__main__":
  run()
