"""Batches packed as one goes, from files and streamed."""

import dataclasses

import numpy as np
import pytest

from dss_jax import datasets, main
from dss_jax.base.errors import UserError
from dss_jax.data import pipeline
from dss_jax.data.feeding import training_data
from dss_jax.data.packing import packing_plans
from dss_jax.data.pairs import dataset_registration
from dss_jax.datasets import DataOptions
from dss_jax.datasets.records import Rationale, Record, write_records

FLAGS = [
  "--task=taxonli_dss",
  "--records_per_batch=8",
  "--inputs_length=48",
  "--targets_length=64",
  "--taxonli_num_train=40",
  "--rows_multiple_of=2",
]
CONFIG = pipeline.DatasetConfig(
  "taxonli_dss",
  {"inputs": 48, "targets": 64},
  records_per_batch=8,
  data=DataOptions(taxonli_num_train=40),
)
VOCABULARY = training_data.vocabulary_of(CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Eleven batches, written by the command line."""
  path = tmp_path_factory.mktemp("batches") / "files"
  argv = ["data", "batches", *FLAGS, "--steps=11", f"--output_dir={path}"]
  assert main.main(argv) == 0
  return path


def _load(folder, *, seed=0, vocabulary=VOCABULARY, **changes):
  settings = {
    name: changes.pop(name)
    for name in ("steps", "rows_multiple_of", "rows_of_process")
    if name in changes
  }
  config = dataclasses.replace(CONFIG, batch_files=str(folder), **changes)
  return training_data.load(config, vocabulary, seed=seed, **settings)


def test_files_are_the_batches_that_would_be_packed(folder):
  packed = training_data.load(CONFIG, VOCABULARY, seed=0, rows_multiple_of=2)
  found = _load(folder, rows_multiple_of=2, steps=range(3, 11))
  for field in ("task_name", "fingerprint", "subtask_names", "num_records"):
    assert getattr(found, field) == getattr(packed, field)
  assert found.shape == packed.shape
  assert found.global_shapes == packed.global_shapes
  for step in (10, 0, 3):
    for name, array in packed.batches[step].items():
      np.testing.assert_array_equal(found.batches[step][name], array)
  half = _load(folder, rows_of_process=lambda rows: slice(0, rows // 2))
  rows = found.shape.rows // 2
  assert half.batches[0]["decoder_positions"].shape[0] == rows


def test_files_need_no_data(folder, monkeypatch):
  monkeypatch.setattr(pipeline, "load_examples", None)
  assert _load(folder).num_records == 40


@pytest.mark.parametrize(
  ("changes", "message", "field"),
  [
    (
      {"mixture_or_task_name": "taxonli_standard"},
      "'taxonli_dss', the run",
      "task_name.method",
    ),
    ({"split": "validation"}, "split 'train'", "DatasetConfig.split"),
    ({"seed": 3}, "seed 0, the run asks for 3", "TrainConfig.random_seed"),
    (
      {"records_per_batch": 16},
      "8, the run asks for 16",
      "DatasetConfig.records_per_batch",
    ),
    ({"batch_size": 77}, "asks for 77", "DatasetConfig.batch_size"),
    ({"pack": False}, "pack True", "DatasetConfig.pack"),
    ({"rows_multiple_of": 64}, "rows_multiple_of=64", None),
    (
      {"steps": range(12)},
      "steps 0 to 10, the run needs 0 to 11",
      "TrainConfig.total_steps",
    ),
    (
      {
        "vocabulary": training_data.vocabulary_of(CONFIG, "bytes"),
      },
      "batches of vocabulary ",
      "TrainConfig.vocabulary",
    ),
  ],
)
def test_files_of_something_else_are_refused_in_one_line(
  folder, changes, message, field
):
  with pytest.raises(UserError, match=message) as error:
    _load(folder, **changes)
  assert field is None or field in error.value.fields
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["--steps=0", "--rows_multiple_of=0"])
def test_wrong_flags_are_refused(flag, tmp_path, capsys):
  argv = [
    "data",
    "batches",
    *FLAGS,
    "--steps=2",
    f"--output_dir={tmp_path}",
    flag,
  ]
  assert main.main(argv) == 2
  assert flag.partition("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_stream_is_read_with_the_runs_options(monkeypatch):
  """In the thread that reads ahead, too."""
  pytest.importorskip("seqio")
  monkeypatch.setattr(training_data, "_SAMPLE", 64)
  monkeypatch.setattr(packing_plans, "window_batches", lambda units: 2)
  import dss_jax.tasks  # noqa: F401

  config = dataclasses.replace(CONFIG, streaming=True)
  data = training_data.load(config, VOCABULARY, seed=0)
  assert data.subtask_names == ("label", "rationale")
  assert data.num_records is None
  with data.prefetch(1, 3, dict) as prefetched:
    found = dict(prefetched)
  assert sorted(found) == [1, 2]
  for step, batch in found.items():
    for name, array in data.batches[step].items():
      np.testing.assert_array_equal(batch[name], array)


@pytest.mark.slow
def test_rows_without_a_number_of_records_are_as_long_as_the_features():
  """T5X's meaning of a batch size."""
  rows = dataclasses.replace(CONFIG, records_per_batch=None, batch_size=4)
  shape = training_data.load(rows, VOCABULARY, seed=0).shape
  assert (shape.rows, shape.encoder_length, shape.decoder_length) == (4, 48, 64)
  assert shape.records_per_batch >= 2
  longer = dataclasses.replace(rows, encoder_length=96)
  shape = training_data.load(longer, VOCABULARY, seed=0).shape
  assert (shape.rows, shape.encoder_length, shape.decoder_length) == (4, 96, 64)
  one_each = dataclasses.replace(rows, pack=False)
  shape = training_data.load(one_each, VOCABULARY, seed=0).shape
  assert (shape.rows, shape.encoder_length, shape.decoder_length) == (4, 48, 64)


@pytest.mark.parametrize(
  ("task", "labels"),
  [
    ("svamp_dss", "0 gold, 5 the teacher's, 1 missing"),
    ("svamp_dss_teacher", "0 gold, 5 the teacher's, 1 missing"),
  ],
)
def test_extra_records_are_named_and_their_labels_counted(
  fixtures, task, labels
):
  data = DataOptions(data_dir=str(fixtures / "release"), extra_records="asdiv")
  config = pipeline.DatasetConfig(
    task, {"inputs": 200, "targets": 100}, records_per_batch=4, data=data
  )
  lines = training_data.load(config, VOCABULARY, seed=0).describe(0)
  assert f"extra records of asdiv: 6; labels: {labels}" in lines


def test_extra_records_that_are_tested_on_are_said_to_be_left_out(
  fixtures, tmp_path
):
  release = DataOptions(data_dir=str(fixtures / "release"))
  tested = datasets.load_split("svamp", "test", options=release)[:2]
  path = str(tmp_path / "more.jsonl")
  write_records(path, [*tested, Record("a", "another input", "(1 + 2)")])
  config = pipeline.DatasetConfig(
    "svamp_dss", {"inputs": 200, "targets": 100}, records_per_batch=4,
    data=dataclasses.replace(release, extra_records=path),
  )  # fmt: skip
  lines = training_data.load(config, VOCABULARY, seed=0).describe(0)
  assert (
    f"extra records of {path}: 2 more are left out, whose inputs are validated"
    " or tested on"
  ) in lines


def test_the_data_of_a_run_are_summarised():
  records = [
    Record(f"r{i}", f"question {i}", "yes", (Rationale("why " * i),))
    for i in range(12)
  ]
  dataset_registration.register_dataset("odd", {"train": records})
  config = pipeline.DatasetConfig(
    "odd_dss",
    {"inputs": 48, "targets": 64},
    records_per_batch=2,
    encoder_length=64,
    decoder_length=64,
  )
  data = training_data.load(
    config, training_data.vocabulary_of(config), seed=0, rows_multiple_of=16
  )
  first, second, texts = data.describe(0, 16)
  assert first.startswith("batches: about 2 records in 16 rows of ")
  assert "multiple of 16" in first
  assert second == "sub-task rationale: left out 1 rationale blank"
  assert texts == "texts: the vocabulary knows all of them, and none is cut"
  plain, *_ = data.describe(0)
  assert plain.endswith("% padding")
