"""Folders that appear whole or not at all.

Files are written to a hidden folder next to the wanted one, which takes its
name at the very end. A process that is killed leaves the hidden folder behind;
the next export of the same name starts by emptying it.
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

  An earlier export is replaced with `overwrite`; a folder with any other
  content is never removed.

  Raises:
    UserError: with the folder and what is in the way.
  """
  folder = pathlib.Path(os.path.abspath(os.path.expanduser(output)))
  if not str(output) or "\0" in str(output):
    raise _refused(output, "give the path of a folder")
  # The hidden folder is made next to it, whether the folder exists or not.
  above = next(filter(os.path.lexists, folder.parents), folder)
  if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
    raise _refused(
      output,
      f"it cannot be made, because {str(above)!r} is not a writable folder; give"
      " another path",
    )
  if not os.path.lexists(folder):
    return folder
  if folder.is_symlink() or not folder.is_dir():
    raise _refused(output, "it is not a folder; give another path")
  if not any(folder.iterdir()):
    return folder
  if not (folder / student_card.FILE).is_file():
    raise _refused(
      output,
      "it holds files that no export wrote (there is no"
      f" {student_card.FILE}); give the path of a new folder",
    )
  if not overwrite:
    raise _refused(
      output,
      "it holds an exported student; set overwrite to replace it, or give"
      " another path",
      "overwrite",
    )
  return folder


def _refused(
  output: str | pathlib.Path, problem: str, *fields: str
) -> UserError:
  return UserError(
    f"output_dir is {str(output)!r}: {problem}", fields=("output_dir", *fields)
  )


@contextlib.contextmanager
def new_folder(
  output: str | pathlib.Path, *, overwrite: bool = False
) -> Iterator[pathlib.Path]:
  """Yields an empty folder that becomes `output` if the block ends well.

  Raises:
    UserError: like `check_free`, or if another process writes the folder.
    StorageError: if the disk fails.
  """
  folder = check_free(output, overwrite=overwrite)
  temporary = folder.with_name(f".{folder.name}.exporting")
  with contextlib.ExitStack() as stack:
    stack.enter_context(writing(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir(exist_ok=True)
    lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    stack.callback(os.close, lock)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise _refused(
        folder,
        "another process is exporting to it; wait for it, or give another path",
      ) from None
    try:
      for entry in temporary.iterdir():
        if entry.is_dir() and not entry.is_symlink():
          shutil.rmtree(entry)
        else:
          entry.unlink()
      yield temporary
      _flush(temporary)
      _publish(temporary, folder, overwrite=overwrite)
    except BaseException:
      shutil.rmtree(temporary, ignore_errors=True)
      raise


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
  # The check is repeated because minutes have passed since the first one.
  check_free(folder, overwrite=overwrite)
  if not folder.exists() or not any(folder.iterdir()):
    os.rename(temporary, folder)  # this also replaces an empty folder
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
