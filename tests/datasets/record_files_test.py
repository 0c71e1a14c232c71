"""Files of records in the place of a dataset's own source."""

import json
import pathlib

import pytest

from dss_jax import datasets, main, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.tokens import tokenization
from dss_jax.datasets import DataOptions
from dss_jax.datasets.records import Rationale, Record, write_records

BYTES = vocabularies.from_name("bytes")


def _records(split: str, count: int) -> list[Record]:
  return [
    Record(
      f"{split}-{i}",
      f"{split} question {i}\nAnswer Choices:\n(a) neutral\n(b) no",
      "neutral",  # a label of every dataset with a closed set
      (Rationale(f"because of {i}", "neutral", "smollm2", 0.5),),
    )
    for i in range(count)
  ]


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  write_records(tmp_path / "train.jsonl", _records("train", 20))
  write_records(tmp_path / "test.parquet", _records("test", 3))
  return tmp_path


def _options(folder, **fields) -> DataOptions:
  return DataOptions(data_dir=str(folder), source="records", **fields)


def _ids(name: str, split: str, options: DataOptions) -> list[str]:
  records = datasets.load_split(name, split, options=options)
  return [record.id for record in records]


@pytest.mark.parametrize("name", ["cqa", "esnli", "taxonli"])
def test_any_dataset_reads_them(folder, name):
  options = _options(folder)
  train = _ids(name, "train", options)
  validation = _ids(name, "validation", options)
  assert (len(train), len(validation)) == (18, 2)
  assert {*train, *validation} == {f"train-{i}" for i in range(20)}
  assert _ids(name, "test", options) == ["test-0", "test-1", "test-2"]
  # Fractions are nested, and by ids even where the dataset's own data come in
  # random order.
  half = _ids(name, "train", _options(folder, train_fraction=0.5))
  assert len(half) == 9
  assert set(half) < set(train)
  assert half != train[:9]


def test_validation_records_of_ones_own_are_used(folder):
  write_records(folder / "validation.csv", _records("validation", 4))
  for name in ("cqa", "taxonli"):
    assert len(_ids(name, "train", _options(folder))) == 20
    assert _ids(name, "validation", _options(folder))[0] == "validation-0"


def test_datasets_of_ones_own_and_the_environment(folder, monkeypatch):
  datasets.register(
    datasets.DatasetSpec("mine", lambda s, o: [], source_splits=("train",))
  )
  monkeypatch.setenv("DSS_DATA_DIR", str(folder))
  assert len(_ids("mine", "test", DataOptions(source="records"))) == 3
  assert datasets.rationale_source("cqa", _options(folder)) == "smollm2"


def test_one_folder_per_dataset(folder, tmp_path_factory):
  root = tmp_path_factory.mktemp("root")
  folder.rename(root / "cqa")
  assert len(_ids("cqa", "test", _options(root))) == 3
  with pytest.raises(UserError, match="no file of test records in"):
    _ids("svamp", "test", _options(root))


def test_gold_labels_are_spelt_alike_if_asked(folder):
  records = [Record("a", "2 + 2?", "( 2.0 + 2.0 )")]
  write_records(folder / "validation.jsonl", records)
  options = _options(folder, label_spelling="normalized")
  (record,) = datasets.load_split("svamp", "validation", options=options)
  assert record.label == "(2 + 2)"


@pytest.mark.parametrize(
  ("files", "message"),
  [
    ({}, r"no file of train records in .*: train\.jsonl is missing"),
    ({"test.jsonl": ""}, "no file of train records"),
    ({"train.jsonl": ""}, r"train\.jsonl holds no records"),
    ({"train.jsonl": "broken"}, r"1 of 1 lines of .*train\.jsonl:1: not JSON"),
    ({"train.jsonl": "", "train.csv": ""}, "train.jsonl and train.csv: keep"),
  ],
)
def test_wrong_folders(tmp_path, files, message):
  for name, content in files.items():
    (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=message) as error:
    _ids("cqa", "train", _options(tmp_path))
  assert "\n" not in str(error.value)


def test_no_folder_at_all(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="data_dir is '/no/such', which"):
    _ids("cqa", "train", _options("/no/such"))
  monkeypatch.delenv("DSS_DATA_DIR", raising=False)
  with pytest.raises(UserError, match="'cqa' is read from files of records"):
    _ids("cqa", "train", DataOptions(source="records"))
  write_records(tmp_path / "train.jsonl", _records("train", 20))
  with pytest.raises(UserError, match="unless test_split is None") as raised:
    _ids("cqa", "test", _options(tmp_path))
  assert raised.value.fields == (
    "DataOptions.data_dir",
    "EvaluationConfig.test_split",
  )


def test_fingerprints_follow_the_records(folder):
  def fingerprint() -> str:
    return tokenization.TaskSource.load(
      "cqa_dss", "train", BYTES, _options(folder)
    ).fingerprint()

  before = fingerprint()
  assert fingerprint() == before
  records = _records("train", 20)
  records[3] = Record("train-3", "another question", "yes")
  write_records(folder / "train.jsonl", records)
  assert fingerprint() != before


def test_the_command_line_shows_them(folder, capsys):
  flags = ["--source=records", f"--data_dir={folder}", "--json"]
  assert main.main(["data", "stats", "--dataset=cqa", *flags]) == 0
  report = json.loads(capsys.readouterr().out)
  assert report["source"] == "records"
  assert {name: s["rows"] for name, s in report["splits"].items()} == {
    "train": 20,
    "test": 3,
  }
  assert report["after_splitting"]["rows"]["validation"] == 2
  assert main.main(["data", "show", "--task=cqa_rationale", *flags]) == 0
  shown = json.loads(capsys.readouterr().out)
  assert shown["rows"][0]["examples"][0]["weight"] == 0.5
  output = folder / "out_{split}.jsonl"
  flags = [*flags[:2], "--dataset=cqa", f"--output={output}"]
  assert main.main(["data", "convert", *flags]) == 0
  assert len((folder / "out_test.jsonl").read_text().splitlines()) == 3
