"""The run as a function: what it asks, writes and tells."""

import asyncio
import dataclasses
import io
import itertools
import json

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record, read_records
from dss_jax.rationales import extraction
from dss_jax.rationales.estimates import estimate
from dss_jax.rationales.extraction import RecordSource, batch_lines, extract
from dss_jax.rationales.extraction_plan import (
  ChooseOptions,
  Endpoint,
  ExtractionPlan,
  TeacherPlan,
)
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Price, Prices
from dss_jax.rationales.prompts import Exemplar, Prompt
from dss_jax.rationales.teacher_requests import Completion, Sampling
from dss_jax.rationales.teachers import FatalError, RejectedError

PROMPT = Prompt(
  "colours",
  "Q: {input}\nA:",
  " {rationale} So the answer is {answer}.",
  "label",
  "So the answer is",
  labels=("red", "blue"),
  exemplars=(Exemplar("sky", "It is day.", "blue"),),
)
RECORDS = [Record(f"r{i}", f"thing {i}", "red") for i in range(10)]
SOURCE = RecordSource.of_records("things, train", RECORDS)
RED, BLUE = (f"It is so. So the answer is {x}." for x in ("red", "blue"))


class Scripted:
  """A teacher in this process; also its own way to be reached."""

  def __init__(self, name="t", answer=lambda request: RED, weight=1.0):
    self.name, self.model, self.weight = name, f"model-{name}", weight
    self.answer = answer
    self.asked = []
    self.connected = self.closed = 0

  def connect(self):
    self.connected += 1
    return self

  async def complete(self, request, attempt_id):
    self.asked.append(request)
    text = self.answer(request)
    if isinstance(text, Exception):
      raise text
    return Completion(text, prompt_tokens=50, completion_tokens=5)

  async def close(self):
    self.closed += 1


class Knowing:
  """A teacher that knows every second record."""

  name, model, weight = "book", "book-1", 0.5

  def answer(self, record):
    return Completion(BLUE) if int(record.id[1:]) % 2 else None


def plan(*teachers, samples=1, **rest):
  return ExtractionPlan(
    PROMPT,
    tuple(
      TeacherPlan(each, samples=samples, sampling=Sampling(0.7))
      if isinstance(each, Scripted)
      else TeacherPlan(each)
      for each in teachers
    ),
    **rest,
  )


def run(tmp_path, made, source=SOURCE, **rest):
  return extract(source, made, tmp_path, stream=io.StringIO(), **rest)


def test_asking_from_a_notebook(tmp_path):
  """Its cells are run by an event loop; the ledger was opened outside of ours."""
  teacher = Scripted()

  async def cell():
    return run(tmp_path, plan(teacher))

  result = asyncio.run(cell())
  assert len(teacher.asked) == 10
  assert result.report is not None
  assert result.report.answers == 10


def test_teachers_in_words_and_by_heart(tmp_path):
  teacher = Scripted(weight=2.0)
  result = run(tmp_path, plan(teacher, Knowing()), prices=Prices(({},)))
  assert (teacher.connected, teacher.closed) == (1, 1)
  assert len(teacher.asked) == 10
  assert result.stopped == ""
  assert [path.name for path in result.files] == [
    "train.jsonl", "train.report.html", "train.report.json", "train.run.json",
  ]  # fmt: skip
  assert all(path.stat().st_size for path in result.files)
  records, _ = read_records(result.files[0])
  known = [(r.source, r.weight, r.status) for r in records[1].rationales]
  assert known == [("t", 2 * 2 / 2.5, "ok"), ("book", 0.5 * 0.5 / 2.5, "ok")]
  assert records[0].rationales[1].status == "unknown"
  assert result.report is not None
  assert result.report.answers == 20
  assert result.report.parse_rate.to_dict() == {
    "count": 15, "of": 15, "percent": 100.0,
  }  # fmt: skip
  report = json.loads(result.files[-1].read_text())
  assert report["prompt"]["sha256"] == PROMPT.sha256
  assert [each["name"] for each in report["teachers"]] == ["t", "book"]


def test_a_larger_max_tokens_asks_for_what_was_cut_off_alone(tmp_path):
  """Over several limits, retries and rationalisations, and down again."""
  cut = {"thing 3": 128, "thing 7": 256}

  class Limited(Scripted):
    async def complete(self, request, attempt_id):
      found = await super().complete(request, attempt_id)
      needs = cut.get(request.prompt[-1][1].split("\n")[0][3:], 0)
      if request.sampling.max_tokens < needs:
        return dataclasses.replace(found, text="It is", finish_reason="length")
      return found

  def statuses(limit, **rest):
    teacher = Limited()
    sampling = Sampling(0.7, max_tokens=limit)
    made = ExtractionPlan(
      PROMPT, (TeacherPlan(teacher, sampling=sampling),), **rest
    )
    result = run(tmp_path, made)
    assert result.report is not None
    return len(teacher.asked), dict(result.report.statuses)

  # Not even with a retry is a cut answer asked for with the same limit.
  assert statuses(64, retry_unparsed=2) == (10, {"ok": 8, "truncated": 2})
  assert statuses(64) == (0, {"ok": 8, "truncated": 2})
  assert statuses(128) == (2, {"ok": 9, "truncated": 1})
  assert statuses(256, retry_unparsed=2) == (1, {"ok": 10})
  assert statuses(512) == (0, {"ok": 10})
  # A smaller one is a question of its own, but for what was asked with it.
  assert statuses(128) == (0, {"ok": 9, "truncated": 1})


MANY = RecordSource.of_records(
  "many", [Record(f"r{i}", f"thing {i}", "red") for i in range(60)]
)


def test_first_answers_of_no_use_stop_the_run(tmp_path):
  teacher = Scripted(answer=lambda request: "**Hard to say.**\x1b[31m")
  with pytest.raises(UserError) as caught:
    run(tmp_path, plan(teacher), MANY)
  assert str(caught.value).startswith(
    "of the first 20 answers of 't' only 0 can be used (20 no_marker), fewer than"
    " min_yield, 0.5, asks for; compare the answers below"
  )
  assert "set min_yield to 0" in str(caught.value)
  assert caught.value.details.count("no_marker: **Hard to say.**\\x1b[31m") == 3
  assert caught.value.fields == ("ExtractionPlan.min_yield",)
  assert len(teacher.asked) == 20
  # Nothing more is asked until something is changed.
  with pytest.raises(UserError):
    run(tmp_path, plan(teacher), MANY)
  assert len(teacher.asked) == 20
  result = run(tmp_path, plan(teacher, min_yield=0.0), MANY)
  assert len(teacher.asked) == 60
  assert (result.summaries["t"]["first"].answered, result.stopped) == (40, "")


@pytest.mark.parametrize(
  ("unusable", "stops"), [(10, False), (11, True)], ids=["half", "more"]
)
def test_a_yield_at_the_threshold_goes_on(tmp_path, unusable, stops):
  bad = [f"thing {i}" for i in range(unusable)]

  def answer(request):
    text = request.prompt[-1][1].removeprefix("Q: ").removesuffix("\nA:")
    return "So the answer is green." if text in bad else RED

  teacher = Scripted(answer=answer)
  if stops:
    with pytest.raises(UserError, match="11 label_not_in_choices"):
      run(tmp_path, plan(teacher), MANY)
    return
  summary = run(tmp_path, plan(teacher), MANY).summaries["t"]["first"]
  assert (summary.requests, summary.answered, summary.already) == (60, 60, 0)


def test_first_requests_that_are_all_rejected_are_not_final(tmp_path):
  refuse = Scripted(answer=lambda request: RejectedError("no chat template"))
  with pytest.raises(UserError, match="first 20 requests were all rejected"):
    run(tmp_path, plan(refuse), MANY)
  assert len(refuse.asked) <= 20 + 8
  teacher = Scripted()
  assert run(tmp_path, plan(teacher), MANY).stopped == ""
  assert len(teacher.asked) == 60


def test_few_records_are_asked_at_once(tmp_path):
  teacher = Scripted(answer=lambda request: "Hm.")
  few = RecordSource("few", lambda: itertools.islice(MANY.read(), 20), 20)
  result = run(tmp_path, plan(teacher), few)
  assert (len(teacher.asked), result.stopped) == (20, "")


def test_a_thinking_model_that_is_cut_off_is_known_as_such(tmp_path):
  class Thinking(Scripted):
    async def complete(self, request, attempt_id):
      self.asked.append(request)
      return Completion("", "length", reasoning="Let me see: a thing")

  with pytest.raises(UserError, match="raise max_tokens, which asks only") as e:
    run(tmp_path, plan(Thinking()), MANY)
  assert "this model thinks before it answers" in str(e.value)
  assert (
    "truncated: (no text) (thought: Let me see: a thing)" in e.value.details
  )


def test_what_a_model_thought_is_in_the_ledger(tmp_path):
  class Thinking(Scripted):
    async def complete(self, request, attempt_id):
      found = await super().complete(request, attempt_id)
      return dataclasses.replace(found, reasoning="Red, surely.")

  run(tmp_path, plan(Thinking()))
  with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
    outcomes = list(ledger.outcomes())
  assert len(outcomes) == 10
  for outcome in outcomes:
    assert outcome.completion is not None
    assert outcome.completion.reasoning == "Red, surely."


def test_splits_share_a_ledger(tmp_path):
  teacher = Scripted()
  run(tmp_path, plan(teacher))
  result = run(tmp_path, plan(teacher), split="test", formats=("parquet",))
  assert len(teacher.asked) == 10
  assert result.files[0] == tmp_path / "test.parquet"
  assert result.summaries["t"]["first"].already == 10
  assert (tmp_path / "train.jsonl").exists()


def test_another_teacher_gets_the_label_where_the_first_one_fails(tmp_path):
  def answer(request):
    text = request.prompt[-1][1]
    return "" if "correct" in text and "thing 2" in text else BLUE

  def second(request):
    return RED if "correct" in request.prompt[-1][1] else BLUE

  first, other = Scripted("a", answer), Scripted("b", second)
  options = ChooseOptions(gold="rationalise")
  source = RecordSource.of_records("things", RECORDS[:3])
  result = run(tmp_path, plan(first, other, choose=options), source)
  prompts = [
    r.prompt[-1][1] for r in other.asked if "correct" in r.prompt[-1][1]
  ]
  # BLUE is no rationale for red: the first teacher is of no use at all.
  assert len(prompts) == 3
  assert result.summaries["a"]["rationalise"].answered == 3
  records, _ = read_records(result.files[0])
  assert [[r.source for r in x.rationales] for x in records] == [["b"]] * 3
  count = len(other.asked)
  run(tmp_path, plan(first, other, choose=options), source)
  assert len(other.asked) == count


def test_records_are_read_as_they_are_asked(tmp_path):
  read = 0
  gaps = []

  def many():
    nonlocal read
    for i in range(2000):
      read += 1
      yield Record(f"r{i}", f"thing {i}")

  teacher = Scripted(answer=lambda _: gaps.append(read - len(gaps)) or RED)
  made = plan(teacher, min_yield=0.0)
  run(tmp_path, made, RecordSource("many", many, 2000))
  assert len(gaps) == 2000
  assert max(gaps) <= 100


def test_what_a_person_must_mend_leaves_the_answers(tmp_path):
  asked = []

  def answer(request):
    asked.append(request)
    return FatalError("no credit left") if len(asked) > 4 else RED

  teacher = Scripted(answer=answer)
  made = plan(teacher)
  patient = dataclasses.replace(made.teachers[0].ask, concurrency=1)
  own = dataclasses.replace(made.teachers[0], ask=patient)
  made = dataclasses.replace(made, teachers=(own,))
  with pytest.raises(UserError, match="no credit left"):
    run(tmp_path, made)
  assert teacher.closed == 1
  assert not (tmp_path / "train.jsonl").exists()
  result = run(tmp_path, made, ask=False)
  assert result.report is not None
  assert result.report.statuses == {"unanswered": 6, "ok": 4}


def test_what_would_be_asked(tmp_path):
  teacher = Scripted()
  made = plan(teacher, Knowing(), samples=2)
  doubled = RecordSource.of_records("twice", RECORDS + RECORDS)
  prices = Prices(({"model-t": Price(1.0, 10.0)},))
  found = estimate(doubled, made, None, prices)
  assert list(found) == ["t"]
  assert (found["t"].requests, found["t"].answered) == (20, 0)
  assert found["t"].most_completion_tokens == 20 * 256
  run(tmp_path, made, RecordSource.of_records("some", RECORDS[:5]))
  with Ledger(tmp_path / extraction.LEDGER_FILE, read_only=True) as ledger:
    found = estimate(SOURCE, made, ledger, prices)["t"]
    assert (found.requests, found.answered) == (10, 10)
    assert found.completion_tokens == 10 * 5
    assert found.cost == (found.prompt_tokens + 10 * 50) / 1e6
    assert (
      len(list(line.request for line in batch_lines(SOURCE, made, ledger)))
      == 20
    )


def test_what_a_killed_run_began_to_write_goes(tmp_path):
  (tmp_path / ".train.jsonl.0123.tmp").write_text("half of it")
  (tmp_path / ".test.jsonl.0123.tmp").write_text("another split's")
  run(tmp_path, plan(Scripted()))
  left = [path.name for path in tmp_path.glob(".*")]
  assert left == [".test.jsonl.0123.tmp"]


def test_nothing_to_ask_about(tmp_path):
  result = run(tmp_path, plan(Scripted()), RecordSource.of_records("none", []))
  assert result.report is not None
  assert result.report.records == 0
  assert (tmp_path / "train.jsonl").read_bytes() == b""


def test_a_disk_that_does_not_take_it(tmp_path):
  run(tmp_path, plan(Scripted()))
  before = (tmp_path / "train.jsonl").read_bytes()
  (tmp_path / "train.report.html").unlink()
  (tmp_path / "train.report.html").mkdir()
  with pytest.raises(UserError, match="cannot write"):
    run(tmp_path, plan(Scripted()))
  assert (tmp_path / "train.jsonl").read_bytes() == before


def test_no_live_teacher_is_billed_as_a_batch():
  with pytest.raises(UserError, match="a teacher's name is 'batch'") as raised:
    TeacherPlan(Endpoint("batch", "gpt-4.1"))
  assert raised.value.fields == ("Endpoint.name",)
