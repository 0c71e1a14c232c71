"""The registry, the options, and files of one's own as a dataset."""

import dataclasses
import logging
import subprocess
import sys

import pytest

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.datasets import (
  DataOptions,
  DatasetSpec,
  RecordFiles,
  families,
  metrics,
)
from dss_jax.datasets.records import Rationale, Record, write_records


def test_the_datasets_there_are():
  generated = ("taxonli", *families.FAMILIES)
  released = ("anli1", "anli2", "anli3", "asdiv", "cqa", "esnli", "svamp")
  assert set(datasets.names()) == {*released, *generated}
  for name in datasets.names():
    spec = datasets.get(name)
    assert spec.name == name
    assert spec.license
    assert set(spec.metrics) <= set(metrics.PER_EXAMPLE_METRICS)
    assert name in generated or (spec.citation and spec.url.startswith("https"))
  assert datasets.get("svamp").metrics[0] == "value_accuracy"


def test_unknown_names():
  with pytest.raises(
    UserError, match="unknown dataset 'sst'; known: anli1, an"
  ):
    datasets.get("sst")
  with pytest.raises(UserError, match="no split 'dev'; allowed: train"):
    datasets.load_split("taxonli", "dev")
  with pytest.raises(UserError, match="'svamp' has no 'validation' data"):
    datasets.load_source_split("svamp", "validation")


def test_data_dir_is_looked_up_late_and_its_absence_explained(
  fixtures, monkeypatch
):
  monkeypatch.delenv("DSS_DATA_DIR", raising=False)
  options = DataOptions()  # nothing is missing yet
  with pytest.raises(UserError, match="data_dir or DSS_DATA_DIR"):
    datasets.load_split("svamp", "test", options=options)
  monkeypatch.setenv("DSS_DATA_DIR", str(fixtures / "release"))
  assert len(datasets.load_split("svamp", "test", options=options)) == 6
  options = DataOptions(data_dir="/nonexistent")  # the option wins
  with pytest.raises(UserError, match="no folder 'svamp' in /nonexistent"):
    datasets.load_split("svamp", "test", options=options)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"split_policy": "random"}, "'random'; it must be one of fixed, official"),
    ({"parser": "strict"}, "parser is 'strict'"),
    ({"source": "web"}, "one of release, tfds, huggingface"),
    ({"label_spelling": "x"}, "as_is, normalized"),
    ({"rationale_source": "gpt"}, "palm, gpt-neox, human"),
    ({"taxonli_control": "x"}, "none, facts_only, shuffled, copy"),
    ({"train_fraction": 0.0}, "above 0 and at most 1"),
    ({"train_fraction": 12.5}, "train_fraction is 12.5"),
    ({"train_fraction": float("nan")}, "train_fraction is nan"),
    ({"train_fraction": "0.5"}, "train_fraction is '0.5'"),
    ({"max_records": 0}, "max_records is 0"),
    ({"split_seed": -1}, "split_seed is -1"),
    ({"taxonli_seed": 0.5}, "taxonli_seed is 0.5"),
  ],
)
def test_wrong_options(fields, message):
  with pytest.raises(UserError, match=message) as raised:
    DataOptions(**fields)
  assert raised.value.fields == (f"DataOptions.{next(iter(fields))}",)


def _files(tmp_path, name="mine", **fields):
  records = [
    Record(f"r{i}", f"input {i}", "yes", (Rationale(f"because {i}"),))
    for i in range(20)
  ]
  path = tmp_path / "train.jsonl"
  write_records(path, records)
  return path, DatasetSpec(
    name, RecordFiles({"train": str(path)}, **fields), source_splits=("train",)
  )


def test_files_of_ones_own(tmp_path):
  path, spec = _files(tmp_path)
  datasets.register(spec)
  datasets.register(_files(tmp_path)[1])  # the same again is harmless
  train = datasets.load_split("mine", "train")
  validation = datasets.load_split("mine", "validation")
  assert (len(train), len(validation)) == (18, 2)
  assert train[0].rationales[0].text.startswith("because")
  with pytest.raises(UserError, match="'mine' has no 'test' data"):
    datasets.load_split("mine", "test")
  path.unlink()
  with pytest.raises(UserError, match="no such file"):
    datasets.load_split("mine", "train")


def test_malformed_lines_are_an_error_unless_asked_for(tmp_path, caplog):
  path, spec = _files(tmp_path)
  with path.open("a") as file:
    file.write("broken\n")
  datasets.register(spec)
  with pytest.raises(
    UserError, match=r"1 of 21 lines .*train.jsonl:21: not JS"
  ):
    datasets.load_split("mine", "train")
  datasets.register(_files(tmp_path, "other", skip_malformed=True)[1])
  with path.open("a") as file:
    file.write("broken\n")
  with caplog.at_level(logging.WARNING):
    records = datasets.load_source_split("other", "train")
  assert len(records) == 20
  assert "1 of 21 lines" in caplog.text


def test_gold_labels_outside_the_closed_set_are_refused():
  records = [Record(f"r{i}", "i", "yes") for i in range(8)]
  records += [Record("a", "i", "Yes"), Record("b", "i", "no"), Record("c", "i")]
  files = RecordFiles({"train": records, "test": records[:8]})
  splits = ("train", "test")
  spec = DatasetSpec("mine", files, labels=("yes", "no"), source_splits=splits)
  datasets.register(spec)
  assert len(datasets.load_split("mine", "test")) == 8
  everything = {"train": records, "validation": records[:1]}
  splits = ("train", "validation")
  spec = DatasetSpec(
    "all", RecordFiles(everything), labels=("yes", "no"), source_splits=splits
  )
  datasets.register(spec)
  with pytest.raises(UserError, match=r"1 of 11 gold labels of") as raised:
    datasets.load_split("all", "train")
  assert str(raised.value).startswith(
    "1 of 11 gold labels of dataset 'all', train, are none of its labels"
    " ('yes', 'no'): 'Yes' (1); add"
  )
  # What there is can still be looked at.
  assert len(datasets.load_source_split("mine", "train")) == 11


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"name": "taxonli"}, "already registered as 'taxonli'"),
    ({"source_splits": ("test",)}, "with train among them"),
    ({"source_splits": ("train", "dev")}, "allowed: train, validation, test"),
    ({"metrics": ()}, "names no metric"),
  ],
)
def test_wrong_specs(fields, message):
  fields = {"name": "mine", "load": RecordFiles({}), **fields}
  with pytest.raises(UserError, match=message):
    datasets.register(DatasetSpec(**fields))


def test_reading_data_needs_no_framework():
  """Records, datasets and metrics run where only NumPy is installed."""
  code = """
import sys
blocked = ("jax", "flax", "tensorflow", "seqio", "gin", "datasets",
           "tensorflow_datasets", "pyarrow", "pandas", "sacrebleu",
           "rouge_score", "sentencepiece", "torch")
for name in blocked:
  sys.modules[name] = None
from dss_jax import datasets
from dss_jax.datasets import arithmetic, metrics, records
train = datasets.load_split("taxonli", "train")
metrics.score(["accuracy", "value_accuracy"], ["1"], ["1"])
print(len(train))
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "4000"


@pytest.mark.parametrize("name", ["taxonli", "kinds", "fits", "sums"])
def test_who_wrote_the_rationales_of_generated_datasets(name, tmp_path):
  assert datasets.rationale_source(name, DataOptions()) == name
  record = datasets.load_split(name, "train")[0]
  assert record.rationales[0].source == name
  options = DataOptions(
    taxonli_control="shuffled", generated_control="shuffled"
  )
  assert datasets.rationale_source(name, options) == f"{name} shuffled"
  extra = tmp_path / "extra.jsonl"
  mine = Rationale("r", record.label, "mine")
  write_records(extra, [Record("x", "a", record.label, (mine,))])
  options = dataclasses.replace(options, extra_records=str(extra))
  assert datasets.rationale_source(name, options) == f"{name} shuffled+mine"
