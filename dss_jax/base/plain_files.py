"""Files from elsewhere: plain ones, and no larger than they may be.

A folder that somebody sent can hold a pipe, which nobody writes to, or a link
to a device, which never ends. Readers look at what a file is before they open
it.
"""

from __future__ import annotations

import os
import pathlib
import stat

# What a program writes about its own work: states, lists, descriptions.
MAX_BYTES = 64 * 2**20


def check(path: pathlib.Path, max_bytes: int | None = None) -> None:
  """Looks at what a path leads to, without opening it.

  Args:
    path: a file, or a link to one.
    max_bytes: the largest size allowed; None for any.

  Raises:
    ValueError: for a folder, a pipe or a device, or a file that is larger.
    OSError: where there is nothing, or nothing that may be looked at.
  """
  found = path.stat()
  if not stat.S_ISREG(found.st_mode):
    raise ValueError(f"{path.name} is no plain file")
  if max_bytes is not None and found.st_size > max_bytes:
    raise ValueError(
      f"{path.name} has {found.st_size} bytes, and at most {max_bytes} are read"
    )


def read(path: pathlib.Path, max_bytes: int = MAX_BYTES) -> bytes:
  """The bytes of a file; raises as `check`."""
  check(path, max_bytes)
  return path.read_bytes()


def read_text(path: pathlib.Path, max_bytes: int = MAX_BYTES) -> str:
  """The text of a file of UTF-8; raises as `check`."""
  return read(path, max_bytes).decode("utf-8")


def check_folder(folder: pathlib.Path) -> None:
  """Raises ValueError where a pipe or a device lies anywhere in a folder."""
  for parent, _, names in os.walk(folder):
    for name in names:
      path = pathlib.Path(parent, name)
      if path.exists():  # other processes tidy up meanwhile
        check(path)
