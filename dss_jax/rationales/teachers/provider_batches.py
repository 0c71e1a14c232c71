"""Batches at a provider: submitted, looked after, fetched, cancelled.

  batch = ProviderBatch.create(folder, lines, ledger)
  batch.submit(endpoints, ledger)
  batch.poll(endpoints); batch.cancel(endpoints, ledger)
  files = batch.fetch(endpoints)

For endpoints with OpenAI's interface for batches (/v1/files and /v1/batches),
through the official client. What was done is in `batch.json` next to the files
of requests, written before and after each step: a process that was killed, even
between a provider's making a batch and its answer, submits nothing twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dss_jax.base import plain_files, strict_json
from dss_jax.base.errors import UserError, damaged_file, one_line
from dss_jax.datasets.records import atomic_file
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.teacher_requests import (
  BATCH,
  INTERRUPTED,
  NO_TOKENS,
  SUBMITTED,
  Tokens,
)
from dss_jax.rationales.teachers import batch_requests, endpoint_errors
from dss_jax.rationales.teachers.api_keys import ApiKey
from dss_jax.rationales.teachers.batch_requests import BatchLine
from dss_jax.rationales.teachers.endpoint_options import EndpointOptions
from dss_jax.rationales.teachers.openai_endpoint import import_openai

STATE_FILE = "batch.json"
# Far above the results of the largest batch.
_MAX_RESULT_BYTES = 8 * 2**30
_CHUNK_BYTES = 2**20
# Batches among which one is looked for whose making was interrupted.
_MAX_LISTED = 1000
_WINDOW = "24h"
# A provider's words for a batch on which it works no more.
ENDED = ("completed", "failed", "expired", "cancelled")

Endpoints = Mapping[str, EndpointOptions]


@dataclasses.dataclass
class BatchFile:
  """A file of requests, and what became of it.

  Attributes:
    name: of the file.
    teacher: name of the teacher that it is for.
    url: such as "/v1/chat/completions".
    requests: number of lines.
    file_id: the provider's name of the uploaded file; "" before.
    batch_id: the provider's name of the batch; "" before.
    status: "written", "creating", then the provider's word.
    is_fetched: whether the results are on this disk.
    done: requests with an answer, as far as the provider says.
    failed: requests with an error, likewise.
    problem: why the provider refused the batch, in one line.
  """

  name: str
  teacher: str
  url: str
  requests: int
  file_id: str = ""
  batch_id: str = ""
  status: str = "written"
  is_fetched: bool = False
  done: int = 0
  failed: int = 0
  problem: str = ""

  @property
  def is_under_way(self) -> bool:
    """Whether the provider may still work on it."""
    return bool(self.batch_id) and self.status not in ENDED


class ProviderBatch:
  """A folder of requests and the batches made of it, one for each file.

  Attributes:
    folder: where the files and `batch.json` are.
    files: the files of requests.
  """

  def __init__(self, folder: pathlib.Path, files: list[BatchFile]):
    self.folder = folder
    self.files = files

  @classmethod
  def create(
    cls, folder: pathlib.Path, lines: Iterable[BatchLine], ledger: Ledger
  ) -> ProviderBatch:
    """Writes requests into a new folder.

    Raises:
      UserError: as `batch_requests.write_requests`.
    """
    if not (folder / STATE_FILE).exists():
      # Files of a process that was killed here: nobody has seen them.
      for path in batch_requests.request_files(folder):
        path.unlink()
    written = batch_requests.write_requests(lines, folder, ledger)
    batch = cls(
      folder,
      [
        BatchFile(file.path.name, file.teacher, file.url, file.requests)
        for file in written.files
      ],
    )
    batch.save()
    return batch

  @classmethod
  def open(cls, folder: pathlib.Path) -> ProviderBatch:
    """The batch of a folder.

    Raises:
      UserError: its `batch.json` cannot be read.
    """
    path = folder / STATE_FILE
    with damaged_file(path, "restore it from a copy"):
      state = strict_json.loads(plain_files.read_text(path))
      files = [BatchFile(**values) for values in state["files"]]
      for file in files:
        # The names become paths.
        if pathlib.PurePath(file.name).name != file.name:
          raise ValueError(f"the file name {file.name!r}")
      return cls(folder, files)

  def save(self) -> None:
    """Writes `batch.json`, whole."""
    state = {"files": [dataclasses.asdict(file) for file in self.files]}
    with atomic_file(self.folder / STATE_FILE) as file:
      file.write(json.dumps(state, indent=2).encode() + b"\n")

  @property
  def is_submitted(self) -> bool:
    """Whether the provider has all of it."""
    return all(file.batch_id for file in self.files)

  @property
  def is_over(self) -> bool:
    """Whether nothing is left to fetch."""
    return all(file.is_fetched for file in self.files)

  # -- at the provider

  def submit(self, endpoints: Endpoints, ledger: Ledger) -> None:
    """Uploads what is not there yet, and has it worked on.

    The ledger holds an attempt for each request before the provider does, with
    the longest answer as its cost.

    Raises:
      UserError: the provider refuses, or cannot be reached.
    """
    for file in self.files:
      if file.batch_id:
        continue
      with _Provider(endpoints[file.teacher]) as provider:
        if not file.file_id:
          file.file_id = provider.upload(self.folder / file.name)
          self.save()
        made = None
        if file.status == "creating":
          made = provider.batch_of_file(file.file_id)
        if made is None:
          self._note_attempts(file, ledger)
          file.status = "creating"
          self.save()
          made = provider.create(file.file_id, file.url)
        self._update(file, made)

  def poll(self, endpoints: Endpoints) -> None:
    """Asks how far the provider is.

    Raises:
      UserError: as `submit`.
    """
    self._for_each_under_way(endpoints, lambda provider, id: provider.get(id))

  def cancel(self, endpoints: Endpoints, ledger: Ledger) -> None:
    """Stops the provider's work; what is done can still be fetched.

    The requests of a batch that was never made are paid for by nobody.

    Raises:
      UserError: as `submit`.
    """
    for file in self.files:
      if not file.batch_id:
        made = None
        if file.status == "creating":
          with _Provider(endpoints[file.teacher]) as provider:
            made = provider.batch_of_file(file.file_id)
        if made is None:
          self._end_attempts(file, ledger, NO_TOKENS)
          file.status, file.is_fetched = "cancelled", True
          self.save()
        else:
          self._update(file, made)
    self._for_each_under_way(
      endpoints, lambda provider, id: provider.cancel(id)
    )

  def fetch(self, endpoints: Endpoints) -> list[pathlib.Path]:
    """Downloads the results of what has ended.

    Returns:
      Files for `batch_results.read_results`, after which `mark_fetched` says
      that the ledger has them.

    Raises:
      UserError: as `submit`.
    """
    self.poll(endpoints)
    found = []
    for file in self.files:
      if file.is_fetched or file.is_under_way or not file.batch_id:
        continue
      with _Provider(endpoints[file.teacher]) as provider:
        batch = provider.get(file.batch_id)
        for kind in ("output", "error"):
          # A batch without answers, or without errors, has no such file.
          if file_id := getattr(batch, f"{kind}_file_id", None):
            name = file.name.replace("requests", f"{kind}s")
            provider.download(file_id, self.folder / name)
            found.append(self.folder / name)
    return found

  def mark_fetched(self, ledger: Ledger) -> None:
    """Notes that the ledger holds the results of what has ended."""
    for file in self.files:
      if file.batch_id and not file.is_under_way and not file.is_fetched:
        # Of a whole batch a missing result may be paid for.
        tokens = None if file.status == "completed" else NO_TOKENS
        self._end_attempts(file, ledger, tokens)
        file.is_fetched = True
    self.save()

  def _end_attempts(
    self, file: BatchFile, ledger: Ledger, tokens: Tokens | None
  ) -> None:
    """Notes what those of a file's requests cost that did not come back."""
    keys = set(self._estimates(file))
    for attempt in list(ledger.submitted()):
      if attempt.key in keys:
        ledger.end_attempt(attempt, INTERRUPTED, tokens=tokens)
    ledger.flush()

  def _for_each_under_way(
    self, endpoints: Endpoints, call: Callable[[_Provider, str], Any]
  ) -> None:
    for file in self.files:
      if file.is_under_way:
        with _Provider(endpoints[file.teacher]) as provider:
          self._update(file, call(provider, file.batch_id))

  def _update(self, file: BatchFile, batch: Any) -> None:
    """Takes over what a provider says of a batch."""
    file.batch_id = str(batch.id)
    file.status = str(batch.status)
    if counts := getattr(batch, "request_counts", None):
      file.done = int(counts.completed or 0)
      file.failed = int(counts.failed or 0)
    errors = getattr(getattr(batch, "errors", None), "data", None) or []
    messages = [str(getattr(error, "message", error)) for error in errors[:3]]
    file.problem = one_line("; ".join(messages))
    self.save()

  def _note_attempts(self, file: BatchFile, ledger: Ledger) -> None:
    noted = {attempt.key for attempt in ledger.submitted()}
    for key, (model, tokens) in self._estimates(file).items():
      if key not in noted:
        attempt = ledger.start_attempt(key, BATCH, model, tokens)
        ledger.end_attempt(attempt, SUBMITTED)
    ledger.flush()

  def _estimates(self, file: BatchFile) -> dict[str, tuple[str, Tokens]]:
    """Key -> model and tokens of each request of a file."""
    return {
      line["custom_id"]: (line["body"]["model"], batch_requests.tokens_of(line))
      for line in batch_requests.read_requests(self.folder / file.name)
    }

  def check_cost(
    self, prices: Prices, ledger: Ledger, max_cost: float | None
  ) -> None:
    """Raises UserError if the longest answers would exceed `max_cost`."""
    if max_cost is None:
      return
    cost = prices.total(ledger.charges())
    for file in self.files:
      for model, tokens in self._estimates(file).values():
        cost += prices.known(model).cost(tokens, is_batch=True)
    if cost > max_cost:
      raise UserError(
        f"max_cost is {max_cost:g}, and with the longest answers this batch, and"
        f" what was spent before, cost {cost:.4g}",
        fields="AskOptions.max_cost",
      )

  def discard(self) -> None:
    """Removes a folder none of whose lines were sent."""
    shutil.rmtree(self.folder)


class _Provider:
  """The official client, for an endpoint's batches; a context manager."""

  def __init__(self, endpoint: EndpointOptions):
    self._openai = import_openai()
    self._key = ApiKey(endpoint)
    self._way = endpoint_errors.check_set_up(
      endpoint.url, self._openai.DefaultHttpxClient
    )
    version = endpoint.api_version
    self._url = endpoint.url
    self._client = self._openai.OpenAI(
      api_key="none",
      base_url=endpoint.url,
      timeout=endpoint.timeout_s,
      default_headers={
        "Authorization": self._openai.Omit(),
        **self._key.headers(),
        "Accept-Encoding": "identity",
      },
      default_query={"api-version": version} if version else None,
    )

  def __enter__(self) -> _Provider:
    return self

  def __exit__(self, *_: object) -> None:
    self._client.close()

  def upload(self, path: pathlib.Path) -> str:
    with self._errors(), path.open("rb") as file:
      return str(self._client.files.create(file=file, purpose="batch").id)

  def create(self, file_id: str, url: str) -> Any:
    # Not sent again by the client: it might be made twice.
    client = self._client.with_options(max_retries=0)
    with self._errors():
      return client.batches.create(
        input_file_id=file_id, endpoint=url, completion_window=_WINDOW
      )

  def batch_of_file(self, file_id: str) -> Any | None:
    """The batch that was made of a file, if one was."""
    with self._errors():
      listed = self._client.batches.list(limit=100)
      for batch in itertools.islice(listed, _MAX_LISTED):
        if batch.input_file_id == file_id:
          return batch
    return None

  def get(self, batch_id: str) -> Any:
    with self._errors():
      return self._client.batches.retrieve(batch_id)

  def cancel(self, batch_id: str) -> Any:
    with self._errors():
      return self._client.batches.cancel(batch_id)

  def download(self, file_id: str, path: pathlib.Path) -> None:
    size = 0
    files = self._client.files.with_streaming_response
    with (
      self._errors(),
      atomic_file(path) as target,
      files.content(file_id) as response,
    ):
      for chunk in response.iter_bytes(_CHUNK_BYTES):
        size += len(chunk)
        if size > _MAX_RESULT_BYTES:
          raise UserError(
            f"{path.name} has more than {_MAX_RESULT_BYTES} bytes"
          )
        target.write(chunk)

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    """Turns the client's exceptions into one line, without secrets."""
    try:
      yield
    except self._openai.APIStatusError as error:
      shown = one_line(self._key.removed_from(str(error.message)))
      fields = ()
      if error.status_code in (401, 403):
        fields = self._key.field
      elif error.status_code in (404, 405):
        shown += "; this endpoint may have no interface for batches"
        fields = "Endpoint.base_url"
      raise UserError(f"{self._url}: {shown}", fields=fields) from None
    except self._openai.APIConnectionError as error:
      failure = endpoint_errors.connection_failure(
        error, self._way, was_reached=False
      )
      raise UserError(str(failure), fields="Endpoint.base_url") from None
    except self._openai.OpenAIError as error:
      raise UserError(f"{self._url}: {type(error).__name__}") from None


def batches_in(folder: pathlib.Path) -> list[ProviderBatch]:
  """The batches of an output folder, in the order in which they were made."""
  return [
    ProviderBatch.open(path.parent)
    for path in sorted(folder.glob(f"batch-*/{STATE_FILE}"))
  ]


def next_folder(folder: pathlib.Path) -> pathlib.Path:
  """Where the next batch of an output folder belongs."""
  number = len(batches_in(folder)) + 1
  return folder / f"batch-{number:03}"
