"""Many requests at once, within limits, through faults, into the ledger.

A fixed number of workers takes requests from an iterable, which is read only
as fast as they are asked, so that memory does not grow with their number. Each
sending is an attempt that the ledger holds before the first byte leaves; each
request ends with one outcome there. What is settled in the ledger is skipped:
to go on after whatever stopped a run is to call `ask` again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator

from dss_jax.errors import UserError
from dss_jax.rationales import outcomes, pacing
from dss_jax.rationales.ask_options import AskOptions, Progress, Summary
from dss_jax.rationales.job_queue import (
  Job,
  JobQueue,
  estimated_tokens,
  set_done,
  tokens_of_size,
  utf8_size,
)
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.outcomes import Outcome
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.requests import Completion, Request
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  Teacher,
  TransientError,
)

# A provider that says "too often" is asked again this much more patiently
# than one that fails.
_RATE_LIMITED_FACTOR = 10
# Failures after which the provider may have worked, and be paid for it.
_MAY_BE_BILLED = {"timeout", "bad_response"}
# How long a fatal error waits for what is under way.
_LAST_ANSWERS_S = 10.0
_SHOW_EVERY_S = 0.25


__all__ = ["AskOptions", "Progress", "Summary", "ask", "estimated_tokens"]


async def ask(
  requests: Iterable[Request],
  teacher: Teacher,
  ledger: Ledger,
  options: AskOptions | None = None,
  *,
  prices: Prices | None = None,
  progress: Progress | None = None,
  total: int | None = None,
) -> Summary:
  """Asks a teacher everything that the ledger does not hold yet.

  One Ctrl-C lets what is under way finish and writes it down; a second one
  stops at once. Both return a Summary with `stopped`.

  Args:
    requests: read lazily, in order; equal ones are asked once.
    teacher: who answers; not closed.
    ledger: open for writing.
    options: how to ask.
    prices: of models, for costs and `max_cost`.
    progress: told of progress a few times a second.
    total: number of requests, if known, for the projected cost.

  Returns:
    Counts; the answers are in the ledger.

  Raises:
    UserError: nothing can be asked until a person changes something: the
      key, the model's name, the ledger's disk.
  """
  return await _Asking(
    requests,
    teacher,
    ledger,
    options or AskOptions(),
    prices,
    progress,
    total,
  ).run()


class _Asking:
  """The state of one call of `ask`."""

  def __init__(
    self,
    requests: Iterable[Request],
    teacher: Teacher,
    ledger: Ledger,
    options: AskOptions,
    prices: Prices | None,
    progress: Progress | None,
    total: int | None,
  ):
    self._teacher = teacher
    self._ledger = ledger
    self._options = options
    self._prices = prices
    self._progress = progress
    self._total = total
    self._rng = random.Random(options.seed)
    self._summary = Summary()
    self._queue = JobQueue(
      requests,
      ledger,
      self._summary,
      self._cost,
      retry_failed=options.retry_failed,
      # Retries that wait must not let the number of jobs grow without bound.
      most_delayed=4 * options.concurrency,
    )
    self._stopping = False
    self._error: BaseException | None = None
    self._committing: list[asyncio.Future[None]] = []
    self._flush_is_due = False
    self._cancelling: asyncio.TimerHandle | None = None
    self._showing: asyncio.TimerHandle | None = None
    self._workers: list[asyncio.Task[None]] = []

  # -- the run

  async def run(self) -> Summary:
    options = self._options
    self._loop = asyncio.get_running_loop()
    self._start = self._last_success = time.monotonic()
    self._pace = pacing.Pace(
      options.concurrency,
      pacing.Breaker(
        threshold=max(10, options.concurrency),
        first_pause=4 * options.backoff_s,
        longest_pause=max(options.max_backoff_s, 4 * options.backoff_s),
      ),
      pacing.Budget(options.max_cost, self._spent_before()),
      _limit(options.requests_per_minute),
      _limit(options.tokens_per_minute),
    )
    self._spent_at_start = self._pace.budget.spent
    with self._interruptible():
      self._show()
      try:
        await self._work()
      finally:
        for timer in (self._showing, self._cancelling):
          if timer is not None:
            timer.cancel()
        self._ledger.flush()
    self._close_summary()
    self._show()
    if self._error is not None:
      raise self._error
    return self._summary

  async def _work(self) -> None:
    self._workers = [
      asyncio.create_task(self._worker())
      for _ in range(self._options.concurrency)
    ]
    try:
      results = await asyncio.gather(*self._workers, return_exceptions=True)
    except asyncio.CancelledError:
      # Cancelled from outside, as by the caller's own timeout.
      for worker in self._workers:
        worker.cancel()
      await asyncio.gather(*self._workers, return_exceptions=True)
      raise
    for result in results:
      if isinstance(result, Exception) and self._error is None:
        self._error = result

  async def _worker(self) -> None:
    try:
      while (job := await self._queue.next()) is not None:
        await self._attempt(job)
    except Exception as error:
      self._fail(error)

  # -- asking

  async def _attempt(self, job: Job) -> None:
    """Sends a job once and does what follows from how that ends."""
    entry = await self._pace.enter(sum(job.tokens), job.cost)
    if entry is None:
      if self._pace.out_of_money:
        self._stop(
          f"--max_cost={self._options.max_cost:g} does not suffice for the next"
          f" request; spent so far: {self._pace.budget.spent:.4f}"
        )
      return
    attempt = self._ledger.start_attempt(job.key, self._teacher.name)
    error: Exception | None = None
    completion = None
    started = time.monotonic()
    try:
      await self._committed()
      job.attempts += 1
      self._summary.attempts += 1
      self._summary.retries += job.attempts > 1
      async with asyncio.timeout(self._options.timeout_s):
        completion = await self._teacher.complete(job.request, attempt.id)
    except asyncio.CancelledError:
      self._ledger.end_attempt(attempt, outcomes.CANCELLED)
      self._pace.leave(entry, "abandoned", cost=job.cost)
      raise
    except TimeoutError:
      error = TransientError(
        "timeout", f"no answer in {self._options.timeout_s:g} s"
      )
    except (TransientError, RejectedError, FatalError) as known:
      error = known
    except UserError:
      # The ledger's; nothing was sent.
      self._pace.leave(entry, "abandoned")
      raise
    except Exception as unknown:
      # Its text is not shown: it may hold anything.
      error = TransientError("unexpected", type(unknown).__name__)
    seconds = time.monotonic() - started
    if completion is not None:
      self._answered(job, attempt, entry, completion, seconds)
    else:
      assert error is not None
      self._failed(job, attempt, entry, error, seconds)
    self._commit()

  def _answered(
    self,
    job: Job,
    attempt: outcomes.Attempt,
    entry: pacing.Pass,
    completion: Completion,
    seconds: float,
  ) -> None:
    prompt, written = completion.prompt_tokens, completion.completion_tokens
    used = (
      job.tokens[0] if prompt is None else prompt,
      tokens_of_size(utf8_size(completion.text))
      if written is None
      else written,
    )
    cost = self._cost(job.request, *used)
    self._pace.leave(entry, "ok", tokens=sum(used), cost=cost)
    self._last_success = time.monotonic()
    self._summary.answered += 1
    self._summary.prompt_tokens += prompt or 0
    self._summary.completion_tokens += written or 0
    self._ledger.end_attempt(attempt, outcomes.ANSWERED)
    self._settle(job, attempt, outcomes.ANSWERED, seconds, completion)

  def _failed(
    self,
    job: Job,
    attempt: outcomes.Attempt,
    entry: pacing.Pass,
    error: Exception,
    seconds: float,
  ) -> None:
    message = str(error)
    if isinstance(error, RejectedError):
      self._pace.leave(entry, "ok")
      self._last_success = time.monotonic()
      self._count_fault(outcomes.REJECTED)
      self._summary.rejected += 1
      self._ledger.end_attempt(attempt, outcomes.REJECTED, message)
      self._settle(job, attempt, outcomes.REJECTED, seconds, reason=message)
      self._check_rejections(message)
    elif isinstance(error, FatalError):
      self._pace.leave(entry, "abandoned")
      self._count_fault("fatal")
      self._ledger.end_attempt(attempt, "fatal", message)
      self._fail(UserError(message))
    else:
      assert isinstance(error, TransientError)
      self._count_fault(error.kind)
      self._ledger.end_attempt(attempt, error.kind, message)
      self._retry(job, attempt, entry, error, seconds)

  def _retry(
    self,
    job: Job,
    attempt: outcomes.Attempt,
    entry: pacing.Pass,
    error: TransientError,
    seconds: float,
  ) -> None:
    """Puts a job that failed back, or gives it up."""
    options = self._options
    limited = error.kind == "rate_limited"
    self._pace.leave(
      entry,
      "rate_limited" if limited else "failed",
      cost=job.cost if error.kind in _MAY_BE_BILLED else 0.0,
    )
    if limited:
      job.rate_limited += 1
    elif not entry.is_probe:
      job.failures += 1
    if (
      job.failures >= options.max_attempts
      or job.rate_limited >= _RATE_LIMITED_FACTOR * options.max_attempts
    ):
      self._summary.gave_up += 1
      reason = f"{error.kind} after {job.attempts} attempts: {error}"
      self._settle(job, attempt, outcomes.GAVE_UP, seconds, reason=reason)
    else:
      wait = pacing.backoff(
        job.rate_limited if limited else max(job.failures, 1),
        error.retry_after,
        self._rng,
        first=options.backoff_s,
        longest=options.max_backoff_s,
        longest_retry_after=options.max_retry_after_s,
      )
      self._queue.put_back(job, wait)
      # The server speaks of all of us.
      if limited or error.retry_after is not None:
        self._pace.pause(wait)
    silence = time.monotonic() - self._last_success
    if silence > options.give_up_after_s:
      self._stop(
        f"no answer from {self._teacher.name!r} for {silence:.0f} s"
        f" (--give_up_after_s); last: {error.kind}: {error}"
      )

  def _settle(
    self,
    job: Job,
    attempt: outcomes.Attempt,
    kind: str,
    seconds: float,
    completion: Completion | None = None,
    reason: str = "",
  ) -> None:
    self._ledger.add_outcome(
      Outcome(
        key=job.key,
        kind=kind,
        teacher=self._teacher.name,
        model=job.request.model,
        completion=completion,
        reason=reason,
        seconds=seconds,
        unix=time.time(),
        attempt=attempt.number,
      )
    )
    # Whoever looks it up from now on finds it in the ledger.
    self._queue.settled(job)

  def _count_fault(self, kind: str) -> None:
    self._summary.faults[kind] = self._summary.faults.get(kind, 0) + 1

  def _check_rejections(self, message: str) -> None:
    rejected = self._summary.rejected
    if (
      self._summary.answered == 0
      and rejected >= self._options.stop_after_rejections
    ):
      self._fail(
        UserError(
          f"the first {rejected} requests were all rejected, the last one with:"
          f" {message}; change what is asked, or go on with --retry_failed"
        )
      )

  # -- the ledger

  async def _committed(self) -> None:
    """Waits until what was noted so far is written.

    The next turn of the event loop writes it, together with what every other
    worker has noted by then: often the answer to the last request and the
    attempt of the next one.
    """
    waiter = self._loop.create_future()
    self._committing.append(waiter)
    self._commit()
    await waiter

  def _commit(self) -> None:
    """As `_committed`, without waiting."""
    if not self._flush_is_due:
      self._flush_is_due = True
      self._loop.call_soon(self._flush)

  def _flush(self) -> None:
    waiters, self._committing = self._committing, []
    self._flush_is_due = False
    try:
      self._ledger.flush()
    except Exception as error:
      self._fail(error)
      for waiter in waiters:
        if not waiter.done():
          waiter.cancel()
      return
    for waiter in waiters:
      set_done(waiter)

  # -- stopping

  def _stop(self, reason: str) -> None:
    """Sends nothing more; what is under way may end."""
    if self._stopping:
      return
    self._stopping = True
    self._summary.stopped = True
    self._summary.reason = reason
    self._pace.close()
    self._queue.close()

  def _fail(self, error: BaseException) -> None:
    """As `_stop`, and `ask` raises the error."""
    if self._error is None:
      self._error = error
      self._cancelling = self._loop.call_later(_LAST_ANSWERS_S, self._cancel)
    self._stop(str(error))

  def _cancel(self) -> None:
    for worker in self._workers:
      worker.cancel()

  def _interrupt(self) -> None:
    if self._summary.reason == "interrupted":
      self._say("stopped")
      self._cancel()
      return
    self._stop("interrupted")
    self._summary.reason = "interrupted"
    self._say(
      f"finishing {self._pace.in_flight} requests under way; Ctrl-C again stops"
      " now"
    )

  def _say(self, text: str) -> None:
    if self._progress is not None:
      self._progress.say(text)

  @contextlib.contextmanager
  def _interruptible(self) -> Iterator[None]:
    """Handles Ctrl-C, where signals can be handled at all."""
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    before = signal.getsignal(signal.SIGINT)
    try:
      self._loop.add_signal_handler(signal.SIGINT, self._interrupt)
    except (NotImplementedError, RuntimeError, ValueError):
      yield
      return
    try:
      yield
    finally:
      self._loop.remove_signal_handler(signal.SIGINT)
      if before is not None:
        signal.signal(signal.SIGINT, before)

  # -- money and words

  def _cost(
    self, request: Request, prompt_tokens: int, completion_tokens: int
  ) -> float:
    if self._prices is None:
      cost = None
    else:
      cost = self._prices.cost(request.model, prompt_tokens, completion_tokens)
    if cost is None and self._options.max_cost is not None:
      raise _no_price(request.model)
    return cost or 0.0

  def _spent_before(self) -> float:
    """What the ledger's answers have cost."""
    if self._prices is None:
      if self._options.max_cost is not None:
        raise _no_price(self._teacher.model)
      return 0.0
    spent = 0.0
    for model, tokens in self._ledger.totals().models.items():
      spent += (
        self._prices.cost(model, tokens.prompt_tokens, tokens.completion_tokens)
        or 0.0
      )
    return spent

  def _close_summary(self) -> None:
    summary = self._summary
    summary.seconds = time.monotonic() - self._start
    if self._queue.is_done and self._error is None:
      # It was told to stop when nothing was left to do.
      summary.stopped, summary.reason = False, ""
    prices = self._prices
    if prices is not None and prices.price(self._teacher.model) is not None:
      summary.ledger_cost = self._pace.budget.spent
      summary.cost = self._pace.budget.spent - self._spent_at_start

  def _show(self) -> None:
    """Tells the progress now and, while the run lasts, again soon."""
    if self._progress is None:
      return
    summary = self._summary
    done = summary.asked + summary.already + summary.duplicates
    self._progress.update(done, self._text(done))
    if not summary.seconds:
      self._showing = self._loop.call_later(_SHOW_EVERY_S, self._show)

  def _text(self, done: int) -> str:
    """How it goes, in a few words."""
    summary = self._summary
    seconds = max(time.monotonic() - self._start, 1e-3)
    tokens = summary.prompt_tokens + summary.completion_tokens
    parts = [f"{summary.asked / seconds:.1f} req/s"]
    if tokens:
      parts.append(f"{tokens / seconds:,.0f} tok/s")
    spent = self._pace.budget.spent - self._spent_at_start
    if spent:
      text = f"cost {spent:.4g}"
      if self._total and summary.asked:
        left = max(self._total - done, 0)
        text += f" of about {spent * (1 + left / summary.asked):.4g}"
      parts.append(text)
    for name, value in (
      ("retries", summary.retries),
      ("rejected", summary.rejected),
      ("given up", summary.gave_up),
    ):
      if value:
        parts.append(f"{value} {name}")
    paused = self._pace.paused_s
    if self._pace.is_broken:
      parts.append("paused: nothing but failures")
    elif paused >= 1:
      parts.append(f"paused for {paused:.0f} s")
    return "  ".join(parts)


def _limit(per_minute: float | None) -> pacing.RateLimit | None:
  return None if per_minute is None else pacing.RateLimit(per_minute)


def _no_price(model: str) -> UserError:
  return UserError(
    f"--max_cost needs the price of {model!r}, which is in no table; add it to"
    " a file and name that with --prices"
  )
