"""Datasets of other projects, without TensorFlow."""

import json

import pytest

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import dataset_registration
from dss_jax.data.tokens import evaluation_sets, tokenization
from dss_jax.datasets.records import Rationale, Record
from dss_jax.vocabularies import ByteVocabulary

RECORDS = [
  Record(f"r{i}", f"in {i}", "ab"[i % 2], (Rationale(f"why {i}", "a"),))
  for i in range(20)
]
OPTIONS = datasets.DataOptions()


def count(name: str, split: str) -> int:
  return len(datasets.load_split(name, split, options=OPTIONS))


@pytest.mark.parametrize(
  "source",
  [
    RECORDS,
    tuple(RECORDS),
    lambda: iter(RECORDS),
    {"train": RECORDS},
    {"train": lambda: RECORDS},
  ],
)
def test_validation_is_cut_where_there_is_none(source):
  dataset_registration.register_dataset("mine", source)
  assert count("mine", "train") == 18
  assert count("mine", "validation") == 2
  with pytest.raises(UserError, match="no 'test' data"):
    count("mine", "test")


def test_an_iterator_is_read_once_and_late():
  read = []

  def generate():
    read.append(1)
    yield from RECORDS

  dataset_registration.register_dataset(
    "mine", {"train": generate(), "test": RECORDS[:3]}
  )
  assert not read
  assert count("mine", "train") == count("mine", "train") == 18
  assert count("mine", "test") == 3
  assert len(read) == 1


def test_files_with_a_field_mapping(tmp_path):
  path = tmp_path / "mine.jsonl"
  rows = [
    {"question": f"q{i}", "answer": "a", "why": f"w{i}"} for i in range(20)
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  dataset_registration.register_dataset(
    "mine",
    {"train": path, "test": str(path)},
    field_mapping={
      "input": "question",
      "label": "answer",
      "rationale": "why",
    },
    metrics=("accuracy", "rouge1"),
    vocabulary="bytes:5",
  )
  built = tokenization.build_examples("mine_dss", "test", ByteVocabulary())
  inputs, targets = built.subtasks[1].example(0)
  assert ByteVocabulary().decode(inputs) == "[rationale] q0"
  assert ByteVocabulary().decode(targets) == "w0"
  assert vocabularies.default_name("mine") == "bytes:5"
  assert evaluation_sets.metric_names("mine", built_label()) == (
    "accuracy",
    "rouge1",
  )


def built_label():
  from dss_jax.data.pairs.subtasks import LABEL

  return LABEL


def test_a_field_mapping_per_split(tmp_path):
  train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
  train.write_text('{"question": "a", "answer": "x"}\n' * 1)
  test.write_text('{"text": "b", "gold": "y", "answer": "kept"}\n')
  mapping = {
    "train": {"input": "question", "label": "answer"},
    "test": {"input": "text", "label": "gold"},
  }
  files = {"train": train, "test": test, "validation": test}
  dataset_registration.register_dataset("mine", files, field_mapping=mapping)
  (record,) = datasets.load_split("mine", "train")
  assert (record.input, record.label) == ("a", "x")
  (record,) = datasets.load_split("mine", "test")
  assert (record.input, record.label) == ("b", "y")
  assert record.extra == {"answer": "kept"}
  # A split without a mapping has the fields' own names.
  with pytest.raises(UserError, match="1 of 1 lines"):
    datasets.load_split("mine", "validation")


@pytest.mark.parametrize("name", ["input", "dev"])
def test_a_mapping_of_splits_and_fields_at_once_is_refused(tmp_path, name):
  mapping: dict = {"train": {"input": "question"}, name: {"label": "answer"}}
  if name == "input":
    mapping[name] = "question"
  dataset_registration.register_dataset(
    "mine", tmp_path / "x", field_mapping=mapping
  )
  with pytest.raises(UserError, match=f"'train', '{name}'; it must") as raised:
    count("mine", "train")
  assert raised.value.fields == ("field_mapping",)


def test_malformed_lines_stop_or_are_left_out(tmp_path):
  path = tmp_path / "bad.jsonl"
  path.write_text('{"input": "a", "label": "b"}\nnot json\n' * 3)
  dataset_registration.register_dataset("bad", {"train": path, "test": path})
  with pytest.raises(UserError, match=r"3 of 6 lines.*bad.jsonl"):
    count("bad", "test")
  dataset_registration.register_dataset(
    "worse", {"train": path, "test": path}, skip_malformed=True
  )
  assert count("worse", "test") == 3


def test_the_same_again_is_harmless_and_another_is_not():
  dataset_registration.register_dataset("mine", {"train": RECORDS})
  dataset_registration.register_dataset("mine", {"train": list(RECORDS)})
  with pytest.raises(UserError, match="already registered as 'mine'"):
    dataset_registration.register_dataset("mine", {"train": RECORDS[:5]})
  with pytest.raises(UserError, match="already registered as 'svamp'"):
    dataset_registration.register_dataset("svamp", RECORDS)


def test_known_datasets_and_specs():
  assert dataset_registration.register_dataset("svamp").name == "svamp"
  with pytest.raises(UserError, match="unknown dataset 'nope'"):
    dataset_registration.register_dataset("nope")
  spec = datasets.DatasetSpec("spec", lambda split, options: RECORDS)
  assert dataset_registration.register_dataset("spec", spec) is spec
  with pytest.raises(UserError, match="'spec' cannot be registered as 'x'"):
    dataset_registration.register_dataset("x", spec)


@pytest.mark.parametrize(
  ("records", "message"),
  [
    ([RECORDS[0], RECORDS[0]], "two records of split 'test'.*'r0'"),
    ([{"input": "x"}], "item 0 of split 'test' is a dict"),
  ],
)
def test_what_is_no_list_of_records(records, message):
  dataset_registration.register_dataset(
    "mine", {"train": RECORDS, "test": records}
  )
  with pytest.raises(UserError, match=message):
    count("mine", "test")


def test_wrong_splits_and_names():
  with pytest.raises(UserError, match="train among them"):
    dataset_registration.register_dataset("mine", {"dev": RECORDS})
  with pytest.raises(UserError, match="cannot name a dataset"):
    dataset_registration.register_dataset("my-set", RECORDS)
