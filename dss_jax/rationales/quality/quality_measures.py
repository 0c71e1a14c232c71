"""How good rationales are, counted from records: see `quality_report.py`.

  report = of_records(records.iter_records("out/train.jsonl"))
  quality_tables.print_report(report)

The numbers come from the records alone, in one pass and in memory that hardly
grows with them (some 20 bytes a text, to find duplicates). Records that
`rationale_selection.choose` made say in their meta what their teachers answered in all; in
other records, every rationale counts as one answer of its source.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dss_jax.datasets.records import Problem, Rationale, Record, SeenTexts
from dss_jax.rationales.quality.accounts import (
  Account,
  account_of,
  counts_of,
)
from dss_jax.rationales.quality.quality_report import (
  MARGIN_BINS,
  QualityReport,
  Share,
  TeacherQuality,
  lengths_of,
  num_words,
)
from dss_jax.rationales.rationale_selection import count_in
from dss_jax.rationales.teacher_answers import SameAnswer

# What is counted of a teacher; see `quality_report`.
_COUNTS = (
  "answers",
  "completions",
  "parsed",
  "usable",
  "compared",
  "agree",
  "rationalised",
)

# (model, prompt tokens, completion tokens) -> cost; None if it is not known.
Cost = Callable[[str, int, int], float | None]

# Statuses, teachers or models that are counted apart; files may hold any number.
_MAX_NAMES = 200
OTHERS = "(others)"


def same_words(first: str, second: str) -> bool:
  """Whether labels are equal up to case and white space."""
  return first.casefold().split() == second.casefold().split()


def of_records(
  records: Iterable[Record | Problem],
  *,
  same_answer: SameAnswer = same_words,
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
    same_answer: SameAnswer = same_words,
    cost: Cost | None = None,
    examples_per_status: int = 3,
    max_example_chars: int = 2000,
  ):
    """Begins with no records.

    Args:
      same_answer: whether two labels are the same answer.
      cost: prices tokens; None for no cost.
      examples_per_status: how many answers of each status but "ok" are kept.
      max_example_chars: longest text of such an answer; the rest is cut.
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
    """Counts a record, or a line that is no record."""
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
    # 0.7 - 0.4 belongs to the bin of 0.3, whatever its last bit is.
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
      completion_tokens=sum(t.completion_tokens for t in teachers),
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
    for name in _COUNTS:
      self.totals[name] += count_in(counts.get(name))
    for status, count in counts_of(counts.get("statuses")).items():
      self.statuses[_bounded(self.statuses, status)] += count
    model = counts.get("model")
    key = _bounded(self.models, model if isinstance(model, str) else "")
    tokens = self.models.setdefault(key, [0, 0])
    tokens[0] += count_in(counts.get("prompt_tokens"))
    tokens[1] += count_in(counts.get("completion_tokens"))

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
      cost=(None if None in costs else sum(c for c in costs if c is not None)),
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
