"""Which request is asked next: new ones as they are read, failed ones later."""

from __future__ import annotations

import asyncio
import collections
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable

from dss_jax.rationales.asking.ask_options import Summary
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.requests import Request

# Requests looked up in the ledger together.
_CHUNK = 64
_BYTES_A_TOKEN = 4

# Request, tokens read, tokens written -> money.
Cost = Callable[[Request, int, int], float]


def estimated_tokens(request: Request) -> tuple[int, int]:
  """A guess at a request's tokens: those read, and the most written.

  Four bytes of UTF-8 are a token, a turn of a chat costs four more.
  """
  if isinstance(request.prompt, str):
    size, turns = utf8_size(request.prompt), 0
  else:
    size = sum(utf8_size(text) for _, text in request.prompt)
    turns = len(request.prompt)
  return (
    tokens_of_size(size) + 4 * turns,
    request.sampling.max_tokens,
  )


def tokens_of_size(size: int) -> int:
  """A guess at the tokens of so many bytes of UTF-8."""
  return math.ceil(size / _BYTES_A_TOKEN)


def utf8_size(text: str) -> int:
  """Bytes of a text in UTF-8."""
  return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


class Job:
  """A request that has no outcome yet.

  Attributes:
    request: what to ask.
    key: its key.
    tokens: estimates of what is read and written.
    cost: an estimate.
    attempts: sendings in this call.
    failures: of them, those that count towards giving up.
    rate_limited: of them, those that came too often for the provider.
  """

  __slots__ = (
    "attempts",
    "cost",
    "failures",
    "key",
    "rate_limited",
    "request",
    "tokens",
  )

  def __init__(self, request: Request, tokens: tuple[int, int], cost: float):
    self.request = request
    self.key = request.key
    self.tokens = tokens
    self.cost = cost
    self.attempts = 0
    self.failures = 0
    self.rate_limited = 0


class JobQueue:
  """The jobs of one call: those not yet read, those read, those put back.

  Args:
    requests: read lazily.
    ledger: what is settled there is skipped.
    summary: whose counts of requests are kept here.
    cost: of an estimate.
    retry_failed: see `AskOptions`.
    most_delayed: jobs put back, beyond which nothing new is begun.
  """

  def __init__(
    self,
    requests: Iterable[Request],
    ledger: Ledger,
    summary: Summary,
    cost: Cost,
    *,
    retry_failed: bool,
    most_delayed: int,
  ):
    self._requests = iter(requests)
    self._ledger = ledger
    self._summary = summary
    self._cost = cost
    self._retry_failed = retry_failed
    self._most_delayed = most_delayed
    self._first_attempt = ledger.next_attempt
    self._exhausted = False
    self._closed = False
    # Keys between the iterable and the ledger.
    self._keys: set[str] = set()
    self._fresh: collections.deque[Job] = collections.deque()
    # (when, order, job) of those put back.
    self._delayed: list[tuple[float, int, Job]] = []
    self._order = itertools.count()
    self._sleepers: set[asyncio.Future[None]] = set()

  @property
  def is_done(self) -> bool:
    """Whether every request has its outcome."""
    return self._exhausted and not self._keys

  async def next(self) -> Job | None:
    """The next job; None if whoever asks is not needed any more."""
    while not self._closed:
      now = time.monotonic()
      if self._delayed and self._delayed[0][0] <= now:
        return heapq.heappop(self._delayed)[2]
      if len(self._delayed) < self._most_delayed:
        if self._fresh:
          return self._fresh.popleft()
        if not self._exhausted:
          self._refill()
          # Skipping what is settled must not hold up those under way.
          await asyncio.sleep(0)
          continue
      if not self._delayed:
        # Whoever holds a job that may fail yet comes back for it himself.
        return None
      await self._sleep(self._delayed[0][0] - now)
    return None

  def put_back(self, job: Job, wait: float) -> None:
    """Has a job asked again after `wait` seconds."""
    due = time.monotonic() + wait
    heapq.heappush(self._delayed, (due, next(self._order), job))

  def settled(self, job: Job) -> None:
    """Says that the outcome of a job is noted in the ledger."""
    self._keys.discard(job.key)

  def close(self) -> None:
    """Gives out no more jobs."""
    self._closed = True
    for sleeper in self._sleepers:
      set_done(sleeper)

  def _refill(self) -> None:
    """Reads some requests and keeps those that are to be asked."""
    chunk: list[Request] = []
    # Whatever ends the reading early ends it for good.
    self._exhausted = True
    chunk.extend(itertools.islice(self._requests, _CHUNK))
    self._exhausted = len(chunk) < _CHUNK
    self._summary.requests += len(chunk)
    new: dict[str, Request] = {}
    for request in chunk:
      if request.key in self._keys or request.key in new:
        self._summary.duplicates += 1
      else:
        new[request.key] = request
    settled = self._ledger.settled(new, retry_failed=self._retry_failed)
    for key, attempt in settled.items():
      if attempt is not None and attempt >= self._first_attempt:
        self._summary.duplicates += 1
      else:
        self._summary.already += 1
      del new[key]
    for request in new.values():
      tokens = estimated_tokens(request)
      self._fresh.append(Job(request, tokens, self._cost(request, *tokens)))
    self._keys.update(new)

  async def _sleep(self, seconds: float) -> None:
    """Until then, or until the queue is closed."""
    loop = asyncio.get_running_loop()
    sleeper = loop.create_future()
    self._sleepers.add(sleeper)
    timer = loop.call_later(seconds, set_done, sleeper)
    try:
      await sleeper
    finally:
      timer.cancel()
      self._sleepers.discard(sleeper)


def set_done(future: asyncio.Future[None]) -> None:
  """Ends the wait for a future, unless it has ended already."""
  if not future.done():
    future.set_result(None)
