"""What a record's teachers answered in all, kept or not.

`rationale_selection.choose` leaves this account in the record's meta; for other records,
every rationale counts as one answer of its source. A file may hold anything in
the place of the account: a value of another form counts as nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dss_jax.datasets.records import Record
from dss_jax.rationales import rationale_selection
from dss_jax.rationales.rationale_selection import count_in
from dss_jax.rationales.teacher_answers import SameAnswer, Vote


@dataclasses.dataclass(frozen=True)
class Account:
  """What a record's teachers answered, kept or not.

  Attributes:
    votes: label and share, the winner first.
    num_votes: number of answers that have a vote.
    agrees: whether the winner is the gold label; None if there is no winner or
      no gold label.
    left_out: reason -> answers.
    teachers: name -> counts as `choosing` writes them.
  """

  votes: tuple[Vote, ...]
  num_votes: int
  agrees: bool | None
  left_out: Mapping[str, int]
  teachers: Mapping[str, Mapping[str, Any]]

  @property
  def margin(self) -> float | None:
    """Share of the first label less that of the second; None without votes."""
    shares = [vote.share for vote in self.votes]
    if not shares:
      return None
    first, second = [*shares, 0.0][:2]
    return min(max(first - second, 0.0), 1.0)


def account_of(record: Record, same_answer: SameAnswer) -> Account:
  """From the record's meta or, if nothing usable is there, its rationales."""
  found = record.meta.get(rationale_selection.ACCOUNT)
  if not isinstance(found, Mapping) or not isinstance(
    found.get("teachers"), Mapping
  ):
    found = rationale_selection.account_of_rationales(record, same_answer)
  votes = []
  listed = found.get("votes")
  for item in listed if isinstance(listed, list) else ():
    if isinstance(item, list | tuple) and len(item) == 2:
      label, share = item
      if isinstance(label, str) and isinstance(share, int | float):
        votes.append(Vote(label, min(max(float(share), 0.0), 1.0)))
  votes.sort(key=lambda vote: -vote.share)
  teachers = {
    str(name): counts
    for name, counts in found["teachers"].items()
    if isinstance(counts, Mapping)
  }
  agrees = found.get("agrees")
  return Account(
    tuple(votes),
    sum(count_in(counts.get("usable")) for counts in teachers.values()),
    agrees if isinstance(agrees, bool) and votes else None,
    counts_of(found.get("left_out")),
    teachers,
  )


def counts_of(value: Any) -> dict[str, int]:
  """Counts by name; nothing if the value is no mapping."""
  if not isinstance(value, Mapping):
    return {}
  return {str(name): count_in(count) for name, count in value.items()}
