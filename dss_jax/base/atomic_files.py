"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import uuid
from collections.abc import Callable, Iterator

from dss_jax.base import errors


@contextlib.contextmanager
def atomic_path(
  path: str | os.PathLike[str],
  refused: Callable[
    [pathlib.Path], contextlib.AbstractContextManager[None]
  ] = errors.writing,
) -> Iterator[pathlib.Path]:
  """An empty file to be written to, which then takes the place of `path`.

  A reader sees the old file or the whole new one, even after a crash.

  Args:
    path: in a folder that is there.
    refused: of `path`, turns what the disk refuses when the file is made or
      put in its place into an error for the user.

  Raises:
    UserError: as `refused` has it.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name[:64]}.{uuid.uuid4().hex}.tmp")
  with refused(path):
    temporary.open("xb").close()
  try:
    with errors.full_disk(path):
      yield temporary
    with refused(path):
      with temporary.open("rb") as file:
        os.fsync(file.fileno())  # or a crash could leave it empty
      os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def make_folder(path: pathlib.Path) -> None:
  """Makes a folder, and a file in it that goes at once.

  Raises:
    OSError: it cannot be made, or written to.
  """
  path.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=path) as file:
    file.write(b"\0")


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
  """Writes `content` so that a reader sees the old file or the new one."""
  if isinstance(content, str):
    content = content.encode("utf-8")
  with errors.writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
      temporary.write_bytes(content)
