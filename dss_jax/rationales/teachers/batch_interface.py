"""Requests as files: batch interfaces, which cost half, and vLLM.

  written = write_requests(requests, "batch-1", ledger)
  # upload batch-1/requests-000.jsonl, wait a day, download; or
  # vllm run-batch -i batch-1/requests-000.jsonl -o results.jsonl --model ...
  report = read_results(["results.jsonl"], ledger, asked="batch-1")

The format is that of the OpenAI Batch API, which other providers have adopted
(platform.openai.com/docs/guides/batch; vLLM's `run_batch`): one JSON object a
line, whose `custom_id` is the request's key.

Results come in any order, once, twice or never, in files of answers and files
of errors. Each line is counted as something, and none is trusted: results for
requests that were never written are not kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from dss_jax.base.errors import UserError, one_line
from dss_jax.datasets.records import (
  MAX_FIELD_CHARS,
  Problem,
  SeenTexts,
  atomic_file,
)
from dss_jax.datasets.records.json_lines import read_lines
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import (
  ANSWERED,
  REJECTED,
  Completion,
  Outcome,
  Request,
)
from dss_jax.rationales.teachers import server_responses

PathLike = str | os.PathLike[str]

# The teacher of what batch files bring, in the ledger.
BATCH = "batch"
# OpenAI's bounds on a file are 50,000 requests and 200 MB.
MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000
# Problems that a report holds; all are counted.
MAX_PROBLEMS = 20
# Requests or results looked up in the ledger together.
_CHUNK = 500
_KEY = re.compile(r"[0-9a-f]{64}")
# Failures that are the request's own. Others (no rights, too many requests, a
# server's error, an expired batch) may be answered when asked again.
_REJECTED_STATUSES = (400, 413, 422)


# --- requests ----------------------------------------------------------------


@dataclasses.dataclass
class WrittenFile:
  """A file of requests; all are for one model and one interface.

  Attributes:
    path: where it is.
    model: as the provider knows it.
    url: such as "/v1/chat/completions".
    requests: number of lines.
    bytes: size of the file.
  """

  path: pathlib.Path
  model: str
  url: str
  requests: int = 0
  bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write_requests` did.

  Attributes:
    files: in the order of their names.
    answered: requests left out because they need not be asked.
    repeated: requests left out because an equal one was there before.
  """

  files: tuple[WrittenFile, ...]
  answered: int
  repeated: int

  @property
  def requests(self) -> int:
    """Requests in all files."""
    return sum(file.requests for file in self.files)


def write_requests(
  requests: Iterable[Request],
  folder: PathLike,
  ledger: Ledger | None = None,
  *,
  max_requests: int = MAX_REQUESTS,
  max_bytes: int = MAX_BYTES,
) -> Written:
  """Writes requests to files `requests-000.jsonl`, ...; all of them or none.

  Args:
    requests: taken one by one.
    folder: made if it is absent. It must not hold requests yet, which may be
      on their way already.
    ledger: requests that need not be asked are left out; None for none.
    max_requests: most lines of a file.
    max_bytes: largest size of a file.

  Raises:
    UserError: the folder holds requests or cannot be written to, or a request
      is longer than a file may be.
  """
  folder = pathlib.Path(folder)
  _make_folder(folder)
  seen = SeenTexts()
  answered = repeated = 0
  files: list[WrittenFile] = []
  # (model, url) -> its last file, open.
  open_files: dict[tuple[str, str], tuple[WrittenFile, BinaryIO]] = {}
  requests = iter(requests)
  with contextlib.ExitStack() as stack:
    while group := list(itertools.islice(requests, _CHUNK)):
      settled = ledger.settled([r.key for r in group]) if ledger else ()
      for request in group:
        if seen.add(request.key) is not None:
          repeated += 1
          continue
        if request.key in settled:
          answered += 1
          continue
        line = _request_line(request, max_bytes)
        kind = (request.model, request.url)
        file, stream = open_files.get(kind, (None, None))
        if (
          file is None
          or stream is None
          or file.requests >= max_requests
          or file.bytes + len(line) > max_bytes
        ):
          path = folder / f"requests-{len(files):03}.jsonl"
          file, stream = open_files[kind] = (
            WrittenFile(path, *kind),
            stack.enter_context(atomic_file(path)),
          )
          files.append(file)
        stream.write(line)
        file.requests += 1
        file.bytes += len(line)
  return Written(tuple(files), answered, repeated)


def _make_folder(folder: pathlib.Path) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"cannot make the folder {folder}: {error.strerror or error}",
      fields="write_batch",
    ) from None
  if request_files(folder):
    raise UserError(
      f"{folder} holds requests already: read their results, or name another"
      " folder",
      fields="write_batch",
    )


def _request_line(request: Request, max_bytes: int) -> bytes:
  """A request as a line of a batch file."""
  value = {
    "custom_id": request.key,
    "method": "POST",
    "url": request.url,
    "body": request.body(),
  }
  # ASCII: not every reader of lines ends them at \n alone.
  line = json.dumps(value).encode() + b"\n"
  if len(line) > max_bytes:
    raise UserError(
      f"a request for {request.model!r} has {len(line)} bytes, and a batch"
      f" file may have {max_bytes}; shorten the prompt",
      fields="prompt",
    )
  return line


def request_files(folder: PathLike) -> list[pathlib.Path]:
  """The files of requests in a folder, in the order of their names."""
  return sorted(pathlib.Path(folder).glob("requests-*.jsonl"))


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


# --- results -----------------------------------------------------------------


@dataclasses.dataclass
class ReadReport:
  """What `read_results` found; every line is counted once.

  Attributes:
    answered: new answers.
    rejected: requests newly found never to be answered.
    failed: requests that failed and may be asked again.
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
    if key in self._settled:
      report.repeated += 1
    elif is_known:
      report.known += 1
    elif not result.is_final:
      report.failed += 1
      self._add_problem(path, number, result.reason)
    else:
      self._settled.add(key)
      self._keep(result)

  def _keep(self, result: _Result) -> None:
    completion = result.completion
    model = ""
    if self._keys is not None:
      model = self._models[self._keys.get(result.key) or 0]
    elif completion is not None:
      model = completion.model
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
    value = json.loads(line)
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
  return _Result(
    key,
    None,
    one_line(f"{code}: {reason}", longest=300),
    is_final=isinstance(code, int) and code in _REJECTED_STATUSES,
  )


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
