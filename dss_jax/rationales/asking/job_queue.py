"""Which request is asked next: new ones as they are read, failed ones later."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import heapq
import itertools
import time
from collections.abc import Callable, Iterable

from dss_jax.rationales.asking.ask_summary import Summary
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import Request, Tokens

# Requests looked up in the ledger together.
_CHUNK = 64


@dataclasses.dataclass(slots=True)
class Job:
  """A request that has no outcome yet.

  Attributes:
    request: what to ask.
    tokens: an estimate of its tokens, with the longest answer.
    cost: an estimate of the money it takes.
    attempts: sendings in this call.
    failures: attempts that count towards giving up.
    rate_limited: attempts that came too often for the provider.
  """

  request: Request
  tokens: Tokens
  cost: float
  attempts: int = 0
  failures: int = 0
  rate_limited: int = 0


class JobQueue:
  """The jobs of one call: those not yet read, those read, those put back.

  Args:
    requests: read lazily.
    ledger: requests that are settled there are skipped.
    summary: its counts of requests are kept here.
    cost: money for the tokens of a request.
    retry_failed: see `AskOptions`.
    most_delayed: while this many jobs wait to be sent again, nothing new is
      read, so that retries do not let memory grow.
  """

  def __init__(
    self,
    requests: Iterable[Request],
    ledger: Ledger,
    summary: Summary,
    cost: Callable[[Request, Tokens], float],
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
    self._closed = asyncio.Event()
    # Keys between the iterable and the ledger.
    self._keys: set[str] = set()
    self._fresh: collections.deque[Job] = collections.deque()
    # (when it is due, order, job) of the jobs put back.
    self._delayed: list[tuple[float, int, Job]] = []
    self._order = itertools.count()

  @property
  def is_done(self) -> bool:
    """Whether every request has its outcome."""
    return self._exhausted and not self._keys

  async def next(self) -> Job | None:
    """The next job; None if the worker that asks is not needed any more."""
    while not self._closed.is_set():
      now = time.monotonic()
      if self._delayed and self._delayed[0][0] <= now:
        return heapq.heappop(self._delayed)[2]
      if len(self._delayed) < self._most_delayed:
        if self._fresh:
          return self._fresh.popleft()
        if not self._exhausted:
          self._refill()
          # Skipping what is settled must not hold up requests under way.
          await asyncio.sleep(0)
          continue
      if not self._delayed:
        # A worker whose job may still fail comes back for that job itself.
        return None
      with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(self._delayed[0][0] - now):
          await self._closed.wait()
    return None

  def put_back(self, job: Job, wait: float) -> None:
    """Returns a job to the queue, to be asked again after `wait` seconds."""
    due = time.monotonic() + wait
    heapq.heappush(self._delayed, (due, next(self._order), job))

  def settled(self, job: Job) -> None:
    """Drops a job whose outcome is noted in the ledger."""
    self._keys.discard(job.request.key)

  def close(self) -> None:
    """Gives out no more jobs."""
    self._closed.set()

  def _refill(self) -> None:
    """Reads some requests and keeps those that are to be asked."""
    # An iterable that raises must not be read again.
    self._exhausted = True
    chunk = list(itertools.islice(self._requests, _CHUNK))
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
      tokens = request.estimated_tokens()
      self._fresh.append(Job(request, tokens, self._cost(request, tokens)))
    self._keys.update(new)
