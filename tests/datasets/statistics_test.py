"""Reports on records, by hand-worked counts."""

import pytest

from dss_jax import vocabularies
from dss_jax.datasets import statistics
from dss_jax.datasets.records import Rationale, Record


def _record(number, label, *rationales):
  return Record(f"r{number}", f"input {number % 4}", label, rationales)


RECORDS = [
  _record(0, "pond", Rationale("because", "pond")),
  _record(1, "pond", Rationale("because", "Pond.")),
  _record(2, "lake", Rationale("", None, status="no_marker")),
  _record(3, "lake", Rationale("r", "sea", status="label_not_in_choices")),
  _record(4, None, Rationale("no gold label", "pond")),
  _record(5, "pond"),
  _record(6, "pond", Rationale("a", "pond"), Rationale("b", "lake")),
]


def test_counts():
  found = statistics.report_records(RECORDS, labels=("pond", "lake", "sea"))
  assert found.records == 7
  assert found.gold_labels == 6
  assert found.labels == {"pond": 4, "lake": 2, "sea": 0}
  assert (found.rationales, found.no_rationale) == (7, 1)
  assert found.duplicate_inputs == 3  # 0 and 4, 1 and 5, 2 and 6
  assert found.duplicate_rationales == 1
  assert found.compared == 6
  assert found.strict.unparsed == 1
  assert found.strict.unparsed_by_reason == {"no_marker": 1}
  assert found.strict.statuses == {
    "ok": 5, "label_not_in_choices": 1, "no_marker": 1,
  }  # fmt: skip
  assert found.strict.blank_rationales == 1
  assert found.strict.unusable_labels == 1
  assert found.strict.teacher_equals_gold == 2
  assert found.tolerant.teacher_equals_gold == 3  # "Pond." too
  assert found.percent(found.strict) == 33.33


def test_by_value():
  records = [
    _record(0, "( 2.0 * 3.0 )", Rationale("r", "(3 * 2)")),
    _record(1, "( 2.0 * 3.0 )", Rationale("r", "(x * 2)")),
  ]
  found = statistics.report_records(records, arithmetic_labels=True)
  assert found.compared_by == "value"
  assert found.strict.teacher_equals_gold == 1
  assert found.tolerant.teacher_equals_gold == 1


def test_nothing_to_compare():
  found = statistics.report_records([_record(0, None)])
  assert found.percent(found.strict) is None
  assert found.to_dict()["teacher_equals_gold"]["strict_percent"] is None
  # Rationales that never had a label are not unparsed.
  found = statistics.report_records([_record(0, "a", Rationale("r"))])
  assert found.strict.unparsed == 0


def test_two_readings_are_compared_as_they_are():
  other = [*RECORDS]
  other[2] = _record(2, "lake", Rationale("why", "lake"))
  found = statistics.report_records(RECORDS, other)
  assert found.strict.teacher_equals_gold == 2
  assert found.tolerant.teacher_equals_gold == 3
  assert found.to_dict("tolerant")["blank_rationales"] == 0
  assert found.to_dict("official")["blank_rationales"] == 1


def test_token_lengths():
  def record(letters, *rationale_letters):
    rationales = [Rationale("r" * n, "y") for n in rationale_letters]
    return Record(f"r{letters}", "w" * letters, None, tuple(rationales))

  records = [record(1, 2, 4), record(2, 0), record(6)]
  known = {"unknown": 0, "unknown_percent": 0.0, "lacking": []}
  # Each text has its end token besides, each input three letters of prefix.
  found = statistics.token_lengths(
    records, vocabularies.from_name("bytes"), prefix="re:"
  )
  assert found == {
    "input": {
      "count": 3, "mean": 7.0, "p50": 6.0, "p95": 9.6, "max": 10.0, **known,
    },
    "rationale": {
      "count": 2, "mean": 4.0, "p50": 4.0, "p95": 4.9, "max": 5.0, **known,
    },
    "teacher_label": {
      "count": 3, "mean": 2.0, "p50": 2.0, "p95": 2.0, "max": 2.0, **known,
    },
  }  # fmt: skip


def test_what_a_vocabulary_does_not_know():
  records = [
    Record("a", "A 日 is 本 here", "猫"),
    Record("b", "a cat", "cat"),
  ]
  found = statistics.token_lengths(records, vocabularies.from_name("taxonli"))
  assert found["input"]["unknown"] == 2
  assert found["input"]["lacking"] == ["日", "本"]
  assert found["label"]["lacking"] == ["猫"]
  total = found["label"]["mean"] * 2
  assert found["label"]["unknown_percent"] == pytest.approx(
    100 / total, abs=0.01
  )


@pytest.mark.parametrize(
  ("labels", "expected"),
  [
    # Few: the most frequent first.
    ("aabbbcc", {"b": 3, "a": 2, "c": 2}),
    # As many as records: free text.
    ("abcdefg", {}),
  ],
)
def test_labels_that_nobody_lists(labels, expected):
  records = [Record(f"r{i}", "i", label) for i, label in enumerate(labels)]
  records.append(Record("none", "i"))
  found = statistics.report_records(records)
  assert list(found.labels.items()) == list(expected.items())
  assert found.listed_labels is None
  assert found.gold_labels == 7


def test_labels_that_the_list_lacks():
  records = [Record(f"r{i}", "i", label) for i, label in enumerate("abbz")]
  found = statistics.report_records(records, labels=["c", "b", "a"])
  assert list(found.labels.items()) == [("c", 0), ("b", 2), ("a", 1), ("z", 1)]
  assert found.listed_labels == 3


def test_many_labels_are_no_classes():
  records = [Record(f"r{i}", "i", f"l{i % 201}") for i in range(1000)]
  assert statistics.report_records(records).labels == {}
  records = [Record(f"r{i}", "i", f"l{i % 200}") for i in range(1000)]
  assert len(statistics.report_records(records).labels) == 200
