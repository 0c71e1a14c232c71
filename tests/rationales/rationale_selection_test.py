"""Votes, agreement with gold labels, weights, and what is left out."""

import dataclasses
import json
import math

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.data.pairs import flat_records
from dss_jax.datasets import arithmetic
from dss_jax.datasets.completions import STATUSES, Parsed
from dss_jax.datasets.records import (
  Rationale,
  Record,
  read_records,
  write_records,
)
from dss_jax.rationales.rationale_selection import (
  ChooseOptions,
  choose,
  needs_rationalising,
)
from dss_jax.rationales.teacher_answers import TeacherAnswer, count_votes
from dss_jax.rationales.teacher_requests import Completion, Sampling

RECORD = Record("q1", "Where is a weasel?\n(a) zoo\n(b) pond", "zoo")
NO_GOLD = dataclasses.replace(RECORD, label=None)


def same(first: str, second: str) -> bool:
  return first.casefold().split() == second.casefold().split()


def _answer(
  label: str | None,
  text: str | None = None,
  *,
  sample: int = 0,
  status: str = "ok",
  teacher: str = "big",
  raw: str = "raw",
  **fields,
) -> TeacherAnswer:
  text = f"so it is {label}" if text is None else text
  return TeacherAnswer(
    f"key-{teacher}-{sample}",
    teacher,
    "model-1",
    sample,
    Parsed(text, label, status),
    Completion(raw, "stop", "model-1-2026", 10, 5),
    **fields,
  )


def _answers(*labels: str | None) -> list[TeacherAnswer]:
  return [_answer(label, sample=i) for i, label in enumerate(labels)]


def _weights(record: Record) -> list[float]:
  return [rationale.weight for rationale in record.rationales]


def _labels(record: Record) -> list[str | None]:
  return [rationale.label for rationale in record.rationales]


# --- votes -------------------------------------------------------------------


def test_the_vote_by_hand():
  record = choose(
    RECORD, _answers("pond", "zoo", "Zoo", None), ChooseOptions(), same
  )
  assert _labels(record) == ["pond", "zoo", "Zoo", None]
  assert _weights(record) == [1 / 3, 2 / 3, 2 / 3, 0.0]
  account = record.meta["choosing"]
  assert account["votes"] == [["zoo", 2 / 3], ["pond", 1 / 3]]
  assert account["agrees"] is True
  assert "voted_label" not in record.meta
  assert record.label == "zoo"


def test_weights_of_teachers_count():
  answers = [
    _answer("zoo", teacher="small", weight=0.5),
    _answer("zoo", teacher="other", weight=0.5),
    _answer("pond", teacher="big", weight=3.0),
  ]
  record = choose(RECORD, answers, ChooseOptions(), same)
  assert _weights(record) == [0.5 / 4, 0.5 / 4, 3.0 * 3 / 4]
  assert record.meta["choosing"]["agrees"] is False
  record = choose(RECORD, answers, ChooseOptions(vote="none"), same)
  assert _weights(record) == [0.5, 0.5, 3.0]


def test_ties_go_to_the_first_seen():
  votes = count_votes(_answers("pond", "zoo"), same)
  assert [vote.label for vote in votes] == ["pond", "zoo"]
  heavier = [_answer("pond"), _answer("zoo", weight=1.5)]
  assert count_votes(heavier, same)[0].label == "zoo"


def test_teachers_without_weight_still_have_shares():
  answers = [dataclasses.replace(a, weight=0.0) for a in _answers("a", "b")]
  assert [v.share for v in count_votes(answers, same)] == [0.5, 0.5]
  assert _weights(choose(RECORD, answers, ChooseOptions(), same)) == [0, 0]


def test_labels_are_compared_as_the_dataset_does():
  answers = _answers("(84 / 2)", "42", "7")
  votes = count_votes(answers, arithmetic.same_value)
  assert [(v.label, v.share) for v in votes] == [("(84 / 2)", 2 / 3), ("7", 1 / 3)]  # fmt: skip


def test_without_gold_the_voted_label_is_in_meta():
  record = choose(NO_GOLD, _answers("zoo", "zoo", "a"), ChooseOptions(), same)
  assert record.label is None
  assert record.meta["voted_label"] == "zoo"
  assert "agrees" not in record.meta["choosing"]
  # What training on teachers' labels takes is the same.
  assert flat_records.teacher_label(record) == "zoo"


def test_answers_that_are_none_have_no_vote():
  answers = [
    _answer("zoo or", status="multiple_answers"),
    _answer("(x)", status="unevaluable"),
    _answer(" "),
    _answer("zoo", rationalised=True),
    _answer("pond", "", status="empty"),
  ]
  assert [v.label for v in count_votes(answers, same)] == ["pond"]


# --- what is kept ------------------------------------------------------------


@pytest.mark.parametrize(
  ("keep", "labels", "left_out"),
  [
    ("all", ["a", "zoo", None, "Zoo"], None),
    ("majority", ["zoo", "Zoo"], {"not_chosen": 1, "unusable": 1}),
    ("one", ["zoo"], {"not_chosen": 2, "unusable": 1}),
  ],
)
def test_keep(keep, labels, left_out):
  answers = _answers("a", "zoo", None, "Zoo")
  for vote in ("majority", "none"):
    options = ChooseOptions(keep=keep, vote=vote)
    record = choose(RECORD, answers, options, same)
    if (keep, vote) != ("one", "none"):
      assert _labels(record) == labels
    assert record.meta["choosing"].get("left_out") == left_out
  assert record.meta["choosing"]["teachers"]["big"]["answers"] == 4


def test_gold_drop():
  answers = _answers("pond", "zoo", None)
  record = choose(RECORD, answers, ChooseOptions(gold="drop"), same)
  assert _labels(record) == ["zoo"]
  assert _weights(record) == [0.5]
  assert record.meta["choosing"]["left_out"] == {
    "disagrees_with_gold": 1,
    "unusable": 1,
  }
  # Without a gold label there is nothing to agree with.
  record = choose(NO_GOLD, answers, ChooseOptions(gold="drop"), same)
  assert _labels(record) == ["pond", "zoo", None]


@pytest.mark.parametrize("keep", ["all", "majority", "one"])
def test_a_record_that_loses_all_keeps_its_input_and_the_reasons(keep):
  answers = [
    _answer("pond"),
    _answer(None, "half a", sample=1, status="truncated"),
  ]
  options = ChooseOptions(gold="drop", keep=keep)
  record = choose(RECORD, answers, options, same)
  assert (record.id, record.input, record.label) == ("q1", RECORD.input, "zoo")
  assert [r.status for r in record.rationales] == [
    "disagrees_with_gold",
    "truncated",
  ]
  assert _weights(record) == [0.0, 0.0]  # training leaves them out
  assert record.rationales[1].extra["completion"] == "raw"


def test_requests_without_an_answer_come_out_too():
  answer = TeacherAnswer("k", "big", "m", 0, Parsed("", None, "rejected"))
  record = choose(RECORD, [answer], ChooseOptions(), same)
  assert record.rationales[0].status == "rejected"
  assert record.meta["choosing"]["teachers"]["big"] == {
    "model": "m",
    "answers": 1,
    "statuses": {"rejected": 1},
    "completions": 0,
    "parsed": 0,
    "usable": 0,
  }
  assert choose(RECORD, [], ChooseOptions(), same).rationales == ()


def test_rationalising():
  answers = _answers("pond", "pond")
  assert needs_rationalising(RECORD, answers, same)
  assert not needs_rationalising(NO_GOLD, answers, same)
  assert not needs_rationalising(RECORD, _answers("pond", "ZOO"), same)
  with_label = _answer(
    "zoo", "because the gold is so", sample=7, rationalised=True
  )
  options = ChooseOptions(gold="rationalise")
  record = choose(RECORD, [*answers, with_label], options, same)
  assert [r.text for r in record.rationales] == ["because the gold is so"]
  assert record.rationales[0].weight == 1.0
  assert record.rationales[0].extra["rationalised"] is True
  account = record.meta["choosing"]
  assert account["votes"] == [["pond", 1.0]]  # it has no vote
  assert account["teachers"]["big"]["rationalised"] == 1
  assert account["teachers"]["big"]["compared"] == 2
  # Where a rationale of its own agrees, that is taken.
  record = choose(RECORD, [_answer("zoo"), with_label], options, same)
  assert [r.text for r in record.rationales] == ["so it is zoo"]
  # A label that the prompt showed need not be repeated; another one is
  # no rationale for it.
  for label, text in ((None, "why"), ("pond", None)):
    answer = _answer(label, "why", rationalised=True)
    record = choose(RECORD, [_answer("pond"), answer], options, same)
    found = [r.text for r in record.rationales if r.weight]
    assert found == ([text] if text else [])
  # Given, but not asked for.
  record = choose(RECORD, [_answer("pond"), with_label], ChooseOptions(), same)
  assert _labels(record) == ["pond"]


def test_earlier_rationales():
  earlier = Rationale("written by hand", "zoo", "human")
  record = dataclasses.replace(RECORD, rationales=(earlier,))
  made = choose(record, _answers("zoo"), ChooseOptions(), same)
  assert [r.source for r in made.rationales] == ["big"]
  options = ChooseOptions(earlier="keep")
  made = choose(record, _answers("zoo"), options, same)
  assert [r.source for r in made.rationales] == ["human", "big"]


def test_provenance():
  sampling = Sampling(0.7, max_tokens=64, stop=("\n\n",), seed=3)
  answer = _answer(
    "zoo",
    sample=2,
    prompt_sha256="abc",
    sampling=sampling,
    seconds=0.51234,
    unix=1e9,
  )
  record = choose(RECORD, [answer], ChooseOptions(keep_completions="all"), same)
  assert record.rationales[0].source == "big"
  assert record.rationales[0].extra == {
    "teacher": "big",
    "model": "model-1-2026",
    "request": "key-big-2",
    "prompt": "abc",
    "sample": 2,
    "sampling": {
      "temperature": 0.7,
      "top_p": 1.0,
      "max_tokens": 64,
      "stop": ["\n\n"],
      "seed": 3,
    },
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "seconds": 0.512,
    "unix": 1e9,
    "finish_reason": "stop",
    "completion": "raw",
  }


@pytest.mark.parametrize(
  ("keep", "kept"), [("unparsed", [1]), ("all", [0, 1]), ("none", [])]
)
def test_raw_completions(keep, kept):
  answers = [_answer("zoo"), _answer(None, "x", status="no_marker")]
  options = ChooseOptions(keep_completions=keep)
  record = choose(RECORD, answers, options, same)
  found = [
    i for i, r in enumerate(record.rationales) if "completion" in r.extra
  ]
  assert found == kept


@pytest.mark.parametrize(
  "bad", ["nul \0", "half \ud83d", "x" * ((1 << 20) + 1)], ids=str.__len__
)
def test_text_that_no_record_can_hold_stops_nothing(tmp_path, bad):
  answers = [
    _answer("zoo", bad, raw=bad),
    _answer(bad[:9] if len(bad) < 99 else bad, sample=1, raw=bad),
    _answer("zoo", sample=2),
  ]
  record = choose(RECORD, answers, ChooseOptions(), same)
  assert [r.status for r in record.rationales] == [
    "invalid_text",
    "invalid_text",
    "ok",
  ]
  assert _weights(record) == [0, 0, 1]
  path = tmp_path / "a.jsonl"
  write_records(path, [record])
  assert read_records(path) == ([record], [])


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"vote": "all"}, "vote is 'all'; it must be one of none, majority"),
    ({"keep": "best"}, "keep is 'best'; it must be one of all, majority, one"),
    ({"gold": "x"}, "keep, drop, rationalise"),
    ({"keep_completions": "x"}, "unparsed, all, none"),
  ],
)
def test_wrong_options(fields, message):
  with pytest.raises(UserError, match=message):
    ChooseOptions(**fields)


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_wrong_weights(weight):
  with pytest.raises(UserError, match=r"weight is .*; it must be from 0"):
    _answer("zoo", weight=weight)


# --- laws --------------------------------------------------------------------

_ANSWERS = st.lists(
  st.builds(
    _answer,
    st.none() | st.sampled_from(["a", "A", "b", "c d", "C  d", "", "\0"]),
    st.sampled_from(["", " ", "because", "since\nthen", "\ud800"]),
    sample=st.integers(0, 3),
    status=st.sampled_from([*STATUSES, "rejected", "refused"]),
    teacher=st.sampled_from(["big", "small"]),
    rationalised=st.booleans(),
    weight=st.sampled_from([0.0, 0.1, 1.0, 2.5, 1e30]),
  ),
  max_size=8,
)
_OPTIONS = st.builds(
  ChooseOptions,
  vote=st.sampled_from(["none", "majority"]),
  keep=st.sampled_from(["all", "majority", "one"]),
  gold=st.sampled_from(["keep", "drop", "rationalise"]),
  keep_completions=st.sampled_from(["unparsed", "all", "none"]),
)
_RECORDS = st.sampled_from([RECORD, NO_GOLD, dataclasses.replace(RECORD, label="a")])  # fmt: skip
_laws = hypothesis.settings(max_examples=150, deadline=None)


@_laws
@hypothesis.given(_ANSWERS)
def test_shares_add_up_to_one(answers):
  votes = count_votes(answers, same)
  shares = [vote.share for vote in votes]
  assert all(0 <= share <= 1 for share in shares)
  assert shares == sorted(shares, reverse=True)
  if any(answer.has_vote for answer in answers):
    assert math.isclose(math.fsum(shares), 1.0, rel_tol=1e-12)
  else:
    assert votes == []


@_laws
@hypothesis.given(_ANSWERS, st.randoms(use_true_random=False))
def test_the_order_of_answers_decides_ties_only(answers, random):
  def shares(these):
    return sorted((v.label.casefold().split(), v.share) for v in count_votes(these, same))  # fmt: skip

  other = list(answers)
  random.shuffle(other)
  assert shares(other) == shares(answers)


@_laws
@hypothesis.given(_RECORDS, _ANSWERS, _OPTIONS)
def test_laws_of_choosing(record, answers, options):
  made = choose(record, answers, options, same)
  assert (made.id, made.input, made.label) == (
    record.id,
    record.input,
    record.label,
  )
  # Nothing is invented, and every answer is kept or counted.
  texts = {answer.parsed.rationale for answer in answers} | {""}
  labels = {answer.parsed.label for answer in answers} | {record.label, None}
  assert {r.text for r in made.rationales} <= texts
  assert {r.label for r in made.rationales} <= labels
  account = made.meta["choosing"]
  left_out = sum(account.get("left_out", {}).values())
  assert len(made.rationales) + left_out == len(answers)
  counted = sum(each["answers"] for each in account["teachers"].values())
  assert counted == len(answers)
  for rationale in made.rationales:
    assert 0 <= rationale.weight < math.inf
  # What may be trained on passed the filter for gold labels.
  if options.gold != "keep" and record.label is not None:
    for rationale in made.rationales:
      if rationale.weight:
        assert rationale.label is not None
        assert same(rationale.label, record.label)
  if not any(answer.rationalised for answer in answers):
    assert made.rationales or not answers
  json.dumps(made.to_dict(), allow_nan=False).encode()
  assert choose(record, answers, options, same) == made
