"""How to ask a teacher, and what a call of `asking.ask` reports."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

from dss_jax.base.errors import UserError

# Each is a connection; systems allow a process not many more.
_MAX_CONCURRENCY = 4096


@dataclasses.dataclass(frozen=True)
class AskOptions:
  """How to ask.

  Attributes:
    concurrency: most requests under way at once.
    requests_per_minute: limit; None for none.
    tokens_per_minute: limit on tokens read and written; a request counts with
      an estimate until its answer tells; None for none.
    timeout_s: for one answer, to its last byte.
    max_attempts: failures after which a request is given up. Being asked too
      often (429) counts for a tenth, failed probes of the breaker for nothing.
    max_cost: stop before the money spent on everything in the ledger, with
      what is under way, would exceed it; in the price table's currency.
    retry_failed: ask again what earlier runs gave up or saw rejected.
    give_up_after_s: stop when every attempt has failed for so long.
    backoff_s: wait after a first failure; doubles with each further one.
    max_backoff_s: longest such wait.
    max_retry_after_s: longest wait that a server may ask for.
    stop_after_rejections: stop when so many requests were rejected and none
      was answered: something is wrong with all of them.
    seed: of the jitter.
  """

  concurrency: int = 8
  requests_per_minute: float | None = None
  tokens_per_minute: float | None = None
  timeout_s: float = 120.0
  max_attempts: int = 8
  max_cost: float | None = None
  retry_failed: bool = False
  give_up_after_s: float = 1800.0
  backoff_s: float = 1.0
  max_backoff_s: float = 60.0
  max_retry_after_s: float = 300.0
  stop_after_rejections: int = 50
  seed: int | None = None

  def __post_init__(self):
    for name in ("concurrency", "max_attempts", "stop_after_rejections"):
      _check(name, getattr(self, name), least=1)
    if self.concurrency > _MAX_CONCURRENCY:
      raise UserError(
        f"--concurrency is {self.concurrency}; it must be at most"
        f" {_MAX_CONCURRENCY}"
      )
    for name in (
      "requests_per_minute",
      "tokens_per_minute",
      "timeout_s",
      "give_up_after_s",
      "backoff_s",
    ):
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise UserError(f"--{name} is {value}; it must be above 0, and finite")
    if self.max_cost is not None:
      _check("max_cost", self.max_cost, least=0)


def _check(name: str, value: float, *, least: float) -> None:
  if not value >= least:
    raise UserError(f"--{name} is {value}; it must be at least {least}")


@dataclasses.dataclass
class Summary:
  """What a call of `ask` did.

  Attributes:
    requests: read from the iterable.
    already: of them, settled in the ledger before.
    duplicates: of them, equal to another one of the call.
    answered: of them, answered by this call.
    rejected: likewise, the provider will not answer them.
    gave_up: likewise, failed too often.
    attempts: sendings.
    retries: sendings after the first of a request in this call.
    faults: kind of fault -> attempts that ended so.
    prompt_tokens: of the answers, as far as the provider tells.
    completion_tokens: likewise.
    cost: of this call, where prices are known; else None.
    ledger_cost: of everything in the ledger, likewise.
    seconds: wall time.
    stopped: whether requests are left to ask.
    reason: why it stopped, in one line.
  """

  requests: int = 0
  already: int = 0
  duplicates: int = 0
  answered: int = 0
  rejected: int = 0
  gave_up: int = 0
  attempts: int = 0
  retries: int = 0
  faults: dict[str, int] = dataclasses.field(default_factory=dict)
  prompt_tokens: int = 0
  completion_tokens: int = 0
  cost: float | None = None
  ledger_cost: float | None = None
  seconds: float = 0.0
  stopped: bool = False
  reason: str = ""

  @property
  def asked(self) -> int:
    """Requests that this call settled."""
    return self.answered + self.rejected + self.gave_up


class Progress(Protocol):
  """Where `ask` says how it goes on; `dss_jax.training.monitoring.Progress` is one."""

  def update(self, step: int, text: str) -> None: ...

  def say(self, text: str) -> None: ...
