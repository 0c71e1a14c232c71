"""Reads the records of a file or a pipe that a student is asked about.

A record that cannot be asked stays in its place and says why. Memory holds one
window of records, and the few that a pipe has brought, however long the input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
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
  READ_SUFFIXES,
  FieldMapping,
  Record,
  iter_entries,
  text_entries,
  text_files,
)
from dss_jax.datasets.records import record as record_lib
from dss_jax.students.predictions import PredictInput

STDIN = "-"
FORMATS = ("jsonl", "csv", "tsv", "parquet", "text")
_KINDS = {"jsonl": "json", "csv": "csv", "tsv": "tsv"}

# Characters of a window; windows of long records have fewer of them.
MAX_WINDOW_CHARS = 32 << 20
# Records that are read ahead from a pipe.
_RECORDS_AHEAD = 32
# When a pipe is silent for this long, the records that it brought are answered.
_IDLE_SECONDS = 0.05

# A line number and what the line holds.
_Entry = tuple[int, Mapping[str, Any] | UserError]


@dataclasses.dataclass(frozen=True)
class InputRecord:
  """A record of the input.

  Attributes:
    id: the record's id, or one made of its line number.
    item: what the student is asked; None if the record cannot be asked.
    error: why it cannot be asked.
    gold: the label that the record brings.
    extra: the record's keys that nothing here reads, and its `meta`.
    digest_text: everything that the record holds.
  """

  id: str
  item: PredictInput | None
  error: str | None = None
  gold: str | None = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  digest_text: str = ""


def format_of(path: str, input_format: str | None) -> str:
  """The format of an input, a suffix or one of FORMATS.

  Args:
    path: a file, or STDIN.
    input_format: one of FORMATS; None takes the file's suffix, or JSON lines
      for standard input.

  Raises:
    UserError: for a file whose suffix is unknown.
  """
  if input_format is not None:
    if path == STDIN and input_format == "parquet":
      raise UserError(
        "input_format is 'parquet', which is for files; a pipe can bring jsonl,"
        " csv, tsv or text",
        fields="input_format",
      )
    return input_format
  suffix = pathlib.Path(path).suffix.lower()
  if path == STDIN:
    return "jsonl"
  if suffix == ".txt":
    return "text"
  if not path.lower().endswith(READ_SUFFIXES):
    raise UserError(
      f"input is {path}, which has the unknown suffix {suffix!r}; set"
      f" input_format to one of {', '.join(FORMATS)}",
      fields=("input", "input_format"),
    )
  return suffix


def read(
  path: str, kind: str, mapping: FieldMapping, *, with_rationale: bool
) -> Iterator[InputRecord]:
  """Reads the records of a file or of standard input, in order.

  Args:
    path: a file, or STDIN.
    kind: the format, from `format_of`.
    mapping: which keys hold which fields.
    with_rationale: whether the student reads a rationale.

  Raises:
    UserError: for an input that cannot be read at all.
  """
  for line, entry in _entries(path, kind, mapping):
    yield input_record(line, entry, mapping, with_rationale=with_rationale)


def _entries(path: str, kind: str, mapping: FieldMapping) -> Iterator[_Entry]:
  if path != STDIN and pathlib.Path(path).suffix.lower() in (kind, f".{kind}"):
    yield from iter_entries(path, mapping)
    return
  if kind == "parquet":
    raise UserError(
      f"input is {path}; rename the file to end in .parquet", fields="input"
    )
  name = "standard input" if path == STDIN else path
  try:
    with (
      _standard_input() if path == STDIN else text_files.opened(path) as file
    ):
      if kind == "text":
        for line, text in text_files.read_lines(file):
          yield line, text if isinstance(text, UserError) else {"input": text}
      else:
        yield from text_entries(file, name, _KINDS[kind], mapping)
  except OSError as error:
    raise UserError(
      f"cannot read {name}: {error.strerror or error}", fields="input"
    ) from None


@contextlib.contextmanager
def _standard_input() -> Iterator[io.BufferedReader]:
  # `sys.stdin` is avoided: Python aborts if a thread waits in it at exit.
  with open(sys.stdin.fileno(), "rb", closefd=False) as file:
    yield text_files.as_utf8(file, "standard input")


# ----------------------------------------------------------------- one record


def input_record(
  line: int,
  entry: Mapping[str, Any] | UserError,
  mapping: FieldMapping,
  *,
  with_rationale: bool,
) -> InputRecord:
  """Makes an input record of one entry of a file.

  An entry whose label or rationale cannot be used is asked as if it had none.
  """
  name = f"line-{line}"
  if isinstance(entry, UserError):
    return InputRecord(name, None, str(entry), digest_text=str(entry))
  text = repr(entry)
  try:
    record = _record(entry, mapping, name, with_rationale)
  except UserError as error:
    name = _id(entry, mapping, name)
    return InputRecord(name, None, str(error), digest_text=text)
  rationale = None
  if with_rationale and record.rationales:
    rationale = record.rationales[0].text
  meta = {"meta": dict(record.meta)} if record.meta else {}
  return InputRecord(
    record.id,
    PredictInput(record.input, rationale, record.id),
    gold=record.label,
    extra=meta | dict(record.extra),
    digest_text=text,
  )


def _record(
  entry: Mapping[str, Any],
  mapping: FieldMapping,
  name: str,
  with_rationale: bool,
) -> Record:
  try:
    return mapping.record(entry, name)
  except UserError:
    optional = ["label", "meta"]
    if not with_rationale:
      optional += ["rationales", *FLAT_FIELDS]
    keys = {key for field in optional for key in mapping.source_keys(field)}
    keys -= set(mapping.source_keys("input"))
    needed = {key: value for key, value in entry.items() if key not in keys}
    if len(needed) == len(entry):
      raise
    return mapping.record(needed, name)


def _id(entry: Mapping[str, Any], mapping: FieldMapping, name: str) -> str:
  try:
    found = record_lib.text_or_none("id", mapping.value("id", entry))
    return Record(found or name, "any").id
  except UserError:
    return name


# --------------------------------------------------------------- many records


class Windows:
  """Iterates over records in windows.

      with Windows(read(...), size=4096) as windows:
        for window in windows:
          ...

  Attributes:
    digest: SHA-256 of all records so far, including those skipped.
  """

  def __init__(
    self,
    records: Iterator[InputRecord],
    size: int,
    *,
    limit: int | None = None,
    eager: bool = False,
  ):
    """Reads nothing yet, unless `eager`.

    Args:
      records: from `read`.
      size: records of a window.
      limit: the most records in all.
      eager: end a window as soon as the input falls silent; a thread then
        reads ahead. Otherwise windows depend on the records alone, never on
        time.
    """
    self._records = itertools.islice(records, limit)
    self._size = size
    self._hash = hashlib.sha256()
    self._closed = False
    self._queue: queue.Queue[Any] | None = None
    if eager:
      self._queue = queue.Queue(_RECORDS_AHEAD)
      self._thread = threading.Thread(
        target=self._read_ahead, args=[self._queue], daemon=True
      )
      self._thread.start()

  @property
  def digest(self) -> str:
    return self._hash.hexdigest()

  def skip(self, count: int) -> int:
    """Passes over records; returns how many there were, at most `count`."""
    for done in range(count):
      if self._next(None) is None:
        return done
    return count

  def __iter__(self) -> Iterator[Sequence[InputRecord]]:
    while window := self._window():
      yield window

  def __enter__(self) -> Windows:
    return self

  def __exit__(self, *exception: object) -> None:
    self._closed = True
    # This wakes a thread that waits for room in the queue. A thread that waits
    # for a silent pipe ends with the program.
    if self._queue is not None:
      with contextlib.suppress(queue.Empty):
        while True:
          self._queue.get_nowait()

  def _window(self) -> list[InputRecord]:
    window: list[InputRecord] = []
    chars = 0
    while len(window) < self._size and chars < MAX_WINDOW_CHARS:
      record = self._next(_IDLE_SECONDS if window else None)
      if record is None:
        break
      window.append(record)
      chars += len(record.digest_text)
    return window

  def _next(self, timeout: float | None) -> InputRecord | None:
    """The next record; None at the end, or when a pipe is silent for long."""
    if self._closed:
      return None
    if self._queue is None:
      record = next(self._records, None)
    else:
      try:
        record = self._queue.get(timeout=timeout)
      except queue.Empty:
        return None
    if not isinstance(record, InputRecord):  # the end, or what the thread met
      self._closed = True
      if record is not None:
        raise record
      return None
    self._hash.update(record.digest_text.encode("utf-8", "surrogatepass"))
    self._hash.update(b"\n")
    return record

  def _read_ahead(self, records: queue.Queue[Any]) -> None:
    """Runs in the thread."""
    end: BaseException | None = None
    try:
      for record in self._records:
        records.put(record)
        if self._closed:
          return
    except BaseException as error:  # raised again where it can be seen
      end = error
    records.put(end)
