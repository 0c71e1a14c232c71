"""Rows of a file or a pipe as questions to a student, in windows.

A row that is no question stays in its place and says why. What is in memory
is one window and what a thread reads ahead, however long the input is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import pathlib
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import (
  FLAT_FIELDS,
  SUFFIXES,
  FieldMapping,
  Record,
  iter_entries,
  json_lines,
  tables,
)
from dss_jax.datasets.records import record as record_lib
from dss_jax.students.predictions import PredictInput

STDIN = "-"
FORMATS = ("jsonl", "csv", "tsv", "parquet", "text")
_SUFFIX_OF_FORMAT = {
  "jsonl": ".jsonl",
  "csv": ".csv",
  "tsv": ".tsv",
  "parquet": ".parquet",
}
_DELIMITERS = {"csv": ",", "tsv": "\t"}

# Characters of a window's rows; long rows make windows of fewer rows.
MAX_WINDOW_CHARS = 32 << 20
# What is read ahead goes in chunks, which bound it by rows and by characters.
_CHUNK_ROWS = 64
_CHUNK_CHARS = 1 << 20
_CHUNKS_AHEAD = 32
# So long a pipe may be silent before what came is answered.
_IDLE_SECONDS = 0.05
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Question:
  """A row of the input.

  Attributes:
    id: of the row, or made of its line.
    item: what the student is asked; None for a row that is no question.
    error: why it is none.
    gold: the label the row brings.
    extra: the row's keys that nothing here reads, and its `meta`.
    digest_text: all that the row holds.
  """

  id: str
  item: PredictInput | None
  error: str | None = None
  gold: str | None = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  digest_text: str = ""


def kind_of(path: str, input_format: str | None) -> str:
  """The format of an input: as told, or by its suffix; JSON lines of a pipe.

  Raises:
    UserError: for a file whose suffix says nothing.
  """
  if input_format is not None:
    if path == STDIN and input_format == "parquet":
      raise UserError(
        "--input_format=parquet is for files; a pipe can bring jsonl, csv, tsv"
        " or text"
      )
    return input_format
  suffix = pathlib.Path(path).suffix.lower()
  if path == STDIN:
    return "jsonl"
  if suffix == ".txt":
    return "text"
  if suffix not in SUFFIXES:
    raise UserError(
      f"--input: {path} has the unknown suffix {suffix!r}; give --input_format"
      f" ({', '.join(FORMATS)})"
    )
  return suffix


def read(
  path: str, kind: str, mapping: FieldMapping, *, with_rationale: bool
) -> Iterator[Question]:
  """The questions of a file or of standard input, in order.

  Args:
    path: a file, or STDIN.
    kind: what `kind_of` says.
    mapping: which keys hold what.
    with_rationale: whether the student reads a rationale.

  Raises:
    UserError: for an input that cannot be read at all.
  """
  for line, row in _rows(path, kind, mapping):
    yield question(line, row, mapping, with_rationale=with_rationale)


def _rows(
  path: str, kind: str, mapping: FieldMapping
) -> Iterator[tuple[int, Mapping[str, Any] | UserError]]:
  if path != STDIN and kind != "text":
    suffix = pathlib.Path(path).suffix.lower()
    if suffix == kind or suffix == _SUFFIX_OF_FORMAT.get(kind):
      yield from iter_entries(path, mapping)
      return
  if kind == "parquet":
    raise UserError(f"--input: rename {path} to end in .parquet")
  if path == STDIN:
    # Not by `sys.stdin`: Python aborts where a thread still waits in it at exit.
    with open(sys.stdin.fileno(), "rb", closefd=False) as file:
      yield from _rows_of(file, "standard input", kind, mapping)
    return
  try:
    with open(path, "rb") as file:
      yield from _rows_of(file, path, kind, mapping)
  except OSError as error:
    raise UserError(
      f"--input: cannot read {path}: {error.strerror or error}"
    ) from None


def _rows_of(
  file: Any, name: str, kind: str, mapping: FieldMapping
) -> Iterator[tuple[int, Mapping[str, Any] | UserError]]:
  if kind == "text":
    for line, text in json_lines.read_lines(file):
      yield line, text if isinstance(text, UserError) else {"input": text}
  elif kind in _DELIMITERS:
    yield from tables.entries_of(file, name, mapping, _DELIMITERS[kind])
  else:
    yield from json_lines.entries_of(file, name)


# ----------------------------------------------------------------- one row


def question(
  line: int,
  row: Mapping[str, Any] | UserError,
  mapping: FieldMapping,
  *,
  with_rationale: bool,
) -> Question:
  """One row as a question.

  A label or rationale that cannot be used is no reason not to ask: the row
  then counts as one without.
  """
  name = f"line-{line}"
  if isinstance(row, UserError):
    return Question(name, None, str(row), digest_text=str(row))
  text = repr(row)
  try:
    record = _record(row, mapping, name, with_rationale)
  except UserError as error:
    return Question(_id(row, mapping, name), None, str(error), digest_text=text)
  rationale = None
  if with_rationale:
    rationale = next((each.text for each in record.rationales), None)
  extra = dict(record.extra)
  if record.meta:
    extra = {"meta": dict(record.meta), **extra}
  return Question(
    record.id,
    PredictInput(record.input, rationale, record.id),
    gold=record.label,
    extra=extra,
    digest_text=text,
  )


def _record(
  row: Mapping[str, Any], mapping: FieldMapping, name: str, with_rationale: bool
) -> Record:
  try:
    return mapping.record(row, name)
  except UserError:
    unread = ["label", "meta"]
    if not with_rationale:
      unread += ["rationales", *FLAT_FIELDS]
    keys = {key for field in unread for key in mapping.source_keys(field)}
    keys -= set(mapping.source_keys("input"))
    rest = {key: value for key, value in row.items() if key not in keys}
    if len(rest) == len(row):
      raise
    return mapping.record(rest, name)


def _id(row: Mapping[str, Any], mapping: FieldMapping, name: str) -> str:
  try:
    found = record_lib.text_or_none("id", mapping.value("id", row))
    return Record(found or name, "any").id
  except UserError:
    return name


# --------------------------------------------------------------- many rows


class Windows:
  """Questions in windows, read by a thread.

      with Windows(read(...), rows=4096) as windows:
        for window in windows:
          ...

  Attributes:
    digest: over all rows of the windows so far, and of those skipped.
  """

  def __init__(
    self,
    questions: Iterator[Question],
    rows: int,
    *,
    limit: int | None = None,
    eager: bool = False,
  ):
    """Starts the thread.

    Args:
      questions: from `read`.
      rows: of a window.
      limit: rows in all, at most.
      eager: end a window as soon as the input falls silent. Otherwise windows
        depend on the rows alone, never on time.
    """
    self._questions = itertools.islice(questions, limit)
    self._max_rows = rows
    self._eager = eager
    self._queue: queue.Queue[Any] = queue.Queue(_CHUNKS_AHEAD)
    self._closed = threading.Event()
    self._chunk: list[Question] = []
    self._ended = False
    self._hash = hashlib.sha256()
    self._thread = threading.Thread(
      target=self._work, name="dss_jax-questions", daemon=True
    )
    self._thread.start()

  @property
  def digest(self) -> str:
    return self._hash.hexdigest()

  def skip(self, rows: int) -> int:
    """Passes over rows; returns how many there were, at most `rows`."""
    for done in range(rows):
      if self._next(None) is None:
        return done
    return rows

  def __iter__(self) -> Iterator[Sequence[Question]]:
    while window := self._window():
      yield window

  def __enter__(self) -> Windows:
    return self

  def __exit__(self, *exception: object) -> None:
    self._closed.set()
    # A thread that waits for a silent pipe goes with the program.
    while self._thread.is_alive() and not self._eager:
      try:
        self._queue.get_nowait()
      except queue.Empty:
        self._thread.join(_POLL_SECONDS)

  def _window(self) -> list[Question]:
    window: list[Question] = []
    chars = 0
    while len(window) < self._max_rows and chars < MAX_WINDOW_CHARS:
      found = self._next(_IDLE_SECONDS if self._eager and window else None)
      if found is None:
        break
      window.append(found)
      chars += len(found.digest_text)
    return window

  def _next(self, timeout: float | None) -> Question | None:
    """The next question; None at the end, or when `timeout` has passed."""
    if not self._chunk and not self._ended:
      try:
        chunk = self._queue.get(timeout=timeout)
      except queue.Empty:
        return None
      if isinstance(chunk, BaseException):
        raise chunk
      self._ended = chunk is None
      self._chunk = chunk or []
      self._chunk.reverse()
    if self._ended:
      return None
    found = self._chunk.pop()
    self._hash.update(found.digest_text.encode("utf-8", "surrogatepass"))
    self._hash.update(b"\n")
    return found

  # In the thread.

  def _work(self) -> None:
    chunk: list[Question] = []
    end: BaseException | None = None
    try:
      chars = 0
      for each in self._questions:
        chunk.append(each)
        chars += len(each.digest_text)
        if self._eager or len(chunk) == _CHUNK_ROWS or chars >= _CHUNK_CHARS:
          if not self._put(chunk):
            return
          chunk, chars = [], 0
    except BaseException as error:  # to be raised where it can be seen
      end = error
    if chunk:
      self._put(chunk)
    self._put(end)

  def _put(self, entry: Any) -> bool:
    """Waits for room; False if closed meanwhile."""
    while not self._closed.is_set():
      try:
        self._queue.put(entry, timeout=_POLL_SECONDS)
        return True
      except queue.Full:
        continue
    return False
