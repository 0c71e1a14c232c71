"""One ledger in many shards, for runs of many processes and machines.

A record belongs to the shard that the hash of its input names, whatever is
asked about it, so equal requests meet in one shard. A process opens a shard
with `open_shard`, and there are two kinds:

sqlite    FOLDER/shard-00003-of-00016.sqlite, an ordinary `Ledger`: nothing that
          was answered is lost by any end of a process, and a lock lets only one
          writer in. For a local disk, shared by the processes of one machine.
segments  FOLDER/shard-00003-of-00016-TIME-ID.jsonl, files of outcomes, and of
          what attempts cost, that are written once, whole, and never changed. For object stores and network
          file systems, which have neither locks nor appending. The shard is
          read into a ledger in a scratch folder, and what is new there is
          published as a further file every few seconds and in the end.

A process with segments that is killed loses what it has not published: answers
of the last seconds, which are asked again. And nothing keeps two processes from
asking the same shard at once, if what starts them does not: then both ask, and
for later runs the answer that was published first counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from dss_jax.base import checks
from dss_jax.base.errors import UserError, one_line
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.ledger_file import InUseError
from dss_jax.rationales.teacher_requests import (
  ANSWERED,
  BATCH,
  NO_TOKENS,
  Attempt,
  Completion,
  Outcome,
  Tokens,
)

KINDS = ("auto", "sqlite", "segments")
MAX_SHARDS = 99_999

_SHARD = re.compile(r"shard-\d{5}-of-(\d{5})\b")
_SEGMENT = ".jsonl"
# The key of a segment's last line: what its attempts cost.
_CHARGES = "charges"
# Failures to publish in a row after which asking stops.
_MAX_FAILURES = 4


class Files(Protocol):
  """A file system, as far as segments need one."""

  def beginning_with(self, prefix: str) -> list[str]:
    """Paths of the files whose paths, with their folders, begin so."""
    ...

  def read(self, path: str) -> bytes: ...

  def write(self, path: str, content: bytes) -> None:
    """Makes a file, and its folder if need be; all of it or nothing."""
    ...


def shard_of(text: str, num_shards: int) -> int:
  """The shard of a record, by its input alone."""
  digest = hashlib.sha256(text.encode()).digest()
  return int.from_bytes(digest[:8], "big") % num_shards


def shard_name(shard: int, num_shards: int) -> str:
  """What the names of a shard's files begin with."""
  return f"shard-{shard:05d}-of-{num_shards:05d}"


def kind_of(kind: str, folder: str) -> str:
  """The kind for a folder: "auto" takes SQLite where the path has no scheme."""
  checks.one_of("ledger_kind", kind, KINDS)
  remote = "://" in folder
  if kind == "sqlite" and remote:
    raise UserError(
      f"ledger_kind sqlite needs a local folder, not {folder!r}; that one needs"
      " segments",
      fields="ledger_kind",
    )
  if kind == "auto":
    return "segments" if remote else "sqlite"
  return kind


def check_num_shards(names: Iterable[str], wanted: int | None) -> int | None:
  """The number of shards that a ledger has, by the names in its folder.

  Args:
    names: names of the files in its folder.
    wanted: the user's number; None takes the ledger's.

  Returns:
    The number; `wanted` for a new ledger.

  Raises:
    UserError: it has another number; its answers would not be found.
  """
  checks.in_range("num_shards", wanted, 1, MAX_SHARDS, or_none=True)
  found = {int(m[1]) for m in map(_SHARD.match, names) if m}
  if not found:
    return wanted
  if len(found) > 1 or (wanted is not None and wanted not in found):
    counts = ", ".join(map(str, sorted(found)))
    raise UserError(
      f"the ledger has {counts} shards, not {wanted or 'one number of them'}:"
      " leave num_shards out, or name another folder",
      fields=("num_shards", "ledger_dir"),
    )
  return found.pop()


@contextlib.contextmanager
def open_shard(
  folder: str,
  shard: int,
  num_shards: int,
  *,
  kind: str,
  files: Files,
  patience_s: float = 600.0,
  publish_every_s: float = 5.0,
) -> Iterator[Ledger]:
  """A shard's ledger, open for writing.

  Args:
    folder: folder of the whole ledger.
    shard: number of the shard, from 0.
    num_shards: number of shards of the whole ledger.
    kind: "sqlite" or "segments".
    files: the file system of segments.
    patience_s: longest wait, in seconds, for another process that writes the
      same file; one that was stopped may take a while to end.
    publish_every_s: largest age, in seconds, of answers that no segment holds.

  Raises:
    UserError: as `Ledger`, and for a segment that cannot be read.
  """
  name = shard_name(shard, num_shards)
  if kind == "sqlite":
    with _patiently(
      pathlib.Path(folder, f"{name}.sqlite"), patience_s
    ) as ledger:
      yield ledger
    return
  with (
    tempfile.TemporaryDirectory(prefix="dss_jax-ledger-") as scratch,
    SegmentedLedger(
      pathlib.Path(scratch, "ledger.sqlite"),
      f"{folder.rstrip('/')}/{name}",
      files,
      publish_every_s=publish_every_s,
    ) as ledger,
  ):
    yield ledger


def _patiently(path: pathlib.Path, patience_s: float) -> Ledger:
  deadline = time.monotonic() + patience_s
  while True:
    try:
      return Ledger(path)
    except InUseError:
      if time.monotonic() > deadline:
        raise
    time.sleep(min(0.5, patience_s))


class SegmentedLedger(Ledger):
  """A scratch ledger whose outcomes come from segments and go to new ones.

  Args:
    path: the scratch file, which is new.
    prefix: what the paths of its segments begin with.
    files: the segments' file system.
    publish_every_s: seconds between segments.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    prefix: str,
    files: Files,
    *,
    publish_every_s: float = 5.0,
  ):
    super().__init__(path)
    self._prefix = prefix
    self._files = files
    self._every_s = publish_every_s
    self._new: list[Outcome] = []
    # (model, is_batch) -> read, written and cached, of what ended since then.
    self._charges: dict[tuple[str, bool], list[int]] = {}
    self._limits: set[int] = set()
    self._mutex = threading.Lock()
    self._failures: list[UserError] = []
    self._closing = threading.Event()
    try:
      for segment in sorted(files.beginning_with(f"{prefix}-")):
        if segment.endswith(_SEGMENT):
          self._restore(segment)
      super().flush()
    except BaseException:
      super().close()
      raise
    self._publisher = threading.Thread(target=self._keep_publishing)
    self._publisher.daemon = True
    self._publisher.start()

  def add_outcome(self, outcome: Outcome) -> None:
    """See `Ledger.add_outcome`."""
    super().add_outcome(outcome)
    with self._mutex:
      self._new.append(outcome)

  def end_attempt(
    self,
    attempt: Attempt,
    result: str,
    message: str = "",
    *,
    tokens: Tokens | None = None,
  ) -> None:
    """See `Ledger.end_attempt`."""
    super().end_attempt(attempt, result, message, tokens=tokens)
    kind = (attempt.model, attempt.teacher == BATCH)
    self._charge(kind, dataclasses.astuple(tokens or attempt.tokens))

  def _charge(self, kind: tuple[str, bool], tokens: Sequence[int]) -> None:
    with self._mutex:
      before = self._charges.get(kind, [0, 0, 0])
      self._charges[kind] = [a + b for a, b in zip(before, tokens)]

  def add_limit(self, max_tokens: int) -> None:
    """See `Ledger.add_limit`."""
    super().add_limit(max_tokens)
    with self._mutex:
      self._limits.add(max_tokens)

  def flush(self) -> None:
    """See `Ledger.flush`; also raises if publishing keeps failing."""
    super().flush()
    if len(self._failures) >= _MAX_FAILURES:
      raise self._failures[-1]

  def close(self) -> None:
    """Publishes what is left."""
    try:
      self._closing.set()
      self._publisher.join()
      self._failures.clear()
      self._publish()
    finally:
      super().close()

  def _restore(self, path: str) -> None:
    """Adds a segment's outcomes and charges to the scratch ledger."""
    answers: list[Outcome] = []
    for number, line in enumerate(self._files.read(path).splitlines(), 1):
      try:
        values = json.loads(line)
        if _CHARGES in values:
          self._restore_charges(values)
          answers.clear()
          continue
        # An attempt's number means nothing in another ledger.
        outcome = dataclasses.replace(_outcome(values), attempt=None)
        super().add_outcome(outcome)
        answers.append(outcome)
      except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
          f"{path}:{number}: no outcome of a request; restore the file from a"
          " copy, or name another folder",
          fields="ledger_dir",
        ) from None

    # Segments of earlier versions say no more than what the answers cost.
    for outcome in answers:
      if outcome.completion is not None:
        tokens = outcome.completion.tokens(NO_TOKENS)
        self._restore_charge(outcome.model, outcome.teacher == BATCH, tokens)

  def _restore_charges(self, values: Any) -> None:
    for model, is_batch, *tokens in values[_CHARGES]:
      self._restore_charge(str(model), is_batch, Tokens(*map(int, tokens)))
    for limit in values["limits"]:
      self.add_limit(int(limit))

  def _restore_charge(self, model: str, is_batch: bool, tokens: Tokens) -> None:
    attempt = super().start_attempt(
      "", BATCH if is_batch else "", model, tokens
    )
    super().end_attempt(attempt, "published")

  def _keep_publishing(self) -> None:
    while not self._closing.wait(self._every_s):
      try:
        self._publish()
      except UserError as error:
        # The outcomes stay, for the next time.
        self._failures.append(error)
      else:
        self._failures.clear()

  def _publish(self) -> None:
    with self._mutex:
      outcomes = list(self._new)
      charges, self._charges = self._charges, {}
      limits = sorted(self._limits)
    if not outcomes and not charges:
      return
    name = f"{time.time_ns() // 10**6:015d}-{uuid.uuid4().hex[:12]}{_SEGMENT}"
    content = b"".join(map(_dumps, outcomes))
    # Also where nothing was spent since the last segment: one without this line
    # is of an earlier version, and its answers would be charged again.
    spent = [[*kind, *tokens] for kind, tokens in charges.items()]
    line = json.dumps({_CHARGES: spent, "limits": limits})
    content += line.encode("ascii") + b"\n"
    try:
      self._files.write(f"{self._prefix}-{name}", content)
    except Exception as error:  # each file system has its own
      for kind, tokens in charges.items():
        self._charge(kind, tokens)
      raise UserError(
        f"answers cannot be kept in {self._prefix}-*: {one_line(error)}",
        fields="ledger_dir",
      ) from None
    with self._mutex:
      del self._new[: len(outcomes)]


def _dumps(outcome: Outcome) -> bytes:
  # ASCII: half a surrogate pair in an answer is not to break the file.
  return json.dumps(dataclasses.asdict(outcome)).encode("ascii") + b"\n"


def _outcome(values: Any) -> Outcome:
  completion = values.pop("completion")
  if completion is not None:
    completion = Completion(**completion)
  outcome = Outcome(**values, completion=completion)
  texts = (outcome.key, outcome.kind, outcome.teacher, outcome.model)
  if not all(isinstance(text, str) for text in texts):
    raise TypeError
  if completion is not None and not isinstance(completion.text, str):
    raise TypeError
  if (outcome.kind == ANSWERED) != (completion is not None):
    raise ValueError
  return outcome
