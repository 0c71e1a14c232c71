"""Teachers: who answers requests, and what can go wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dss_jax.datasets.records import Record
from dss_jax.rationales.teacher_requests import Completion, Request


class TransientError(Exception):
  """No answer this time; the same request may be sent again.

  Attributes:
    kind: one word for the ledger: "rate_limited", "server_error", "timeout",
      "connection" (there was none), "dropped" (it was lost after sending),
      "bad_response", "expired_key" (there is a new one now).
    retry_after: seconds that the server asked to wait; None if it did not.
  """

  def __init__(self, kind: str, message: str, retry_after: float | None = None):
    super().__init__(message)
    self.kind = kind
    self.retry_after = retry_after


class RejectedError(Exception):
  """This request will never be answered; others may."""


class FatalError(Exception):
  """No request will be answered until a person changes something.

  Attributes:
    fields: the options to change, as in `UserError`.
  """

  def __init__(self, message: str, fields: str | Sequence[str] = ()):
    super().__init__(message)
    self.fields = fields


class Teacher(Protocol):
  """Answers requests.

  Attributes:
    name: the `source` of its rationales.
    model: the `model` of requests meant for it.
    weight: weight of its rationales relative to other teachers'.
  """

  name: str
  model: str
  weight: float

  async def complete(self, request: Request, attempt_id: str) -> Completion:
    """One completion of the request, sent once (no retries inside).

    Args:
      request: what to send.
      attempt_id: unique to this attempt; sent as X-Client-Request-Id where
        there is a server to send it to.

    Raises:
      TransientError, RejectedError, FatalError: see there.
    """
    ...

  async def close(self) -> None:
    """Closes connections."""
    ...


class RecordTeacher(Protocol):
  """Answers about records that it knows, without being asked in words.

  Attributes:
    name: the `source` of its rationales.
    model: what its completions say that they come from.
    weight: weight of its rationales relative to other teachers'.
  """

  name: str
  model: str
  weight: float

  def answer(self, record: Record) -> Completion | None:
    """Its completion for the record; None if it does not know the record."""
    ...
