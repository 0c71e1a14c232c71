"""Folders that appear whole or not at all.

What is written goes to a hidden folder beside the one asked for, which takes
its name at the very end. A process killed on the way leaves that hidden folder
behind, and the next one for the same name starts by emptying it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from dss_jax.base.errors import UserError, writing
from dss_jax.pretrained import student_card


def check_free(output: str | pathlib.Path, *, overwrite: bool) -> pathlib.Path:
  """The folder to write, if it may be written.

  An earlier export is replaced where asked to; any other folder with something
  in it is never removed.

  Raises:
    UserError: naming the folder and what is in the way.
  """
  if not str(output) or "\0" in str(output):
    raise UserError(f"--output is {str(output)!r}; give the path of a folder")
  folder = pathlib.Path(os.path.abspath(os.path.expanduser(output)))
  # It is made beside its place, whether there is something or not.
  above = next(filter(os.path.lexists, folder.parents), folder)
  if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
    raise UserError(
      f"--output: {str(output)!r} cannot be made, as {str(above)!r} is not a"
      " folder that may be written; give another path"
    )
  if not os.path.lexists(folder):
    return folder
  if folder.is_symlink() or not folder.is_dir():
    raise UserError(
      f"--output: {str(output)!r} is not a folder; give another path"
    )
  if not any(folder.iterdir()):
    return folder
  if not (folder / student_card.FILE).is_file():
    raise UserError(
      f"--output: {str(output)!r} holds files that no export wrote (there is no"
      f" {student_card.FILE}); give the path of a new folder"
    )
  if not overwrite:
    raise UserError(
      f"--output: {str(output)!r} holds an exported student; add --overwrite to"
      " replace it, or give another path"
    )
  return folder


@contextlib.contextmanager
def new_folder(
  output: str | pathlib.Path, *, overwrite: bool = False
) -> Iterator[pathlib.Path]:
  """Yields an empty folder that becomes `output` when the block ends well.

  Raises:
    UserError: where `check_free` does, or another process is writing it.
    StorageError: for what the disk refuses.
  """
  folder = check_free(output, overwrite=overwrite)
  temporary = folder.with_name(f".{folder.name}.exporting")
  with writing(folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir(exist_ok=True)
    lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise UserError(
          f"--output: another process is exporting to {str(folder)!r}; wait"
          " for it, or give another path"
        ) from None
      try:
        _empty(temporary)
        yield temporary
        _flush(temporary)
        _publish(temporary, folder, overwrite=overwrite)
      except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
      os.close(lock)


def _empty(folder: pathlib.Path) -> None:
  for entry in folder.iterdir():
    if entry.is_dir() and not entry.is_symlink():
      shutil.rmtree(entry)
    else:
      entry.unlink()


def _flush(folder: pathlib.Path) -> None:
  """Waits until everything is on disk, so that a crash cannot leave a part."""
  for root, _, files in os.walk(folder):
    for path in (*(os.path.join(root, name) for name in files), root):
      descriptor = os.open(path, os.O_RDONLY)
      try:
        os.fsync(descriptor)
      finally:
        os.close(descriptor)


def _publish(
  temporary: pathlib.Path, folder: pathlib.Path, *, overwrite: bool
) -> None:
  # Once more: minutes have passed since the first look.
  check_free(folder, overwrite=overwrite)
  if not folder.exists() or not any(folder.iterdir()):
    os.rename(temporary, folder)  # takes the place of an empty folder too
    return
  old = folder.with_name(f".{folder.name}.replaced")
  shutil.rmtree(old, ignore_errors=True)
  os.rename(folder, old)
  try:
    os.rename(temporary, folder)
  except BaseException:
    os.rename(old, folder)
    raise
  shutil.rmtree(old, ignore_errors=True)
