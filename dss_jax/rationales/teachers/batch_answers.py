"""Where the answers of batch files go, and what is known of them before."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.requests import ANSWERED, REJECTED, Completion, Outcome

# The teacher of what batch files bring, in the ledger.
BATCH = "batch"


class Answers(Protocol):
  """What is known of requests: the ledger, seen from here."""

  def has(self, keys: Sequence[str]) -> Container[str]:
    """Those of the keys that need not be asked."""
    ...

  def record_answer(
    self, key: str, completion: Completion, *, model: str, unix: float | None
  ) -> None:
    """Keeps an answer.

    Args:
      key: of the request.
      completion: the answer.
      model: as it was asked for.
      unix: when it was made, by the provider's clock; None if it does not say.
    """
    ...

  def record_rejection(self, key: str, reason: str, *, model: str) -> None:
    """Keeps that a request will never be answered, and why, in one line."""
    ...


class LedgerAnswers:
  """A ledger as `Answers`.

  Args:
    ledger: open; for writing if anything is to be recorded.
  """

  def __init__(self, ledger: Ledger):
    self._ledger = ledger

  def has(self, keys: Sequence[str]) -> Container[str]:
    """See `Answers.has`."""
    return self._ledger.settled(keys)

  def record_answer(
    self, key: str, completion: Completion, *, model: str, unix: float | None
  ) -> None:
    """See `Answers.record_answer`."""
    self._ledger.add_outcome(
      Outcome(key, ANSWERED, BATCH, model, completion, unix=unix or 0.0)
    )

  def record_rejection(self, key: str, reason: str, *, model: str) -> None:
    """See `Answers.record_rejection`."""
    self._ledger.add_outcome(
      Outcome(key, REJECTED, BATCH, model, reason=reason)
    )
