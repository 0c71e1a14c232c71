"""How a command tells what it failed of: one line, and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Collection

from dss_jax.base.errors import UserError, lost_process, one_line
from dss_jax.cli import error_hints

# What to ask less of, where a device is full; else, of training.
_FEWER = {"infer": "lower --batch_size", "serve": "lower --max_batch"}

# Paths that are wrong; other failures of files are not the user's mistake.
_USERS_TO_MEND = (
  errno.ENOENT,
  errno.EACCES,
  errno.EPERM,
  errno.EISDIR,
  errno.ENOTDIR,
  errno.EROFS,
  errno.ENAMETOOLONG,
)


def exit_status(
  run: Callable[[], int | None],
  command: str,
  *,
  debug: bool,
  flags: Collection[str] = (),
) -> int:
  """Runs a command and returns its exit status.

  Args:
    run: the command; returns None or a status.
    command: its name, which begins every message on standard error.
    debug: let what it raises pass, traceback and all.
    flags: that the command takes, without dashes; errors name them.

  Returns:
    0 or what `run` returns; 2 where the user is to mend something; 130 where
    it was interrupted; 141 where nobody reads its output; else 1.
  """
  try:
    return run() or 0
  except BrokenPipeError:
    # Whoever read the output has seen enough. Standard output is replaced, so
    # that Python does not trip over it again on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except KeyboardInterrupt:
    print(f"dss-jax {command}: stopped", file=sys.stderr)
    return 130
  except FloatingPointError as error:  # the run diverged
    print(f"dss-jax {command}: {error}", file=sys.stderr)
    return 1
  except (ValueError, RuntimeError, MemoryError, OSError) as error:
    if debug or (told := _told(error, command, flags)) is None:
      raise
    message, status = told
    print(f"dss-jax {command}: {message}", file=sys.stderr)
    if isinstance(error, UserError) and error.details:
      print(f"\n{error.details}", file=sys.stderr)
    return status


def _told(
  error: Exception, command: str, flags: Collection[str]
) -> tuple[str, int] | None:
  """The message and exit status of what a user can do something about."""
  if isinstance(error, UserError):
    return error_hints.with_hints(error, flags), 2
  if isinstance(error, MemoryError):
    return (
      f"out of memory ({one_line(error)}): ask for smaller batches, models or"
      " data"
    ), 1
  if isinstance(error, OSError):
    status = 2 if error.errno in _USERS_TO_MEND else 1
    return one_line(error, longest=1000), status
  if "determine home directory" in str(error):  # pathlib's
    return (
      "the home directory is not known: set HOME, or give paths without ~",
      2,
    )
  if "RESOURCE_EXHAUSTED" in str(error):  # JAX's, whose import takes a while
    remedy = _FEWER.get(
      command, "lower RECORDS_PER_BATCH, or raise NUM_MICROBATCHES"
    )
    return f"the device is out of memory ({one_line(error)}): {remedy}", 1
  if lost_process(error):
    return (
      f"lost another process of this run ({one_line(error)}): see what it said"
      " last, and start all of them again; training goes on from its last"
      " checkpoint"
    ), 1
  return None
