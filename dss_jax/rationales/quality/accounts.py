"""What a record's teachers answered in all, kept or not.

`choosing.choose` leaves this account in the record's meta; of other records,
every rationale counts as one answer of its source. Files may hold anything in
the place of the account: what has not its form counts as nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dss_jax.datasets.records import Record
from dss_jax.datasets.statistics import UNUSABLE_LABEL
from dss_jax.rationales import choosing
from dss_jax.rationales.votes import NO_COMPLETION, SameAnswer, Vote

# What is counted of a teacher; see `quality_report`.
COUNTS = ("answers", "completions", "parsed", "usable", "compared", "agree")


@dataclasses.dataclass(frozen=True)
class Account:
  """What a record's teachers answered, kept or not.

  Attributes:
    votes: label and share, the winner first.
    num_votes: answers that have a vote.
    agrees: whether the winner is the gold label; None without one of them.
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
    """Share of the first label less that of the second; None of no votes."""
    shares = [vote.share for vote in self.votes]
    if not shares:
      return None
    first, second = [*shares, 0.0][:2]
    return min(max(first - second, 0.0), 1.0)


def account_of(record: Record, same_answer: SameAnswer) -> Account:
  """From the record's meta or, if nothing usable is there, its rationales."""
  found = record.meta.get(choosing.ACCOUNT)
  if isinstance(found, Mapping) and isinstance(found.get("teachers"), Mapping):
    return _from_meta(found)
  return _from_rationales(record, same_answer)


def _from_meta(found: Mapping[str, Any]) -> Account:
  """What `choose` wrote; whatever else stands there counts as nothing."""
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
    sum(whole(counts.get("usable")) for counts in teachers.values()),
    agrees if isinstance(agrees, bool) and votes else None,
    counts_of(found.get("left_out")),
    teachers,
  )


def _from_rationales(record: Record, same_answer: SameAnswer) -> Account:
  """Each rationale as one answer; the weights of equal labels are their votes."""
  teachers: dict[str, dict[str, Any]] = {}
  groups: list[list[Any]] = []
  num_votes = 0
  for rationale in record.rationales:
    counts = teachers.setdefault(
      rationale.source,
      dict.fromkeys(COUNTS, 0) | {"statuses": {}},
    )
    counts["answers"] += 1
    counts["completions"] += rationale.status not in NO_COMPLETION
    counts["parsed"] += rationale.label is not None
    statuses = counts["statuses"]
    statuses[rationale.status] = statuses.get(rationale.status, 0) + 1
    extra = rationale.extra
    if isinstance(extra.get("model"), str):
      counts["model"] = extra["model"]
    for name in ("prompt_tokens", "completion_tokens"):
      counts[name] = counts.get(name, 0) + whole(extra.get(name))
    label = rationale.label or ""
    if not label.strip() or rationale.status in UNUSABLE_LABEL:
      continue
    counts["usable"] += 1
    if record.label is not None:
      counts["compared"] += 1
      counts["agree"] += same_answer(label, record.label)
    if rationale.weight <= 0:
      continue
    num_votes += 1
    group = next((g for g in groups if same_answer(g[0], label)), None)
    if group is None:
      groups.append([label, rationale.weight])
    else:
      group[1] += rationale.weight
  total = sum(weight for _, weight in groups)
  votes = sorted(
    (Vote(label, weight / total) for label, weight in groups),
    key=lambda vote: -vote.share,
  )
  agrees = None
  if votes and record.label is not None:
    agrees = same_answer(votes[0].label, record.label)
  return Account(tuple(votes), num_votes, agrees, {}, teachers)


def whole(value: Any) -> int:
  """A count; what is none counts as 0."""
  if isinstance(value, bool) or not isinstance(value, int):
    return 0
  return value if 0 <= value < 1 << 53 else 0


def counts_of(value: Any) -> dict[str, int]:
  """Counts by name; what is none counts as nothing."""
  if not isinstance(value, Mapping):
    return {}
  return {str(name): whole(count) for name, count in value.items()}
