"""Extra records: they train, whole, and nothing else of the data changes."""

import dataclasses

import pytest

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions, extra_records
from dss_jax.datasets.records import Rationale, Record, write_records


@pytest.fixture
def options(fixtures):
  return DataOptions(data_dir=str(fixtures / "release"))


def _ids(options, split, name="svamp"):
  return [r.id for r in datasets.load_split(name, split, options=options)]


@pytest.mark.parametrize("policy", ["fixed", "official"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_they_join_the_training_data_after_the_split(options, policy, fraction):
  options = dataclasses.replace(
    options, split_policy=policy, train_fraction=fraction
  )
  with_extra = dataclasses.replace(options, extra_records="asdiv")
  extra = [f"extra/train-{i}" for i in range(6)]
  assert _ids(with_extra, "train") == _ids(options, "train") + extra
  for split in ("validation", "test"):
    assert _ids(with_extra, split) == _ids(options, split)


@pytest.mark.parametrize("policy", ["fixed", "official"])
def test_max_records_cuts_the_datasets_own_only(options, policy):
  options = dataclasses.replace(options, split_policy=policy, max_records=2)
  with_extra = dataclasses.replace(options, extra_records="asdiv")
  extra = [f"extra/train-{i}" for i in range(6)]
  own = _ids(options, "train")
  assert len(own) == 2
  assert _ids(with_extra, "train") == own + extra
  for split in ("validation", "test"):
    assert _ids(with_extra, split) == _ids(options, split)
    assert len(_ids(options, split)) <= 2


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("name", ["svamp", "anli1"])
def test_inputs_that_are_held_out_do_not_train(options, tmp_path, name, split):
  """Validation cut from the training data, or the dataset's own, and test."""
  held_out = datasets.load_split(name, split, options=options)[0]
  spaced = held_out.input.replace(" ", "  ") + "\n"
  path = tmp_path / "more.jsonl"
  write_records(path, [
    Record("leak", held_out.input, "x"), Record("leak2", spaced, None),
    Record("own", "an input of its own", None),
  ])  # fmt: skip
  with_extra = dataclasses.replace(
    options, extra_records=str(path), max_records=1
  )
  extra = [i for i in _ids(with_extra, "train", name) if i.startswith("extra/")]
  assert extra == ["extra/own"]
  assert datasets.num_held_out_extra_records(name, with_extra) == 2


def test_a_split_that_is_not_there_holds_out_nothing(options, tmp_path):
  records = datasets.load_split("svamp", "train", options=options)
  write_records(tmp_path / "train.jsonl", records[:20])
  write_records(tmp_path / "more.jsonl", [Record("a", "A", None)])
  own = dataclasses.replace(
    options, source="records", data_dir=str(tmp_path),
    extra_records=str(tmp_path / "more.jsonl"),
  )  # fmt: skip
  assert "extra/a" in _ids(own, "train")


def test_rows_say_whose_labels_are_trained_on(options, tmp_path):
  """The teacher's too, as soon as one extra record has no gold label."""
  reason = (Rationale("r", "(4 - 1)", "m"),)
  gold, answered = tmp_path / "gold.jsonl", tmp_path / "answered.jsonl"
  write_records(gold, [Record("a", "A", "(1 + 2)", reason)])
  write_records(answered, [Record("b", "B", None, reason)])

  def source(asked="gold", **changes):
    changed = dataclasses.replace(options, **changes)
    return datasets.label_source("svamp", changed, asked)

  assert source() == "gold"
  assert source(extra_records=str(gold)) == "gold"
  assert source(extra_records=str(answered)) == "gold+teacher"
  assert source("teacher", extra_records=str(answered)) == "teacher"
  # Also where a file of training data holds them.
  mixed = datasets.load_training_source(
    "svamp", dataclasses.replace(options, extra_records=str(answered))
  )
  write_records(tmp_path / "train.jsonl", mixed)
  assert source(source="records", data_dir=str(tmp_path)) == "gold+teacher"


def test_a_dataset_with_validation_data_of_its_own(options, tmp_path):
  path = tmp_path / "more.jsonl"
  write_records(path, [Record("a", "A</s>B", None)])
  with_extra = dataclasses.replace(options, extra_records=str(path))
  assert _ids(with_extra, "train", "anli1") == [
    *_ids(options, "train", "anli1"), "extra/a",
  ]  # fmt: skip


def test_files_that_hold_them_are_split_as_before(options, tmp_path):
  """As `data convert --as_trained` writes them, or in whatever order."""
  with_extra = dataclasses.replace(options, extra_records="asdiv")
  records = datasets.load_training_source("svamp", with_extra)
  write_records(tmp_path / "train.jsonl", [*records[10:], *records[:10]])
  again = dataclasses.replace(options, source="records", data_dir=str(tmp_path))
  for split in ("train", "validation"):
    assert set(_ids(again, split)) == set(_ids(with_extra, split))


def test_labels_are_counted_and_spelt_as_the_datasets(options, tmp_path):
  path = tmp_path / "more.jsonl"
  write_records(
    path,
    [
      Record("a", "A", "( 1.0 + 2.0 )", (Rationale("r", "(2 + 1)", "m"),)),
      Record("b", "B", None, (Rationale("r", "( 4.0 - 1.0 )", "m"),)),
      Record("c", "C", None, (Rationale("r", None, "m"),)),
      Record("d", "D", None),
    ],
  )
  options = dataclasses.replace(options, extra_records=str(path))
  found = datasets.load_extra_records("svamp", options)
  assert extra_records.count(found) == {
    "rows": 4, "gold_labels": 1, "teacher_labels": 1, "no_label": 2,
  }  # fmt: skip
  assert extra_records.count(found, "teacher") == {
    "rows": 4, "gold_labels": 0, "teacher_labels": 2, "no_label": 2,
  }  # fmt: skip
  assert datasets.rationale_source("svamp", options) == "palm+m"
  normalized = dataclasses.replace(options, label_spelling="normalized")
  found = datasets.load_extra_records("svamp", normalized)
  assert found[0].label == "(1 + 2)"
  assert found[1].rationales[0].label == "(4 - 1)"


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("svamp", "which is what is trained on"),
    ("asdiff", "must be a file of records .*.jsonl.* or a dataset: anli1"),
    ("nowhere.jsonl", "nowhere.jsonl"),
  ],
)
def test_what_cannot_be_read(options, source, message):
  options = dataclasses.replace(options, extra_records=source)
  with pytest.raises(UserError, match=message):
    datasets.load_split("svamp", "train", options=options)


def test_gold_labels_outside_a_closed_set_are_refused(options, tmp_path):
  path = tmp_path / "more.jsonl"
  write_records(path, [Record("a", "A</s>B", "perhaps")])
  options = dataclasses.replace(options, extra_records=str(path))
  with pytest.raises(UserError, match=r"none of its labels.*'perhaps'"):
    datasets.load_split("anli1", "train", options=options)
