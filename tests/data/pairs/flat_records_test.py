"""Rows and examples of records, worked by hand."""

import collections

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
):
  """Sub-task -> [(record, inputs, targets, weight)], and what was left out."""
  found, reasons = {}, {}
  for subtask in METHODS[method].subtasks:
    left_out = collections.Counter()
    made = flat_records.make_pairs(
      flat_records.flatten(
        RECORDS,
        split,
        agrees=lambda gold, label: gold == label,
        label_source=label_source,
        rationale_source=subtask.rationale_source,
      ),
      subtask,
      options or MethodOptions(label_prefix="l ", rationale_prefix="r "),
      split,
      ByteVocabulary(),
      left_out,
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
  ],
)
def test_filters_of_rationales(options, kept, reason):
  found, reasons = examples("rationale", options=MethodOptions(**options))
  assert [targets for _, _, targets, _ in found["rationale"]] == kept
  if reason:
    assert reasons["rationale"][reason[0]] == reason[1]


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
