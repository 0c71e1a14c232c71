"""How fast a teacher is asked: rate limits, backing off, a circuit breaker.

Nothing in here knows of requests or of HTTP: `request_loop` retries, and
`teachers/server_responses` reads Retry-After. Times are seconds of a monotonic
clock, which tests replace.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Callable

from dss_jax.rationales.extraction_plan import AskOptions

Clock = Callable[[], float]

_MINUTE = 60.0
# What is unused for a moment may be used right after it: as many seconds'
# worth. Smooths over a slow moment of this process, far from a minute's burst.
_CATCH_UP_S = 0.5
# Grants this close together are remembered as one, so that memory is bounded.
_BIN_S = 0.1


class RateLimit:
  """At most so much in any minute, evenly from the first minute on.

  Two rules hold together: grants follow the even rate (with at most half a
  second's worth caught up after a pause), and the sum over the last 60 seconds
  stays within the limit.

  Args:
    per_minute: the limit, in requests or tokens.
    clock: the time.
  """

  def __init__(self, per_minute: float, clock: Clock = time.monotonic):
    if per_minute <= 0:
      raise ValueError(f"a limit a minute must be positive, not {per_minute}")
    self._limit = per_minute
    self._seconds_each = _MINUTE / per_minute
    self._clock = clock
    # When all that was granted is worked off at the even rate.
    self._even = clock() + _CATCH_UP_S
    # [first time, last time, amount] of grants within the last minute.
    self._bins: collections.deque[list[float]] = collections.deque()
    self._sum = 0.0

  def delay(self, amount: float = 1.0) -> float:
    """Seconds after which `amount` may be taken at the earliest; 0 is now."""
    now = self._clock()
    self._forget(now)
    wait = self._even - _CATCH_UP_S - now
    # More than a minute's quota at once gets the minute to itself.
    excess = self._sum + min(amount, self._limit) - self._limit
    for _, last, granted in self._bins:
      if excess <= 1e-9:
        break
      excess -= granted
      wait = max(wait, last + _MINUTE - now)
    return max(wait, 0.0)

  def take(self, amount: float = 1.0) -> list[float]:
    """Takes `amount`; the grant is for `settle`."""
    now = self._clock()
    self._even = max(self._even, now) + amount * self._seconds_each
    if not self._bins or now - self._bins[-1][0] > _BIN_S:
      self._bins.append([now, now, 0.0])
    grant = self._bins[-1]
    grant[1] = now
    grant[2] += amount
    self._sum += amount
    return grant

  def settle(self, grant: list[float], estimated: float, used: float) -> None:
    """Replaces the estimate that was taken by what was really used."""
    difference = used - estimated
    self._even += difference * self._seconds_each
    if self._bins and grant[0] >= self._bins[0][0]:
      grant[2] += difference
      self._sum += difference

  def _forget(self, now: float) -> None:
    while self._bins and self._bins[0][1] <= now - _MINUTE:
      self._sum -= self._bins.popleft()[2]


def backoff(
  failures: int,
  retry_after: float | None = None,
  rng: random.Random | None = None,
  *,
  first: float = 1.0,
  longest: float = 60.0,
  longest_retry_after: float = 300.0,
) -> float:
  """Seconds to wait after a number of failures in a row.

  Doubles from `first` on up to `longest`, then is drawn evenly from its upper
  half, so that requests that failed together do not come back together. A wait
  that the server asks for takes its place, with up to a tenth added, but never
  counts for more than `longest_retry_after`.

  Args:
    failures: 1 after the first.
    retry_after: what the server asked for; None if it did not.
    rng: the source of the jitter.
    first: wait after the first failure, before jitter.
    longest: wait after many.
    longest_retry_after: bound on `retry_after`.
  """
  draw = (rng or random).random()
  if retry_after is not None and math.isfinite(retry_after):
    return min(max(retry_after, 0.0), longest_retry_after) * (1 + 0.1 * draw)
  # 2**64 seconds are beyond any bound.
  wait = min(first * 2.0 ** min(failures - 1, 64), longest)
  return wait * (1 + draw) / 2


class Breaker:
  """Stops asking when nothing but failures comes back, and tries again later.

  After `threshold` failures in a row it opens: nothing is sent for a while,
  then one request as a probe. A probe that fails doubles the pause; one that
  succeeds closes it.

  Args:
    threshold: failures in a row, over all requests.
    first_pause: seconds.
    longest_pause: seconds.
    clock: the time.
  """

  def __init__(
    self,
    threshold: int,
    first_pause: float = 5.0,
    longest_pause: float = 60.0,
    clock: Clock = time.monotonic,
  ):
    self._threshold = threshold
    self._first_pause = first_pause
    self._longest_pause = longest_pause
    self._clock = clock
    self._failures = 0
    self._pause = 0.0
    self._until = 0.0
    self._probing = False
    self.is_open = False

  def delay(self) -> float:
    """Seconds until a request may go; inf while a probe is under way."""
    if not self.is_open:
      return 0.0
    if self._probing:
      return math.inf
    return max(self._until - self._clock(), 0.0)

  def enter(self) -> bool:
    """Called when a request goes; True if it is a probe."""
    self._probing = self.is_open
    return self._probing

  def succeeded(self) -> None:
    """A server answered, whatever it said of the request."""
    self._failures = 0
    self._probing = False
    self.is_open = False

  def failed(self, is_probe: bool) -> None:
    """An attempt failed; those sent before the breaker opened do not count."""
    if is_probe:
      self._probing = False
      self._pause = min(2 * self._pause, self._longest_pause)
      self._until = self._clock() + self._pause
    elif not self.is_open:
      self._failures += 1
      if self._failures >= self._threshold:
        self.is_open = True
        self._pause = self._first_pause
        self._until = self._clock() + self._pause

  def abandoned(self, is_probe: bool) -> None:
    """An attempt ended without any evidence about the server."""
    if is_probe:
      self._probing = False


class Budget:
  """Money: what is spent, and what is reserved for requests under way.

  Args:
    limit: bound on both together; None for none.
    spent: money spent so far.
  """

  def __init__(self, limit: float | None = None, spent: float = 0.0):
    self.limit = limit
    self.spent = spent
    self._reserved = 0.0

  def fits(self, cost: float) -> bool:
    if self.limit is None:
      return True
    return self.spent + self._reserved + cost <= self.limit * (1 + 1e-9)

  def reserve(self, cost: float) -> None:
    self._reserved += cost

  def settle(self, reserved: float, spent: float) -> None:
    self._reserved -= reserved
    self.spent += spent


@dataclasses.dataclass(slots=True)
class Permit:
  """Leave to send one request; see `Pace.enter`.

  Attributes:
    tokens: estimate of the tokens read and written.
    cost: money that is reserved.
    grant: what `RateLimit.take` gave for the tokens; None without a limit.
    is_probe: whether the breaker is open and the request tries it.
    number: counts up from 1 through the life of the gate.
  """

  tokens: float
  cost: float
  grant: list[float] | None
  is_probe: bool
  number: int


class Pace:
  """The one gate through which every request goes, first come first served.

  Joins the limits a minute, the breaker, the budget, pauses that the server
  asked for, and a bound on requests under way: it halves when the server says
  that it is asked too often, and grows by one with each answer, so that a
  pause does not end in a stampede.

  Args:
    concurrency: most requests under way.
    breaker: stops asking when nothing but failures comes back.
    budget: bounds the money.
    requests: limit on requests a minute.
    tokens: limit on tokens a minute.
    clock: the time, in seconds.
  """

  def __init__(
    self,
    concurrency: int,
    breaker: Breaker,
    budget: Budget | None = None,
    requests: RateLimit | None = None,
    tokens: RateLimit | None = None,
    clock: Clock = time.monotonic,
  ):
    self._concurrency = concurrency
    self._window = float(concurrency)
    self._shrunk_at = 0
    self._breaker = breaker
    self.budget = budget or Budget()
    self._requests = requests
    self._tokens = tokens
    self._clock = clock
    self._paused_until = 0.0
    self._turn = asyncio.Lock()
    self._changed = asyncio.Event()
    self._entered = 0
    self._closed = False
    self.in_flight = 0
    self.out_of_money = False

  @classmethod
  def from_options(cls, options: AskOptions, spent: float) -> Pace:
    """The gate that the options ask for, after some money was spent before."""

    def limit(per_minute: float | None) -> RateLimit | None:
      return None if per_minute is None else RateLimit(per_minute)

    breaker = Breaker(
      threshold=max(10, options.concurrency),
      first_pause=4 * options.backoff_s,
      longest_pause=max(options.max_backoff_s, 4 * options.backoff_s),
    )
    return cls(
      options.concurrency,
      breaker,
      Budget(options.max_cost, spent),
      limit(options.requests_per_minute),
      limit(options.tokens_per_minute),
    )

  async def enter(
    self, tokens: float = 0.0, cost: float = 0.0
  ) -> Permit | None:
    """Waits until a request may be sent.

    Args:
      tokens: an estimate of the tokens used, which `leave` settles.
      cost: an estimate of the money spent, likewise.

    Returns:
      What to give back to `leave`; None if the gate is closed: for good, or
      because the money does not suffice (`out_of_money`).
    """
    async with self._turn:
      while not self._closed:
        wait = self._delay(tokens, cost)
        if wait <= 0:
          return self._take(tokens, cost)
        if wait == math.inf and not self.in_flight:
          # Nothing under way can free any more money.
          self.out_of_money = True
          self.close()
          break
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
          async with asyncio.timeout(None if wait == math.inf else wait):
            await self._changed.wait()
    return None

  def _delay(self, tokens: float, cost: float) -> float:
    if self.in_flight >= int(self._window) or not self.budget.fits(cost):
      return math.inf
    wait = max(self._breaker.delay(), self._paused_until - self._clock())
    if self._requests is not None:
      wait = max(wait, self._requests.delay())
    if self._tokens is not None:
      wait = max(wait, self._tokens.delay(tokens))
    return wait

  def _take(self, tokens: float, cost: float) -> Permit:
    if self._requests is not None:
      self._requests.take()
    grant = None if self._tokens is None else self._tokens.take(tokens)
    self.budget.reserve(cost)
    self.in_flight += 1
    self._entered += 1
    return Permit(tokens, cost, grant, self._breaker.enter(), self._entered)

  def leave(
    self,
    permit: Permit,
    result: str,
    *,
    tokens: float | None = None,
    cost: float = 0.0,
  ) -> None:
    """Takes back the leave of a request that ended.

    Args:
      permit: what `enter` gave.
      result: "ok" (the server answered), "rate_limited", "failed", or
        "abandoned" (nothing is known).
      tokens: tokens used, where known; else the estimate stands.
      cost: money spent.
    """
    self.in_flight -= 1
    self.budget.settle(permit.cost, cost)
    if permit.grant is not None and self._tokens and tokens is not None:
      self._tokens.settle(permit.grant, permit.tokens, tokens)
    if result == "ok":
      self._breaker.succeeded()
      self._window = min(self._window + 1, self._concurrency)
    elif result == "failed":
      self._breaker.failed(permit.is_probe)
    else:
      self._breaker.abandoned(permit.is_probe)
    # Requests that were under way together are refused together: halve once.
    if result == "rate_limited" and permit.number > self._shrunk_at:
      self._window = max(self._window / 2, 1.0)
      self._shrunk_at = self._entered
    self._changed.set()

  def pause(self, seconds: float) -> None:
    """Lets nothing through for so long."""
    self._paused_until = max(self._paused_until, self._clock() + seconds)

  def close(self) -> None:
    """Lets nothing through any more."""
    self._closed = True
    self._changed.set()

  @property
  def paused_s(self) -> float:
    """Seconds for which nothing is sent; inf while a probe is under way."""
    return max(self._breaker.delay(), self._paused_until - self._clock(), 0.0)

  @property
  def is_broken(self) -> bool:
    """Whether the breaker is open."""
    return self._breaker.is_open
