"""The direct path: tokens by hand, fingerprints, the cache, evaluations."""

import dataclasses

import numpy as np
import pytest

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import dataset_registration
from dss_jax.data.pairs.subtasks import METHODS, MethodOptions
from dss_jax.data.tokens import evaluation_sets, tokenization
from dss_jax.data.tokens.token_arrays import ExampleSet
from dss_jax.datasets.records import Rationale, Record
from dss_jax.vocabularies import ByteVocabulary

BYTES = ByteVocabulary()
DATA = datasets.DataOptions(
  taxonli_num_train=12, taxonli_num_validation=6, taxonli_num_test=6
)


def ids(text: str) -> list[int]:
  return [1 if c == "$" else ord(c) + 3 for c in text]


@pytest.fixture(autouse=True)
def registered():
  """A small dataset, `toy`, registered for the test only."""
  train = [
    Record("a", "p</s>q", "yes", (Rationale("because", "yes", "t", 0.5),)),
    Record("b", "xyz", None, (Rationale("so", "no", "t"),)),
    Record("c", "c", "no"),
  ]
  dataset_registration.register_dataset(
    "toy", {"train": train, "validation": train, "test": train}
  )


def tokens(example_set: ExampleSet) -> dict:
  return {
    arrays.name: [
      tuple(side.tolist() for side in arrays.example(i))
      for i in range(len(arrays))
    ]
    for arrays in example_set.subtasks
  }


def test_tokens_of_dss():
  example_set = tokenization.TaskSource.load(
    "toy_dss",
    "train",
    BYTES,
    method_options=MethodOptions(label_prefix="L", rationale_prefix="R"),
  ).example_set()
  assert tokens(example_set) == {
    "label": [
      (ids("Lp$q$"), ids("yes$")),
      (ids("Lc$"), ids("no$")),
    ],
    "rationale": [
      (ids("Rp$q$"), ids("because$")),
      (ids("Rxyz$"), ids("so$")),
    ],
  }
  label, rationale = example_set.subtasks
  assert label.record_ids.tolist() == [0, 2]
  assert rationale.record_ids.tolist() == [0, 1]
  assert rationale.weights.tolist() == [0.5, 1.0]
  assert example_set.num_records == 3
  assert example_set.rates == (1.0, 1.0)
  assert not example_set.paired
  assert (example_set.task_name, example_set.split) == ("toy_dss", "train")
  assert example_set.vocabulary == BYTES.name
  assert example_set.left_out == {"label": {"no label": 1}, "rationale": {}}


def test_paired_is_the_same_examples():
  mixed = tokenization.build_examples("toy_dss", "train", BYTES)
  paired = tokenization.build_examples("toy_dss_paired", "train", BYTES)
  assert paired.paired
  assert tokens(mixed) == tokens(paired)


def test_lengths_cut_before_the_end_id():
  lengths = {"inputs": 4, "targets": 4}
  built = tokenization.build_examples(
    "toy_dss",
    "train",
    BYTES,
    method_options=MethodOptions(label_prefix="L", rationale_prefix="R"),
    feature_lengths=lengths,
  )
  assert tokens(built) == {
    "label": [
      ([*ids("Lp$"), 1], [*ids("yes"), 1]),
      ([*ids("Lc"), 1], [*ids("no"), 1]),
    ],
    "rationale": [
      ([*ids("Rp$"), 1], [*ids("bec"), 1]),
      ([*ids("Rxy"), 1], [*ids("so"), 1]),
    ],
  }
  assert built.cut == {
    "label": {"inputs": 1, "targets": 0},
    "rationale": {"inputs": 2, "targets": 1},
  }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("suffix", ["", "_teacher"])
def test_every_method_builds_on_the_built_in_dataset(method, suffix):
  vocabulary = vocabularies.from_name("taxonli")
  name = f"taxonli_{method}{suffix}"
  built = tokenization.build_examples(name, "train", vocabulary, DATA)
  assert [arrays.name for arrays in built.subtasks] == [
    subtask.name for subtask in METHODS[method].subtasks
  ]
  for arrays in built.subtasks:
    assert arrays.record_ids.tolist() == list(range(12))
    assert 2 not in arrays.inputs
    assert 2 not in arrays.targets
    assert arrays.input_lengths.max() <= 36


def test_a_fingerprint_names_everything_that_could_change_a_token():
  def fingerprint(
    name="taxonli_dss",
    split="train",
    vocabulary: vocabularies.Vocabulary = BYTES,
    data=DATA,
    method=None,
    lengths=None,
  ):
    source = tokenization.TaskSource.load(
      name, split, vocabulary, data, method, lengths
    )
    built = source.example_set()
    assert built.fingerprint == source.fingerprint()
    return built.fingerprint

  others = [
    fingerprint("taxonli_dss_paired"),
    fingerprint("taxonli_dss_teacher"),
    fingerprint(split="test"),
    fingerprint(vocabulary=vocabularies.from_name("taxonli")),
    fingerprint(data=dataclasses.replace(DATA, train_fraction=0.5)),
    fingerprint(data=dataclasses.replace(DATA, taxonli_seed=1)),
    fingerprint(data=dataclasses.replace(DATA, taxonli_control="copy")),
    fingerprint(method=MethodOptions(label_prefix="predict: ")),
    fingerprint(method=MethodOptions(rates={"label": 2})),
    fingerprint(lengths={"inputs": 16}),
    fingerprint(),
  ]
  assert len(set(others)) == len(others)
  # where the same records lie, and how often they are asked for, is nothing
  assert fingerprint() == fingerprint(
    data=dataclasses.replace(DATA, data_dir="/elsewhere")
  )


def test_open_or_build_keeps_and_mends_its_folder(tmp_path, monkeypatch):
  def load():
    return tokenization.TaskSource.load(
      "toy_dss", "train", BYTES
    ).open_or_build(tmp_path)

  first = load()
  (folder,) = tmp_path.iterdir()
  assert folder.name == f"toy_dss-train-{first.fingerprint[:16]}"
  expected = tokens(tokenization.build_examples("toy_dss", "train", BYTES))
  assert tokens(first) == expected

  def no_build(self):
    raise AssertionError("built again")

  with monkeypatch.context() as patch:
    patch.setattr(tokenization.TaskSource, "example_set", no_build)
    assert tokens(load()) == expected
  (file,) = folder.glob("subtask_0.inputs*")
  file.write_bytes(b"")
  assert tokens(load()) == expected


def test_evaluations_of_a_mixture():
  found = evaluation_sets.build_evaluations(
    tokenization.TaskSource.load(
      "toy_dss_teacher", "test", BYTES, feature_lengths={"targets": 2}
    )
  )
  assert list(found) == ["label", "rationale"]
  label = found["label"]
  assert label.name == "toy_label_teacher"
  assert label.ids == ["a", "c"]
  assert label.input_texts == ["[label] p</s>q", "[label] c"]
  assert label.inputs[1] == ids("[label] c$")
  assert label.targets == ["yes", "no"]
  predictions = label.predictions([" yes", "yes"])
  assert predictions == ["yes", "yes"]
  assert label.score(predictions) == {"accuracy": 0.5}
  assert label.correct(predictions) == [True, False]
  rationale = found["rationale"]
  assert rationale.targets == ["because", "so"]
  assert rationale.correct(["because", "x"]) is None
  assert rationale.score(["because", "so"])["rougeL"] == pytest.approx(100)
  assert len(rationale) == 2


def test_evaluation_finds_the_label_after_the_rationale():
  found = evaluation_sets.build_evaluations(
    tokenization.TaskSource.load(
      "toy_rationale_then_label", "validation", BYTES
    )
  )
  (evaluation,) = found.values()
  assert evaluation.targets == ["yes", "no"]  # c has no rationale, but counts
  predictions = evaluation.predictions(["why [label] yes", "no"])
  assert evaluation.score(predictions) == {"accuracy": 0.5}


def test_max_examples():
  found = evaluation_sets.build_evaluations(
    tokenization.TaskSource.load(
      "taxonli_label", "test", vocabularies.from_name("taxonli"), DATA
    ),
    max_examples=2,
  )
  assert found["label"].ids == ["test-0", "test-1"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("toy_foo", "train"), "no task 'toy_foo'"),
    (("toy_dss", "dev"), "no split 'dev'.*train, validation, test"),
    (
      ("toy_dss", "train", {"input": 4}),
      "task_feature_lengths has 'input'",
    ),
    (("toy_dss", "train", {"inputs": 0}), "'inputs': 0"),
  ],
)
def test_mistakes_are_one_line(arguments, message):
  name, split, *lengths = arguments
  with pytest.raises(UserError, match=message) as raised:
    tokenization.build_examples(
      name, split, BYTES, feature_lengths=lengths[0] if lengths else None
    )
  assert "\n" not in str(raised.value)


def test_a_missing_data_folder_is_said_with_its_switches(monkeypatch):
  monkeypatch.delenv(datasets.DATA_DIR_VARIABLE, raising=False)
  with pytest.raises(UserError, match=r"data_dir.*DSS_DATA_DIR"):
    tokenization.build_examples("svamp_dss", "train", BYTES)


def test_teacher_labels_are_compared_by_value(fixtures):
  data = datasets.DataOptions(data_dir=str(fixtures / "release"))
  strict = MethodOptions(rationale_filter="agrees")
  built = tokenization.build_examples("svamp_dss", "train", BYTES, data, strict)
  records = datasets.load_split("svamp", "train", options=data)
  agreeing = built.subtasks[1].record_ids.tolist()
  assert agreeing
  from dss_jax.datasets import arithmetic

  for position in agreeing:
    teacher = records[position].rationales[0].label
    assert arithmetic.same_value(records[position].label, teacher)
  spelled_alike = [
    position
    for position in agreeing
    if records[position].label == records[position].rationales[0].label
  ]
  assert len(spelled_alike) < len(agreeing)


@pytest.mark.shared
def test_released_svamp_keeps_what_the_official_parser_reads(shared_data):
  data = datasets.DataOptions(data_dir=str(shared_data / "dss_release"))
  counts = {}
  for split in ("train", "validation", "test"):
    built = tokenization.TaskSource.load(
      "svamp_dss_teacher", split, BYTES, data
    ).example_set()
    counts[split] = (
      built.num_records,
      *(len(arrays) for arrays in built.subtasks),
    )
    if split == "train":
      blank = built.left_out["rationale"]["rationale blank"]
      assert len(built.subtasks[1]) + blank == 720
  assert counts["train"][0] == 720
  assert counts["validation"][0] == 80
  # test rows are scored on gold labels, whatever is trained on
  assert counts["test"][:2] == (200, 200)


def test_weights_and_ids_are_what_the_sampler_expects():
  built = tokenization.build_examples("toy_rationale", "train", BYTES)
  (arrays,) = built.subtasks
  assert arrays.record_ids.dtype == np.int32
  assert arrays.weights.dtype == np.float32
