"""Many requests at once, within limits, through faults, into the ledger.

A fixed number of workers takes requests from an iterable, which is read only
as fast as they are asked, so that memory does not grow with their number. Each
sending is an attempt that the ledger holds before the first byte leaves; each
request ends with one outcome there. What is settled in the ledger is skipped:
to go on after whatever stopped a run is to call `ask` again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from dss_jax.base.errors import UserError
from dss_jax.rationales import outcomes
from dss_jax.rationales.asking import interrupts, pacing
from dss_jax.rationales.asking.ask_options import Progress, Summary
from dss_jax.rationales.asking.attempt_ends import AttemptEnds
from dss_jax.rationales.asking.costs import Costs
from dss_jax.rationales.asking.group_commit import GroupCommit
from dss_jax.rationales.asking.job_queue import Job, JobQueue, estimated_tokens
from dss_jax.rationales.asking.progress_text import progress_text
from dss_jax.rationales.extraction_plan import AskOptions
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.requests import Request
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  Teacher,
  TransientError,
)

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
  """The state of one call of `ask`; made while its event loop runs."""

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
    self._loop = asyncio.get_running_loop()
    self._start = time.monotonic()
    self._teacher = teacher
    self._ledger = ledger
    self._options = options
    self._progress = progress
    self._total = total
    self._summary = Summary()
    self._costs = Costs(prices, is_limited=options.max_cost is not None)
    self._queue = JobQueue(
      requests,
      ledger,
      self._summary,
      self._costs.of,
      retry_failed=options.retry_failed,
      # Retries that wait must not let the number of jobs grow without bound.
      most_delayed=4 * options.concurrency,
    )
    self._spent_at_start = self._costs.spent(ledger, teacher.model)
    self._pace = _pace(options, self._spent_at_start)
    self._commits = GroupCommit(ledger, self._fail)
    self._ends = AttemptEnds(
      teacher,
      ledger,
      options,
      self._costs,
      self._pace,
      self._queue,
      self._summary,
      stop=self._stop,
      fail=self._fail,
    )
    self._stopping = False
    self._error: BaseException | None = None
    self._cancelling: asyncio.TimerHandle | None = None
    self._showing: asyncio.TimerHandle | None = None
    self._workers: list[asyncio.Task[None]] = []

  # -- the run

  async def run(self) -> Summary:
    with interrupts.handled_by(self._interrupt):
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
    error: RejectedError | FatalError | TransientError | None = None
    completion = None
    started = time.monotonic()
    try:
      await self._commits.committed()
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
      self._ends.answered(job, attempt, entry, completion, seconds)
    else:
      assert error is not None
      self._ends.failed(job, attempt, entry, error, seconds)
    self._commits.commit()

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

  def _close_summary(self) -> None:
    summary = self._summary
    summary.seconds = time.monotonic() - self._start
    if self._queue.is_done and self._error is None:
      # It was told to stop when nothing was left to do.
      summary.stopped, summary.reason = False, ""
    if self._costs.are_known(self._teacher.model):
      summary.ledger_cost = self._pace.budget.spent
      summary.cost = self._pace.budget.spent - self._spent_at_start

  def _show(self) -> None:
    """Tells the progress now and, while the run lasts, again soon."""
    if self._progress is None:
      return
    summary = self._summary
    done = summary.asked + summary.already + summary.duplicates
    text = progress_text(
      summary,
      self._pace,
      seconds=time.monotonic() - self._start,
      spent=self._pace.budget.spent - self._spent_at_start,
      left=max(self._total - done, 0) if self._total else None,
    )
    self._progress.update(done, text)
    if not summary.seconds:
      self._showing = self._loop.call_later(_SHOW_EVERY_S, self._show)


def _pace(options: AskOptions, spent: float) -> pacing.Pace:
  """The gate that the options ask for, with what has been spent before."""
  return pacing.Pace(
    options.concurrency,
    pacing.Breaker(
      threshold=max(10, options.concurrency),
      first_pause=4 * options.backoff_s,
      longest_pause=max(options.max_backoff_s, 4 * options.backoff_s),
    ),
    pacing.Budget(options.max_cost, spent),
    _limit(options.requests_per_minute),
    _limit(options.tokens_per_minute),
  )


def _limit(per_minute: float | None) -> pacing.RateLimit | None:
  return None if per_minute is None else pacing.RateLimit(per_minute)
