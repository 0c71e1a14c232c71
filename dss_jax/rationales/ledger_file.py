"""The file of a ledger: its lock, its connection, and whether it is one."""

from __future__ import annotations

import os
import pathlib
import sqlite3
from typing import TextIO

from dss_jax.base.errors import UserError
from dss_jax.rationales import ledger_schema

# A SQLite file has at least one page.
_SMALLEST = 512
# Of a text in it; far more than a teacher writes.
_MOST_BYTES = 64 * 2**20


class InUseError(UserError):
  """Another process has the ledger open for writing."""


def lock(path: pathlib.Path) -> TextIO:
  """Keeps other processes from writing until what it returns is closed.

  Raises:
    InUseError: another process writes.
    UserError: the folder cannot be written to.
  """
  import fcntl

  # A file next to the ledger: SQLite's own locks on the ledger itself would be
  # lost if anything else in this process closed it.
  lock_path = path.with_name(path.name + ".lock")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(lock_path, "a+", encoding="ascii")  # noqa: SIM115
  except OSError as error:
    raise UserError(
      f"cannot write the ledger {str(path)!r}: {error.strerror}"
    ) from None
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    with file:
      file.seek(0)
      owner = file.read(32).strip()
    raise InUseError(
      f"the ledger {str(path)!r} is being written by another run"
      + (f" (process {owner})" if owner.isdigit() else "")
      + "; wait for it, stop it, or name another ledger"
    ) from None
  file.truncate(0)
  file.write(f"{os.getpid()}\n")
  file.flush()
  return file


def connect(path: pathlib.Path, *, read_only: bool) -> sqlite3.Connection:
  """Opens the file, which is made if it may be.

  Raises:
    UserError: another file is there.
  """
  if path.is_file() and 0 < path.stat().st_size < _SMALLEST:
    # SQLite would take it for an empty database and overwrite it.
    raise _another_file(path)
  uri = path.resolve().as_uri() + f"?mode={'rw' if read_only else 'rwc'}"
  # In a notebook it is asked in another thread, which this one waits for.
  db = sqlite3.connect(
    uri, uri=True, isolation_level=None, check_same_thread=False
  )
  db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
  return db


def check(db: sqlite3.Connection, path: pathlib.Path) -> int | None:
  """The version of the ledger's tables; None if there are none yet.

  Raises:
    UserError: the file is no ledger, or one of a later version.
  """
  [application] = db.execute("PRAGMA application_id").fetchone()
  [version] = db.execute("PRAGMA user_version").fetchone()
  kinds = {kind for (kind,) in db.execute("SELECT type FROM sqlite_master")}
  if not kinds:
    if application or version:
      raise _another_file(path)
    return None
  if application != ledger_schema.APPLICATION_ID:
    raise UserError(f"{str(path)!r} is not a ledger, but another SQLite file")
  if not 1 <= version <= ledger_schema.VERSION:
    raise UserError(
      f"the ledger {str(path)!r} has schema version {version}; this dss_jax"
      f" reads versions 1 to {ledger_schema.VERSION}"
    )
  # A view or a trigger would run whatever somebody wrote into the file.
  if not kinds <= {"table", "index"}:
    raise _another_file(path)
  return version


def _another_file(path: pathlib.Path) -> UserError:
  return UserError(f"{str(path)!r} is not a ledger, but another file")
