"""What follows from how an attempt ended: an outcome, another try, or the end.

An answer and a refusal are outcomes; a fault is tried again until it has come
too often. Faults that the next request would meet as well stop the call.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from dss_jax.base.errors import UserError
from dss_jax.rationales import outcomes
from dss_jax.rationales.asking import pacing
from dss_jax.rationales.asking.ask_options import Summary
from dss_jax.rationales.asking.costs import Costs
from dss_jax.rationales.asking.job_queue import (
  Job,
  JobQueue,
  tokens_of_size,
  utf8_size,
)
from dss_jax.rationales.extraction_plan import AskOptions
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.outcomes import Attempt, Outcome
from dss_jax.rationales.requests import Completion
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


class AttemptEnds:
  """Notes ends of attempts in the ledger, the gate, the queue and the counts.

  Args:
    teacher: who is asked.
    ledger: open for writing; not flushed here.
    options: how to ask.
    costs: of answers.
    pace: the gate that attempts went through.
    queue: where jobs are put back.
    summary: whose counts of answers and faults are kept here.
    stop: told why nothing more is to be sent.
    fail: likewise, of an error that `ask` raises.
  """

  def __init__(
    self,
    teacher: Teacher,
    ledger: Ledger,
    options: AskOptions,
    costs: Costs,
    pace: pacing.Pace,
    queue: JobQueue,
    summary: Summary,
    *,
    stop: Callable[[str], None],
    fail: Callable[[Exception], None],
  ):
    self._teacher = teacher
    self._ledger = ledger
    self._options = options
    self._costs = costs
    self._pace = pace
    self._queue = queue
    self._summary = summary
    self._stop = stop
    self._fail = fail
    self._rng = random.Random(options.seed)
    self._last_success = time.monotonic()

  def answered(
    self,
    job: Job,
    attempt: Attempt,
    entry: pacing.Pass,
    completion: Completion,
    seconds: float,
  ) -> None:
    """Says that the teacher answered, after so many seconds."""
    prompt, written = completion.prompt_tokens, completion.completion_tokens
    used = (
      job.tokens[0] if prompt is None else prompt,
      tokens_of_size(utf8_size(completion.text))
      if written is None
      else written,
    )
    cost = self._costs.of(job.request, *used)
    self._pace.leave(entry, "ok", tokens=sum(used), cost=cost)
    self._last_success = time.monotonic()
    self._summary.answered += 1
    self._summary.prompt_tokens += prompt or 0
    self._summary.completion_tokens += written or 0
    self._ledger.end_attempt(attempt, outcomes.ANSWERED)
    self._settle(job, attempt, outcomes.ANSWERED, seconds, completion)

  def failed(
    self,
    job: Job,
    attempt: Attempt,
    entry: pacing.Pass,
    error: RejectedError | FatalError | TransientError,
    seconds: float,
  ) -> None:
    """Says that no answer came, and why."""
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
      self._count_fault(error.kind)
      self._ledger.end_attempt(attempt, error.kind, message)
      self._retry(job, attempt, entry, error, seconds)

  def _retry(
    self,
    job: Job,
    attempt: Attempt,
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
    attempt: Attempt,
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
