"""Exceptions that mean "not the program": wrong input, and a failing disk."""

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence

# JAX's messages where another process of the run is gone, or never came.
_LOST_PROCESS = re.compile(
  r"Gloo|NCCL|coordination.?service|heartbeat|Connection (closed|reset) by peer"
  r"|DEADLINE_EXCEEDED|Barrier (failed|timed out)|waiting for \w+ barrier",
  re.IGNORECASE,
)


# Characters of a message.
_LONGEST = 4000


class UserError(ValueError):
  """Wrong input from the user, reported in one line.

  The message names the value it got and what is allowed. It speaks of options
  by the names of their fields; the command line adds the flag or the gin
  binding that sets them, prints the message without a traceback and exits with
  status 2.

  Attributes:
    details: lines to show below the message, such as a table; mostly none.
    fields: the options to change, as `Class.name` (`DecodeOptions.topk`) or
      `name`.
  """

  def __init__(
    self,
    message: str = "",
    *,
    details: str = "",
    fields: str | Sequence[str] = (),
  ):
    # It may quote texts from elsewhere, which are anything.
    if len(message) > _LONGEST:
      half = _LONGEST // 2
      message = f"{message[:half]} ... {message[-half:]}"
    super().__init__(printable(message))
    self.details = details
    self.fields = (fields,) if isinstance(fields, str) else tuple(fields)


class JsonError(UserError):
  """A text that is no plain JSON; who reads a file says which file it is."""


class StorageError(OSError):
  """A disk that is full, gone or read-only, reported in one line."""


def lost_process(error: BaseException | None) -> bool:
  """Whether JAX failed for want of another process of the run."""
  # A ValueError where the step was made in the thread that called it, a
  # TimeoutError of Orbax's where it waits for the others to save.
  return (
    isinstance(error, (RuntimeError, ValueError, TimeoutError))
    and not isinstance(error, UserError)
    and bool(_LOST_PROCESS.search(str(error)))
  )


def one_line(text: object, *, longest: int = 200) -> str:
  """Shortens a text from elsewhere to one line for use within a message."""
  line = " ".join(str(text).split())
  return line if len(line) <= longest else f"{line[: longest - 3]}..."


def printable(text: str) -> str:
  """The text with what would steer a terminal spelt out."""
  if text.isprintable():
    return text
  return "".join(
    c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text
  )


_PARSERS_RAISE = (
  ArithmeticError,
  AttributeError,
  LookupError,
  RecursionError,
  TypeError,
  ValueError,
)


@contextlib.contextmanager
def damaged_file(path: object, remedy: str) -> Iterator[None]:
  """Turns a parser's exceptions on a damaged file into a UserError.

  Args:
    path: the file.
    remedy: what the user can do.
  """
  try:
    yield
  except _PARSERS_RAISE as error:
    if isinstance(error, UserError) and not isinstance(error, JsonError):
      raise
    reason = one_line(str(error) or type(error).__name__)
    raise UserError(f"{path} is damaged ({reason}): {remedy}") from error


# NumPy's errors of a full disk have no number.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
  """Turns an OSError of writing into a StorageError that names the path."""
  try:
    yield
  except StorageError:
    raise
  except OSError as error:
    raise _storage_error(path, error) from error


@contextlib.contextmanager
def full_disk(path: object) -> Iterator[None]:
  """Does what `writing` does where a disk is full, and passes other errors."""
  try:
    yield
  except StorageError:
    raise
  except OSError as error:
    if error.errno is None or error.errno not in _FULL:
      raise
    raise _storage_error(path, error) from error


def _storage_error(path: object, error: OSError) -> StorageError:
  full = error.errno in _FULL
  remedy = "make room" if full else "give another path, or mend the cause"
  found = StorageError(
    f"cannot write {path} ({one_line(error.strerror or error)}): {remedy}, and"
    " start again"
  )
  found.errno = error.errno
  return found
