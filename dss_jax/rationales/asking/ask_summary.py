"""What a call of `ask` did, and how it shows its progress."""

from __future__ import annotations

import collections
import dataclasses
from typing import Protocol

from dss_jax.rationales.asking.pacing import Pace


@dataclasses.dataclass
class Summary:
  """What a call of `ask` did.

  Attributes:
    requests: requests read from the iterable.
    already: requests that were settled in the ledger before.
    duplicates: requests equal to another one of the call.
    answered: requests that this call got an answer to.
    rejected: requests that the provider will not answer.
    gave_up: requests that failed too often.
    attempts: sendings.
    retries: sendings after the first one of a request in this call.
    faults: kind of fault -> attempts that ended so.
    prompt_tokens: tokens read, as far as the provider counts them.
    completion_tokens: tokens written, as far as the provider counts them.
    cost: money spent by this call; None where prices are not known.
    ledger_cost: money spent on everything in the ledger; None likewise.
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

  def followed_by(self, later: Summary) -> Summary:
    """What this call and a later one did together."""
    both = dataclasses.replace(later)
    for field in dataclasses.fields(self):
      mine, theirs = getattr(self, field.name), getattr(later, field.name)
      if type(mine) in (int, float) and type(theirs) in (int, float):
        setattr(both, field.name, mine + theirs)
    both.ledger_cost = later.ledger_cost
    both.faults = dict(
      collections.Counter(self.faults) + collections.Counter(later.faults)
    )
    return both

  def count_fault(self, kind: str) -> None:
    """Counts an attempt that ended in a fault."""
    self.faults[kind] = self.faults.get(kind, 0) + 1


class Progress(Protocol):
  """Where `ask` shows its progress, such as a `base.progress.Progress`."""

  def update(self, step: int, text: str) -> None: ...

  def say(self, text: str) -> None: ...


def progress_text(
  summary: Summary,
  pace: Pace,
  *,
  seconds: float,
  spent: float,
  left: int | None,
) -> str:
  """A line that shows how a call of `ask` progresses.

  Args:
    summary: counts of the call so far.
    pace: the gate, for its pauses.
    seconds: time since the call began.
    spent: money spent by the call.
    left: number of requests that are not read yet; None if it is not known.
  """
  seconds = max(seconds, 1e-3)
  tokens = summary.prompt_tokens + summary.completion_tokens
  parts = [f"{summary.asked / seconds:.1f} req/s"]
  if tokens:
    parts.append(f"{tokens / seconds:,.0f} tok/s")
  if spent:
    text = f"cost {spent:.4g}"
    if left is not None and summary.asked:
      text += f" of about {spent * (1 + left / summary.asked):.4g}"
    parts.append(text)
  for name, value in (
    ("retries", summary.retries),
    ("rejected", summary.rejected),
    ("given up", summary.gave_up),
  ):
    if value:
      parts.append(f"{value} {name}")
  if pace.is_broken:
    parts.append("paused: nothing but failures")
  elif pace.paused_s >= 1:
    parts.append(f"paused for {pace.paused_s:.0f} s")
  return "  ".join(parts)
