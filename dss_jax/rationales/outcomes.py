"""How requests and attempts end, as the ledger keeps them."""

from __future__ import annotations

import dataclasses

from dss_jax.rationales.requests import Completion

ANSWERED = "answered"
REJECTED = "rejected"
GAVE_UP = "gave_up"

# Results of attempts, beside the kinds of TransientError.
INTERRUPTED = "interrupted"
CANCELLED = "cancelled"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a request ended.

  Attributes:
    key: of the request.
    kind: "answered", "rejected" (the provider will never answer it) or
      "gave_up" (it failed too often).
    teacher: its name.
    model: as requested.
    completion: the answer; None unless answered.
    reason: why there is none, in one line.
    seconds: from sending to the last byte, of the attempt that ended it.
    unix: when it ended, seconds since 1970.
    attempt: number of that attempt; None if it was not asked from here.
  """

  key: str
  kind: str
  teacher: str
  model: str
  completion: Completion | None = None
  reason: str = ""
  seconds: float | None = None
  unix: float = 0.0
  attempt: int | None = None


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One sending of a request.

  Attributes:
    number: counts up through the life of a ledger.
    id: as the provider got it (X-Client-Request-Id); unique beyond the ledger.
    key: of the request.
    teacher: its name.
    started: seconds since 1970.
    ended: likewise; None if the process ended first.
    result: "answered", "rejected", "fatal", the kind of a TransientError,
      "cancelled", or "interrupted" (found open by a later process); None while
      it is under way.
    message: what went wrong, in one line.
  """

  number: int
  id: str
  key: str
  teacher: str
  started: float
  ended: float | None
  result: str | None
  message: str


@dataclasses.dataclass(frozen=True)
class ModelTotals:
  """What one model answered: answers, and tokens as the provider counts them.

  Attributes:
    answers: number of answers.
    prompt_tokens: over the answers that tell.
    completion_tokens: likewise.
    without_usage: answers that do not tell both counts.
  """

  answers: int
  prompt_tokens: int
  completion_tokens: int
  without_usage: int


@dataclasses.dataclass(frozen=True)
class Totals:
  """Counts over a whole ledger.

  Attributes:
    outcomes: kind -> number of requests.
    attempts: result -> number of attempts ("open" while under way).
    models: requested model -> its totals.
  """

  outcomes: dict[str, int]
  attempts: dict[str, int]
  models: dict[str, ModelTotals]
