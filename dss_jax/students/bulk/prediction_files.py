"""Writes predictions in whole windows, to a file or a pipe.

While a file is being made there are

    OUTPUT.partial       the predictions so far, as JSON lines
    OUTPUT.infer.json    the student, the options, and how far predicting is

The second file says how many bytes of the first one count. Bytes that a killed
process left after them are cut off, and predicting continues from there. OUTPUT
appears when all is done, and OUTPUT.infer.json stays next to it to tell what
the predictions depend on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from dss_jax.base import plain_files, strict_json
from dss_jax.base.atomic_files import write_atomically
from dss_jax.base.errors import UserError, damaged_file, one_line, writing
from dss_jax.students.bulk import prediction_records

STDOUT = "-"
FORMAT = 1
SUFFIXES = (".jsonl", ".json", *prediction_records.TABLE_SUFFIXES)
# Seconds between two states on disk from which a run can continue.
_SECONDS_BETWEEN_SAVES = 1.0

# Earlier versions did not measure these.
_LATER = ("seconds", "peak_memory_bytes", "request_times")
_REMEDY = "set overwrite to start anew"


@dataclasses.dataclass
class Progress:
  """How far predicting is; OUTPUT.infer.json holds all of it.

  Attributes:
    rows: input records that were answered.
    bytes: size of their predictions in the partial file.
    input_digest: digest of those records.
    lengths: declared lengths of inputs, in tokens.
    totals: counts over those records.
    seconds: time that answering them took, over all starts.
    peak_memory_bytes: the most memory of the process, as the system counts it;
      an accelerator's own is not in it.
    request_times: of requests that came alone, see `request_times.measure`,
      and how many were `asked` for; empty where nobody did.
    complete: whether these are all records.
  """

  rows: int = 0
  bytes: int = 0
  input_digest: str = ""
  lengths: list[int] = dataclasses.field(default_factory=list)
  totals: dict[str, Any] = dataclasses.field(default_factory=dict)
  seconds: float = 0.0
  peak_memory_bytes: int = 0
  request_times: dict[str, Any] = dataclasses.field(default_factory=dict)
  complete: bool = False


def is_stream(path: str) -> bool:
  """Whether `path` is a pipe or a device, whose content cannot be read back."""
  if path == STDOUT:
    return True
  place = pathlib.Path(path)
  return place.exists() and not (place.is_file() or place.is_dir())


def check_path(path: str, source: str = "") -> None:
  """Raises UserError where predictions from `source` cannot go to `path`."""
  if is_stream(path):
    return
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in SUFFIXES:
    problem = (
      f"has the unknown suffix {suffix!r}; it must be one of"
      f" {', '.join(SUFFIXES)}, or - for standard output"
    )
  elif pathlib.Path(path).is_dir():
    problem = "is a folder; name a file"
  elif os.path.exists(source) and any(
    place.exists() and place.samefile(source) for place in _files_of(path)
  ):
    problem = f"would replace the input {source}; give another name"
  else:
    return
  raise UserError(f"output is {path}, which {problem}", fields="output")


def _files_of(path: str) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
  """OUTPUT, OUTPUT.partial and OUTPUT.infer.json."""
  whole, partial, state = (
    pathlib.Path(f"{path}{end}") for end in ("", ".partial", ".infer.json")
  )
  return whole, partial, state


class StreamOutput:
  """Writes predictions to a pipe or a device, at once."""

  is_done = False

  def __init__(self, path: str):
    self._path = path
    self.progress = Progress()

  def __enter__(self) -> StreamOutput:
    self._file: BinaryIO = (
      sys.stdout.buffer if self._path == STDOUT else open(self._path, "wb")
    )
    return self

  def __exit__(self, *exception: object) -> None:
    if self._path != STDOUT:
      self._file.close()

  def append(self, lines: bytes) -> None:
    self._file.write(lines)
    self._file.flush()

  def save(self, *, force: bool = False) -> None:
    """Does nothing: writing to a pipe cannot be continued."""

  def finish(self) -> None:
    self.progress.complete = True


class FileOutput:
  """Writes predictions to a file so that a killed run can continue.

  with FileOutput(path, made_of) as output:
    ...  # continue after output.progress
      output.append(lines)
      output.save()
    output.finish()
  """

  def __init__(
    self,
    path: str,
    made_of: Mapping[str, Any],
    *,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
  ):
    """Touches nothing yet.

    Args:
      path: the file; its suffix says its format.
      made_of: what the predictions depend on, as JSON values: a run continues
        only if they are equal.
      about: further content of OUTPUT.infer.json.
      overwrite: start anew, even if the file exists.
    """
    self.path, self._partial, self._state = _files_of(path)
    self._made_of = json.loads(json.dumps(made_of))
    self._about = dict(about or {})
    self._overwrite = overwrite
    self._saved_at = time.monotonic()
    self._file: BinaryIO
    self.progress = Progress()

  def __enter__(self) -> FileOutput:
    """Opens the files of an earlier run, or starts new ones.

    Raises:
      UserError: for a file that exists already, was made otherwise, or is
        being written by another process.
    """
    self._file = self._open_partial()
    try:
      if self._overwrite:
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
      self.progress = self._read_state() or Progress()
      if not self.is_done:
        with writing(self._partial):  # such as half a line
          self._file.truncate(self.progress.bytes)
          self._file.seek(0, os.SEEK_END)
    except BaseException:
      self._close()
      raise
    return self

  def __exit__(self, *exception: object) -> None:
    self._close()

  @property
  def is_done(self) -> bool:
    """Whether the file is complete, and nothing is left to do."""
    return self.progress.complete and self.path.exists()

  def append(self, lines: bytes) -> None:
    """Adds whole lines, which count once `save` has recorded them."""
    with writing(self._partial):
      self._file.write(lines)
      self._file.flush()
    self.progress.bytes += len(lines)

  def save(self, *, force: bool = False) -> None:
    """Records the added lines, if a second has passed or with `force`."""
    now = time.monotonic()
    if not force and now - self._saved_at < _SECONDS_BETWEEN_SAVES:
      return
    with writing(self._partial):
      os.fsync(self._file.fileno())
    state = {
      "format": FORMAT,
      **dataclasses.asdict(self.progress),
      "about": self._about,
      "made_of": self._made_of,
    }
    write_atomically(self._state, json.dumps(state, indent=2) + "\n")
    self._saved_at = now

  def finish(self) -> None:
    """Puts the file in its place, unless it is there."""
    if self.is_done:
      return
    self.progress.complete = True
    self.save(force=True)
    with writing(self.path):
      if self.path.suffix.lower() in prediction_records.TABLE_SUFFIXES:
        prediction_records.write_table(self._partial, self.path)
      else:
        os.replace(self._partial, self.path)

  def _open_partial(self) -> BinaryIO:
    """Opens the partial file, locked: only one process may write to it."""
    try:
      file = open(self._partial, "a+b")  # noqa: SIM115
    except OSError as error:
      raise UserError(
        f"cannot write {self.path}: {error.strerror or error}", fields="output"
      ) from None
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      file.close()
      raise UserError(
        f"another process is writing {self.path}: wait for it, or give another"
        " output",
        fields="output",
      ) from None
    return file

  def _read_state(self) -> Progress | None:
    """How far an earlier run came; None if there is none to continue."""
    if not self._state.exists():
      if not self.path.exists():
        return None
      raise _refused(f"{self.path} exists already")
    with damaged_file(self._state, _REMEDY):
      state = strict_json.loads(plain_files.read_text(self._state))
      if state["format"] != FORMAT:
        raise _refused(
          f"{self._state} has the format {state['format']!r}, this program"
          f" writes {FORMAT}"
        )
      found = Progress()
      for name, value in dataclasses.asdict(found).items():
        if name in _LATER and name not in state:
          continue
        if type(state[name]) is not type(value):
          raise ValueError(f"{name} is {one_line(state[name], longest=60)}")
        setattr(found, name, state[name])
      made_of = dict(state["made_of"])
    size = os.fstat(self._file.fileno()).st_size
    if found.complete and size < found.bytes and not self.path.exists():
      return None  # the file was removed, and is made again
    if difference := _difference("", made_of, self._made_of):
      raise _refused(f"{self.path} was made with {difference}")
    if size < found.bytes and not (found.complete and self.path.exists()):
      raise _refused(f"{self._partial} is shorter than it was")
    return found

  def _close(self) -> None:
    """Closes the partial file, and removes it if it is of no more use."""
    if self.is_done or not os.fstat(self._file.fileno()).st_size:
      self._partial.unlink(missing_ok=True)
    # An error of the disk was raised before, and is not tried again.
    with contextlib.suppress(OSError):
      self._file.close()


def _refused(problem: str) -> UserError:
  return UserError(
    f"{problem}: {_REMEDY}, or give another output",
    fields=("overwrite", "output"),
  )


def _difference(name: str, old: Any, new: Any) -> str:
  """Names the first value that differs, old and new; "" if all are equal."""
  if old == new:
    return ""
  if isinstance(old, dict) and isinstance(new, dict):
    found = (
      _difference(f"{name}.{key}", old.get(key), new.get(key))
      for key in sorted({*old, *new})
    )
    return next(filter(None, found), "")
  shown = [one_line(repr(value), longest=60) for value in (old, new)]
  return f"{name.lstrip('.')} {shown[0]}, not {shown[1]}"
