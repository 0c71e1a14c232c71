"""How good rationales are: parse rate, agreement, votes, lengths, cost.

An answer is what became of one question to a teacher: a completion, or a status
that says why there is none. Of the completions

  parsed  are those in which a label could be read;
  usable  are those of them whose label can be the answer: one of the choices,
          a single one, an expression with a value;
  agree   are those of them that name the gold label.

Answers to prompts that gave the gold label away count for none of these.

  report = of_records(records.iter_records("out/train.jsonl"))
  print_report(report)

The numbers come from the records alone, in one pass and in memory that hardly
grows with them (some 20 bytes a text, to find duplicates). Records that
`choosing.choose` made say in their meta what their teachers answered in all;
of other records, every rationale counts as one answer of its source.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dss_jax.rationales import choosing
from dss_jax.rationales.accounts import (
  COUNTS,
  Account,
  account_of,
  counts_of,
  whole,
)
from dss_jax.rationales.lengths import Lengths, lengths_of, num_words
from dss_jax.records import Problem, Rationale, Record, SeenTexts

# (model, prompt tokens, completion tokens) -> cost; None if it is not known.
Cost = Callable[[str, int, int], float | None]

# Bins of the vote margin, each a tenth wide; the last holds 1 as well.
MARGIN_BINS = 10
# Different statuses, teachers or models told apart; files may hold anything.
_MAX_NAMES = 200
OTHERS = "(others)"


def same_words(first: str, second: str) -> bool:
  """Whether labels are equal up to case and white space."""
  return first.casefold().split() == second.casefold().split()


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


def of_records(
  records: Iterable[Record | Problem],
  *,
  same_answer: choosing.SameAnswer = same_words,
  cost: Cost | None = None,
) -> QualityReport:
  """The report on records, such as `records.iter_records` gives them."""
  quality = Quality(same_answer=same_answer, cost=cost)
  for item in records:
    quality.add(item)
  return quality.report()


class Quality:
  """Adds records up to a report, one by one."""

  def __init__(
    self,
    *,
    same_answer: choosing.SameAnswer = same_words,
    cost: Cost | None = None,
    examples_per_status: int = 3,
    max_example_chars: int = 2000,
  ):
    """Starts with nothing.

    Args:
      same_answer: whether two labels are the same answer.
      cost: prices tokens; None for no cost.
      examples_per_status: how many answers of each status but "ok" are kept.
      max_example_chars: a longer text of an example is cut.
    """
    self._same_answer = same_answer
    self._cost = cost
    self._examples_per_status = examples_per_status
    self._max_example_chars = max_example_chars
    self._totals: collections.Counter[str] = collections.Counter()
    self._margins = [0] * MARGIN_BINS
    self._left_out: collections.Counter[str] = collections.Counter()
    self._labels: collections.Counter[str] = collections.Counter()
    self._teachers: dict[str, _TeacherCounts] = {}
    self._words: dict[str, collections.Counter[int]] = {
      name: collections.Counter() for name in ("input", "rationale", "label")
    }
    self._seen = {
      name: SeenTexts() for name in ("inputs", "requests", "rationales")
    }
    self._examples: dict[str, list[Mapping[str, Any]]] = {}

  def add(self, item: Record | Problem):
    """Counts a record, or a line that is none."""
    if isinstance(item, Problem):
      self._totals["problems"] += 1
      return
    totals = self._totals
    totals["records"] += 1
    self._count_words("input", item.input)
    self._see("inputs", item.input)
    if item.label is not None:
      totals["with_gold"] += 1
      self._count_words("label", item.label)
      self._labels[_bounded(self._labels, item.label)] += 1
    usable = 0
    for rationale in item.rationales:
      self._add_rationale(item, rationale)
      usable += is_trainable(rationale)
    totals["rationales"] += len(item.rationales)
    totals["usable_rationales"] += usable
    totals["with_rationale"] += usable > 0
    account = account_of(item, self._same_answer)
    for name, counts in account.teachers.items():
      key = _bounded(self._teachers, name)
      self._teachers.setdefault(key, _TeacherCounts()).add(counts)
    for reason, count in account.left_out.items():
      self._left_out[_bounded(self._left_out, reason)] += count
    self._add_votes(account)

  def _add_rationale(self, record: Record, rationale: Rationale):
    self._count_words("rationale", rationale.text)
    if rationale.text.strip():
      self._see("rationales", rationale.text)
    request = rationale.extra.get("request")
    if isinstance(request, str):
      self._see("requests", request)
    if rationale.status == "ok":
      return
    found = self._examples.setdefault(
      _bounded(self._examples, rationale.status), []
    )
    if len(found) < self._examples_per_status:
      texts = {
        "id": record.id,
        "input": record.input,
        "gold": record.label,
        "teacher": rationale.source,
        "label": rationale.label,
        "text": rationale.text,
        "completion": rationale.extra.get("completion"),
        "reason": rationale.extra.get("reason"),
      }
      limit = self._max_example_chars
      found.append(
        {
          name: text[:limit]
          for name, text in texts.items()
          if isinstance(text, str)
        }
      )

  def _add_votes(self, account: Account):
    if not account.votes:
      return
    margin = account.margin or 0.0
    # 0.7 - 0.4 belongs to the bin of 0.3, whatever its last bit says.
    found = int(round(margin, 9) * MARGIN_BINS)
    self._margins[min(found, MARGIN_BINS - 1)] += 1
    if account.num_votes > 1:
      self._totals["several_votes"] += 1
      self._totals["unanimous"] += len(account.votes) == 1
    if account.agrees is not None:
      self._totals["voted"] += 1
      self._totals["voted_agree"] += account.agrees

  def _count_words(self, name: str, text: str):
    if text.strip():
      self._words[name][num_words(text)] += 1

  def _see(self, name: str, text: str):
    if self._seen[name].add(text) is not None:
      self._totals[f"duplicate_{name}"] += 1

  def report(self) -> QualityReport:
    """The report on what has been added so far."""
    totals = self._totals
    teachers = tuple(
      counts.quality(name, self._cost)
      for name, counts in sorted(self._teachers.items())
    )
    statuses: collections.Counter[str] = collections.Counter()
    for teacher in teachers:
      for status, count in teacher.statuses.items():
        statuses[_bounded(statuses, status)] += count
    costs = [teacher.cost for teacher in teachers]
    return QualityReport(
      records=totals["records"],
      problems=totals["problems"],
      with_gold=totals["with_gold"],
      with_rationale=totals["with_rationale"],
      rationales=totals["rationales"],
      usable_rationales=totals["usable_rationales"],
      answers=sum(teacher.answers for teacher in teachers),
      parse_rate=_sum(teacher.parsed for teacher in teachers),
      usable=_sum(teacher.usable for teacher in teachers),
      agreement=_sum(teacher.agreement for teacher in teachers),
      voted_agreement=Share(totals["voted_agree"], totals["voted"]),
      margins=tuple(self._margins),
      unanimous=Share(totals["unanimous"], totals["several_votes"]),
      statuses=_sorted(statuses),
      left_out=_sorted(self._left_out),
      lengths={
        name: lengths_of(counts) for name, counts in self._words.items()
      },
      duplicate_inputs=totals["duplicate_inputs"],
      duplicate_requests=totals["duplicate_requests"],
      duplicate_rationales=totals["duplicate_rationales"],
      teachers=teachers,
      prompt_tokens=sum(teacher.prompt_tokens for teacher in teachers),
      completion_tokens=sum(each.completion_tokens for each in teachers),
      cost=(
        sum(cost for cost in costs if cost is not None)
        if costs and None not in costs
        else None
      ),
      examples={
        status: tuple(found) for status, found in self._examples.items()
      },
      labels=_sorted(self._labels),
    )


def is_trainable(rationale: Rationale) -> bool:
  """Whether training takes it: it has text, and a weight above 0."""
  return bool(rationale.text.strip()) and rationale.weight > 0


# --- one teacher -------------------------------------------------------------


class _TeacherCounts:
  """Adds up what one teacher answered to all records."""

  def __init__(self):
    self.totals: collections.Counter[str] = collections.Counter()
    self.statuses: collections.Counter[str] = collections.Counter()
    # Model -> prompt tokens, completion tokens.
    self.models: dict[str, list[int]] = {}

  def add(self, counts: Mapping[str, Any]):
    for name in (*COUNTS, "rationalised"):
      self.totals[name] += whole(counts.get(name))
    for status, count in counts_of(counts.get("statuses")).items():
      self.statuses[_bounded(self.statuses, status)] += count
    model = counts.get("model")
    key = _bounded(self.models, model if isinstance(model, str) else "")
    tokens = self.models.setdefault(key, [0, 0])
    tokens[0] += whole(counts.get("prompt_tokens"))
    tokens[1] += whole(counts.get("completion_tokens"))

  def quality(self, name: str, cost: Cost | None) -> TeacherQuality:
    total = self.totals
    costs = [
      cost(model, *tokens) if cost else None
      for model, tokens in self.models.items()
    ]
    completions = total["completions"]
    return TeacherQuality(
      name=name,
      models=tuple(sorted(filter(None, self.models))),
      answers=total["answers"],
      completions=completions,
      parsed=Share(total["parsed"], completions),
      usable=Share(total["usable"], completions),
      agreement=Share(total["agree"], total["compared"]),
      rationalised=total["rationalised"],
      statuses=_sorted(self.statuses),
      prompt_tokens=sum(tokens[0] for tokens in self.models.values()),
      completion_tokens=sum(tokens[1] for tokens in self.models.values()),
      cost=(
        None
        if None in costs
        else sum(each for each in costs if each is not None)
      ),
    )


def _bounded(known: Mapping[str, Any], name: str) -> str:
  """The name, shortened, or OTHERS where there are too many already."""
  name = name[:200]
  return name if name in known or len(known) < _MAX_NAMES else OTHERS


def _sorted(counter: Mapping[str, int]) -> dict[str, int]:
  """The most frequent first; equal ones by name."""
  return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _sum(shares: Iterable[Share]) -> Share:
  shares = list(shares)
  return Share(
    sum(share.count for share in shares), sum(share.of for share in shares)
  )


# --- on the screen -----------------------------------------------------------


def print_report(report: QualityReport, console: Any = None):
  """Prints the report as tables.

  Args:
    report: see there.
    console: a `rich.console.Console`; standard output if None.
  """
  from dss_jax.rationales import quality_tables

  quality_tables.print_report(report, console)
