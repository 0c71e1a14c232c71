"""Predictions on their way into a file: whole windows, or a pipe.

While a file is being made there are

    OUTPUT.partial       what was predicted so far, JSON lines
    OUTPUT.infer.json    of which student, with what options, how far

The second says how many bytes of the first count; what a kill left behind
them is cut off, and predicting goes on from there. OUTPUT appears when all is
done, and OUTPUT.infer.json stays beside it to tell what it was made of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from dss_jax.base.atomic_files import write_atomically
from dss_jax.base.errors import UserError, damaged_file, one_line, writing
from dss_jax.students.bulk import prediction_tables

STDOUT = "-"
FORMAT = 1
SUFFIXES = (".jsonl", ".json", *prediction_tables.SUFFIXES)
# Between two looks at the disk by which a run could go on.
_SECONDS_BETWEEN_SAVES = 1.0


@dataclasses.dataclass
class Progress:
  """How far predicting is; all of it is in OUTPUT.infer.json.

  Attributes:
    rows: of the input that were answered.
    bytes: of the partial file that they take.
    input_digest: over those rows.
    lengths: row lengths that were declared, in tokens.
    totals: counts over those rows.
    complete: whether these are all rows.
  """

  rows: int = 0
  bytes: int = 0
  input_digest: str = ""
  lengths: list[int] = dataclasses.field(default_factory=list)
  totals: dict[str, Any] = dataclasses.field(default_factory=dict)
  complete: bool = False


def is_stream(path: str) -> bool:
  """Whether predictions to `path` are gone once written: pipes and devices."""
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
    raise UserError(
      f"--output: {path} has the unknown suffix {suffix!r}; allowed:"
      f" {', '.join(SUFFIXES)}, or - for standard output"
    )
  if pathlib.Path(path).is_dir():
    raise UserError(f"--output: {path} is a folder; name a file")
  for each in _files_of(path):
    if each.exists() and os.path.exists(source) and each.samefile(source):
      raise UserError(
        f"--output: {path} would take the place of --input; give another name"
      )


def _files_of(path: str) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
  """OUTPUT, OUTPUT.partial and OUTPUT.infer.json."""
  whole, partial, state = (
    f"{path}{end}" for end in ("", ".partial", ".infer.json")
  )
  return pathlib.Path(whole), pathlib.Path(partial), pathlib.Path(state)


class StreamOutput:
  """Predictions to a pipe or a device, at once."""

  is_there = False

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
    del force  # nobody can go on with a pipe

  def finish(self) -> None:
    self.progress.complete = True


class FileOutput:
  """Predictions to a file, in a way that can be gone on with.

  with FileOutput(path, made_of) as output:
    ...  # from output.progress on
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
    """Nothing is touched yet.

    Args:
      path: of the file, which gets its format by its suffix.
      made_of: what the predictions depend on, as JSON values: only with equal
        ones can what is there be gone on with.
      about: more to tell in OUTPUT.infer.json.
      overwrite: begin anew, whatever is there.
    """
    self.path, self._partial, self._state = _files_of(path)
    self._made_of = json.loads(json.dumps(made_of))
    self._about = dict(about or {})
    self._overwrite = overwrite
    self._saved_at = time.monotonic()
    self._file: BinaryIO
    self.progress = Progress()

  def __enter__(self) -> FileOutput:
    """Opens what is there, or begins.

    Raises:
      UserError: for a file that is there already, was begun otherwise, or is
        being written by another process.
    """
    self._file = self._opened()
    try:
      if self._overwrite:
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
      self.progress = self._read_state() or Progress()
      if not self.is_there:
        self._cut()
    except BaseException:
      self._close()
      raise
    return self

  def __exit__(self, *exception: object) -> None:
    self._close()

  @property
  def is_there(self) -> bool:
    """Whether the file is complete, and nothing is left to do."""
    return self.progress.complete and self.path.exists()

  def append(self, lines: bytes) -> None:
    """Adds whole lines; they count once `save` has told of them."""
    with writing(self._partial):
      self._file.write(lines)
      self._file.flush()
    self.progress.bytes += len(lines)

  def save(self, *, force: bool = False) -> None:
    """Makes what was added count, if a while has passed or with `force`."""
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
    """Lets the file appear; harmless if it has."""
    if self.is_there:
      return
    self.progress.complete = True
    self.save(force=True)
    with writing(self.path):
      if self.path.suffix.lower() in prediction_tables.SUFFIXES:
        prediction_tables.convert(self._partial, self.path)
      else:
        os.replace(self._partial, self.path)

  # --------------------------------------------------------------------------

  def _opened(self) -> BinaryIO:
    """The partial file, locked: two processes must not write to it."""
    import fcntl

    try:
      file = open(self._partial, "a+b")  # noqa: SIM115
    except OSError as error:
      raise UserError(
        f"--output: cannot write {self.path}: {error.strerror or error}"
      ) from None
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      file.close()
      raise UserError(
        f"--output: another process is writing {self.path}: wait for it, or"
        " give another name"
      ) from None
    return file

  def _read_state(self) -> Progress | None:
    """How far it was; None if there is nothing to go on with."""
    try:
      text = self._state.read_text(encoding="utf-8")
    except FileNotFoundError:
      if self.path.exists():
        raise UserError(
          f"--output: {self.path} exists already; give --overwrite, or another"
          " name"
        ) from None
      return None
    remedy = "give --overwrite to begin anew"
    with damaged_file(self._state, remedy):
      state = json.loads(text)
      if state["format"] != FORMAT:
        raise UserError(
          f"{self._state} is of format {state['format']!r}, this program"
          f" writes {FORMAT}: {remedy}"
        )
      found = Progress()
      for name, value in dataclasses.asdict(found).items():
        if type(state[name]) is not type(value):
          raise ValueError(f"{name} is {one_line(state[name], longest=60)}")
        setattr(found, name, state[name])
      made_of = dict(state["made_of"])
    if found.complete and not self.path.exists() and not self._has(found):
      return None  # taken away, to be made again
    for name in sorted({*made_of, *self._made_of}):
      old, new = made_of.get(name), self._made_of.get(name)
      if old != new:
        raise UserError(
          f"--output: {self.path} was begun with {_shown(name, old, new)}; give"
          " --overwrite to begin anew, or another name"
        )
    if not self._has(found) and not (found.complete and self.path.exists()):
      raise UserError(f"{self._partial} is shorter than it was: {remedy}")
    return found

  def _has(self, found: Progress) -> bool:
    """Whether the partial file holds what it should."""
    return os.fstat(self._file.fileno()).st_size >= found.bytes

  def _cut(self) -> None:
    """Cuts off what does not count, such as half a line."""
    with writing(self._partial):
      self._file.truncate(self.progress.bytes)
      self._file.seek(0, os.SEEK_END)

  def _close(self) -> None:
    """Closes the partial file, which goes if it is of no more use."""
    if self.is_there or not os.fstat(self._file.fileno()).st_size:
      self._partial.unlink(missing_ok=True)
    # What a disk refused has been told of, and is not tried again.
    with contextlib.suppress(OSError):
      self._file.close()


def _shown(name: str, old: Any, new: Any) -> str:
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted({*old, *new}):
      if old.get(key) != new.get(key):
        return _shown(f"{name}.{key}", old.get(key), new.get(key))
  return (
    f"{name} {one_line(repr(old), longest=60)}, not"
    f" {one_line(repr(new), longest=60)}"
  )
