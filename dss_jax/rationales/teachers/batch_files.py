"""Requests and results as files: batch interfaces, which cost half, and vLLM.

  written = write_requests(requests, "batch-1", answers)
  # upload batch-1/requests-000.jsonl, wait a day, download; or
  # vllm run-batch -i batch-1/requests-000.jsonl -o results.jsonl --model ...
  report = read_results(["results.jsonl"], answers, asked="batch-1")

The format is that of the OpenAI Batch API, which others have taken over
(platform.openai.com/docs/guides/batch; vLLM's `run_batch`): one JSON object a
line, whose `custom_id` is the request's key. Results come in any order, once,
twice or never, in files of answers and files of errors; each line is counted
as something, and none is believed: of results for requests that were never
written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol

from dss_jax.errors import UserError
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.outcomes import ANSWERED, REJECTED, Outcome
from dss_jax.rationales.requests import Completion, Request
from dss_jax.rationales.teachers.batch_lines import (
  Result,
  read_result,
  request_line,
)
from dss_jax.records import Problem, SeenTexts, atomic_file
from dss_jax.records.json_lines import read_lines

PathLike = str | os.PathLike[str]

# OpenAI's bounds on a file are 50,000 requests and 200 MB.
MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000

# The teacher of what batch files bring, in the ledger.
BATCH = "batch"

# Problems that are told one by one; all are counted.
MAX_PROBLEMS = 20

_KEY = re.compile(r"[0-9a-f]{64}")
_KEYS_AT_A_TIME = 500


class Answers(Protocol):
  """What is known of requests: the ledger, seen from here."""

  def has(self, keys: Sequence[str]) -> Container[str]:
    """Those of the keys that need not be asked."""
    ...

  def record_answer(
    self, key: str, completion: Completion, *, model: str, unix: float | None
  ) -> None:
    """Keeps an answer.

    Args:
      key: of the request.
      completion: the answer.
      model: as it was asked for.
      unix: when it was made, by the provider's clock; None if it does not say.
    """
    ...

  def record_rejection(self, key: str, reason: str, *, model: str) -> None:
    """Keeps that a request will never be answered, and why, in one line."""
    ...


class LedgerAnswers:
  """A ledger as `Answers`.

  Args:
    ledger: open; for writing if anything is to be recorded.
  """

  def __init__(self, ledger: Ledger):
    self._ledger = ledger

  def has(self, keys: Sequence[str]) -> Container[str]:
    """See `Answers.has`."""
    return self._ledger.settled(keys)

  def record_answer(
    self, key: str, completion: Completion, *, model: str, unix: float | None
  ) -> None:
    """See `Answers.record_answer`."""
    self._ledger.add_outcome(
      Outcome(key, ANSWERED, BATCH, model, completion, unix=unix or 0.0)
    )

  def record_rejection(self, key: str, reason: str, *, model: str) -> None:
    """See `Answers.record_rejection`."""
    self._ledger.add_outcome(
      Outcome(key, REJECTED, BATCH, model, reason=reason)
    )


# --- requests ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class WrittenFile:
  """A file of requests; all are for one model and one interface.

  Attributes:
    path: of the file.
    model: as the provider knows it.
    url: such as "/v1/chat/completions".
    requests: lines.
    bytes: of the file.
  """

  path: pathlib.Path
  model: str
  url: str
  requests: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write_requests` did.

  Attributes:
    files: in the order of their names.
    requests: in all files.
    answered: requests left out because they need not be asked.
    repeated: requests left out because an equal one was there before.
  """

  files: tuple[WrittenFile, ...]
  requests: int
  answered: int
  repeated: int


def write_requests(
  requests: Iterable[Request],
  folder: PathLike,
  answers: Answers | None = None,
  *,
  max_requests: int = MAX_REQUESTS,
  max_bytes: int = MAX_BYTES,
) -> Written:
  """Writes requests to files `requests-000.jsonl`, ...; all of them or none.

  Args:
    requests: taken one by one.
    folder: made if it is not there. It must hold no requests yet: those may
      be on their way already.
    answers: requests that need not be asked are left out; None for none.
    max_requests: lines of a file.
    max_bytes: of a file.

  Raises:
    UserError: the folder holds requests or cannot be written to, or a request
      is longer than a file may be.
  """
  folder = pathlib.Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"cannot make the folder {folder}: {error.strerror or error}"
      " (--write_batch)"
    ) from None
  if request_files(folder):
    raise UserError(
      f"{folder} holds requests already: read their results, or name another"
      " folder (--write_batch)"
    )
  with contextlib.ExitStack() as stack:
    writer = _Writer(stack, folder, max_requests, max_bytes)
    for group in _in_groups(requests):
      known = answers.has([r.key for r in group]) if answers else ()
      for request in group:
        writer.add(request, is_known=request.key in known)
    written = writer.written()
  return written


def request_files(folder: PathLike) -> list[pathlib.Path]:
  """The files of requests in a folder, in the order of their names."""
  return sorted(pathlib.Path(folder).glob("requests-*.jsonl"))


def _in_groups(requests: Iterable[Request]) -> Iterator[list[Request]]:
  group: list[Request] = []
  for request in requests:
    group.append(request)
    if len(group) == _KEYS_AT_A_TIME:
      yield group
      group = []
  if group:
    yield group


@dataclasses.dataclass
class _OpenFile:
  path: pathlib.Path
  file: BinaryIO
  requests: int = 0
  bytes: int = 0


class _Writer:
  """Spreads requests over files, each for one model and interface."""

  def __init__(
    self,
    stack: contextlib.ExitStack,
    folder: pathlib.Path,
    max_requests: int,
    max_bytes: int,
  ):
    self._stack, self._folder = stack, folder
    self._max_requests, self._max_bytes = max_requests, max_bytes
    self._open: dict[tuple[str, str], _OpenFile] = {}
    self._all: list[tuple[tuple[str, str], _OpenFile]] = []
    self._seen = SeenTexts()
    self._answered = self._repeated = 0

  def add(self, request: Request, *, is_known: bool):
    if self._seen.add(request.key) is not None:
      self._repeated += 1
      return
    if is_known:
      self._answered += 1
      return
    line = request_line(request)
    if len(line) > self._max_bytes:
      raise UserError(
        f"a request for {request.model!r} has {len(line)} bytes, and a batch"
        f" file may have {self._max_bytes} (shorten the prompt)"
      )
    target = self._file_for(request, len(line))
    target.file.write(line)
    target.requests += 1
    target.bytes += len(line)

  def _file_for(self, request: Request, num_bytes: int) -> _OpenFile:
    kind = (request.model, request.url)
    found = self._open.get(kind)
    if (
      found is not None
      and found.requests < self._max_requests
      and found.bytes + num_bytes <= self._max_bytes
    ):
      return found
    path = self._folder / f"requests-{len(self._all):03}.jsonl"
    made = _OpenFile(path, self._stack.enter_context(atomic_file(path)))
    self._open[kind] = made
    self._all.append((kind, made))
    return made

  def written(self) -> Written:
    files = tuple(
      WrittenFile(each.path, model, url, each.requests, each.bytes)
      for (model, url), each in self._all
    )
    return Written(
      files,
      sum(file.requests for file in files),
      self._answered,
      self._repeated,
    )


# --- results -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ReadReport:
  """What `read_results` found; every line is counted once.

  Attributes:
    answered: new answers.
    rejected: requests that will never be answered, new ones.
    failed: requests that failed and may be asked again.
    known: results for requests that needed no answer any more.
    repeated: results for requests that an earlier line settled.
    unknown: results for requests that were never written.
    malformed: lines that are no results.
    missing: written requests that no line is about; None if it is not known
      which were written.
    problems: of the failed, unknown and malformed, the first MAX_PROBLEMS.
  """

  answered: int = 0
  rejected: int = 0
  failed: int = 0
  known: int = 0
  repeated: int = 0
  unknown: int = 0
  malformed: int = 0
  missing: int | None = None
  problems: tuple[Problem, ...] = ()


def read_results(
  files: Iterable[PathLike],
  answers: Answers,
  *,
  asked: PathLike | None = None,
) -> ReadReport:
  """Takes results into the ledger.

  Args:
    files: of results and of errors, in any order; read line by line.
    answers: where they go.
    asked: the folder of `write_requests`. Without it, every result with a key
      of the right form is taken.

  Raises:
    UserError: a file that cannot be read, or a folder without requests.
  """
  models: list[str] = []
  keys = None
  if asked is not None:
    keys = _asked_keys(asked, models)
  reader = _Reader(answers, keys, models)
  for path in files:
    try:
      with open(path, "rb") as file:
        for lines in _line_groups(file):
          reader.add(path, lines)
    except OSError as error:
      raise UserError(
        f"cannot read {path}: {error.strerror or error}"
      ) from None
  return reader.report()


def _asked_keys(folder: PathLike, models: list[str]) -> SeenTexts:
  """The keys of the requests in a folder, each with the number of its model."""
  paths = request_files(folder)
  if not paths:
    raise UserError(f"{folder} holds no requests-*.jsonl (--batch_dir)")
  keys = SeenTexts(numbered=True)
  for path in paths:
    with path.open("rb") as file:
      for number, line in read_lines(file):
        try:
          request: Any = json.loads(line) if isinstance(line, str) else None
          key, model = request["custom_id"], request["body"]["model"]
        except (ValueError, RecursionError, TypeError, KeyError):
          key = model = None
        if not isinstance(key, str) or not isinstance(model, str):
          raise UserError(f"{path}:{number}: no request of a batch file")
        if model not in models:
          models.append(model)
        keys.add(key, models.index(model))
  return keys


Line = tuple[int, str | UserError]


def _line_groups(file: BinaryIO) -> Iterator[list[Line]]:
  group: list[Line] = []
  for number, line in read_lines(file):
    if isinstance(line, str) and not line.strip():
      continue
    group.append((number, line))
    if len(group) == _KEYS_AT_A_TIME:
      yield group
      group = []
  if group:
    yield group


class _Reader:
  """Counts results and keeps those that are new."""

  def __init__(
    self, answers: Answers, keys: SeenTexts | None, models: Sequence[str]
  ):
    self._answers, self._keys, self._models = answers, keys, models
    self._counts: dict[str, int] = dict.fromkeys(
      (
        "answered",
        "rejected",
        "failed",
        "known",
        "repeated",
        "unknown",
        "malformed",
      ),
      0,
    )
    self._settled = SeenTexts()
    self._mentioned = SeenTexts()
    self._problems: list[Problem] = []

  def add(self, path: PathLike, lines: Iterable[Line]):
    results: list[tuple[int, Result]] = []
    for number, line in lines:
      try:
        if isinstance(line, UserError):
          raise line
        results.append((number, read_result(line)))
      except UserError as error:
        self._count("malformed", path, number, str(error))
    known = self._answers.has([result.key for _, result in results])
    for number, result in results:
      self._add_result(path, number, result, result.key in known)

  def _add_result(
    self, path: PathLike, number: int, result: Result, is_known: bool
  ):
    key = result.key
    if not _KEY.fullmatch(key) or (
      self._keys is not None and key not in self._keys
    ):
      self._count("unknown", path, number, f"unknown custom_id {key[:80]!r}")
      return
    self._mentioned.add(key)
    if key in self._settled:
      self._counts["repeated"] += 1
    elif is_known:
      self._counts["known"] += 1
    elif not result.is_final:
      self._count("failed", path, number, result.reason)
    else:
      self._settled.add(key)
      self._keep(result)

  def _keep(self, result: Result):
    model = ""
    if self._keys is not None:
      model = self._models[self._keys.get(result.key) or 0]
    if result.completion is None:
      self._counts["rejected"] += 1
      self._answers.record_rejection(result.key, result.reason, model=model)
    else:
      self._counts["answered"] += 1
      self._answers.record_answer(
        result.key,
        result.completion,
        model=model or result.completion.model,
        unix=result.unix,
      )

  def _count(self, name: str, path: PathLike, number: int, reason: str):
    self._counts[name] += 1
    if len(self._problems) < MAX_PROBLEMS:
      self._problems.append(Problem(os.fspath(path), number, reason))

  def report(self) -> ReadReport:
    missing = None
    if self._keys is not None:
      missing = len(self._keys) - len(self._mentioned)
    return ReadReport(
      **self._counts, missing=missing, problems=tuple(self._problems)
    )
