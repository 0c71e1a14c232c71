"""The quality report: every number by hand."""

import io
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax import datasets
from dss_jax.datasets.completions import Parsed
from dss_jax.datasets.records import (
  Problem,
  Rationale,
  Record,
  iter_records,
  write_records,
)
from dss_jax.rationales import rationale_selection
from dss_jax.rationales.quality import quality_tables
from dss_jax.rationales.quality.quality_measures import of_records, same_words
from dss_jax.rationales.quality.quality_report import Share, lengths_of
from dss_jax.rationales.teacher_answers import TeacherAnswer
from dss_jax.rationales.teacher_requests import Completion


def _chosen(number: int, label: str | None, *answers, **options) -> Record:
  """A record whose answers are (teacher, label, status)."""
  record = Record(f"r{number}", f"what is number {number}", label)
  made = [
    TeacherAnswer(
      f"key-{number}-{i}",
      teacher,
      "model-1",
      i,
      Parsed(f"it is {answer}", answer, status),
      Completion(f"raw {i}", "stop", "", 10, 2),
    )
    for i, (teacher, answer, status) in enumerate(answers)
  ]
  return rationale_selection.choose(
    record, made, rationale_selection.ChooseOptions(**options), same_words
  )


CHOSEN = [
  _chosen(0, "zoo", ("big", "zoo", "ok"), ("big", "Zoo", "ok"), ("small", "pond", "ok")),
  _chosen(1, "zoo", ("big", "pond", "ok"), ("small", None, "no_marker")),
  _chosen(2, None, ("big", "a", "ok"), ("small", "b", "ok"), keep="one"),
  _chosen(3, "zoo", ("big", None, "rejected")),
  _chosen(4, "a b", ("small", "x", "multiple_answers"), gold="drop"),
]  # fmt: skip


def test_every_number_by_hand():
  report = of_records(CHOSEN)
  assert report.records == 5
  assert report.with_gold == 4
  assert report.with_rationale == 3
  assert (report.rationales, report.usable_rationales) == (8, 5)
  # Answers with a label: 3 + 1 + 2 + 0 + 1 of 9; one of them is two answers.
  assert report.answers == 9
  assert report.parse_rate == Share(7, 9)
  assert report.usable == Share(6, 9)
  assert report.agreement == Share(2, 4)
  assert report.voted_agreement == Share(1, 2)
  # Margins: 2/3 - 1/3; 1; 1/2 - 1/2.
  assert report.margins == (1, 0, 0, 1, 0, 0, 0, 0, 0, 1)
  assert report.unanimous == Share(0, 2)
  assert report.statuses == {
    "ok": 6,
    "multiple_answers": 1,
    "no_marker": 1,
    "rejected": 1,
  }
  assert report.left_out == {"not_chosen": 1}
  assert (report.prompt_tokens, report.completion_tokens) == (90, 18)
  assert report.cost is None
  assert report.duplicate_inputs == 0
  assert report.duplicate_requests == 0
  # "it is zoo"; "it is None" twice; "it is pond" twice.
  assert report.duplicate_rationales == 2
  assert report.labels == {"zoo": 3, "a b": 1}
  big, small = report.teachers
  assert (big.name, big.models, big.answers) == ("big", ("model-1",), 5)
  assert big.parsed == big.usable == Share(4, 5)
  assert small.parsed == Share(3, 4)
  assert small.usable == Share(2, 4)
  assert big.agreement == Share(2, 3)
  assert small.statuses == {"ok": 2, "multiple_answers": 1, "no_marker": 1}
  assert set(report.examples) == {"no_marker", "rejected", "multiple_answers"}
  assert report.examples["no_marker"][0] == {
    "id": "r1",
    "input": "what is number 1",
    "gold": "zoo",
    "teacher": "small",
    "text": "it is None",
    "completion": "raw 1",
  }
  assert report.lengths["input"].bins == ((4, 4, 5),)


def test_the_file_tells_the_same(tmp_path):
  for suffix in (".jsonl", ".parquet"):
    path = tmp_path / f"records{suffix}"
    write_records(path, CHOSEN)
    assert of_records(iter_records(path)) == of_records(CHOSEN)


def test_costs():
  def cost(model, prompt, completion):
    assert model == "model-1"
    return (prompt + 10 * completion) / 1000

  report = of_records(CHOSEN, cost=cost)
  assert report.cost == pytest.approx((90 + 180) / 1000)
  assert of_records(CHOSEN, cost=lambda *_: None).cost is None


def test_records_of_any_file():
  records = [
    Record(
      "a",
      "one two",
      "yes",
      (
        Rationale("r", "Yes", "palm", 1.0, extra={"prompt_tokens": 7}),
        Rationale("r", "no", "palm", 3.0, "letter_text_mismatch"),
        Rationale("", None, "gpt", 1.0, "truncated"),
      ),
    ),
    Record("b", "one two", None, (Rationale("s", "x", "palm", 0.0),)),
    Problem("f", 3, "broken"),
    Record("c", "three"),
  ]
  report = of_records(records)
  assert (report.records, report.problems) == (3, 1)
  assert report.duplicate_inputs == 1
  assert report.duplicate_rationales == 1
  assert report.parse_rate == report.usable == Share(3, 4)
  assert report.agreement == Share(1, 2)
  assert report.voted_agreement == Share(0, 1)  # 3 against 1
  assert report.margins[5] == 1
  assert report.prompt_tokens == 7
  assert of_records([]).to_dict()["parse_rate"]["percent"] is None


_JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
      st.sampled_from(["votes", "agrees", "left_out", "teachers", "statuses", "answers", "parsed", "model", "x"]),
      inner,
      max_size=4,
    )
  ),
  max_leaves=12,
)  # fmt: skip


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.dictionaries(st.sampled_from(["teachers", "votes", "agrees", "left_out"]), _JSON))  # fmt: skip
def test_whatever_a_file_holds_as_the_account(account):
  record = Record("a", "i", "yes", meta={"choosing": account})
  report = of_records([record, record])
  json.dumps(report.to_dict())
  assert sum(report.margins) % 2 == 0
  quality_tables.print_report(report, _console(io.StringIO()))


def test_names_are_bounded():
  records = [
    Record(f"r{i}", "i", f"label {i}", (Rationale("r", None, f"t{i}", 1.0, f"s{i}"),))
    for i in range(300)
  ]  # fmt: skip
  report = of_records(records)
  assert len(report.teachers) == len(report.labels) == 201
  assert report.statuses["(others)"] == 100
  assert sum(report.statuses.values()) == 300


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.lists(st.integers(1, 300), min_size=1))
def test_histograms_of_lengths(words):
  counts = {n: words.count(n) for n in words}
  found = lengths_of(counts)
  ordered = sorted(words)
  assert found.count == len(words)
  assert found.max == ordered[-1]
  assert found.p50 == ordered[(len(words) + 1) // 2 - 1]
  assert found.p95 == ordered[-(-95 * len(words) // 100) - 1]
  assert sum(n for _, _, n in found.bins) == len(words)
  assert len(found.bins) <= 24
  assert next(iter(found.bins))[0] == ordered[0]
  for (_, last, _), (first, _, _) in zip(found.bins, found.bins[1:]):
    assert first == last + 1
  for first, last, count in found.bins:
    assert count == sum(first <= n <= last for n in words)


def _console(file):
  from rich.console import Console

  return Console(file=file, width=100, highlight=False)


def test_what_is_printed():
  file = io.StringIO()
  report = of_records(
    [*CHOSEN, Record("m", "i", rationales=(Rationale("", None, "[red]x", 1.0, "[bold]odd"),))]
  )  # fmt: skip
  quality_tables.print_report(report, _console(file))
  text = file.getvalue()
  rows = {" ".join(line.split()) for line in text.split("\n")}
  assert "label could be read (parse rate) 7 of 10 70.00 %" in rows
  assert "label can be used 6 of 10 60.00 %" in rows
  assert "and is the gold label 2 of 4 50.00 %" in rows
  assert "[bold]odd" in text  # markup of the file's is text
  assert "[red]x" in text


@pytest.mark.shared
def test_the_released_completions(shared_data):
  options = datasets.DataOptions(
    data_dir=str(shared_data / "dss_release"), parser="tolerant"
  )
  records = datasets.load_source_split("cqa", "train", options=options)
  report = of_records(records)
  assert (report.records, report.statuses["no_label"]) == (9741, 3)
  assert report.statuses["multiple_answers"] == 284
  assert report.lengths["rationale"].mean == 24.3
  assert report.lengths["rationale"].p95 == 33
