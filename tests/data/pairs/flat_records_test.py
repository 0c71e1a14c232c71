"""Rows and examples of records, worked by hand."""

import collections
import hashlib

import pytest

from dss_jax.data.pairs import flat_records, subtasks
from dss_jax.data.pairs.subtasks import METHODS, MethodOptions
from dss_jax.datasets.records import Rationale, Record
from dss_jax.vocabularies import ByteVocabulary

RECORDS = [
  Record(
    "a",
    "A",
    "yes",
    (
      Rationale("long one", "yes", "palm", 2.0),
      Rationale("r", "no", "human", 0.5),
      Rationale(" ", "no", "palm", status="no_marker"),
    ),
  ),
  Record("b", "B", "no", (Rationale("rb", None, "palm", 1.0, "no_label"),)),
  Record("c", "C", None, (Rationale("rc", "maybe", "palm", 0.0),)),
  Record("d", "D", "yes"),
]


def examples(
  method="dss",
  split="train",
  label_source="gold",
  options: MethodOptions | None = None,
  records=RECORDS,
):
  """Sub-task -> [(record, inputs, targets, weight)], and what was left out."""
  options = options or MethodOptions(label_prefix="l ", rationale_prefix="r ")
  chosen = flat_records.with_rationales([r.id for r in records], options)
  found, reasons = {}, {}
  for subtask in METHODS[method].subtasks:
    left_out = collections.Counter()
    made = flat_records.make_pairs(
      flat_records.flatten(
        records,
        split,
        agrees=lambda gold, label: gold == label,
        label_source=label_source,
        rationale_source=subtask.rationale_source,
      ),
      subtask,
      options,
      split,
      ByteVocabulary(),
      left_out,
      chosen if split == "train" else None,
    )
    found[subtask.name] = [
      (e.record, e.inputs, e.targets, e.weight) for e in made
    ]
    reasons[subtask.name] = dict(left_out)
  return found, reasons


def test_training_on_gold_labels():
  found, reasons = examples()
  assert found["label"] == [
    (0, "l A", "yes", 1.0),
    (1, "l B", "no", 1.0),
    (3, "l D", "yes", 1.0),
  ]
  assert reasons["label"] == {"no label": 1}
  # one example per rationale, with its weight and its record
  assert found["rationale"] == [
    (0, "r A", "long one", 2.0),
    (0, "r A", "r", 0.5),
    (1, "r B", "rb", 1.0),
  ]
  assert reasons["rationale"] == {
    "rationale blank": 1,
    "rationale of weight 0": 1,
  }


def test_training_on_the_teachers_labels():
  found, reasons = examples(label_source="teacher")
  # "yes" has weight 2 against 1.5; b's teacher gave none, c's weighs nothing
  assert found["label"] == [(0, "l A", "yes", 1.0)]
  assert reasons["label"] == {"no label": 3}


def test_the_teachers_label_is_the_weighted_majority():
  def label(*votes):
    return flat_records.teacher_label(
      Record("x", "X", None, tuple(Rationale("r", *vote) for vote in votes))
    )

  assert label(("a", "", 1.0), ("b", "", 0.6), ("b", "", 0.6)) == "b"
  assert label(("a", ""), ("b", "")) == "a"
  assert label((None, ""), (" ", "")) is None
  assert label() is None


@pytest.mark.parametrize(
  ("options", "kept", "reason"),
  [
    ({"rationale_filter": "all"}, ["long one", "r", " ", "rb"], None),
    (
      {"rationale_filter": "agrees"},
      ["long one"],
      ("rationale disagrees with the gold label", 2),
    ),
    (
      {"max_rationale_tokens": 2},
      ["r", "rb"],
      ("rationale of more than 2 tokens", 1),
    ),
    (
      {"min_rationale_weight": 0.6},
      ["long one", "rb"],
      ("rationale of weight below 0.6", 1),
    ),
  ],
)
def test_filters_of_rationales(options, kept, reason):
  found, reasons = examples("rationale", options=MethodOptions(**options))
  assert [targets for _, _, targets, _ in found["rationale"]] == kept
  if reason:
    assert reasons["rationale"][reason[0]] == reason[1]


def test_weights_can_be_left_at_one():
  equal = MethodOptions(rationale_weights="equal")
  found, reasons = examples("rationale", options=equal)
  assert [e[3] for e in found["rationale"]] == [1.0, 1.0, 1.0]
  # those that were voted out stay out
  assert reasons["rationale"]["rationale of weight 0"] == 1


def test_the_least_weight_is_met_by_the_share_that_a_configuration_means():
  # three of five votes, as float64 adds them up
  share = 0.2 + 0.2 + 0.2 - 1e-9
  record = Record("x", "X", "yes", (Rationale("r", "yes", "", share),))
  options = MethodOptions(min_rationale_weight=0.6)
  found, _ = examples("rationale", options=options, records=[record])
  assert len(found["rationale"]) == 1


MANY = [
  Record(f"m{i}", f"M{i}", "yes", (Rationale(f"r{i}", "no"),))
  for i in range(40)
]


def test_rationales_of_a_fraction_of_the_records():
  def records_with(fraction, method="dss"):
    options = MethodOptions(rationale_fraction=fraction)
    found, reasons = examples(method, options=options, records=MANY)
    sub_task = found["rationale" if method == "dss" else method]
    assert "label" not in found or len(found["label"]) == 40
    left_out = next(r for name, r in reasons.items() if name != "label")
    assert sum(left_out.values()) == 40 - len(sub_task)
    return {e[0] for e in sub_task}

  sizes = {}
  earlier: set[int] = set()
  for fraction in (0, 0.1, 0.25, 0.5, 0.99, 1.0):
    found = records_with(fraction)
    assert earlier <= found
    sizes[fraction] = len(found)
    earlier = found
  assert sizes == {0: 0, 0.1: 4, 0.25: 10, 0.5: 20, 0.99: 40, 1.0: 40}
  # a method of one target has no label where it has no rationale
  assert records_with(0.25, "rationale_then_label") == records_with(0.25)
  # the hash itself, worked out here
  order = sorted(
    range(40),
    key=lambda i: hashlib.sha256(f"rationales:m{i}".encode()).hexdigest(),
  )
  assert records_with(0.25) == set(order[:10])


def test_evaluation_knows_no_fraction():
  options = MethodOptions(rationale_fraction=0.1, min_rationale_weight=5)
  found, _ = examples("dss", "validation", options=options, records=MANY)
  assert len(found["rationale"]) == len(found["label"]) == 40


def test_unreadable_labels_are_blank_on_request():
  blank = MethodOptions(
    label_prefix="", unreadable_labels="blank", rationale_filter="all"
  )
  records = [
    Record("a", "A", "yes", (Rationale("", None, status="no_marker"),)),
    Record("b", "B", "no", (Rationale("rb", "no"),)),
    Record("c", "C", "no"),  # nobody was asked
  ]
  found, reasons = examples("dss", "train", "teacher", blank, records)
  assert [e[:3] for e in found["label"]] == [(0, "A", ""), (1, "B", "no")]
  assert reasons["label"] == {"no label": 1}
  assert [e[2] for e in found["rationale"]] == ["", "rb"]
  # a gold label that nobody gave is not blank
  unlabelled = [Record("d", "D", None, records[0].rationales)]
  found, _ = examples("dss", "train", "gold", blank, unlabelled)
  assert found["label"] == []


EXTRA = [
  Record("extra/a", "A", None, (Rationale("ra", "yes"), Rationale("x", "no"))),
  Record("extra/b", "B", "no", (Rationale("rb", "yes"),)),
  Record("extra/c", "C", None, (Rationale("rc", None),)),
  Record("d", "D", None, (Rationale("rd", "yes"),)),
]


def test_extra_records_have_the_teachers_label_where_there_is_no_gold_one():
  found, reasons = examples(records=EXTRA)
  assert [e[::2] for e in found["label"]] == [(0, "yes"), (1, "no")]
  assert reasons["label"] == {"no label": 2}
  assert len(found["rationale"]) == 5
  agreeing = MethodOptions(rationale_filter="agrees")
  found, _ = examples(options=agreeing, records=EXTRA)
  assert [e[2] for e in found["rationale"]] == ["ra"]
  found, _ = examples(label_source="teacher", records=EXTRA)
  assert [e[::2] for e in found["label"]] == [
    (0, "yes"),
    (1, "yes"),
    (3, "yes"),
  ]


def test_both_in_one_target_need_both():
  found, _ = examples("rationale_then_label")
  assert found["rationale_then_label"] == [
    (0, "A", "long one [label] yes", 2.0),
    (0, "A", "r [label] yes", 0.5),
    (1, "B", "rb [label] no", 1.0),
  ]
  found, _ = examples("rationale_as_input")
  assert found["rationale_as_input"][1] == (0, "A [rationale] r", "yes", 0.5)


@pytest.mark.parametrize("label_source", ["gold", "teacher"])
def test_evaluation_is_over_every_record_with_a_gold_label(label_source):
  strict = MethodOptions(rationale_filter="agrees", max_rationale_tokens=1)
  for method in METHODS.values():
    for subtask in method.subtasks:
      if subtask.uses_label:
        found, reasons = examples(
          method.name, "validation", label_source, strict
        )
        assert [e[0] for e in found[subtask.name]] == [0, 1, 3]
        assert {e[3] for e in found[subtask.name]} == {1.0}
        assert reasons[subtask.name] == {"no label": 1}
  found, _ = examples("label_then_rationale", "test", label_source)
  targets = [e[2] for e in found["label_then_rationale"]]
  assert targets[0] == "yes [rationale] long one"
  assert targets[2] == "yes [rationale] "


def test_rationales_are_evaluated_against_the_first_usable_one():
  found, reasons = examples("rationale", "test")
  assert [(e[0], e[2]) for e in found["rationale"]] == [
    (0, "long one"),
    (1, "rb"),
    (2, "rc"),
  ]
  assert reasons["rationale"] == {"no usable rationale": 1}


def test_a_sub_task_can_follow_one_teacher():
  subtask = subtasks.SubTask(
    "human", target_format="{rationale}", rationale_source="human"
  )
  made = flat_records.make_pairs(
    flat_records.flatten(
      RECORDS,
      "train",
      agrees=lambda a, b: a == b,
      rationale_source=subtask.rationale_source,
    ),
    subtask,
    MethodOptions(),
    "train",
    ByteVocabulary(),
  )
  assert [example.targets for example in made] == ["r"]
