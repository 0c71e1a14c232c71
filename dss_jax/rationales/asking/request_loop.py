"""Many requests at once, within limits, through faults, into the ledger.

A fixed number of workers takes requests from an iterable, which is read only
as fast as they are asked, so that memory does not grow with their number. Each
sending is an attempt that the ledger holds before the first byte leaves; each
request ends with one outcome there. What is settled in the ledger is skipped:
to continue a run, whatever stopped it, is to call `ask` again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator

from dss_jax.base.errors import UserError
from dss_jax.rationales.asking import pacing
from dss_jax.rationales.asking.ask_summary import (
  Progress,
  Summary,
  progress_text,
)
from dss_jax.rationales.asking.job_queue import Job, JobQueue
from dss_jax.rationales.extraction_plan import AskOptions
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.teacher_requests import (
  ANSWERED,
  CANCELLED,
  GAVE_UP,
  REJECTED,
  Attempt,
  Completion,
  Outcome,
  Request,
  estimated_tokens,
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
# Failures after which the provider may have worked, and be paid for it.
_MAY_BE_BILLED = {"timeout", "bad_response"}

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

  One Ctrl-C lets requests under way finish and writes their answers down; a
  second one stops at once. Both return a Summary with `stopped`.

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
      self._prices.total(self._ledger.usage()) if self._prices.tables else 0.0
    )
    self._pace = pacing.Pace.from_options(options, self._spent_at_start)
    self._error: BaseException | None = None
    self._cancelling: asyncio.TimerHandle | None = None
    self._showing: asyncio.TimerHandle | None = None
    self._workers: list[asyncio.Task[None]] = []
    # Set when the ledger has written what all workers noted until then.
    self._commit: asyncio.Event | None = None
    self._commit_error: Exception | None = None

  # -- the run

  async def run(self) -> Summary:
    with _ctrl_c_calls(self._interrupt):
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
    permit = await self._pace.enter(sum(job.tokens), job.cost)
    if permit is None:
      if self._pace.out_of_money:
        self._stop(
          f"max_cost is {self._options.max_cost:g}, which does not suffice for"
          f" the next request; spent so far: {self._pace.budget.spent:.4f}"
        )
      return
    attempt = self._ledger.start_attempt(job.request.key, self._teacher.name)
    try:
      await self._committed()
    except BaseException:
      # Nothing was sent.
      self._ledger.end_attempt(attempt, CANCELLED)
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
    self._schedule_commit()

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
      self._add_answer(job, permit, answer)
      self._ledger.end_attempt(attempt, ANSWERED)
      self._settle(job, attempt, ANSWERED, seconds, answer)
      return
    message = str(answer)
    if isinstance(answer, TransientError):
      self._summary.count_fault(answer.kind)
      self._ledger.end_attempt(attempt, answer.kind, message)
      self._retry(job, attempt, permit, answer, seconds)
    elif isinstance(answer, RejectedError):
      self._pace.leave(permit, "ok")
      self._last_success = time.monotonic()
      self._summary.count_fault(REJECTED)
      self._summary.rejected += 1
      self._ledger.end_attempt(attempt, REJECTED, message)
      self._settle(job, attempt, REJECTED, seconds, reason=message)
      self._check_rejections(message)
    else:
      self._pace.leave(permit, "abandoned")
      self._summary.count_fault("fatal")
      self._ledger.end_attempt(attempt, "fatal", message)
      self._fail(UserError(message, fields=answer.fields))

  def _add_answer(
    self, job: Job, permit: pacing.Permit, completion: Completion
  ) -> None:
    """Counts the tokens of an answer and what they cost."""
    prompt, written = completion.prompt_tokens, completion.completion_tokens
    used = (
      job.tokens[0] if prompt is None else prompt,
      estimated_tokens(completion.text) if written is None else written,
    )
    cost = self._cost(job.request, *used)
    self._pace.leave(permit, "ok", tokens=sum(used), cost=cost)
    self._last_success = time.monotonic()
    self._summary.answered += 1
    self._summary.prompt_tokens += prompt or 0
    self._summary.completion_tokens += written or 0

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
    self._pace.leave(
      permit,
      "rate_limited" if limited else "failed",
      cost=job.cost if error.kind in _MAY_BE_BILLED else 0.0,
    )
    if limited:
      job.rate_limited += 1
    elif not permit.is_probe:
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
    """Notes the outcome of a request in the ledger."""
    self._ledger.add_outcome(
      Outcome(
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
    )
    # From now on the request is found in the ledger.
    self._queue.settled(job)

  def _cost(
    self, request: Request, prompt_tokens: int, completion_tokens: int
  ) -> float:
    """Money for the tokens of a request; 0 without a price or a limit.

    Raises:
      UserError: there is a limit, and the model has no price.
    """
    cost = self._prices.cost(request.model, prompt_tokens, completion_tokens)
    if cost is None and self._options.max_cost is not None:
      raise UserError(
        f"max_cost is {self._options.max_cost:g}, which needs the price of"
        f" {request.model!r}; no table of prices has it, so add it to a file"
        " of your own",
        fields=("AskOptions.max_cost", "prices"),
      )
    return cost or 0.0

  def _check_rejections(self, message: str) -> None:
    rejected = self._summary.rejected
    if (
      self._summary.answered == 0
      and rejected >= self._options.stop_after_rejections
    ):
      self._fail(
        UserError(
          f"the first {rejected} requests were all rejected, the last one with:"
          f" {message}; change what is asked, or set retry_failed to ask again",
          fields="AskOptions.retry_failed",
        )
      )

  # -- writing

  async def _committed(self) -> None:
    """Waits until the ledger has written what was noted so far.

    The next turn of the event loop writes it, together with what every other
    worker has noted by then: often the answer to the last request and the
    attempt of the next one.
    """
    await self._schedule_commit().wait()
    if self._commit_error is not None:
      raise self._commit_error

  def _schedule_commit(self) -> asyncio.Event:
    if self._commit is None:
      self._commit = asyncio.Event()
      self._loop.call_soon(self._flush)
    return self._commit

  def _flush(self) -> None:
    commit, self._commit = self._commit, None
    assert commit is not None
    try:
      self._ledger.flush()
    except Exception as error:
      self._commit_error = error
      self._fail(error)
    commit.set()

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


@contextlib.contextmanager
def _ctrl_c_calls(interrupt: Callable[[], None]) -> Iterator[None]:
  """Has each Ctrl-C call `interrupt`, where signals can be handled at all."""
  loop = asyncio.get_running_loop()
  before = signal.getsignal(signal.SIGINT)
  try:
    loop.add_signal_handler(signal.SIGINT, interrupt)
  except (NotImplementedError, RuntimeError, ValueError):
    # Another thread than the main one, or a platform without signals.
    yield
    return
  try:
    yield
  finally:
    loop.remove_signal_handler(signal.SIGINT)
    if before is not None:
      signal.signal(signal.SIGINT, before)
