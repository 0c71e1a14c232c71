"""The rounds: functions of the records and of what the ledger holds."""

import collections
import contextlib
import dataclasses

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record
from dss_jax.rationales.extraction_plan import (
  ChooseOptions,
  Endpoint,
  ExtractionPlan,
  TeacherPlan,
)
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.planned_requests import PlannedRequests
from dss_jax.rationales.prompts import Exemplar, Prompt
from dss_jax.rationales.teacher_requests import Completion, Outcome, Sampling

PROMPT = Prompt(
  "colours",
  "Q: {input}\nA:",
  " {rationale} So the answer is {answer}.",
  "label",
  "So the answer is",
  labels=("red", "blue"),
  exemplars=(Exemplar("sky", "It is day.", "blue"),),
)
RECORDS = [Record(f"r{i}", f"thing {i}", "red") for i in range(6)]


def plan(*teachers, **rest):
  return ExtractionPlan(PROMPT, teachers or (own(),), **rest)


def own(name="t", samples=1, temperature=0.7, **rest):
  sampling = Sampling(temperature)
  return TeacherPlan(
    Endpoint(name, f"model-{name}", **rest), "chat", samples, sampling
  )


class World:
  """A ledger and teachers whose answers a function gives.

  Args:
    answer: (record id, sample) -> text, or None to give up.
  """

  def __init__(self, path, made, answer, records=RECORDS):
    self.ledger = Ledger(path)
    self.plan, self.answer, self.records = made, answer, records
    self.sent = []

  def questions(self, index=0):
    return PlannedRequests(self.plan, self.plan.teachers[index], self.ledger)

  def settle(self, requests):
    """Answers what has no outcome yet; the number of those."""
    requests = [r for r in requests if self.ledger.outcome(r.key) is None]
    for request in requests:
      found = request.prompt[-1][1].split()[2]
      name = f"label {found}" if "correct" in request.prompt[-1][1] else found
      text = self.answer(name, request.sample)
      kind = "gave_up" if text is None else "answered"
      completion = None if text is None else Completion(text)
      outcome = Outcome(request.key, kind, "t", request.model, completion)
      self.ledger.add_outcome(outcome)
      self.sent.append((name, request.sample, request.model))
    return len(requests)

  def answered(self):
    of_all = [
      self.questions(i).answers(self.records)
      for i in range(len(self.plan.teachers))
    ]
    for of_record in zip(*of_all):
      yield (
        of_record[0][0],
        [a for _, of_teacher in of_record for a in of_teacher],
      )

  def run(self):
    """All rounds, as a run makes them."""
    for i in range(len(self.plan.teachers)):
      self.settle(self.questions(i).first(self.records))
      for _ in range(self.plan.retry_unparsed):
        self.settle(self.questions(i).again(self.records))
    for i in range(len(self.plan.teachers)):
      self.settle(self.questions(i).with_gold_label(self.answered()))


@pytest.fixture
def world(tmp_path):
  """Makes worlds, and closes them."""
  with contextlib.ExitStack() as stack:

    def make(*args):
      made = World(tmp_path / "ledger", *args)
      stack.callback(made.ledger.close)
      return made

    yield make


GOOD = "It is so. So the answer is red."
WRONG = "It is so. So the answer is blue."


def test_the_first_round_is_every_sample_of_every_record(world):
  asked = world(plan(own(samples=3)), lambda *_: GOOD)
  requests = list(asked.questions().first(RECORDS))
  assert len({request.key for request in requests}) == 18
  assert [r.sample for r in requests[:4]] == [0, 1, 2, 0]
  assert {r.sampling.temperature for r in requests} == {0.7}
  assert list(asked.questions().again(RECORDS)) == []
  asked.run()
  assert len(asked.sent) == 18
  ((_, answers), *_) = asked.questions().answers(RECORDS)
  assert [(a.sample, a.parsed.label) for a in answers] == [
    (0, "red"), (1, "red"), (2, "red"),
  ]  # fmt: skip


def test_unreadable_answers_are_asked_again_warmer(world):
  def answer(name, sample):
    return GOOD if (name, sample) in {("0", 0), ("1", 2)} else "Hm."

  made = plan(own(temperature=0.0), retry_unparsed=2)
  asked = world(made, answer, RECORDS[:3])
  asked.run()
  samples = collections.defaultdict(list)
  for name, sample, _ in asked.sent:
    samples[name].append(sample)
  assert samples == {"0": [0], "1": [0, 1, 2], "2": [0, 1, 2]}
  answers = dict(
    (record.id, [(a.sample, a.parsed.status) for a in found])
    for record, found in asked.questions().answers(RECORDS[:3])
  )
  assert answers == {
    "r0": [(0, "ok")],
    "r1": [(0, "no_marker"), (1, "no_marker"), (2, "ok")],
    "r2": [(0, "no_marker"), (1, "no_marker"), (2, "no_marker")],
  }
  (_, found) = next(iter(asked.questions().answers(RECORDS[1:2])))
  assert [a.sampling.temperature for a in found] == [0.0, 0.7, 0.7]


@hypothesis.given(
  st.dictionaries(
    st.tuples(st.sampled_from("012"), st.integers(0, 8)),
    st.sampled_from([GOOD, "Hm.", None, "I'm sorry, but I can't."]),
  ),
  st.integers(1, 3),
  st.integers(0, 2),
  st.randoms(use_true_random=False),
)
@hypothesis.settings(max_examples=20, deadline=None)
def test_whatever_was_asked_before_the_same_is_asked_in_all(
  tmp_path_factory, texts, samples, retries, rng
):
  """A run that is cut anywhere continues to ask what an uncut one asks."""
  made = plan(own(samples=samples), retry_unparsed=retries)

  def answer(name, sample):
    return texts.get((name, sample), "Hm.")

  folder = tmp_path_factory.mktemp("cut")
  with contextlib.ExitStack() as stack:
    whole = World(folder / "whole", made, answer, RECORDS[:3])
    cut = World(folder / "cut", made, answer, RECORDS[:3])
    stack.callback(whole.ledger.close)
    stack.callback(cut.ledger.close)
    whole.run()
    again = len(whole.sent)
    whole.run()
    assert len(whole.sent) == again
    for _ in range(30):
      kinds = [cut.questions().first, cut.questions().again]
      wanted = list(rng.choice(kinds)(cut.records))
      cut.settle(rng.sample(wanted, min(len(wanted), 1)))
    cut.run()
    assert sorted(cut.sent) == sorted(whole.sent)
    for name in "012":
      mine = [sample for found, sample, _ in whole.sent if found == name]
      assert len(mine) <= samples * (1 + retries)
    for one, other in zip(whole.answered(), cut.answered()):
      assert [a.parsed for a in one[1]] == [a.parsed for a in other[1]]


def test_rationales_for_the_gold_label_where_there_is_none(world):
  def answer(name, sample):
    if name.startswith("label"):
      return "Because." if name == "label 1" else GOOD
    return {"0": GOOD, "1": WRONG, "2": "Hm.", "3": None}.get(name, GOOD)

  options = ChooseOptions(gold="rationalise")
  records = [*RECORDS[:4], dataclasses.replace(RECORDS[4], label=None)]
  asked = world(plan(choose=options), answer, records)
  with_label = asked.questions().with_gold_label
  # Nothing before the first round is over.
  assert list(with_label(asked.answered())) == []
  asked.run()
  asked_with_label = [
    name for name, _, _ in asked.sent if name.startswith("label")
  ]
  assert asked_with_label == ["label 1", "label 2", "label 3"]
  assert len(list(with_label(asked.answered()))) == 1  # asked, and of no use
  count = len(asked.sent)
  asked.run()
  assert len(asked.sent) == count
  rationalised = [
    [a.rationalised for a in answers] for _, answers in asked.answered()
  ]
  assert rationalised == [[False], *[[False, True]] * 3, [False]]
  without = plan(choose=ChooseOptions(gold="drop"))
  found = PlannedRequests(without, without.teachers[0], asked.ledger)
  assert list(found.with_gold_label(asked.answered())) == []


def test_one_teacher_gets_the_label_where_none_agrees(world):
  """The second one only where the first one's rationale is of no use."""

  def answer(name, sample):
    answers = {"label 1": GOOD, "label 2": ""}
    return answers.get(name, {"0": GOOD}.get(name, WRONG))

  made = plan(own("a"), own("b"), choose=ChooseOptions(gold="rationalise"))
  asked = world(made, answer, RECORDS[:3])
  asked.run()
  asked_with_label = [(n, m) for n, _, m in asked.sent if n.startswith("label")]
  assert asked_with_label == [
    ("label 1", "model-a"), ("label 2", "model-a"), ("label 2", "model-b"),
  ]  # fmt: skip


def test_records_that_do_not_fit_are_not_asked(tmp_path):
  prompt = dataclasses.replace(PROMPT, input_format="{input}\n{choices}\nA:")
  prompt = dataclasses.replace(prompt, answer_kind="choice", exemplars=())
  fits = Record("fits", "what?", meta={"choices": ["red", "blue"]})
  made = ExtractionPlan(prompt, (own(),))
  with Ledger(tmp_path / "l") as ledger:
    questions = PlannedRequests(made, made.teachers[0], ledger)
    assert len(list(questions.first([RECORDS[0], fits]))) == 1
    ((_, [first]), (_, [second])) = questions.answers([RECORDS[0], fits])
    assert first.parsed.status == "unasked"
    assert "the record has none in meta" in first.reason
    assert second.parsed.status == "unanswered"
    with pytest.raises(UserError, match="no record fits the prompt; the first"):
      list(questions.first(RECORDS))
    assert list(questions.first([])) == []


def test_why_there_is_no_answer_stays(world):
  asked = world(plan(), lambda *_: GOOD)
  (request, *_) = asked.questions().first(RECORDS)
  asked.ledger.add_outcome(
    Outcome(request.key, "rejected", "t", "m", reason="HTTP 400: too long")
  )
  ((_, [answer]), *_) = asked.questions().answers(RECORDS)
  assert answer.parsed.status == "rejected"
  assert answer.reason == "HTTP 400: too long"


def test_wrong_plans():
  with pytest.raises(UserError, match="no teacher is named"):
    ExtractionPlan(PROMPT, ())
  with pytest.raises(UserError, match="two teachers are called 't'"):
    plan(own(), own())
  with pytest.raises(UserError, match="the same model, style and sampling"):
    plan(own(), dataclasses.replace(own(), teacher=Endpoint("u", "model-t")))
  with pytest.raises(UserError, match="samples is 0; it must be from 1 to"):
    own(samples=0)
  with pytest.raises(UserError, match="samples is 1000000000"):
    own(samples=1_000_000_000)
  with pytest.raises(UserError, match="the same answer each time"):
    own(samples=2, temperature=0.0)
  for weight in (-1.0, float("nan"), float("inf")):
    with pytest.raises(UserError, match="weight is"):
      own(weight=weight)
  with pytest.raises(UserError, match="retry_unparsed is -1"):
    plan(retry_unparsed=-1)
  with pytest.raises(UserError, match="retry_temperature is nan"):
    plan(retry_temperature=float("nan"))
  with pytest.raises(UserError, match="parser is 'own'"):
    plan(parser="own")
  with pytest.raises(UserError, match="style is 'verse'"):
    dataclasses.replace(own(), style="verse")
