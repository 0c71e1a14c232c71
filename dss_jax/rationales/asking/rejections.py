"""Rejections before the first answer: of requests, or of a setting?"""

from __future__ import annotations

from dss_jax.rationales.asking.ask_summary import Summary
from dss_jax.rationales.asking.job_queue import Job, JobQueue
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.teacher_requests import Outcome


class Rejections:
  """Holds rejections back until something is answered.

  Where all of the first requests are rejected, something is wrong with how they
  are made, and they are to be asked again after a change.

  Args:
    ledger: takes those that were the requests' own fault.
    queue: whose jobs they settle.
    summary: its counts decide.
    most: so many rejections without an answer are not the requests' own fault.
  """

  def __init__(
    self, ledger: Ledger, queue: JobQueue, summary: Summary, most: int
  ):
    self._ledger = ledger
    self._queue = queue
    self._summary = summary
    self._most = most
    self._held: list[tuple[Job, Outcome]] = []

  @property
  def are_all(self) -> bool:
    """Whether so many were rejected that something is wrong with all."""
    return not self._summary.answered and self._summary.rejected >= self._most

  def add(self, job: Job, outcome: Outcome) -> None:
    """Notes a rejection, now or with the first answer."""
    self._held.append((job, outcome))
    if self._summary.answered:
      self.settle()

  def settle(self) -> None:
    """Notes what was held back, unless everything was rejected."""
    if self.are_all:
      return
    for job, outcome in self._held:
      self._ledger.add_outcome(outcome)
      self._queue.settled(job)
    self._held.clear()
