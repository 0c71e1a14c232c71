"""How a command reports its failure: one line, and an exit status."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping

from dss_jax.base.errors import UserError, lost_process, one_line
from dss_jax.base.stop_requests import StoppedError
from dss_jax.cli import flag_hints

# What to lower if a device is out of memory; other modes train.
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
  flags: Mapping[str, str] | None = None,
) -> int:
  """Runs a command and returns its exit status.

  Args:
    run: the command; returns None or a status.
    command: its name, which begins every message on standard error.
    debug: let errors pass, traceback and all.
    flags: the command's flags, without dashes, by the fields that they set;
      errors name them.

  Returns:
    0 or what `run` returns; 2 for what the user can mend; 3 where training
    diverged; 75 where another process is lost, and the same may work again;
    130 after an interrupt, 143 after SIGTERM; 141 if the output has no
    reader; else 1.
  """
  try:
    return run() or 0
  except BrokenPipeError:
    # The reader of the output has seen enough. Standard output is replaced, so
    # that Python does not fail on it again when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except StoppedError as error:
    print(f"dss-jax {command}: stopped: {error}", file=sys.stderr)
    return 128 + error.number
  except KeyboardInterrupt:
    print(f"dss-jax {command}: stopped", file=sys.stderr)
    return 128 + signal.SIGINT
  except FloatingPointError as error:  # the run diverged
    print(f"dss-jax {command}: {error}", file=sys.stderr)
    return 3
  except (ValueError, RuntimeError, MemoryError, OSError) as error:
    if debug or (found := _message(error, command, flags or {})) is None:
      raise
    message, status = found
    print(f"dss-jax {command}: {message}", file=sys.stderr)
    if isinstance(error, UserError) and error.details:
      print(f"\n{error.details}", file=sys.stderr)
    return status


def _message(
  error: Exception, command: str, flags: Mapping[str, str]
) -> tuple[str, int] | None:
  """The message and exit status of an error that a user can act on."""
  if isinstance(error, UserError):
    return flag_hints.with_hints(error, flags), 2
  if isinstance(error, MemoryError):
    return (
      f"out of memory ({one_line(error)}): ask for smaller batches, models or"
      " data"
    ), 1
  if isinstance(error, OSError) and not lost_process(error):
    status = 2 if error.errno in _USERS_TO_MEND else 1
    return one_line(error, longest=1000), status
  if "determine home directory" in str(error):  # pathlib's
    return (
      "the home directory is not known: set HOME, or give paths without ~",
      2,
    )
  if re.search(r"for (JAX flag|environment) ", str(error)):  # JAX's import
    return (
      f"JAX refuses its environment ({one_line(error)}): correct that variable,"
      " or unset it"
    ), 2
  if "RESOURCE_EXHAUSTED" in str(error):  # JAX's, whose import takes a while
    remedy = _FEWER.get(
      command, "lower RECORDS_PER_BATCH, or raise NUM_MICROBATCHES"
    )
    return f"the device is out of memory ({one_line(error)}): {remedy}", 1
  if lost_process(error):
    return (
      f"lost another process of this run ({one_line(error)}): see its last"
      " messages, and start all of them again; training resumes from its last"
      " checkpoint"
    ), os.EX_TEMPFAIL
  return None
