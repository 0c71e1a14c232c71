"""The teacher's accuracy from what it once answered."""

import types

import made_runs
import numpy as np
import pytest

from dss_jax.datasets.records import Rationale, Record, write_records
from dss_jax.experiments.report import (
  content_tables,
  finished_runs,
  report_answer,
  report_content,
  stored_teacher,
)


def _run(dataset, source: str | None = "palm"):
  """All that is asked of a run where the data are given."""
  entry = {"dataset": dataset, "rationale_source": source}
  return types.SimpleNamespace(entry=entry, settings={})


@pytest.mark.shared
@pytest.mark.parametrize(
  ("dataset", "metric", "official", "tolerant"),
  [
    ("svamp", "value_accuracy", (73.25, 74.00), (73.25, 74.00)),
    pytest.param(
      *("cqa", "accuracy", (74.26, 77.23), (76.82, 79.36)),
      marks=pytest.mark.thorough,
    ),
  ],
)
def test_the_released_answers_have_their_known_accuracy(
  shared_data, dataset, metric, official, tolerant
):
  """Of training and test split, counted by other programs."""
  teachers, notes = stored_teacher.of_runs(
    [_run(dataset)],  # type: ignore
    data_dir=str(shared_data / "dss_release"),
  )
  assert notes == []
  found = {
    teacher.name: tuple(
      round(100 * teacher.accuracy(split, metric)[0], 2)  # type: ignore
      for split in ("train", "test")
    )
    for teacher in teachers
  }
  assert found == {
    "palm, official parser": official,
    "palm, tolerant parser": tolerant,
  }


def test_a_released_dataset_has_its_teacher_as_rows(tmp_path, repository):
  """Paired with the students' test items, by both parsers."""
  data = {"data_dir": str(repository / "tests/fixtures/release")}
  for seed in (0, 1):
    for method in ("dss", "standard"):
      made_runs.make_run(
        tmp_path / f"{method}{seed}",
        dataset="cqa",
        method=method,
        seed=seed,
        data=data,
        test=lambda target, i: target if i < 4 else "no such answer",
      )
  content = report_content.build([tmp_path])
  assert [t.name for t in content.teachers] == [
    "palm, official parser",
    "palm, tolerant parser",
  ]
  for teacher in content.teachers:
    test = content.groups[0].runs[0].test
    scores = teacher.scores(test, "accuracy")
    assert scores is not None
    assert scores.mean() == teacher.accuracy("test", "accuracy")[0]  # type: ignore
  assert len(content.against_teacher) == 2
  [row, _] = content.against_teacher
  teacher = content.hardest["cqa"]
  assert row.test.difference == pytest.approx(
    4 / 6 - teacher.accuracy("test", "accuracy")[0]  # type: ignore
  )


def test_data_that_are_not_there_are_named(tmp_path, repository, monkeypatch):
  monkeypatch.delenv("DSS_DATA_DIR", raising=False)
  data = {"data_dir": str(repository / "tests/fixtures/release")}
  made_runs.make_run(
    tmp_path / "a", dataset="svamp", data=data, test=lambda target, i: target
  )
  content = report_content.build([tmp_path], data_dir=str(tmp_path))
  assert content.teachers == []
  [note] = content.notes
  assert note.startswith("the teacher's answers to svamp are not at hand: ")


def _records(run, label_of, **fields):
  """Records of a run's items, with one rationale each."""
  return [
    Record(
      item,
      "input",
      target,
      (Rationale("because", label_of(i, target), "big", **fields),),
    )
    for split in (run.validation, run.test)
    for i, (item, target) in enumerate(
      zip(split.ids, split.targets, strict=True)
    )
  ]


def test_records_of_your_own_hold_a_teacher(tmp_path):
  made_runs.make_run(tmp_path / "run")
  [run], _ = finished_runs.find([tmp_path / "run"])
  records = _records(run, lambda i, t: t if i % 4 else None)
  # Each split may be a file of its own.
  files = [tmp_path / "validation.jsonl", tmp_path / "test.jsonl"]
  write_records(files[0], records[:60])
  write_records(files[1], records[60:])
  content = report_content.build([tmp_path / "run"], teacher_files=files)
  [teacher] = content.teachers
  assert teacher.name == "big"
  scores = teacher.scores(run.test, "accuracy")
  assert scores is not None
  assert np.array_equal(scores, np.arange(60) % 4 > 0)
  [row] = content.against_teacher
  assert row.validation is not None
  # Files without a label are no reason to lose the report of the runs.
  write_records(files[0], [Record("a", "b", "c", (Rationale("why"),))])
  content = report_content.build([tmp_path / "run"], teacher_files=files[:1])
  assert content.teachers == []
  assert "none of its stored answers has a label" in content.notes[0]


def test_answers_that_were_dropped_for_being_wrong_count(tmp_path):
  """What extract left out still stands in its account."""
  made_runs.make_run(tmp_path / "run")
  [run], _ = finished_runs.find([tmp_path / "run"])
  account = {
    "votes": [["neutral", 1.0]],
    "teachers": {"big": {"answers": 1}},
    "left_out": {"disagrees_with_gold": 1},
  }
  records = [
    Record(record.id, "input", record.label, (), {"choosing": account})
    for record in _records(run, lambda i, t: t)
  ]
  write_records(tmp_path / "all.jsonl", records)
  content = report_content.build(
    [tmp_path / "run"], teacher_files=[tmp_path / "all.jsonl"]
  )
  [teacher] = content.teachers
  scores = teacher.scores(run.test, "accuracy")
  assert scores is not None
  assert scores.mean() == pytest.approx(
    np.mean([target == "neutral" for target in run.test.targets])
  )


def test_rationales_for_a_given_label_are_no_answers(tmp_path):
  made_runs.make_run(tmp_path / "run")
  [run], _ = finished_runs.find([tmp_path / "run"])
  records = _records(run, lambda i, t: t, extra={"rationalised": True})
  mixed = [*records[:-1], *_records(run, lambda i, t: t)[-1:]]
  write_records(tmp_path / "all.jsonl", mixed)
  content = report_content.build(
    [tmp_path / "run"], teacher_files=[tmp_path / "all.jsonl"]
  )
  [teacher] = content.teachers
  scores = teacher.scores(run.test, "accuracy")
  assert scores is not None
  assert scores.sum() == 1


def test_answers_about_other_items_do_not_count(tmp_path):
  made_runs.make_run(tmp_path / "run")
  [run], _ = finished_runs.find([tmp_path / "run"])
  records = _records(run, lambda i, t: t)
  others = [Record(r.id, r.input, "neutral", r.rationales) for r in records]
  write_records(tmp_path / "all.jsonl", others)
  content = report_content.build(
    [tmp_path / "run"], teacher_files=[tmp_path / "all.jsonl"]
  )
  assert content.teachers == []
  assert "other gold labels" in content.notes[0]


NO_ANSWER = ("unanswered", "gave_up", "rejected")


@pytest.mark.parametrize("with_account", [False, True])
def test_questions_without_an_answer_are_no_wrong_answers(
  tmp_path, with_account
):
  """Two thirds of the items were never asked about, or got no answer."""
  made_runs.make_run(tmp_path / "run", test=lambda target, i: target)
  [run], _ = finished_runs.find([tmp_path / "run"])

  def record(i, item, target):
    # Of each six: two are answered, one of them unreadably.
    status = "ok" if i % 6 == 0 else "no_label" if i % 6 == 1 else None
    status = status or NO_ANSWER[i % 3]
    label = target if status == "ok" else None
    meta = {}
    if with_account:
      counts = {"answers": 1, "statuses": {status: 1}}
      meta["choosing"] = {"teachers": {"big": counts}} | (
        {"votes": [[target, 1.0]]} if label else {}
      )
    rationale = Rationale("because", label, "big", status=status)
    return Record(item, "input", target, (rationale,), meta)

  records = [
    record(i, item, target)
    for split in (run.validation, run.test)
    if split is not None
    for i, (item, target) in enumerate(
      zip(split.ids, split.targets, strict=True)
    )
  ]
  write_records(tmp_path / "all.jsonl", records)
  content = report_content.build(
    [tmp_path / "run"], teacher_files=[tmp_path / "all.jsonl"]
  )
  [teacher] = content.teachers
  scores = teacher.scores(run.test, "accuracy")
  assert scores is not None
  assert np.isnan(scores).sum() == 40
  assert np.nanmean(scores) == 0.5
  [row] = content.against_teacher
  assert (row.test.items, row.items_left_out) == (20, 40)
  assert row.test.difference == 0.5
  assert row.validation is not None
  assert row.validation.items == 20
  [finding] = report_answer.findings(content)
  assert (
    "is right on 50.0 % of the 20 of 60 test items that it answered"
    in finding.text
  )
  [note] = content.notes
  assert "20 of 60 validation items and 20 of 60 test items" in note
  [shown] = content_tables.teachers(content).rows
  assert shown[-3:] == [0.5, "20 of 60", "yes"]


def test_all_files_of_a_teacher_are_one_teacher(tmp_path):
  """One of two models that shared the work has not answered to every split."""
  made_runs.make_run(tmp_path / "run")
  [run], _ = finished_runs.find([tmp_path / "run"])
  records = _records(run, lambda i, t: t)
  answered = [
    Record(r.id, r.input, r.label, (Rationale("so", r.label, source),))
    for r, source in zip(
      records, ["gpt", "claude"] * 30 + ["gpt"] * 60, strict=True
    )
  ]
  files = [tmp_path / "validation.jsonl", tmp_path / "test.jsonl"]
  write_records(files[0], answered[:60])
  write_records(files[1], answered[60:])
  content = report_content.build([tmp_path / "run"], teacher_files=files)
  [teacher] = content.teachers
  assert (teacher.name, len(teacher.answers)) == ("claude + gpt", 120)
  assert content.notes == []
  [row] = content.against_teacher
  assert row.beats is not None
  # Models that share no file are teachers of their own.
  others = [
    Record(r.id, r.input, r.label, (Rationale("so", r.label, "llama"),))
    for r in records
  ]
  write_records(tmp_path / "other.jsonl", others)
  content = report_content.build(
    [tmp_path / "run"], teacher_files=[*files, tmp_path / "other.jsonl"]
  )
  assert [t.name for t in content.teachers] == ["claude + gpt", "llama"]


def test_a_split_without_a_readable_answer_leaves_the_others(tmp_path):
  made_runs.make_run(tmp_path / "run")
  [run], _ = finished_runs.find([tmp_path / "run"])
  files = [tmp_path / "validation.jsonl", tmp_path / "test.jsonl"]
  write_records(files[0], _records(run, lambda i, t: None)[:60])
  write_records(files[1], _records(run, lambda i, t: t)[60:])
  content = report_content.build([tmp_path / "run"], teacher_files=files)
  [row] = content.against_teacher
  assert (row.teacher_accuracy, row.beats) == (1.0, True)


def test_released_teachers_are_those_that_taught_the_runs(repository):
  """The first run may have no teacher at all."""
  data_dir = str(repository / "tests/fixtures/release")
  for sources, expected in (
    ((None, "gpt-neox"), {"gpt-neox"}),
    (("palm+human", "gpt-neox shuffled"), {"palm"}),
    ((None,), {"palm"}),
  ):
    teachers, notes = stored_teacher.of_runs(
      [_run("cqa", source) for source in sources],  # type: ignore
      data_dir=data_dir,
    )
    named = {teacher.name.split(",")[0] for teacher in teachers}
    said = {each for each in ("palm", "gpt-neox") if each in " ".join(notes)}
    assert named | said == expected
