"""What a report on rationales says: parse rate, agreement, votes, lengths, cost.

An answer is the result of one request to a teacher: a completion, or a status
that says why there is none. A completion is

  parsed  if a label could be read in it;
  usable  if that label can be the answer: one of the choices, a single one, an
          expression with a value;
  agree   if it is usable and names the gold label.

Answers to prompts that showed the gold label count for none of these. Reports
are made of records by `quality_measures.of_records`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# Bins of the vote margin, each a tenth wide; the last holds 1 as well.
MARGIN_BINS = 10
# Columns of a histogram, at most.
LENGTH_BINS = 24
# Lengths above are counted as this one.
MAX_WORDS = 10_000


@dataclasses.dataclass(frozen=True)
class Share:
  """A number of things out of all of them.

  Attributes:
    count: the things that are so.
    of: the things that could be.
  """

  count: int
  of: int

  @property
  def percent(self) -> float | None:
    """100 count / of, to two digits; None if `of` is 0."""
    return round(100 * self.count / self.of, 2) if self.of else None

  def to_dict(self) -> dict[str, Any]:
    return {"count": self.count, "of": self.of, "percent": self.percent}


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Lengths of texts that are not blank, in words between white space.

  Attributes:
    count: number of texts.
    mean: mean number of words, to one digit.
    p50: the least length that half of the texts do not exceed.
    p95: the least length that 95 % of the texts do not exceed.
    max: the longest; lengths above 10,000 words count as 10,000.
    bins: (first, last, texts) of equal width, without gaps from the shortest
      to the longest, at most LENGTH_BINS; the last one also holds the longest
      1 %, so that a single long text does not flatten the rest.
  """

  count: int
  mean: float
  p50: int
  p95: int
  max: int
  bins: tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class TeacherQuality:
  """What one teacher answered.

  Attributes:
    name: the `source` of its rationales.
    models: the models as they named themselves.
    answers: all answers, with or without a completion.
    completions: completions of prompts without the gold label.
    parsed: completions in which a label could be read, out of all.
    usable: completions whose label can be an answer, out of all: the status is
      none of multiple_answers, label_not_in_choices, unevaluable.
    agreement: usable completions with the gold label, out of those about
      records with a gold label.
    rationalised: answers to prompts that showed the gold label.
    statuses: status -> answers, the most frequent first.
    prompt_tokens: tokens read, as the provider counts them.
    completion_tokens: tokens written, as the provider counts them.
    cost: money for those tokens, in the price table's currency; None if the
      price of a model is not known.
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
    records: number of records.
    problems: lines of their file that are no record.
    with_gold: records with a gold label.
    with_rationale: records with a rationale that can be trained on: with text,
      and a weight above 0.
    rationales: rationales that the records hold.
    usable_rationales: those that can be trained on.
    answers: answers of all teachers.
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
    prompt_tokens: tokens read by all teachers.
    completion_tokens: tokens written by all teachers.
    cost: money for all teachers; None if the cost of one is not known.
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


def num_words(text: str) -> int:
  """Words between white space, at most MAX_WORDS."""
  return min(len(text.split()), MAX_WORDS)


def lengths_of(counts: Mapping[int, int]) -> Lengths:
  """Lengths from a count of texts per number of words."""
  total = sum(counts.values())
  if not total:
    return Lengths(0, 0.0, 0, 0, 0, ())
  lengths = sorted(counts)

  def percentile(percent: int) -> int:
    below = 0
    for length in lengths:
      below += counts[length]
      if 100 * below >= percent * total:
        return length
    return lengths[-1]

  first, last = lengths[0], percentile(99)
  width = -(-(last - first + 1) // LENGTH_BINS)
  starts = list(range(first, last + 1, width))
  bins = [[start, start + width - 1, 0] for start in starts]
  for length, count in counts.items():
    bins[min((length - first) // width, len(bins) - 1)][2] += count
  bins[-1][1] = max(bins[-1][1], lengths[-1])
  return Lengths(
    count=total,
    mean=round(sum(k * n for k, n in counts.items()) / total, 1),
    p50=percentile(50),
    p95=percentile(95),
    max=lengths[-1],
    bins=tuple((a, b, n) for a, b, n in bins),
  )
