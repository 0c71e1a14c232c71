"""What teachers answered about a record, and their votes on its label.

Several samples of a teacher, and several teachers, vote on a record's answer
(self-consistency, Wang et al. 2023, arXiv 2203.11171). Each answer's vote
counts with its teacher's weight, so

    share(label) = sum of weights of the answers with that label
                   / sum of weights of all answers with a label

and the shares of a record add up to 1. Rationales that were written for a label
shown in the prompt have no vote.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

from dss_jax.base import checks
from dss_jax.datasets.completions import Parsed
from dss_jax.datasets.records.record import MAX_WEIGHT
from dss_jax.datasets.statistics import UNUSABLE_LABEL
from dss_jax.rationales.teacher_requests import (
  GAVE_UP,
  REJECTED,
  Completion,
  Sampling,
)

# Whether two labels are the same answer.
SameAnswer = Callable[[str, str], bool]

# Statuses of answers that never came.
UNASKED = "unasked"  # the record does not fit the prompt
UNANSWERED = "unanswered"  # not asked yet
UNKNOWN = "unknown"  # a teacher that knows records does not know this one
NO_COMPLETION = (UNASKED, UNANSWERED, UNKNOWN, REJECTED, GAVE_UP)


@dataclasses.dataclass(frozen=True)
class TeacherAnswer:
  """What came of one request to a teacher.

  Attributes:
    request_key: `Request.key`.
    teacher: name of the teacher; the `source` of the rationale.
    model: the model that was asked for.
    sample: which of several draws, from 0.
    parsed: what the completion says. Where there is none, a status that says
      why not, such as "rejected".
    completion: the unchanged completion; None if the teacher never answered.
    prompt_sha256: hash of the prompt.
    rationalised: whether the prompt showed the gold label.
    weight: weight of the teacher, finite and at least 0.
    sampling: how the answer was drawn.
    seconds: time from request to answer.
    unix: when the answer came, in seconds since 1970.
    reason: why there is no completion, in one line.
  """

  request_key: str
  teacher: str
  model: str
  sample: int
  parsed: Parsed
  completion: Completion | None = None
  prompt_sha256: str = ""
  rationalised: bool = False
  weight: float = 1.0
  sampling: Sampling | None = None
  seconds: float | None = None
  unix: float | None = None
  reason: str = ""

  def __post_init__(self):
    checks.in_range("Endpoint.weight", self.weight, 0, MAX_WEIGHT)

  @property
  def has_vote(self) -> bool:
    """Whether it names a label, not shown to it, that can be the answer."""
    parsed = self.parsed
    return (
      not self.rationalised
      and bool((parsed.label or "").strip())
      and parsed.status not in UNUSABLE_LABEL
    )

  @property
  def is_usable(self) -> bool:
    """Whether it has a vote and argues for it."""
    return self.has_vote and bool(self.parsed.rationale.strip())


@dataclasses.dataclass(frozen=True)
class Vote:
  """A label and the share of the votes for it, in [0, 1]."""

  label: str
  share: float


def count_votes(
  answers: Iterable[TeacherAnswer], same_answer: SameAnswer
) -> list[Vote]:
  """The labels that answers name, the winner first.

  Args:
    answers: answers about one record; those without a vote are passed over.
    same_answer: groups labels; a group has the spelling of its first one.

  Returns:
    Shares that add up to 1, the largest first; equal shares in the order in
    which their labels were seen.
  """
  groups: list[tuple[str, list[float]]] = []
  for answer in answers:
    if not answer.has_vote:
      continue
    label = answer.parsed.label or ""
    for known, weights in groups:
      if same_answer(known, label):
        weights.append(answer.weight)
        break
    else:
      groups.append((label, [answer.weight]))
  if not any(weight for _, weights in groups for weight in weights):
    groups = [(label, [1.0] * len(weights)) for label, weights in groups]
  # Exact sums: the order of the answers must not decide.
  total = math.fsum(weight for _, weights in groups for weight in weights)
  votes = [Vote(label, math.fsum(w) / total) for label, w in groups]
  return sorted(votes, key=lambda vote: -vote.share)
