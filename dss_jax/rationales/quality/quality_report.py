"""What a report on rationales says: parse rate, agreement, votes, lengths, cost.

An answer is what became of one question to a teacher: a completion, or a status
that says why there is none. Of the completions

  parsed  are those in which a label could be read;
  usable  are those of them whose label can be the answer: one of the choices,
          a single one, an expression with a value;
  agree   are those of them that name the gold label.

Answers to prompts that gave the gold label away count for none of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dss_jax.rationales.quality.lengths import Lengths

# Bins of the vote margin, each a tenth wide; the last holds 1 as well.
MARGIN_BINS = 10


@dataclasses.dataclass(frozen=True)
class Share:
  """So many of so many.

  Attributes:
    count: those that are.
    of: those that could be.
  """

  count: int
  of: int

  @property
  def percent(self) -> float | None:
    """100 count / of, to two digits; None of nothing."""
    return round(100 * self.count / self.of, 2) if self.of else None

  def to_dict(self) -> dict[str, Any]:
    return {"count": self.count, "of": self.of, "percent": self.percent}


@dataclasses.dataclass(frozen=True)
class TeacherQuality:
  """What one teacher answered.

  Attributes:
    name: the `source` of its rationales.
    models: as it named itself.
    answers: with or without a completion.
    completions: of them, without the gold label in the prompt.
    parsed: completions in which a label could be read, of all.
    usable: completions with a label that can be one, of all: status none of
      multiple_answers, label_not_in_choices, unevaluable.
    agreement: usable ones whose label is the gold one, of those to records
      with a gold label.
    rationalised: answers to prompts that gave the gold label.
    statuses: status -> answers, the most frequent first.
    prompt_tokens: as the provider counts them.
    completion_tokens: likewise.
    cost: of those tokens, in the price table's currency; None if the price of
      a model is not known.
  """

  name: str
  models: tuple[str, ...]
  answers: int
  completions: int
  parsed: Share
  usable: Share
  agreement: Share
  rationalised: int
  statuses: Mapping[str, int]
  prompt_tokens: int
  completion_tokens: int
  cost: float | None


@dataclasses.dataclass(frozen=True)
class QualityReport:
  """Everything about a set of records with rationales.

  Attributes:
    records: all of them.
    problems: lines of their file that are no record.
    with_gold: records with a gold label.
    with_rationale: records with a rationale that can be trained on: with text,
      and a weight above 0.
    rationales: rationales that the records hold.
    usable_rationales: those that can be trained on.
    answers: of all teachers.
    parse_rate: over all teachers, see `TeacherQuality.parsed`.
    usable: over all teachers, see `TeacherQuality.usable`.
    agreement: over all teachers, see `TeacherQuality.agreement`.
    voted_agreement: records whose most voted label is the gold one, of those
      with votes and a gold label.
    margins: records by vote margin, MARGIN_BINS bins over [0, 1]: the share of
      the votes for the first label less that for the second (1 where all
      agree).
    unanimous: records all of whose votes are for one label, of those with
      more than one answer that has a vote.
    statuses: status -> answers, of all teachers.
    left_out: reason -> answers that are not among the record's rationales.
    lengths: "input", "rationale" and "label" (gold) -> lengths in words.
    duplicate_inputs: records whose input an earlier one has as well.
    duplicate_requests: rationales that answer a request an earlier one does
      (equal prompt, sampling and sample).
    duplicate_rationales: rationales whose text an earlier one has; blank ones
      do not count.
    teachers: in alphabetical order.
    prompt_tokens: of all teachers.
    completion_tokens: of all teachers.
    cost: of all teachers; None if that of one is not known.
    examples: status other than "ok" -> a few answers with it, each with id,
      input, gold label, teacher, label, text and, as far as they are kept,
      completion or the reason why there is none.
    labels: gold label -> records, the most frequent first, at most 200.
  """

  records: int
  problems: int
  with_gold: int
  with_rationale: int
  rationales: int
  usable_rationales: int
  answers: int
  parse_rate: Share
  usable: Share
  agreement: Share
  voted_agreement: Share
  margins: tuple[int, ...]
  unanimous: Share
  statuses: Mapping[str, int]
  left_out: Mapping[str, int]
  lengths: Mapping[str, Lengths]
  duplicate_inputs: int
  duplicate_requests: int
  duplicate_rationales: int
  teachers: tuple[TeacherQuality, ...]
  prompt_tokens: int
  completion_tokens: int
  cost: float | None
  examples: Mapping[str, tuple[Mapping[str, Any], ...]]
  labels: Mapping[str, int]

  def to_dict(self) -> dict[str, Any]:
    """The report as JSON values."""
    values = dataclasses.asdict(self)
    _with_percents(values, self)
    for found, teacher in zip(values["teachers"], self.teachers):
      _with_percents(found, teacher)
    return values


def _with_percents(values: dict[str, Any], source: Any) -> None:
  """Puts the shares of a dataclass into its values, with their percents."""
  for field in dataclasses.fields(source):
    if isinstance(share := getattr(source, field.name), Share):
      values[field.name] = share.to_dict()
