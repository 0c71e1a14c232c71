"""Results of batch interfaces, in files, into the ledger.

Results come in any order, once, twice or never, in files of answers and files
of errors. Each line is counted as something, and none is trusted: results for
requests that were never written are not kept.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dss_jax.base.errors import UserError, one_line
from dss_jax.datasets.records import MAX_FIELD_CHARS, Problem, SeenTexts
from dss_jax.datasets.records.json_lines import read_lines
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import (
  ANSWERED,
  BATCH,
  NO_TOKENS,
  REJECTED,
  Attempt,
  Completion,
  Outcome,
)
from dss_jax.rationales.teachers import endpoint_errors, server_responses
from dss_jax.rationales.teachers.batch_requests import (
  read_requests,
  request_files,
)

PathLike = str | os.PathLike[str]

# Problems that a report holds; all are counted.
MAX_PROBLEMS = 20
# Results looked up in the ledger together.
_CHUNK = 500
_KEY = re.compile(r"[0-9a-f]{64}")
# Failures that are the request's own. Others (no rights, too many requests, a
# server's error, an expired batch) may be answered when asked again.
_REJECTED_STATUSES = (400, 413, 422)


def _asked_keys(folder: PathLike, models: list[str]) -> SeenTexts:
  """The keys of the requests in a folder, each with the number of its model.

  Args:
    folder: a folder of `write_requests`.
    models: where models are added that it does not hold yet.

  Raises:
    UserError: a folder without requests, or with other lines.
  """
  paths = request_files(folder)
  if not paths:
    raise UserError(f"{folder} holds no requests-*.jsonl", fields="batch_dir")
  keys = SeenTexts(numbered=True)
  for path in paths:
    for request in read_requests(path):
      model = request["body"]["model"]
      if model not in models:
        models.append(model)
      keys.add(request["custom_id"], models.index(model))
  return keys


@dataclasses.dataclass
class ReadReport:
  """What `read_results` found; every line is counted once.

  Attributes:
    answered: new answers.
    rejected: requests newly found never to be answered.
    failed: requests that failed and may be asked again, such as those that
      came with a setting which the endpoint does not take.
    known: results for requests that needed no answer any more.
    repeated: results for requests that an earlier line settled.
    unknown: results for requests that were never written.
    malformed: lines that are no results.
    missing: written requests that no line is about; None if it is not known
      which were written.
    problems: failed, unknown and malformed lines, the first MAX_PROBLEMS.
  """

  answered: int = 0
  rejected: int = 0
  failed: int = 0
  known: int = 0
  repeated: int = 0
  unknown: int = 0
  malformed: int = 0
  missing: int | None = None
  problems: list[Problem] = dataclasses.field(default_factory=list)


def read_results(
  files: Iterable[PathLike], ledger: Ledger, *, asked: PathLike | None = None
) -> ReadReport:
  """Adds results to the ledger.

  Args:
    files: results and errors, in any order; read line by line.
    ledger: open for writing.
    asked: the folder of `write_requests`. Without it, every result with a key
      of the right form is taken.

  Raises:
    UserError: a file that cannot be read, or a folder without requests.
  """
  reader = _Reader(ledger, asked)
  for path in files:
    try:
      with open(path, "rb") as file:
        lines = read_lines(file)
        while chunk := list(itertools.islice(lines, _CHUNK)):
          reader.add(path, chunk)
    except OSError as error:
      raise UserError(
        f"cannot read {path}: {error.strerror or error}"
      ) from None
  return reader.report()


class _Reader:
  """Counts results and keeps the new ones."""

  def __init__(self, ledger: Ledger, asked: PathLike | None):
    self._ledger = ledger
    self._models: list[str] = []
    self._keys = None
    if asked is not None:
      self._keys = _asked_keys(asked, self._models)
    # Attempts that went out with a batch, by the keys of their requests.
    self._submitted = {attempt.key: attempt for attempt in ledger.submitted()}
    self._settled = SeenTexts()
    self._mentioned = SeenTexts()
    self._report = ReadReport()

  def add(
    self, path: PathLike, lines: Iterable[tuple[int, str | UserError]]
  ) -> None:
    """Adds numbered lines of a file; empty ones are passed over."""
    results: list[tuple[int, _Result]] = []
    for number, line in lines:
      try:
        if isinstance(line, UserError):
          raise line
        if line.strip():
          results.append((number, _read_result(line)))
      except UserError as error:
        self._report.malformed += 1
        self._add_problem(path, number, str(error))
    known = self._ledger.settled([result.key for _, result in results])
    for number, result in results:
      self._add_result(path, number, result, result.key in known)

  def _add_result(
    self, path: PathLike, number: int, result: _Result, is_known: bool
  ) -> None:
    report, key = self._report, result.key
    if not _KEY.fullmatch(key) or (
      self._keys is not None and key not in self._keys
    ):
      report.unknown += 1
      self._add_problem(path, number, f"unknown custom_id {key[:80]!r}")
      return
    self._mentioned.add(key)
    if attempt := self._submitted.pop(key, None):
      self._charge(attempt, result)
    if key in self._settled:
      report.repeated += 1
    elif is_known:
      report.known += 1
    elif not result.is_final:
      report.failed += 1
      self._add_problem(path, number, result.reason)
    else:
      self._settled.add(key)
      if attempt is None and result.completion is not None:
        # It went out by hand.
        attempt = self._ledger.start_attempt(key, BATCH, self._model_of(result))
        self._charge(attempt, result)
      self._keep(result)

  def _keep(self, result: _Result) -> None:
    completion, model = result.completion, self._model_of(result)
    if completion is None:
      self._report.rejected += 1
    else:
      self._report.answered += 1
    self._ledger.add_outcome(
      Outcome(
        result.key,
        REJECTED if completion is None else ANSWERED,
        BATCH,
        model,
        completion,
        reason=result.reason,
        unix=result.unix,
      )
    )

  def _charge(self, attempt: Attempt, result: _Result) -> None:
    """Notes what an attempt cost, which went out with a batch."""
    kind, tokens = REJECTED if result.is_final else "failed", NO_TOKENS
    if result.completion is not None:
      kind, tokens = ANSWERED, result.completion.tokens(attempt.tokens)
    self._ledger.end_attempt(attempt, kind, result.reason, tokens=tokens)

  def _model_of(self, result: _Result) -> str:
    if self._keys is not None:
      return self._models[self._keys.get(result.key) or 0]
    return result.completion.model if result.completion is not None else ""

  def _add_problem(self, path: PathLike, number: int, reason: str) -> None:
    if len(self._report.problems) < MAX_PROBLEMS:
      self._report.problems.append(Problem(os.fspath(path), number, reason))

  def report(self) -> ReadReport:
    if self._keys is not None:
      self._report.missing = len(self._keys) - len(self._mentioned)
    return self._report


@dataclasses.dataclass(frozen=True)
class _Result:
  """What a line says of a request.

  Attributes:
    key: its `custom_id`, which may be any text.
    completion: the answer; None if there is none.
    reason: why there is no answer, in one line.
    is_final: whether asking again would change nothing.
    unix: when the answer was made, by the provider's clock; 0 if it is not
      known.
  """

  key: str
  completion: Completion | None
  reason: str = ""
  is_final: bool = True
  unix: float = 0.0


def _read_result(line: str) -> _Result:
  """What a line says.

  Raises:
    UserError: it is no result.
  """
  try:
    # Some tools put a byte order mark in front of a file.
    value = json.loads(line.removeprefix("\ufeff"))
  except RecursionError:
    raise UserError("not usable JSON: nested too deeply") from None
  except ValueError as error:
    raise UserError(f"not JSON: {one_line(error)}") from None
  key = value.get("custom_id") if isinstance(value, dict) else None
  if not isinstance(key, str):
    raise UserError("no result: it has no custom_id")
  response, error = value.get("response"), value.get("error")
  response = response if isinstance(response, dict) else {}
  status, body = response.get("status_code"), response.get("body")
  if isinstance(body, dict) and status in (None, 200) and body.get("choices"):
    return _Result(key, _completion(body), unix=_unix(body.get("created")))
  failure = error if isinstance(error, dict) else body
  failure = failure if isinstance(failure, dict) else {}
  if isinstance(failure.get("error"), dict):
    failure = failure["error"]
  if not failure and not isinstance(status, int):
    raise UserError("no result: neither a response nor an error")
  code = status if isinstance(status, int) and status != 200 else None
  if code is None:
    code = failure.get("code")
  message = failure.get("message")
  reason = message if isinstance(message, str) else ""
  shown = one_line(f"{code}: {reason}", longest=300)
  is_final = isinstance(code, int) and code in _REJECTED_STATUSES
  if is_final and (fault := endpoint_errors.setting_fault(failure, reason)):
    # As a live run: the same request may be answered after a change.
    return _Result(key, None, f"{shown}; {fault.remedy}", is_final=False)
  return _Result(key, None, shown, is_final=is_final)


def _completion(body: Mapping[str, Any]) -> Completion:
  """The answer in a body, of a length that an endpoint's could have.

  Raises:
    UserError: there is none, or it is longer.
  """
  completion = server_responses.completion_of(body)
  if len(completion.text) > MAX_FIELD_CHARS:
    raise UserError(
      f"the answer has {len(completion.text)} characters, at most"
      f" {MAX_FIELD_CHARS} are allowed"
    )
  refusal = completion.refusal and completion.refusal[:MAX_FIELD_CHARS]
  return dataclasses.replace(completion, refusal=refusal)


def _unix(value: Any) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return 0.0
  return float(value) if 0 < value < 1 << 40 else 0.0
