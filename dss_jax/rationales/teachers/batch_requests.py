"""Requests as files: for batch interfaces, which cost half, and for vLLM.

  written = write_requests(lines, "batch-1", ledger)
  # upload batch-1/requests-000.jsonl, wait a day, download; or
  # vllm run-batch -i batch-1/requests-000.jsonl -o results.jsonl --model ...

The format is that of the OpenAI Batch API, which other providers have adopted
(platform.openai.com/docs/guides/batch; vLLM's `run_batch`): one JSON object a
line, whose `custom_id` is the request's key. `batch_results` reads what comes
back, `provider_batches` does what lies between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import SeenTexts, atomic_file
from dss_jax.datasets.records.json_lines import read_lines
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import (
  MAX_TOKENS_FIELDS,
  Request,
  Tokens,
  estimated_tokens,
)

PathLike = str | os.PathLike[str]

# OpenAI's bounds on a file are 50,000 requests and 200 MB.
MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000
# Requests looked up in the ledger together.
_CHUNK = 500


@dataclasses.dataclass(frozen=True)
class BatchLine:
  """A request that goes into a file.

  Attributes:
    teacher: name of the teacher that it is for.
    request: what is asked.
    body: its JSON body, exactly as the teacher's endpoint is sent it.
  """

  teacher: str
  request: Request
  body: dict[str, Any]


@dataclasses.dataclass
class WrittenFile:
  """A file of requests; all are for one teacher, model and interface.

  Attributes:
    path: where it is.
    teacher: name of the teacher.
    model: as the provider knows it.
    url: such as "/v1/chat/completions".
    requests: number of lines.
    bytes: size of the file.
  """

  path: pathlib.Path
  teacher: str
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
  lines: Iterable[BatchLine],
  folder: PathLike,
  ledger: Ledger | None = None,
  *,
  max_requests: int = MAX_REQUESTS,
  max_bytes: int = MAX_BYTES,
) -> Written:
  """Writes requests to files `requests-000.jsonl`, ...; all of them or none.

  Args:
    lines: taken one by one.
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
  # (teacher, model, url) -> its last file, open.
  open_files: dict[tuple[str, str, str], tuple[WrittenFile, BinaryIO]] = {}
  lines = iter(lines)
  with contextlib.ExitStack() as stack:
    while group := list(itertools.islice(lines, _CHUNK)):
      keys = [line.request.key for line in group]
      settled = ledger.settled(keys) if ledger else ()
      for batch_line in group:
        request = batch_line.request
        if seen.add(request.key) is not None:
          repeated += 1
          continue
        if request.key in settled:
          answered += 1
          continue
        line = _encoded(batch_line, max_bytes)
        kind = (batch_line.teacher, request.model, request.url)
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


def _encoded(batch_line: BatchLine, max_bytes: int) -> bytes:
  """A request as a line of a batch file."""
  request = batch_line.request
  value = {
    "custom_id": request.key,
    "method": "POST",
    "url": request.url,
    "body": batch_line.body,
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


def read_requests(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The lines of a file of requests.

  Raises:
    UserError: a line is no request.
  """
  with path.open("rb") as file:
    for number, line in read_lines(file):
      try:
        request: Any = json.loads(line) if isinstance(line, str) else None
        texts = (request["custom_id"], request["body"]["model"])
      except (ValueError, RecursionError, TypeError, KeyError):
        texts = (None,)
      if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}:{number}: no request of a batch file")
      yield request


def tokens_of(line: Mapping[str, Any]) -> Tokens:
  """An estimate of a request's tokens, with the longest answer."""
  body = line["body"]
  prompt = json.dumps(body.get("messages") or body.get("prompt"))
  limits = (body.get(name) for name in MAX_TOKENS_FIELDS)
  most = next((limit for limit in limits if isinstance(limit, int)), 0)
  return Tokens(estimated_tokens(prompt), most)


def request_files(folder: PathLike) -> list[pathlib.Path]:
  """The files of requests in a folder, in the order of their names."""
  return sorted(pathlib.Path(folder).glob("requests-*.jsonl"))
