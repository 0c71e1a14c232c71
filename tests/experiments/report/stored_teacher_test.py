"""The teacher's accuracy from what it once answered."""

import types

import made_runs
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Rationale, Record, write_records
from dss_jax.experiments.report import (
  finished_runs,
  report_content,
  stored_teacher,
)


def _run(dataset, source="palm"):
  """All that is asked of a run where the data are given."""
  entry = {"dataset": dataset, "rationale_source": source}
  return types.SimpleNamespace(entry=entry, settings={})


@pytest.mark.shared
@pytest.mark.parametrize(
  ("dataset", "metric", "official", "tolerant"),
  [
    ("svamp", "value_accuracy", (73.25, 74.00), (73.25, 74.00)),
    ("cqa", "accuracy", (74.26, 77.23), (76.82, 79.36)),
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
    test = content.cells[0].runs[0].test
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
  write_records(files[0], [Record("a", "b", "c", (Rationale("why"),))])
  with pytest.raises(UserError, match="no teacher's labels"):
    report_content.build([tmp_path / "run"], teacher_files=files[:1])


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
