"""What a call of `asking.ask` reports."""

from __future__ import annotations

import dataclasses
from typing import Protocol


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
