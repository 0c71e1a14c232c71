"""Any SeqIO Task or Mixture as token arrays, evaluations and streams."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.feeding.streaming import StreamingBatches, sample
from dss_jax.data.packing.packed_features import unpack
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.data.pairs import task_names, task_options
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.data.pairs.task_options import TaskOptions
from dss_jax.data.tokens import evaluation_sets, text_checks, tokenization

seqio = pytest.importorskip("seqio")

import tensorflow as tf  # noqa: E402

import dss_jax.tasks  # noqa: E402, F401
from dss_jax.data import seqio as seqio_data  # noqa: E402
from dss_jax.data import tasks  # noqa: E402
from dss_jax.data.packing import packing_plans  # noqa: E402
from dss_jax.data.seqio import materialization  # noqa: E402

LENGTHS = {"inputs": 200, "targets": 100}
BYTES = vocabularies.ByteVocabulary()


@pytest.fixture(autouse=True)
def release(fixtures):
  data = datasets.DataOptions(
    data_dir=str(fixtures / "release"),
    taxonli_num_train=12,
    taxonli_num_validation=6,
    taxonli_num_test=6,
  )
  with task_options.using(TaskOptions(data)) as chosen:
    yield chosen


def ids(text: str) -> list[int]:
  return [*BYTES.encode(text), 1]


def tokens(example_set) -> list:
  return [
    (
      arrays.name,
      [
        tuple(side.tolist() for side in arrays.example(i))
        for i in range(len(arrays))
      ],
      arrays.record_ids.tolist(),
      arrays.weights.tolist(),
    )
    for arrays in example_set.subtasks
  ]


# --- our own ------------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "split", "method"),
  [
    ("svamp_dss", "train", MethodOptions(rates={"rationale": 3})),
    ("anli1_dss_paired_teacher", "train", MethodOptions()),
    ("taxonli_rationale_then_label", "validation", MethodOptions()),
  ],
)
def test_own_sets_equal_those_built_without_tensorflow(
  name, split, method, tmp_path, release
):
  with task_options.using(
    dataclasses.replace(release, method=method)
  ) as chosen:
    made = seqio_data.materialize(
      name, split, cache_dir=tmp_path, feature_lengths=LENGTHS
    )
    dataset = task_names.get_task(name).dataset
    arguments = (
      name,
      split,
      vocabularies.from_name(chosen.vocabulary_of(dataset)),
      chosen.data,
      chosen.method,
      LENGTHS,
    )
    built = tokenization.build_examples(*arguments)
    assert tokens(made) == tokens(built)
    for field in dataclasses.fields(made):
      if field.name not in ("subtasks", "left_out", "same_labels"):  # unsaid
        assert getattr(made, field.name) == getattr(built, field.name)
    # so that either path finds what the other has written
    (folder,) = tmp_path.iterdir()
    stamp = folder.stat().st_mtime_ns
    loaded = tokenization.TaskSource.load(*arguments).open_or_build(tmp_path)
    assert tokens(loaded) == tokens(built)
    assert folder.stat().st_mtime_ns == stamp


def test_what_is_cut_is_counted_on_both_paths(tmp_path, release):
  name, lengths = "svamp_dss", {"inputs": 90, "targets": 30}
  arguments = (
    name,
    "train",
    vocabularies.from_name("bytes"),
    release.data,
    release.method,
  )
  whole = tokenization.build_examples(*arguments)
  built = tokenization.build_examples(*arguments, lengths)
  made = seqio_data.materialize(
    name, "train", cache_dir=tmp_path, feature_lengths=lengths
  )
  assert tokens(made) == tokens(built)
  cut = {
    arrays.name: {
      "inputs": int((arrays.input_lengths > 90).sum()),
      "targets": int((arrays.target_lengths > 30).sum()),
    }
    for arrays in whole.subtasks
  }
  assert cut["label"]["inputs"]
  assert cut["rationale"]["targets"]
  assert made.cut == built.cut == cut
  # The same refusal, too.
  message = r"of sub-task label .* are cut off at 9 tokens"
  with pytest.raises(UserError, match=message):
    tokenization.build_examples(*arguments, {"targets": 9})
  with pytest.raises(UserError, match=message):
    seqio_data.materialize(
      name, "train", cache_dir=tmp_path, feature_lengths={"targets": 9}
    )


# --- other projects' ------------------------------------------------------------


@pytest.fixture
def foreign(monkeypatch):
  """Tasks that know nothing of dss_jax: `up`, `twice`, and mixtures of them."""
  for known in (seqio.TaskRegistry, seqio.MixtureRegistry):
    monkeypatch.setattr(known, "_REGISTRY", dict(known._REGISTRY))
  vocabulary = seqio.ByteVocabulary()
  add_task("up", lambda x: tf.strings.upper(x), vocabulary)
  add_task("twice", lambda x: tf.strings.join([x, x]), vocabulary)
  seqio.MixtureRegistry.add("inner", [("up", 1), ("twice", 3)])
  seqio.MixtureRegistry.add(
    "outer",
    [("inner", 2.0), ("up", lambda task: 0.5 if task.name == "up" else 9.0)],
  )


WORDS = {"train": ["ab", "c", "", "de"], "test": ["x", "yz"]}


def add_task(name, transform, vocabulary, words=WORDS, **kwargs) -> None:
  def dataset(split, shuffle_files, seed=None):
    del shuffle_files, seed
    column: Any = {"inputs": words[split], "targets": words[split]}
    return tf.data.Dataset.from_tensor_slices(column)

  def transformed(ds):
    return ds.map(lambda x: {**x, "targets": transform(x["targets"])})

  feature = seqio.Feature(vocabulary, add_eos=True)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(dataset, splits=list(words)),
    preprocessors=[
      transformed,
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
    shuffle_buffer_size=8,
    **kwargs,
  )


@pytest.mark.usefixtures("foreign")
def test_what_is_cut_of_other_tasks_is_counted_where_it_is_known(tmp_path):
  lengths = {"inputs": 3, "targets": 4}
  made = seqio_data.materialize(
    "inner", "train", cache_dir=tmp_path, feature_lengths=lengths
  )
  # "ab" and its end just fit 3 tokens; "abab" and "dede" do not fit 4.
  assert made.cut == {
    "twice": {"inputs": 0, "targets": 2},
    "up": {"inputs": 0, "targets": 0},
  }
  assert (
    seqio_data.materialize(
      "inner", "train", cache_dir=tmp_path, feature_lengths=lengths
    ).cut
    == made.cut
  )


@pytest.mark.usefixtures("foreign")
def test_tasks_of_bare_ids_are_taken_as_they_are(tmp_path):
  vocabulary = seqio.PassThroughVocabulary(size=9, eos_id=1)

  def dataset(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    ids = [[5, 2, 7], [2, 2, 2]]
    columns: Any = {"inputs": ids, "targets": ids}
    return tf.data.Dataset.from_tensor_slices(columns)

  feature = seqio.Feature(vocabulary, add_eos=True)
  seqio.TaskRegistry.add(
    "bare",
    source=seqio.FunctionDataSource(dataset, splits=["train"]),
    preprocessors=[seqio.preprocessors.append_eos_after_trim],
    output_features={"inputs": feature, "targets": feature},
  )
  lengths = {"inputs": 4, "targets": 3}
  made = seqio_data.materialize(
    "bare", "train", cache_dir=tmp_path, feature_lengths=lengths
  )
  (arrays,) = made.subtasks
  assert [ids.tolist() for ids in arrays.example(0)] == [
    [5, 2, 7, 1],
    [5, 2, 1],
  ]
  # Nobody knows what is cut, and 2 is no unknown token here.
  assert made.cut == {}
  assert text_checks.describe(
    made, seqio_data.from_seqio(vocabulary), lengths
  ) == [
    "sub-task bare: 2 of 2 inputs fill, or are cut to, 4 tokens"
    " (task_feature_lengths)",
    "sub-task bare: 2 of 2 targets fill, or are cut to, 3 tokens"
    " (task_feature_lengths)",
  ]


@pytest.mark.usefixtures("foreign")
def test_a_nested_mixture_with_callable_rates(tmp_path):
  made = seqio_data.materialize("outer", "train", cache_dir=tmp_path)
  twice, up = made.subtasks
  assert (twice.name, up.name) == ("twice", "up")
  # inner has 2, and a quarter of it goes to `up`; 0.5 comes on top
  assert made.rates == (1.5, 1.0)
  assert [up.example(i)[1].tolist() for i in range(4)] == [
    ids("AB"),
    ids("C"),
    ids(""),
    ids("DE"),
  ]
  assert twice.example(0)[1].tolist() == ids("abab")
  assert up.record_ids.tolist() == [0, 1, 2, 3]
  assert up.weights.tolist() == [1.0] * 4
  assert not made.paired
  assert made.num_records == 4
  assert made.vocabulary == BYTES.name
  assert (made.task_name, made.split) == ("outer", "train")


@pytest.mark.usefixtures("foreign")
def test_ours_and_theirs_in_one_mixture(tmp_path):
  seqio.MixtureRegistry.add("both", [("svamp_dss", 1.0), ("up", 2.0)])
  made = seqio_data.materialize(
    "both", "train", cache_dir=tmp_path, feature_lengths=LENGTHS
  )
  names = [arrays.name for arrays in made.subtasks]
  assert names == ["svamp_label", "svamp_rationale", "up"]
  assert made.rates == (0.5, 0.5, 2.0)


@pytest.mark.usefixtures("foreign")
def test_arrays_are_made_once_and_again_when_the_task_changes(
  tmp_path, monkeypatch
):
  def open_up(**kwargs):
    return seqio_data.materialize("up", "train", cache_dir=tmp_path, **kwargs)

  first = open_up()
  calls = []
  original = materialization._subtask_examples
  monkeypatch.setattr(
    materialization,
    "_subtask_examples",
    lambda *args: calls.append(1) or original(*args),
  )
  assert tokens(open_up()) == tokens(first)
  assert not calls
  open_up(feature_lengths={"inputs": 2})
  assert len(calls) == 1
  seqio.TaskRegistry.remove("up")
  add_task("up", lambda x: tf.strings.lower(x), seqio.ByteVocabulary())
  changed = open_up()
  assert len(calls) == 2
  assert changed.fingerprint != first.fingerprint
  # another source under the same name
  seqio.TaskRegistry.remove("up")
  words = {"train": ["other"], "test": []}
  add_task("up", tf.strings.lower, seqio.ByteVocabulary(), words)
  assert open_up().subtasks[0].example(0)[0].tolist() == ids("other")


def test_a_changed_file_makes_new_arrays(tmp_path, monkeypatch):
  monkeypatch.setattr(
    seqio.TaskRegistry, "_REGISTRY", dict(seqio.TaskRegistry._REGISTRY)
  )
  path = tmp_path / "lines.txt"
  path.write_text("one\ntwo\n")
  feature = seqio.Feature(seqio.ByteVocabulary())
  seqio.TaskRegistry.add(
    "lines",
    source=seqio.TextLineDataSource({"train": str(path)}),
    preprocessors=[
      lambda ds: ds.map(lambda x: {"inputs": x, "targets": x}),
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features={"inputs": feature, "targets": feature},
  )

  def texts():
    made = seqio_data.materialize(
      "lines", "train", cache_dir=tmp_path / "arrays"
    )
    (arrays,) = made.subtasks
    return [BYTES.decode(arrays.example(i)[0]) for i in range(len(arrays))]

  assert texts() == ["one", "two"]
  path.write_text("one\ntwo\nthree\n")
  assert texts() == ["one", "two", "three"]


# --- evaluation --------------------------------------------------------------------


@pytest.mark.usefixtures("foreign")
def test_evaluation_with_a_tasks_own_postprocessor_and_metrics():
  def length_accuracy(targets, predictions):
    pairs = zip(targets, predictions, strict=True)
    return {"length": float(np.mean([t == p for t, p in pairs]))}

  def with_scores(targets, scores):
    return {"never": 0.0}

  def postprocess(text, example=None, is_target=False):
    # any object: a target is a tuple with something of its example
    return (
      len(text),
      is_target or (example or {})["inputs_pretokenized"] != b"x",
    )

  add_task(
    "measured",
    lambda x: tf.strings.join([x, "!"]),
    seqio.ByteVocabulary(),
    postprocess_fn=postprocess,
    metric_fns=[length_accuracy, with_scores],
  )
  seqio.MixtureRegistry.add("some", [("measured", 1), ("up", 1)])
  found = seqio_data.seqio_evaluations("some", "test", feature_lengths=LENGTHS)
  assert list(found) == ["measured"]  # `up` has no metrics
  evaluation = found["measured"]
  assert evaluation.name == "measured"
  assert evaluation.input_texts == ["x", "yz"]
  assert evaluation.inputs == [ids("x"), ids("yz")]
  assert evaluation.targets == [(2, True), (3, True)]
  predictions = evaluation.predictions(["ab", "abc"])
  assert predictions == [(2, False), (3, True)]
  assert evaluation.score(predictions) == {"length": 0.5}
  assert evaluation.metric_names == ("length_accuracy",)
  assert evaluation.unsupported_metrics == ("with_scores",)
  assert evaluation.correct(predictions) is None
  assert len(evaluation) == 2
  few = seqio_data.seqio_evaluations("measured", "test", max_examples=1)
  assert len(few["measured"]) == 1


def test_own_tasks_score_alike_on_both_paths():
  name = "svamp_label_then_rationale"
  (theirs,) = seqio_data.seqio_evaluations(name, "test").values()
  (ours,) = evaluation_sets.build_evaluations(
    tokenization.TaskSource.load(
      name, "test", BYTES, task_options.current().data
    )
  ).values()
  assert theirs.inputs == ours.inputs
  assert theirs.targets == ours.targets
  texts = [f"{target} [rationale] x" for target in ours.targets]
  texts[0] = "nothing"
  assert theirs.predictions(texts) == ours.predictions(texts)
  scores = theirs.score(theirs.predictions(texts))
  assert scores == ours.score(ours.predictions(texts))
  assert scores["accuracy"] == pytest.approx(1 - 1 / len(ours))


def test_vocabularies_come_back_as_ours():
  for name in ("bytes:3", "taxonli:2"):
    ours = vocabularies.from_name(name)
    assert seqio_data.from_seqio(tasks.to_seqio(name)) == ours
  other = seqio_data.from_seqio(seqio.UnigramVocabulary(["a", "b"]))
  assert isinstance(other, vocabularies.Vocabulary)
  assert other.name.startswith("seqio(")
  swapped = seqio.SentencePieceVocabulary(
    str(vocabularies.model_path("taxonli")), 2, reverse_extra_ids=False
  )
  other = seqio_data.from_seqio(swapped)
  assert isinstance(other, seqio_data.SeqioVocabulary)
  assert other.decode(other.encode("box")) == "box"
  assert tasks.to_seqio(other) is swapped
  assert other.vocab_size == swapped.vocab_size


# --- streams -----------------------------------------------------------------------


@pytest.mark.usefixtures("foreign")
def test_a_stream_is_a_function_of_its_seed_and_can_be_entered_anywhere():
  stream = seqio_data.ExampleStream("outer", "train", 5)
  assert stream.subtask_names == ("twice", "up")
  assert stream.rates == (1.5, 1.0)
  assert stream.vocabulary == BYTES

  def take(stream, count, skip=0):
    return [
      (e.subtask, e.inputs.tolist(), e.targets.tolist(), e.weight)
      for e in itertools.islice(stream.open(skip), count)
    ]

  first = take(stream, 120)
  assert take(stream, 20, skip=100) == first[100:]
  other = dataclasses.replace(stream, seed=6)
  assert take(other, 120) != first
  assert other.fingerprint != stream.fingerprint
  # it continues for ever, at the rates, with all examples and no others
  assert {(k, tuple(i), tuple(t), w) for k, i, t, w in first} == {
    (k, tuple(ids(word)), tuple(ids(written)), 1.0)
    for word in WORDS["train"]
    for k, written in enumerate([word * 2, word.upper()])
  }
  assert 50 <= sum(subtask == 0 for subtask, *_ in first) <= 95


@pytest.mark.usefixtures("foreign")
def test_a_stream_feeds_packed_batches(monkeypatch):
  monkeypatch.setattr(packing_plans, "window_batches", lambda units: 3)
  stream = seqio_data.ExampleStream("outer", "train", 0)
  assert sum(len(arrays) for arrays in sample(stream, 20).subtasks) == 20
  shape = BatchShape(2, 16, 24, records_per_batch=3)
  batch = StreamingBatches(stream, shape)[1]
  assert batch["encoder_input_tokens"].shape == (2, 16)
  found = unpack(batch)
  assert len(found) in range(4, 9)
  for example in found:
    word = BYTES.decode(example.inputs)
    written = word * 2 if example.subtask == 0 else word.upper()
    assert example.targets == ids(written)


def test_our_own_tasks_stream_with_their_weights():
  stream = seqio_data.ExampleStream("svamp_rationale", "train", 0, LENGTHS)
  (example,) = itertools.islice(stream.open(), 1)
  assert stream.subtask_names == ("rationale",)
  assert BYTES.decode(example.inputs).startswith("[rationale] ")
  assert example.weight == 1.0


# --- mistakes ---------------------------------------------------------------------


def add_broken(name: str, dataset_fn, **features) -> None:
  feature = seqio.Feature(seqio.ByteVocabulary())
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(dataset_fn, splits=["train"]),
    preprocessors=[],
    output_features=features or {"inputs": feature, "targets": feature},
  )


def failing(split, shuffle_files):
  raise OSError("disk on fire")


def floats(split, shuffle_files):
  row: Any = {"inputs": [[1.0]], "targets": [[1.0]]}
  return tf.data.Dataset.from_tensor_slices(row)


@pytest.mark.usefixtures("foreign")
def test_mistakes_are_one_line(tmp_path):
  def check(message, name, split="train", **kwargs):
    with pytest.raises(UserError, match=message) as raised:
      seqio_data.materialize(name, split, cache_dir=tmp_path, **kwargs)
    assert "\n" not in str(raised.value)

  check("no Task or Mixture 'nowhere'.*correct the name", "nowhere")
  check("no split 'dev'; it has test, train", "up", "dev")
  check("task_feature_lengths", "up", feature_lengths={"inputs": -1})
  check("is not cached|any of the task cache", "up", use_cached=True)
  check("svamp_label.*not cached", "svamp_label", use_cached=True)
  add_broken("failing", failing)
  check("'failing' cannot be read: disk on fire", "failing")
  float_feature = seqio.ContinuousFeature(dtype=tf.float32, rank=1)
  add_broken("floats", floats, inputs=float_feature, targets=float_feature)
  check("gives float32|cannot be read", "floats")
  add_broken("targets_only", floats, targets=float_feature)
  check("has no feature 'inputs'", "targets_only")
  seqio.MixtureRegistry.add("nothing", [("up", 0), ("twice", 0.0)])
  check(r"rates \[0.0, 0.0\]", "nothing")
  seqio.MixtureRegistry.add("called", [("inner", lambda task: 1.0)])
  check("rates of Mixture 'called'", "called")
  paired = seqio_data.ExampleStream("svamp_dss_paired", "train", 0)
  with pytest.raises(UserError, match="keeps a record's examples in one batch"):
    next(paired.open())
