"""Requests as files: batch interfaces, which cost half, and vLLM.

  written = write_requests(requests, "batch-1", answers)
  # upload batch-1/requests-000.jsonl, wait a day, download; or
  # vllm run-batch -i batch-1/requests-000.jsonl -o results.jsonl --model ...
  report = batch_results.read_results(["results.jsonl"], answers, asked="batch-1")

The format is that of the OpenAI Batch API, which others have taken over
(platform.openai.com/docs/guides/batch; vLLM's `run_batch`): one JSON object a
line, whose `custom_id` is the request's key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any, BinaryIO

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import SeenTexts, atomic_file
from dss_jax.datasets.records.json_lines import read_lines
from dss_jax.rationales.grouping import in_groups
from dss_jax.rationales.requests import Request
from dss_jax.rationales.teachers.batch_answers import Answers
from dss_jax.rationales.teachers.batch_lines import request_line

PathLike = str | os.PathLike[str]

# OpenAI's bounds on a file are 50,000 requests and 200 MB.
MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000


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
    for group in in_groups(requests):
      known = answers.has([r.key for r in group]) if answers else ()
      for request in group:
        writer.add(request, is_known=request.key in known)
    written = writer.written()
  return written


def request_files(folder: PathLike) -> list[pathlib.Path]:
  """The files of requests in a folder, in the order of their names."""
  return sorted(pathlib.Path(folder).glob("requests-*.jsonl"))


def asked_keys(folder: PathLike, models: list[str]) -> SeenTexts:
  """The keys of the requests in a folder, each with the number of its model.

  Args:
    folder: of `write_requests`.
    models: where models are added that were not there.

  Raises:
    UserError: a folder without requests, or with other lines.
  """
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
