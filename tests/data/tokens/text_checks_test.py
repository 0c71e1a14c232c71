"""What cannot be written or is cut: refused, or counted and named."""

import pytest

from dss_jax import vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks
from dss_jax.data.pairs.subtasks import METHODS, MethodOptions
from dss_jax.data.tokens import text_checks
from dss_jax.data.tokens.text_checks import TargetChecks
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays
from dss_jax.vocabularies import ByteVocabulary

BYTES = ByteVocabulary()
OPTIONS = MethodOptions()


def _checks(method, vocabulary, targets, *, options=OPTIONS, max_targets=None):
  """The checks of a method's sub-task, of (label, rationale) pairs."""
  (subtask,) = METHODS[method].subtasks
  checks = TargetChecks(subtask, options, vocabulary, max_targets)
  for label, rationale in targets:
    text = subtasks.fill(
      subtask.target_parts(options), {"label": label, "rationale": rationale}
    )
    checks.add(label, vocabulary.encode(text))
  return checks


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (["yes", "<"], "cannot write the labels '<': it lacks '<'; name the"),
    (["{", "<"], r'it lacks .{7,9}; name the vocabulary .*\+\["{", "<"\]'),
    (["a {b}"], "it lacks '{', '}';"),
    (["yes", "\u4e2d\u6587"], "it lacks '\u4e2d', '\u6587'"),
    (["\U0001f600"], "cannot write the labels '\U0001f600'"),
    (["\x01"], r"cannot write the labels '\\x01'"),
    (["", "yes"], "cannot write the labels '': write them otherwise"),
    (["x\u00b2", "x2"], "'x\u00b2' and 'x2' are the same answer"),
    (["a  b", "a b"], "'a  b' and 'a b' are the same answer"),
    (["yes</s>no"], "cannot write the labels 'yes</s>no'"),
  ],
)
def test_closed_sets_that_cannot_be_written_or_told_apart(
  labels, message, plain_vocabulary
):
  with pytest.raises(UserError, match=message) as error:
    text_checks.check_labels(labels, plain_vocabulary)
  if "same answer" not in message:
    assert error.value.fields == ("TrainConfig.vocabulary",)


@pytest.mark.parametrize(
  "labels",
  [
    ["yes", "no"],
    ["A", "a"],  # case counts
    ["cat", "cat dog", "ca"],  # prefixes of others
    ["it is  so"],  # spaces are one space to the metric too
    ["\uff21", "Y"],
  ],
)
def test_closed_sets_that_can(labels, plain_vocabulary):
  text_checks.check_labels(labels, plain_vocabulary)
  text_checks.check_labels(labels, BYTES)


def test_added_tokens_are_the_remedy(plain_model):
  more = vocabularies.from_name(f'{plain_model}+["<", "{{"]')
  text_checks.check_labels(["<", "{", "a < b"], more)
  with pytest.raises(UserError, match=r'\+\["<", "{", "}"\]'):
    text_checks.check_labels(["}"], more)
  text_checks.check_labels(["<", "{", "}", "\U0001f600", "\x01"], BYTES)


METHODS_WITH_LABELS = (
  "standard",
  "label",
  "rationale_then_label",
  "label_then_rationale",
)


@pytest.mark.parametrize("method", METHODS_WITH_LABELS)
def test_labels_of_records_that_cannot_be_written(method, plain_vocabulary):
  targets = [("yes", "a cat"), ("<", "a dog"), ("<", "red"), ("no", "{ blue")]
  checks = _checks(method, plain_vocabulary, targets)
  assert checks.num_lost == 2
  with pytest.raises(UserError, match=r"labels of 2 of 4 targets .*'<'\)"):
    checks.check()
  assert _checks(method, BYTES, targets).num_lost == 0


@pytest.mark.parametrize(
  ("method", "max_targets", "lost", "cut"),
  [
    ("label", 4, 0, 0),
    ("label", 3, 2, 2),  # "yes" and its end are 4
    ("rationale_then_label", 16, 0, 0),
    ("rationale_then_label", 15, 1, 1),
    ("rationale_then_label", 8, 3, 3),
    ("label_then_rationale", 16, 0, 3),  # the label comes first
    ("label_then_rationale", 3, 2, 3),  # "no" and its end are 3
    ("rationale", 3, 0, 1),  # it has no label to lose
  ],
)
def test_labels_that_are_cut_off(method, max_targets, lost, cut):
  targets = [("yes", "abc"), ("yes", "ab"), ("no", "b")]
  checks = _checks(method, BYTES, targets, max_targets=max_targets)
  assert (checks.num_lost, checks.cut) == (lost, cut)
  if not lost:
    checks.check()
    return
  remedy = f"set the length of targets to {checks.longest}"
  with pytest.raises(UserError, match=remedy) as error:
    checks.check()
  assert error.value.fields[0] == "DatasetConfig.task_feature_lengths"
  assert ("max_rationale_tokens" in str(error.value)) == ("then" in method)


@pytest.mark.parametrize(
  ("method", "targets", "options", "lost"),
  [
    # The last separator counts, so a rationale may hold it and a label not.
    ("rationale_then_label", [("a", "b [label] c")], {}, 0),
    ("rationale_then_label", [("a [label] b", "c")], {}, 1),
    ("label_then_rationale", [("a", "b [rationale] c")], {}, 0),
    ("label_then_rationale", [("a [rationale] b", "c")], {}, 1),
  ],
)
def test_labels_that_hold_the_separator(method, targets, options, lost):
  checks = _checks(method, BYTES, targets, options=MethodOptions(**options))
  assert checks.num_lost == lost
  if lost:
    with pytest.raises(UserError, match="cannot be found again") as error:
      checks.check()
    assert error.value.fields[0] == "MethodOptions.label_separator"


def test_separators_that_the_vocabulary_drops_are_refused(plain_vocabulary):
  options = MethodOptions(label_separator="\x01")
  checks = _checks(
    "rationale_then_label", plain_vocabulary, [("yes", "a")], options=options
  )
  with pytest.raises(UserError, match="does not write it: choose other sep"):
    checks.check()
  # An unknown character that is written is found.
  checks = _checks("rationale_then_label", plain_vocabulary, [("yes", "a")])
  checks.check()


def test_labels_that_count_as_one_are_named(plain_vocabulary):
  targets = [("a 2", ""), ("a \u00b2", ""), ("a 2", ""), ("yes", "")]
  checks = _checks("label", plain_vocabulary, targets)
  assert checks.same_labels() == [("a 2", "a \u00b2")]


def test_what_is_reported_before_training(plain_vocabulary):
  unknown = plain_vocabulary.unk_id
  arrays = TokenArrays.from_lists(
    "label", [[5, unknown, 7, 1], [unknown, 6, 1]], [[9, 1], [8, 1]]
  )
  others = TokenArrays.from_lists("other", [[5, 6, 7, 1]], [[9, 9, 9, 1]])
  examples = ExampleSet(
    subtasks=(arrays, others),
    rates=(1.0, 1.0),
    paired=False,
    num_records=2,
    fingerprint="",
    vocabulary=plain_vocabulary.name,
    task_name="a",
    split="train",
    cut={"label": {"inputs": 1, "targets": 0}},
    same_labels=[("x", "x ")],
  )
  lengths = {"inputs": 4, "targets": 5}
  assert text_checks.describe(examples, plain_vocabulary, lengths) == [
    "sub-task label: 2 tokens of its inputs (29 %) are unknown to the"
    " vocabulary; `dss-jax data stats` shows which characters it lacks",
    "sub-task label: 1 of 2 inputs are cut to 4 tokens (task_feature_lengths)",
    "sub-task other: 1 of 1 inputs fill, or are cut to, 4 tokens"
    " (task_feature_lengths)",
    "the labels 'x' and 'x ' count as the same answer",
  ]
  (line,) = text_checks.describe(
    ExampleSet(
      subtasks=(others,),
      rates=(1.0,),
      paired=False,
      num_records=1,
      fingerprint="",
      vocabulary=plain_vocabulary.name,
      task_name="a",
      split="train",
      cut={"other": {}},
    ),
    plain_vocabulary,
    {},
  )
  assert "knows all of them" in line


def test_prefixes_and_separators_with_unknown_characters(plain_vocabulary):
  dss = METHODS["dss"].subtasks
  lines = text_checks.missing_in_templates(dss, OPTIONS, plain_vocabulary)
  assert len(lines) == 2
  assert "lacks '[', ']' of '[label] '" in lines[0]
  assert "'[rationale] '" in lines[1]
  assert text_checks.missing_in_templates(dss, OPTIONS, BYTES) == []
  official = MethodOptions(label_prefix="label: ", rationale_prefix="so: ")
  assert text_checks.missing_in_templates(dss, official, plain_vocabulary) == []


@pytest.mark.parametrize(
  ("method", "labels", "max_targets", "longest"),
  [
    ("label", ("yes", "maybe"), 64, 6),
    ("label", ("yes", "maybe"), 4, 4),
    ("label", ("yes", "maybe"), None, 6),
    ("label", None, 64, 64),
    ("label", None, None, None),
    ("rationale_then_label", ("yes", "no"), 64, 64),
    ("rationale", ("yes", "no"), 64, 64),
  ],
)
def test_how_long_outputs_may_be(method, labels, max_targets, longest):
  (subtask,) = METHODS[method].subtasks
  assert longest == text_checks.longest_output(
    subtask, OPTIONS, labels, max_targets, BYTES
  )
