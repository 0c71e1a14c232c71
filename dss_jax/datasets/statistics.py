"""What is in a dataset: records, what could not be used and why, agreement.

Numbers are those of the source's own splits, before validation data are cut
off and fractions taken, so they can be compared with published ones.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dss_jax import datasets, vocabularies
from dss_jax.datasets import arithmetic
from dss_jax.datasets.options import DataOptions
from dss_jax.datasets.records import Rationale, Record
from dss_jax.vocabularies import Vocabulary

# Labels that were read, and that no student should be taught.
UNUSABLE_LABEL = (
  "multiple_answers",
  "label_not_in_choices",
  "label_cut",
  "unevaluable",
  "markup",
)

# So many labels may be a closed set of classes; more are texts.
MAX_CLASSES = 200
# Characters that a report of a vocabulary shows.
_SHOWN_CHARACTERS = 40


@dataclasses.dataclass(frozen=True)
class ParserReport:
  """What one way of reading the teachers' answers makes of a split.

  Attributes:
    unparsed: rationales without a label.
    unparsed_by_reason: status -> how many of those.
    statuses: status -> how many of all rationales.
    blank_rationales: rationales without text.
    unusable_labels: labels that were read and are no answer (statuses
      UNUSABLE_LABEL).
    teacher_equals_gold: labels that are the gold one.
  """

  unparsed: int
  unparsed_by_reason: Mapping[str, int]
  statuses: Mapping[str, int]
  blank_rationales: int
  unusable_labels: int
  teacher_equals_gold: int


@dataclasses.dataclass(frozen=True)
class SplitReport:
  """One split of a source.

  Attributes:
    records: how many.
    gold_labels: records with a gold label.
    labels: gold label -> count: of those that the dataset lists, in its order,
      then of others; without a list, of all labels if they are few, the most
      frequent first; else none.
    listed_labels: how many of `labels` the dataset lists; None where it has no
      list.
    rationales: rationales of all records.
    sources: who wrote them -> how many.
    no_rationale: records without any.
    duplicate_inputs: records whose input an earlier one has as well.
    duplicate_rationales: rationales whose (non-blank) text an earlier one has.
    compared: rationales of records with a gold label, which
      `teacher_equals_gold` is counted among; without those that are to have no
      label of their own.
    compared_by: "value" for arithmetic labels, else "text".
    strict: by the official parser or, without completions, by exact labels.
    tolerant: by the tolerant parser, or up to case, space and punctuation.
  """

  records: int
  gold_labels: int
  labels: Mapping[str, int]
  listed_labels: int | None
  rationales: int
  sources: Mapping[str, int]
  no_rationale: int
  duplicate_inputs: int
  duplicate_rationales: int
  compared: int
  compared_by: str
  strict: ParserReport
  tolerant: ParserReport

  def to_dict(self, parser: str = "official") -> dict[str, Any]:
    """JSON values; `parser` chooses whose reading comes first."""
    chosen = self.tolerant if parser == "tolerant" else self.strict
    return {
      "rows": self.records,
      "gold_labels": self.gold_labels,
      "labels": dict(self.labels),
      "listed_labels": self.listed_labels,
      "rationales": self.rationales,
      "sources": dict(self.sources),
      "no_rationale": self.no_rationale,
      "duplicate_inputs": self.duplicate_inputs,
      "duplicate_rationales": self.duplicate_rationales,
      **dataclasses.asdict(chosen),
      "teacher_equals_gold": {
        "compared_by": self.compared_by,
        "of": self.compared,
        "strict": self.strict.teacher_equals_gold,
        "strict_percent": self.percent(self.strict),
        "tolerant": self.tolerant.teacher_equals_gold,
        "tolerant_percent": self.percent(self.tolerant),
      },
      "by_parser": {
        "official": dataclasses.asdict(self.strict),
        "tolerant": dataclasses.asdict(self.tolerant),
      },
    }

  def percent(self, report: ParserReport) -> float | None:
    """`teacher_equals_gold` in percent, to two digits; None of nothing."""
    if not self.compared:
      return None
    return round(100 * report.teacher_equals_gold / self.compared, 2)


def report_split(
  name: str, split: str, options: DataOptions
) -> tuple[SplitReport, list[Record]]:
  """Reports on one split of a registered dataset.

  Args:
    name: of the dataset.
    split: one of its source splits.
    options: where it is; `options.parser` decides which records come back,
      not what is reported.

  Returns:
    The report, and the records as `options` say.
  """
  spec = datasets.get(name)
  readings = {}
  for parser in ("official", "tolerant"):
    chosen = dataclasses.replace(options, parser=parser)
    readings[parser] = datasets.load_source_split(name, split, options=chosen)
  report = report_records(
    readings["official"],
    readings["tolerant"],
    arithmetic_labels=spec.has_arithmetic_labels,
    labels=spec.labels,
  )
  return report, readings[options.parser]


def report_records(
  strict: Sequence[Record],
  tolerant: Sequence[Record] | None = None,
  *,
  arithmetic_labels: bool = False,
  labels: Sequence[str] | None = None,
) -> SplitReport:
  """Reports on records.

  Args:
    strict: the records, read officially.
    tolerant: the same records, read tolerantly; if None, or if the two
      readings do not differ, "tolerant" means comparing labels up to case,
      space and punctuation.
    arithmetic_labels: whether labels are compared by their values.
    labels: all labels there are, if the dataset lists them.
  """
  same: Callable[[str, str], bool] = str.__eq__
  loosely = _same_words
  if arithmetic_labels:
    same = loosely = arithmetic.same_value
  elif tolerant is not None and any(_differ(strict, tolerant)):
    loosely = same  # the parser was tolerant already
  gold = collections.Counter(record.label for record in strict)
  texts = [
    rationale.text
    for record in strict
    for rationale in record.rationales
    if rationale.text.strip()
  ]
  return SplitReport(
    records=len(strict),
    gold_labels=len(strict) - gold[None],
    labels=_label_counts(gold, labels),
    listed_labels=None if labels is None else len(labels),
    rationales=sum(len(record.rationales) for record in strict),
    sources=_counts(
      r.source for record in strict for r in record.rationales if r.source
    ),
    no_rationale=sum(not record.rationales for record in strict),
    duplicate_inputs=_duplicates(record.input for record in strict),
    duplicate_rationales=_duplicates(texts),
    compared=sum(
      _is_unparsed(rationale) or rationale.label is not None
      for record in strict
      if record.label is not None
      for rationale in record.rationales
    ),
    compared_by="value" if arithmetic_labels else "text",
    strict=_parser_report(strict, same),
    tolerant=_parser_report(strict if tolerant is None else tolerant, loosely),
  )


def _label_counts(
  gold: collections.Counter[str | None], listed: Sequence[str] | None
) -> dict[str, int]:
  """The counts of `SplitReport.labels`."""
  found = _counts(label for label in gold.elements() if label is not None)
  if listed is not None:
    return {label: gold[label] for label in listed} | {
      label: count for label, count in found.items() if label not in listed
    }
  # Free text has about as many labels as records.
  is_closed = len(found) <= MAX_CLASSES and 2 * len(found) <= gold.total()
  return found if is_closed else {}


def _differ(strict: Sequence[Record], tolerant: Sequence[Record]):
  return (a.rationales != b.rationales for a, b in zip(strict, tolerant))


def _parser_report(
  records: Sequence[Record], same: Callable[[str, str], bool]
) -> ParserReport:
  rationales = [r for record in records for r in record.rationales]
  unparsed = [r for r in rationales if _is_unparsed(r)]
  return ParserReport(
    unparsed=len(unparsed),
    unparsed_by_reason=_counts(r.status for r in unparsed),
    statuses=_counts(r.status for r in rationales),
    blank_rationales=sum(not r.text.strip() for r in rationales),
    unusable_labels=sum(
      r.label is not None and r.status in UNUSABLE_LABEL for r in rationales
    ),
    teacher_equals_gold=sum(
      rationale.label is not None and same(rationale.label, record.label)
      for record in records
      if record.label is not None
      for rationale in record.rationales
    ),
  )


def _is_unparsed(rationale: Rationale) -> bool:
  """No label although there should be one: a rationale that says "ok" and
  has none, as in files without teacher's labels, is as it is meant to be."""
  return rationale.label is None and rationale.status != "ok"


def _same_words(first: str, second: str) -> bool:
  return _words(first) == _words(second)


def _words(text: str) -> str:
  return " ".join(text.casefold().split()).strip(" .,;:!?\"'")


def _counts(values: Iterable[str]) -> dict[str, int]:
  """Most frequent first; equal ones by name."""
  counter = collections.Counter(values)
  return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _duplicates(texts: Iterable[str]) -> int:
  counter = collections.Counter(texts)
  return counter.total() - len(counter)


def token_lengths(
  records: Iterable[Record], vocabulary: Vocabulary, *, prefix: str = ""
) -> dict[str, dict[str, Any]]:
  """Lengths in tokens, each with its end token, and what is unknown in them.

  Args:
    records: whose texts are counted; blank ones are not.
    vocabulary: turns text into ids.
    prefix: put before every input, as sub-tasks do.

  Returns:
    Field (input, label, rationale, teacher_label) -> count, mean, p50, p95
    and max of the lengths; `unknown`, how many of all tokens are unknown to
    the vocabulary; and `lacking`, characters that it cannot write. Fields that
    no record has are left out.
  """
  texts: dict[str, list[str]] = {
    "input": [],
    "label": [],
    "rationale": [],
    "teacher_label": [],
  }
  for record in records:
    texts["input"].append(prefix + record.input)
    texts["label"].append(record.label or "")
    for rationale in record.rationales:
      texts["rationale"].append(rationale.text)
      texts["teacher_label"].append(rationale.label or "")
  return {
    field: _token_counts(values, vocabulary)
    for field, values in texts.items()
    if any(text.strip() for text in values)
  }


def _token_counts(
  texts: Sequence[str], vocabulary: Vocabulary
) -> dict[str, Any]:
  """One field of `token_lengths`."""
  counts, unknown = [], 0
  characters: set[str] = set()
  for text in texts:
    if not text.strip():
      continue
    ids = vocabulary.encode(text)
    counts.append(len(ids) + 1)
    if lost := ids.count(vocabulary.unk_id):
      unknown += lost
      characters.update(text)
  lacking = vocabularies.missing_characters(
    vocabulary, "".join(sorted(characters))
  )
  return {
    "count": len(counts),
    "mean": round(float(np.mean(counts)), 1),
    "p50": float(np.percentile(counts, 50)),
    "p95": float(np.percentile(counts, 95)),
    "max": float(max(counts)),
    "unknown": unknown,
    "unknown_percent": round(100 * unknown / sum(counts), 3),
    "lacking": lacking[:_SHOWN_CHARACTERS],
  }
