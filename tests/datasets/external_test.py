"""Raw sets through TFDS and Hugging Face, from small copies made on disk."""

import sys

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions, load_source_split, load_split

ESNLI = [
  {
    "premise": f"Premise {i}.",
    "hypothesis": f"Hypothesis {i}.",
    "label": i % 3,
    "explanation_1": f"because {i}",
    "explanation_2": "",
    "explanation_3": "also" if i == 0 else "",
  }
  for i in range(9)
]
CQA = [
  {
    "id": f"q{i}",
    "question": f"Question {i}?",
    "choices": ["a", "b", "c", "d", f"e{i}"],
    "answer": f"e{i}",
    "abstractive_explanation": f"it is e{i}",
    "extractive_explanation": "question",
  }
  for i in range(7)
]
SVAMP = [
  {
    "ID": f"chal-{i}",
    "Body": f"Body {i}.",
    "Question": "How many?",
    "Equation": f"( {i}.0 + 1.0 )",
    "Answer": str(i + 1.0),
    "Type": "Addition",
  }
  for i in range(12)
]
ANLI = [
  {
    "uid": f"u{i}",
    "premise": f"Premise {i}.",
    "hypothesis": f"Hypothesis {i}.",
    "label": i % 3,
    "reason": "of reasons" if i % 2 else "",
  }
  for i in range(6)
]


def _load(source, name, split, folder):
  options = DataOptions(
    source=source, rationale_source="human", data_dir=str(folder)
  )
  return load_source_split(name, split, options=options)


def _check_esnli(records):
  assert [r.id for r in records[:2]] == ["train-0", "train-1"]
  assert records[0].input == "Premise 0.</s>Hypothesis 0."
  assert [r.label for r in records[:4]] == [
    "entailment", "neutral", "contradiction", "entailment",
  ]  # fmt: skip
  assert [(r.text, r.label, r.source) for r in records[0].rationales] == [
    ("because 0", "entailment", "human"),
    ("also", "entailment", "human"),
  ]
  assert [r.text for r in records[1].rationales] == ["because 1"]


def _check_cqa(records, split):
  assert records[3].id == f"{split}-3"
  assert records[3].input == (
    "Question 3?\nAnswer Choices:\n(a) a\n(b) b\n(c) c\n(d) d\n(e) e3"
  )
  assert records[3].label == "e3"
  assert records[3].meta == {
    "source_id": "q3", "choices": ["a", "b", "c", "d", "e3"],
  }  # fmt: skip
  assert [r.text for r in records[3].rationales] == ["it is e3"]


# --- Hugging Face ------------------------------------------------------------


@pytest.fixture(scope="module")
def library():
  return pytest.importorskip("datasets")


def _saved(library, folder, splits, features=None):
  library.DatasetDict({
    name: library.Dataset.from_list(rows, features=features)
    for name, rows in splits.items()
  }).save_to_disk(folder)  # fmt: skip
  return folder


@pytest.mark.hf
def test_huggingface_esnli(library, tmp_path):
  text = library.Value("string")
  features = library.Features({
    "premise": text,
    "hypothesis": text,
    "label": library.ClassLabel(
      names=["entailment", "neutral", "contradiction"]
    ),
    "explanation_1": text,
    "explanation_2": text,
    "explanation_3": text,
  })  # fmt: skip
  splits = {"train": ESNLI, "validation": ESNLI[:3], "test": ESNLI[:2]}
  folder = _saved(library, tmp_path / "esnli", splits, features)
  _check_esnli(_load("huggingface", "esnli", "train", folder))
  for split, count in (("validation", 3), ("test", 2)):
    records = _load("huggingface", "esnli", split, folder)
    assert [(r.id, r.input) for r in records] == [
      (f"{split}-{i}", f"Premise {i}.</s>Hypothesis {i}.") for i in range(count)
    ]


@pytest.mark.hf
def test_huggingface_cqa_validation_is_the_test_data(library, tmp_path):
  splits = {"train": CQA, "validation": CQA[:4]}
  folder = _saved(library, tmp_path / "cqa", splits)
  _check_cqa(_load("huggingface", "cqa", "test", folder), "test")
  options = DataOptions(
    source="huggingface", rationale_source="human", data_dir=str(folder)
  )
  # As with the released files, validation data are cut from the training data.
  cut = [load_split("cqa", s, options=options) for s in ("validation", "train")]
  assert [len(records) for records in cut] == [1, 6]
  assert {r.id for records in cut for r in records} == {
    f"train-{i}" for i in range(7)
  }


@pytest.mark.hf
def test_huggingface_anli_rounds_are_splits(library, tmp_path):
  splits = {"train_r2": ANLI, "dev_r2": ANLI[:2], "test_r2": ANLI[:1]}
  folder = _saved(library, tmp_path / "anli", splits)
  records = _load("huggingface", "anli2", "train", folder)
  assert records[1].input == "Premise 1.</s>Hypothesis 1."
  assert records[1].label == "neutral"
  assert records[1].meta == {"source_id": "u1"}
  assert [[r.text for r in record.rationales] for record in records[:2]] == [
    [],
    ["of reasons"],
  ]
  with pytest.raises(UserError, match="no split 'train_r1'; it has: train_r2"):
    _load("huggingface", "anli1", "train", folder)


@pytest.mark.hf
def test_huggingface_svamp(library, tmp_path):
  folder = _saved(library, tmp_path / "svamp", {"train": SVAMP, "test": SVAMP})
  record = _load("huggingface", "svamp", "train", folder)[2]
  assert record.input == "Body 2.\nHow many?"
  assert record.label == "( 2.0 + 1.0 )"
  assert record.rationales == ()


@pytest.mark.hf
def test_huggingface_sets_kept_as_programs(library, monkeypatch):
  """The library refuses those; the Hub's Parquet copy is asked for instead."""

  def load_dataset(name, config, revision=None):
    assert (name, config) == ("ChilleD/SVAMP", None)
    if revision is None:
      raise RuntimeError("Dataset scripts are no longer supported")
    assert revision == "refs/convert/parquet"
    return library.DatasetDict({"train": library.Dataset.from_list(SVAMP)})

  monkeypatch.setattr(library, "load_dataset", load_dataset)
  options = DataOptions(source="huggingface", rationale_source="human")
  records = load_source_split("svamp", "train", options=options)
  assert [record.meta["source_id"] for record in records] == [
    row["ID"] for row in SVAMP
  ]


@pytest.mark.hf
def test_huggingface_copies_that_do_not_fit(library, tmp_path):
  library.Dataset.from_list(SVAMP).save_to_disk(tmp_path / "single")
  with pytest.raises(UserError, match="holds a single split; save a DatasetDi"):
    _load("huggingface", "svamp", "train", tmp_path / "single")
  with pytest.raises(UserError, match="ChilleD/SVAMP cannot be loaded"):
    _load("huggingface", "svamp", "train", tmp_path / "missing")
  rows = [{"Body": "a", "Question": "b"}]
  folder = _saved(library, tmp_path / "bad", {"train": rows})
  with pytest.raises(UserError, match="svamp train entry 0: no text under key"):
    _load("huggingface", "svamp", "train", folder)


# --- TensorFlow Datasets -----------------------------------------------------


def _tfds(builder_name, features, splits, tmp_path):
  """Writes a dataset in TFDS's own format, without a builder class."""
  tfds = pytest.importorskip("tensorflow_datasets")
  folder = tmp_path / builder_name / "1.0.0"
  folder.mkdir(parents=True)
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=builder_name,
    version=tfds.core.Version("1.0.0"),
    data_dir=str(folder),
    module_name="none",
  )
  info = tfds.core.DatasetInfo(builder=identity, features=features)
  writer = tfds.core.SequentialWriter(
    info, max_examples_per_shard=4
  )  # several shards
  writer.initialize_splits(list(splits))
  writer.add_examples(splits)
  writer.close_all()
  return folder


@pytest.mark.slow
def test_tfds_esnli(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")
  text = tfds.features.Text()
  # Labels in another order than ours: they are matched by name.
  names = ["contradiction", "neutral", "entailment"]
  features = tfds.features.FeaturesDict({
    "premise": text, "hypothesis": text,
    "label": tfds.features.ClassLabel(names=names),
    "explanation_1": text, "explanation_2": text, "explanation_3": text,
  })  # fmt: skip
  rows = [{**row, "label": 2 - row["label"]} for row in ESNLI]
  folder = _tfds("esnli", features,
                 {"train": rows, "test": rows[:2]}, tmp_path)  # fmt: skip
  records = _load("tfds", "esnli", "train", folder)
  _check_esnli(records)
  assert [r.input for r in records] == [
    f"Premise {i}.</s>Hypothesis {i}." for i in range(9)
  ]
  with pytest.raises(UserError, match="no split 'validation'; it has: "):
    _load("tfds", "esnli", "validation", folder)


@pytest.mark.slow
def test_tfds_cqa_and_anli(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")
  text = tfds.features.Text()
  features = tfds.features.FeaturesDict({
    "id": text, "question": text, "answer": text,
    "choices": tfds.features.Sequence(text),
    "abstractive_explanation": text, "extractive_explanation": text,
  })  # fmt: skip
  folder = _tfds("cos_e", features,
                 {"train": CQA, "validation": CQA}, tmp_path)  # fmt: skip
  _check_cqa(_load("tfds", "cqa", "test", folder), "test")
  features = tfds.features.FeaturesDict({
    "uid": text, "context": text, "hypothesis": text,
    "label": tfds.features.ClassLabel(names=["e", "n", "c"]),
  })  # fmt: skip
  rows = [
    {"uid": row["uid"], "context": row["premise"],
     "hypothesis": row["hypothesis"], "label": row["label"]}
    for row in ANLI
  ]  # fmt: skip
  folder = _tfds("anli", features, {"train": rows}, tmp_path)
  records = _load("tfds", "anli1", "train", folder)
  assert [record.label for record in records[:3]] == [
    "entailment", "neutral", "contradiction",
  ]  # fmt: skip
  assert records[5].input == "Premise 5.</s>Hypothesis 5."


# --- what is not there -------------------------------------------------------


@pytest.mark.parametrize(
  ("source", "module", "hint"),
  [
    ("tfds", "tensorflow_datasets", "pip install tensorflow-datasets"),
    ("huggingface", "datasets", r"pip install 'dss_jax\[hf\]'"),
  ],
)
def test_a_missing_library_is_named(monkeypatch, source, module, hint):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(UserError, match=f"{module} cannot be imported.*{hint}"):
    _load(source, "esnli", "test", "anywhere")


@pytest.mark.slow
def test_a_missing_network_is_reported_at_once(monkeypatch, tmp_path):
  """TFDS itself would retry for minutes before it gave up."""
  pytest.importorskip("tensorflow_datasets")

  def unreachable(address, timeout):
    del timeout
    raise OSError(f"no route to {address[0]}")

  monkeypatch.setattr("socket.create_connection", unreachable)
  monkeypatch.setattr("urllib.request.getproxies", dict)
  with pytest.raises(
    UserError, match=r"anli/r1 cannot be loaded: no route to dl.f.*set data_dir"
  ):
    _load("tfds", "anli1", "test", tmp_path)


def test_sources_without_the_data():
  options = DataOptions(source="tfds", rationale_source="human")
  with pytest.raises(UserError, match="tfds has no 'svamp'; it has: esnli"):
    load_source_split("svamp", "test", options=options)
  options = DataOptions(source="huggingface")
  with pytest.raises(
    UserError, match=r"no completions of palm; set rationale_source"
  ):
    load_source_split("svamp", "test", options=options)
