"""Many requests at once, within limits, through faults, into the ledger.

A fixed number of workers takes requests from an iterable, which is read only
as fast as they are asked, so that memory does not grow with their number. Each
sending is an attempt that the ledger holds before the first byte leaves; each
request ends with one outcome there. What is settled in the ledger is skipped:
to continue a run, whatever stopped it, is to call `ask` again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Iterable

from dss_jax.base.errors import UserError
from dss_jax.rationales.asking import pacing, stop_signals
from dss_jax.rationales.asking.ask_summary import (
  Progress,
  Summary,
  progress_text,
)
from dss_jax.rationales.asking.commits import Commits
from dss_jax.rationales.asking.job_queue import Job, JobQueue
from dss_jax.rationales.asking.rejections import Rejections
from dss_jax.rationales.extraction_plan import AskOptions
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.teacher_requests import (
  ANSWERED,
  CANCELLED,
  GAVE_UP,
  NO_TOKENS,
  REJECTED,
  Attempt,
  Completion,
  Outcome,
  Request,
  Tokens,
)
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  Teacher,
  TransientError,
)

# How long a fatal error waits for requests under way, in seconds.
_LAST_ANSWERS_S = 10.0
_SHOW_EVERY_S = 0.25
# A provider that answers "too often" is asked again this much more patiently
# than one that fails.
_RATE_LIMITED_FACTOR = 10
# Failures of requests on which the provider did no work. After all others, such
# as a timeout or a lost connection, it may have, and may be paid for it.
_FREE = {"rate_limited", "server_error", "connection", "expired_key"}

__all__ = ["Progress", "Summary", "ask"]


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

  One Ctrl-C, or SIGTERM, lets requests under way finish and writes their
  answers down; a second one stops at once. Both return a Summary with
  `stopped`.

  Args:
    requests: read lazily, in order; equal ones are asked once.
    teacher: who answers; it is not closed.
    ledger: open for writing.
    options: how to ask.
    prices: prices of models, for costs and `max_cost`.
    progress: updated a few times a second.
    total: number of requests, if known, for the projected cost.

  Returns:
    Counts; the answers are in the ledger.

  Raises:
    UserError: nothing can be asked until a person changes something: the
      key, the model's name, the ledger's disk.
  """
  options, prices = options or AskOptions(), prices or Prices(())
  asking = _Asking(requests, teacher, ledger, options, prices, progress, total)
  return await asking.run()


@dataclasses.dataclass(eq=False)
class _Asking:
  """The state of one call of `ask`; made while its event loop runs."""

  _requests: Iterable[Request]
  _teacher: Teacher
  _ledger: Ledger
  _options: AskOptions
  _prices: Prices
  _progress: Progress | None
  _total: int | None

  def __post_init__(self):
    options = self._options
    self._loop = asyncio.get_running_loop()
    self._start = self._last_success = time.monotonic()
    self._summary = Summary()
    self._rng = random.Random(options.seed)
    self._queue = JobQueue(
      self._requests,
      self._ledger,
      self._summary,
      self._cost,
      retry_failed=options.retry_failed,
      most_delayed=4 * options.concurrency,
    )
    self._spent_at_start = (
      self._prices.total(self._ledger.charges()) if self._prices.tables else 0.0
    )
    self._pace = pacing.Pace.from_options(options, self._spent_at_start)
    self._longest_answer = 0
    self._error: BaseException | None = None
    self._cancelling: asyncio.TimerHandle | None = None
    self._showing: asyncio.TimerHandle | None = None
    self._workers: list[asyncio.Task[None]] = []
    self._commits = Commits(self._ledger, self._fail)
    self._rejections = Rejections(
      self._ledger, self._queue, self._summary, options.stop_after_rejections
    )

  # -- the run

  async def run(self) -> Summary:
    with stop_signals.calling(self._interrupt):
      self._show()
      try:
        await self._work()
        self._rejections.settle()
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
      await asyncio.gather(*self._workers, return_exceptions=True)
    except asyncio.CancelledError:
      # Cancelled from outside, as by the caller's own timeout.
      self._cancel()
      await asyncio.gather(*self._workers, return_exceptions=True)
      raise

  async def _worker(self) -> None:
    try:
      while (job := await self._queue.next()) is not None:
        await self._attempt(job)
    except Exception as error:
      self._fail(error)

  # -- one attempt

  async def _attempt(self, job: Job) -> None:
    """Sends a job once and does what follows from how that ends."""
    self._expect_long_answers(job)
    permit = await self._pace.enter(job.tokens.all, job.cost)
    if permit is None:
      if self._pace.out_of_money:
        self._stop(
          f"max_cost is {self._options.max_cost:g}, which does not suffice for"
          f" the next request; spent so far: {self._pace.budget.spent:.4f}"
        )
      return
    attempt = self._ledger.start_attempt(
      job.request.key, self._teacher.name, job.request.model, job.tokens
    )
    try:
      await self._commits.wait()
    except BaseException:
      # Nothing was sent.
      self._ledger.end_attempt(attempt, CANCELLED, tokens=NO_TOKENS)
      self._pace.leave(permit, "abandoned")
      raise
    job.attempts += 1
    self._summary.attempts += 1
    self._summary.retries += job.attempts > 1
    started = time.monotonic()
    try:
      async with asyncio.timeout(self._options.timeout_s):
        answer = await self._teacher.complete(job.request, attempt.id)
    except asyncio.CancelledError:
      self._ledger.end_attempt(attempt, CANCELLED)
      self._pace.leave(permit, "abandoned", cost=job.cost)
      raise
    except TimeoutError:
      seconds = f"{self._options.timeout_s:g} s"
      answer = TransientError("timeout", f"no answer in {seconds}")
    except (TransientError, RejectedError, FatalError) as error:
      answer = error
    except UserError as error:  # the teacher needs another option to work
      answer = FatalError(str(error), error.fields)
    except Exception as error:
      # Its text is not shown: it may hold anything.
      answer = TransientError("unexpected", type(error).__name__)
    self._end(job, attempt, permit, answer, time.monotonic() - started)
    self._commits.schedule()

  def _expect_long_answers(self, job: Job) -> None:
    """Estimates with the longest answer there was, where it is above the limit.

    Some endpoints do not hold `max_tokens`, or do not count thoughts in it.
    """
    if self._longest_answer > job.tokens.written:
      job.tokens = dataclasses.replace(job.tokens, written=self._longest_answer)
      job.cost = self._cost(job.request, job.tokens)

  def _end(
    self,
    job: Job,
    attempt: Attempt,
    permit: pacing.Permit,
    answer: Completion | RejectedError | FatalError | TransientError,
    seconds: float,
  ) -> None:
    """Notes how an attempt ended: an outcome, another try, or the end."""
    if isinstance(answer, Completion):
      used = answer.tokens(job.tokens)
      self._longest_answer = max(self._longest_answer, used.written)
      self._pace.leave(
        permit, "ok", tokens=used.all, cost=self._cost(job.request, used)
      )
      self._last_success = time.monotonic()
      self._summary.answered += 1
      self._summary.prompt_tokens += answer.prompt_tokens or 0
      self._summary.completion_tokens += answer.completion_tokens or 0
      self._ledger.end_attempt(attempt, ANSWERED, tokens=used)
      self._settle(job, attempt, ANSWERED, seconds, answer)
      self._rejections.settle()
      return
    message = str(answer)
    if isinstance(answer, TransientError):
      self._summary.count_fault(answer.kind)
      used = NO_TOKENS if answer.kind in _FREE else None
      self._ledger.end_attempt(attempt, answer.kind, message, tokens=used)
      self._retry(job, attempt, permit, answer, seconds)
    elif isinstance(answer, RejectedError):
      self._pace.leave(permit, "ok")
      self._last_success = time.monotonic()
      self._summary.count_fault(REJECTED)
      self._summary.rejected += 1
      self._ledger.end_attempt(attempt, REJECTED, message, tokens=NO_TOKENS)
      self._settle(job, attempt, REJECTED, seconds, reason=message)
      self._check_rejections(message)
    else:
      self._pace.leave(permit, "abandoned")
      self._summary.count_fault("fatal")
      self._ledger.end_attempt(attempt, "fatal", message, tokens=NO_TOKENS)
      self._fail(UserError(message, fields=answer.fields))

  def _retry(
    self,
    job: Job,
    attempt: Attempt,
    permit: pacing.Permit,
    error: TransientError,
    seconds: float,
  ) -> None:
    """Puts a job that failed back, or gives it up."""
    options = self._options
    limited = error.kind == "rate_limited"
    expired = error.kind == "expired_key"
    self._pace.leave(
      permit,
      "rate_limited" if limited else "abandoned" if expired else "failed",
      cost=0.0 if error.kind in _FREE else job.cost,
    )
    if limited:
      job.rate_limited += 1
    elif not (permit.is_probe and error.kind == "connection"):
      # A server that is not there says nothing about the request.
      job.failures += 1
    if (
      job.failures >= options.max_attempts
      or job.rate_limited >= _RATE_LIMITED_FACTOR * options.max_attempts
    ):
      self._summary.gave_up += 1
      reason = f"{error.kind} after {job.attempts} attempts: {error}"
      self._settle(job, attempt, GAVE_UP, seconds, reason=reason)
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
      # The server speaks of all requests, not only of this one.
      if limited or error.retry_after is not None:
        self._pace.pause(wait)
    silence = time.monotonic() - self._last_success
    if silence > options.give_up_after_s:
      self._stop(
        f"no answer from {self._teacher.name!r} for {silence:.0f} s"
        f" (give_up_after_s is {options.give_up_after_s:g}); last:"
        f" {error.kind}: {error}"
      )

  def _settle(
    self,
    job: Job,
    attempt: Attempt,
    kind: str,
    seconds: float,
    completion: Completion | None = None,
    reason: str = "",
  ) -> None:
    """Notes the outcome of a request in the ledger, or soon will."""
    outcome = Outcome(
      key=job.request.key,
      kind=kind,
      teacher=self._teacher.name,
      model=job.request.model,
      completion=completion,
      reason=reason,
      seconds=seconds,
      unix=time.time(),
      attempt=attempt.number,
    )
    if kind == REJECTED:
      self._rejections.add(job, outcome)
      return
    self._ledger.add_outcome(outcome)
    # From now on the request is found in the ledger.
    self._queue.settled(job)

  def _cost(self, request: Request, tokens: Tokens) -> float:
    """Money for the tokens of a request; 0 without a price or a limit.

    Raises:
      UserError: there is a limit, and the model has no price.
    """
    if self._options.max_cost is not None:
      return self._prices.known(request.model).cost(tokens)
    price = self._prices.price(request.model)
    return 0.0 if price is None else price.cost(tokens)

  def _check_rejections(self, message: str) -> None:
    if self._rejections.are_all:
      self._fail(
        UserError(
          f"the first {self._summary.rejected} requests were all rejected, the"
          f" last one with: {message}; change what is asked, and start again:"
          " they will be asked again"
        )
      )

  # -- stopping

  def _stop(self, reason: str) -> None:
    """Sends nothing more; requests under way may end."""
    if not self._summary.stopped:
      self._summary.stopped = True
      self._summary.reason = reason
      self._pace.close()
      self._queue.close()

  def _fail(self, error: BaseException) -> None:
    """Stops as `_stop` does, and lets `ask` raise the error."""
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

  # -- progress

  def _say(self, text: str) -> None:
    if self._progress is not None:
      self._progress.say(text)

  def _close_summary(self) -> None:
    summary = self._summary
    summary.seconds = time.monotonic() - self._start
    if self._queue.is_done and self._error is None:
      # It was stopped when nothing was left to do.
      summary.stopped, summary.reason = False, ""
    if self._prices.price(self._teacher.model) is not None:
      summary.ledger_cost = self._pace.budget.spent
      summary.cost = self._pace.budget.spent - self._spent_at_start

  def _show(self) -> None:
    """Shows the progress now and, while the run lasts, again soon."""
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
