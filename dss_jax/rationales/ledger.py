"""The ledger: what teachers were asked and what they answered, on disk.

A SQLite file with two tables. An attempt is written before its request is
sent, with an estimate of what it costs; an outcome closes a request for good. Whatever happens to the process in
between, the next one finds every attempt that may have reached a provider and
every answer that was written, and asks for nothing twice that is answered:
at-least-once towards the provider, exactly-once in here.

What is written stands in the write-ahead log as soon as `flush` returns and
survives the end of the process, also SIGKILL. The log is synced to the disk
every few megabytes (`synchronous=NORMAL`): a power cut or a crash of the whole
machine can lose the last seconds before it, never the file; those requests are
then asked again. SQLite's log needs a local disk, not NFS.

Only answers are kept, not what was asked (a request's key is the hash of it),
and nothing that a teacher needs to log in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pathlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence

from dss_jax.base.errors import UserError
from dss_jax.rationales import ledger_file, ledger_schema
from dss_jax.rationales.teacher_requests import (
  ANSWERED,
  BATCH,
  INTERRUPTED,
  NO_TOKENS,
  SUBMITTED,
  Attempt,
  Charge,
  Completion,
  ModelUsage,
  Outcome,
  Tokens,
)

_OUTCOME_FIELDS = (
  "key, kind, attempt, teacher, model, seconds, unix, reason, text,"
  " finish_reason, reported_model, prompt_tokens, completion_tokens, refusal,"
  " reasoning, cached_tokens"
)
# An answer is never overwritten; a failure gives way to what came later.
_PUT_OUTCOME = (
  f"INSERT INTO outcomes ({_OUTCOME_FIELDS})"
  f" VALUES ({', '.join('?' * 16)}) ON CONFLICT (key) DO UPDATE SET "
  + ", ".join(
    f"{name} = excluded.{name}" for name in _OUTCOME_FIELDS.split(", ")[1:]
  )
  + f" WHERE outcomes.kind != '{ANSWERED}'"
)

_TOKENS = (
  "COALESCE(read_tokens, 0) AS read, COALESCE(written_tokens, 0) AS written,"
  " COALESCE(cached_tokens, 0) AS cached"
)

# SQLite's older bound on the parameters of a statement is 999.
_KEYS_A_QUERY = 500


class Ledger:
  """A ledger file, open in this process.

  Writes gather in memory until `flush`, which makes them one transaction.
  Reading flushes first. To be used by one thread at a time.

  Args:
    path: the file; made, with its folder, if absent.
    read_only: leave the file as it is, and open it although another process
      may be writing.

  Raises:
    InUseError: another process writes it.
    UserError: it is not a usable ledger.
  """

  def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False):
    self.path = pathlib.Path(path)
    self.read_only = read_only
    self._resources = contextlib.ExitStack()
    self._starts: list[tuple] = []
    self._ends: list[tuple] = []
    self._outcomes: list[tuple] = []
    try:
      if read_only and not self.path.is_file():
        raise UserError(f"there is no ledger at {str(self.path)!r}")
      if not read_only:
        self._resources.callback(ledger_file.lock(self.path).close)
      with self._guard():
        self._open()
    except BaseException:
      self._resources.close()
      raise

  # -- opening and closing

  def _open(self) -> None:
    self._db = ledger_file.connect(self.path, read_only=self.read_only)
    self._resources.callback(self._db.close)
    version = ledger_file.check(self._db, self.path)
    if self.read_only:
      if version != ledger_schema.VERSION:
        # Makes what a killed process had not, and what older versions lack.
        Ledger(self.path).close()
      self._db.execute("PRAGMA query_only = ON")
    if not self.read_only:
      self._db.execute("PRAGMA journal_mode = WAL")
      self._db.execute("PRAGMA synchronous = NORMAL")
      if version is None:
        ledger_schema.create(self._db)
      elif version != ledger_schema.VERSION:
        ledger_schema.upgrade(self._db)
      # Their process is gone, and they may or may not have reached the provider.
      self._db.execute(
        "UPDATE attempts SET result = ? WHERE result IS NULL", (INTERRUPTED,)
      )
    ledger_schema.check_values(self._db)
    self.id = self._about("id")
    if self.id is None:
      raise ValueError("it has no id")
    self.limits()
    [last] = self._one("SELECT COALESCE(MAX(id), 0) FROM attempts")
    self.first_attempt = last + 1
    self.next_attempt = last + 1

  def close(self) -> None:
    """Writes what is pending and lets other processes write."""
    try:
      self.flush()
    finally:
      self._resources.close()

  def __enter__(self) -> Ledger:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  # -- writing

  def start_attempt(
    self, key: str, teacher: str, model: str = "", tokens: Tokens = NO_TOKENS
  ) -> Attempt:
    """Notes that a request is about to be sent; `flush` before sending it.

    Args:
      key: key of the request.
      teacher: name of the teacher.
      model: the requested model.
      tokens: an estimate of what it is paid for, which stands until
        `end_attempt` says better.
    """
    number = self.next_attempt
    self.next_attempt += 1
    started = time.time()
    self._starts.append(
      (number, key, teacher, started, model, *dataclasses.astuple(tokens))
    )
    name = f"{self.id}-{number}"
    return Attempt(
      number, name, key, teacher, started, None, None, "", model, tokens
    )

  def end_attempt(
    self,
    attempt: Attempt,
    result: str,
    message: str = "",
    *,
    tokens: Tokens | None = None,
  ) -> None:
    """Notes how an attempt ended.

    Args:
      attempt: what `start_attempt` gave, or `submitted`.
      result: see `Attempt.result`.
      message: what went wrong, in one line.
      tokens: what it is paid for; None leaves the estimate.
    """
    known = dataclasses.astuple(tokens or attempt.tokens)
    self._ends.append(
      (time.time(), result, _storable(message) or None, *known, attempt.number)
    )

  def add_outcome(self, outcome: Outcome) -> None:
    """Notes how a request ended; of two answers the first one stays."""
    answer = outcome.completion
    if (outcome.kind == ANSWERED) != (answer is not None):
      raise ValueError("answered means that there is a completion")
    self._outcomes.append(
      (
        outcome.key,
        outcome.kind,
        outcome.attempt,
        outcome.teacher,
        outcome.model,
        outcome.seconds,
        outcome.unix or time.time(),
        _storable(outcome.reason) or None,
        *(
          (None,) * 8
          if answer is None
          else (
            _storable(answer.text),
            _storable(answer.finish_reason),
            _storable(answer.model),
            answer.prompt_tokens,
            answer.completion_tokens,
            None if answer.refusal is None else _storable(answer.refusal),
            None if answer.reasoning is None else _storable(answer.reasoning),
            answer.cached_tokens,
          )
        ),
      )
    )

  def flush(self) -> None:
    """Commits what was noted since the last time, in one transaction.

    Raises:
      UserError: the file cannot be written (a full disk); nothing of it is.
    """
    if not (self._starts or self._ends or self._outcomes):
      return
    db = self._db
    with self._guard():
      db.execute("BEGIN IMMEDIATE")
      try:
        db.executemany(
          "INSERT INTO attempts (id, key, teacher, started, model, read_tokens,"
          " written_tokens, cached_tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
          self._starts,
        )
        db.executemany(
          "UPDATE attempts SET ended = ?, result = ?, message = ?,"
          " read_tokens = ?, written_tokens = ?, cached_tokens = ? WHERE id = ?",
          self._ends,
        )
        db.executemany(_PUT_OUTCOME, self._outcomes)
        db.execute("COMMIT")
      except BaseException:
        if db.in_transaction:
          db.execute("ROLLBACK")
        raise
    self._starts.clear()
    self._ends.clear()
    self._outcomes.clear()

  # -- reading

  def outcome(self, key: str) -> Outcome | None:
    """How the request with this key ended; None if it has not."""
    return self.get_many([key]).get(key)

  def get_many(self, keys: Iterable[str]) -> dict[str, Outcome]:
    """The outcomes of those of the keys that have one."""
    found = map(_outcome, self._outcome_fields(_OUTCOME_FIELDS, keys))
    return {outcome.key: outcome for outcome in found}

  def settled(
    self, keys: Iterable[str], *, retry_failed: bool = False
  ) -> dict[str, int | None]:
    """Those of the keys that need not be asked, with `Outcome.attempt`.

    Args:
      keys: keys of requests.
      retry_failed: whether to ask again what was rejected or given up before
        this ledger was opened.
    """
    return {
      key: attempt
      for key, kind, attempt in self._outcome_fields("key, kind, attempt", keys)
      if not retry_failed
      or kind == ANSWERED
      or (attempt is not None and attempt >= self.first_attempt)
    }

  def outcomes(self) -> Iterator[Outcome]:
    """All outcomes, in the order in which requests first ended."""
    query = f"SELECT {_OUTCOME_FIELDS} FROM outcomes ORDER BY id"
    return map(_outcome, self._select(query))

  def attempts(self) -> Iterator[Attempt]:
    """All attempts, in order."""
    return self._attempts("ORDER BY id")

  def submitted(self) -> Iterator[Attempt]:
    """The attempts that went out with a batch and did not come back."""
    return self._attempts("WHERE result = ? ORDER BY id", (SUBMITTED,))

  def _attempts(
    self, which: str, parameters: Sequence[str] = ()
  ) -> Iterator[Attempt]:
    query = (
      "SELECT id, key, teacher, started, ended, result, COALESCE(message, ''),"
      f" COALESCE(model, ''), {_TOKENS} FROM attempts {which}"
    )
    for number, *fields, read, written, cached in self._select(
      query, parameters
    ):
      tokens = Tokens(read, written, cached)
      yield Attempt(number, f"{self.id}-{number}", *fields, tokens=tokens)

  def charges(self) -> list[Charge]:
    """What all attempts are paid for, or may be: counts, else estimates."""
    found = self._select(
      "SELECT COALESCE(model, ''), teacher = ?, SUM(read), SUM(written),"
      " SUM(cached) FROM (SELECT model, teacher,"
      f" {_TOKENS} FROM attempts) GROUP BY 1, 2 ORDER BY 1, 2",
      (BATCH,),
    )
    return [
      Charge(model, bool(is_batch), Tokens(*tokens))
      for model, is_batch, *tokens in found
    ]

  # -- the longest answers that were asked for

  def limits(self) -> list[int]:
    """The values of `max_tokens` that runs had, in order."""
    found = self._about("max_tokens")
    return [int(limit) for limit in found.split(",")] if found else []

  def add_limit(self, max_tokens: int) -> None:
    """Notes that requests with this `max_tokens` may be in here."""
    limits = sorted({*self.limits(), max_tokens})
    with self._guard():
      self._db.execute(
        "INSERT OR REPLACE INTO about VALUES ('max_tokens', ?)",
        (",".join(map(str, limits)),),
      )

  def usage(self) -> dict[str, ModelUsage]:
    """What each requested model answered, over the whole ledger."""
    found = self._select(
      "SELECT model, COUNT(*), COALESCE(SUM(prompt_tokens), 0),"
      " COALESCE(SUM(completion_tokens), 0),"
      " SUM(prompt_tokens IS NULL OR completion_tokens IS NULL)"
      " FROM outcomes WHERE kind = ? GROUP BY model ORDER BY model",
      (ANSWERED,),
    )
    return {model: ModelUsage(*numbers) for model, *numbers in found}

  def _about(self, name: str) -> str | None:
    """What the ledger says of itself under a name."""
    query = "SELECT value FROM about WHERE name = ? AND typeof(value) = 'text'"
    found = self._db.execute(query, (name,)).fetchone()
    return found[0] if found else None

  def _one(self, query: str) -> tuple:
    return self._db.execute(query).fetchone()

  def _outcome_fields(
    self, fields: str, keys: Iterable[str]
  ) -> Iterator[tuple]:
    """The fields of the outcomes of the keys, as far as there are any."""
    keys = iter(keys)
    while some := list(itertools.islice(keys, _KEYS_A_QUERY)):
      marks = ", ".join("?" * len(some))
      yield from self._select(
        f"SELECT {fields} FROM outcomes WHERE key IN ({marks})", some
      )

  def _select(
    self, query: str, parameters: Sequence[str] = ()
  ) -> Iterator[tuple]:
    """What a query finds, with everything that was noted until now."""
    self.flush()
    with self._guard():
      yield from self._db.execute(query, parameters)

  @contextlib.contextmanager
  def _guard(self) -> Iterator[None]:
    """Turns what SQLite finds wrong with the file into one line."""
    try:
      yield
    except (sqlite3.ProgrammingError, UserError):
      raise  # a mistake in here, or what says enough
    except (sqlite3.DatabaseError, ValueError, OverflowError) as error:
      raise UserError(
        f"cannot use the ledger {str(self.path)!r}: {error}; restore it from a"
        " copy, make room, or name another ledger"
      ) from None


def _storable(text: str) -> str:
  """The text with halves of surrogate pairs, which UTF-8 lacks, replaced."""
  if text.isascii():
    return text
  return text.encode("utf-8", "replace").decode("utf-8")


def _outcome(fields: tuple) -> Outcome:
  key, kind, attempt, teacher, model, seconds, unix, reason, *answer = fields
  return Outcome(
    key=key,
    kind=kind,
    teacher=teacher,
    model=model,
    completion=Completion(*answer) if kind == ANSWERED else None,
    reason=reason or "",
    seconds=seconds,
    unix=unix,
    attempt=attempt,
  )
