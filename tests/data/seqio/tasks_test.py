"""SeqIO Tasks and Mixtures: registered, lazy, cached, equal to the direct path.

The only tests besides materialize_test.py that import TensorFlow. Reading one
Task costs 0.2 s of graph building, so what every name must satisfy is tested
on a few names here and on all of them in slow and thorough tests.
"""

import dataclasses
import importlib
import json
from typing import Any

import numpy as np
import pytest

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.pairs import subtasks, task_names, task_options
from dss_jax.data.pairs.several_teachers import several_teachers
from dss_jax.data.pairs.subtasks import METHODS, MethodOptions
from dss_jax.data.pairs.task_options import TaskOptions
from dss_jax.data.seqio import task_records
from dss_jax.data.tokens import tokenization
from dss_jax.datasets.records import Rationale, Record

seqio = pytest.importorskip("seqio")

import dss_jax.tasks  # noqa: E402, F401
from dss_jax.data import tasks  # noqa: E402
from dss_jax.data.seqio import registration, task_lookup  # noqa: E402

LENGTHS = {"inputs": 200, "targets": 160}
ALL_DATASETS = (
  "anli1",
  "anli2",
  "anli3",
  "asdiv",
  "cqa",
  "esnli",
  "svamp",
  "kinds",
  "taxonli",
)
SMALL: dict[str, Any] = {
  "taxonli_num_train": 12,
  "taxonli_num_validation": 6,
  "taxonli_num_test": 6,
}


@pytest.fixture(autouse=True)
def release(fixtures):
  """Options that read the committed files, in force for the test."""
  data = datasets.DataOptions(data_dir=str(fixtures / "release"), **SMALL)
  with task_options.using(TaskOptions(data)) as chosen:
    yield chosen


def names_of(dataset: str) -> list[str]:
  return [
    task_names.task_name(dataset, method, source)
    for source in task_names.LABEL_SOURCES
    for method in METHODS
  ]


def read(name: str, split: str = "train", lengths=LENGTHS, **kwargs) -> list:
  """A Task's examples in the order of records."""
  return in_order(
    seqio.TaskRegistry.get(name).get_dataset(
      lengths, split, shuffle=False, num_epochs=1, **kwargs
    )
  )


def in_order(dataset) -> list:
  return sorted(
    dataset.as_numpy_iterator(),
    key=lambda e: (e["record_id"], e["rationale_index"]),
  )


def tokens(found: list) -> list:
  return [
    (
      e["inputs"].tolist(),
      e["targets"].tolist(),
      int(e["record_id"]),
      float(e["weight"]),
    )
    for e in found
  ]


def direct(name: str, split: str, lengths=LENGTHS) -> list:
  """The same examples without TensorFlow."""
  chosen = task_options.current()
  dataset = task_names.get_task(name).dataset
  (arrays,) = tokenization.build_examples(
    name,
    split,
    vocabularies.from_name(chosen.vocabulary_of(dataset)),
    chosen.data,
    chosen.method,
    lengths,
  ).subtasks
  return [
    (
      *(side.tolist() for side in arrays.example(i)),
      int(arrays.record_ids[i]),
      float(arrays.weights[i]),
    )
    for i in range(len(arrays))
  ]


# --- vocabularies -------------------------------------------------------------

TEXTS = [
  "A poodle is in a kitchen.",
  "Zoë  naïve\n½ﬁ 你好 \t🙂",
  "a  b   c ",
  "<extra_id_0> and <extra_id_1>",
  "",
  "x" * 300,
  "( 84.0 / 2.0 )",
]


@pytest.mark.parametrize(
  "name",
  ["bytes", "bytes:7", "taxonli", "taxonli:2", 'taxonli:2+["\\n", "é", "  "]'],
)
def test_ids_and_decodes_equal_seqios(name):
  ours, theirs = vocabularies.from_name(name), tasks.to_seqio(name)
  assert theirs == tasks.to_seqio(ours)
  assert ours.vocab_size == theirs.vocab_size
  assert (ours.pad_id, ours.eos_id, ours.unk_id) == (
    theirs.pad_id,
    theirs.eos_id,
    theirs.unk_id,
  )
  for text in TEXTS:
    ids = ours.encode(text)
    assert ids == list(theirs.encode(text))
    assert ids == theirs.encode_tf(text).numpy().tolist()
    assert ours.decode(ids) == theirs.decode(ids)
  size = ours.vocab_size
  for ids in ([5, 9, 1, 7], [1], [], [2, 9], [size - 1, 9], [size + 5, 9]):
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("name", ["bytes", "taxonli", 'taxonli+["é","\\n"]'])
@pytest.mark.parametrize(
  "text", ["a</s>box", "</s>", "a</s></s>é", "no end", "", "\n</s>\n"]
)
def test_the_end_id_inside_a_text_is_the_same_in_tensorflow(name, text):
  ids = tasks.encode_text(text, tasks.to_seqio(name)).numpy()
  assert ids.tolist() == vocabularies.from_name(name).encode(text)
  assert ids.dtype == np.int32


def test_other_vocabularies_of_seqio_work_too():
  import tensorflow as tf

  class Reversed(seqio.ByteVocabulary):
    def _encode_tf(self, s):
      return tf.reverse(super()._encode_tf(s), [0])

  ids = tasks.encode_text(tf.constant("ab</s>cd"), Reversed()).numpy()
  assert ids.tolist() == [101, 100, 1, 103, 102]


@pytest.mark.shared
def test_a_real_model_gives_seqios_ids(shared_data, release):
  path = str(shared_data / "dss_spm.model")
  ours, theirs = vocabularies.from_name(f"{path}:100"), None
  theirs = tasks.to_seqio(ours)
  records = datasets.load_split(
    "cqa",
    "test",
    options=datasets.DataOptions(data_dir=str(shared_data / "dss_release")),
  )
  for text in [*TEXTS, *(record.input for record in records[:200])]:
    assert ours.encode(text) == theirs.encode_tf(text).numpy().tolist()
    assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text))


# --- what is registered -------------------------------------------------------


def test_all_names_are_registered():
  tasks_known = set(seqio.TaskRegistry.names())
  mixtures_known = set(seqio.MixtureRegistry.names())
  for dataset in ALL_DATASETS:
    for name in names_of(dataset):
      is_mixture = task_names.get_task(name).method.is_mixture
      assert name in (mixtures_known if is_mixture else tasks_known)


def test_the_tasks_have_one_name_only(repository, monkeypatch):
  monkeypatch.syspath_prepend(str(repository))
  with pytest.raises(ImportError, match="twice"):
    importlib.import_module("tasks")


def test_importing_reads_nothing(monkeypatch, tmp_path):
  monkeypatch.delenv(datasets.DATA_DIR_VARIABLE, raising=False)
  with task_options.using(TaskOptions()):
    assert tasks.add_dss_tasks("svamp") == tuple(
      sorted(
        names_of("svamp"),
        key=lambda name: task_names.get_task(name).method.is_mixture,
      )
    )
    task = seqio.TaskRegistry.get("svamp_label")
    assert task.splits == ("train", "validation", "test")
    with pytest.raises(UserError, match=r"data_dir.*DSS_DATA_DIR"):
      task.get_dataset(LENGTHS, "train")
  # the environment is looked up when the data is asked for
  monkeypatch.setenv(datasets.DATA_DIR_VARIABLE, str(tmp_path / "no"))
  with (
    task_options.using(TaskOptions()),
    pytest.raises(UserError, match="no folder 'svamp'"),
  ):
    task.get_dataset(LENGTHS, "train")


# --- the same tokens as without TensorFlow -------------------------------------


SVAMP_TASKS = [
  name
  for name in names_of("svamp")
  if not task_names.get_task(name).method.is_mixture
]


@pytest.mark.parametrize(
  ("name", "split"),
  [
    *((name, "train") for name in SVAMP_TASKS[:6]),
    *((name, "validation") for name in SVAMP_TASKS[6:8]),
    *((name, "test") for name in SVAMP_TASKS[8:]),
    ("esnli_label", "train"),
    ("taxonli_rationale_then_label", "test"),
  ],
)
def test_tokens_equal_the_direct_path(name, split):
  found = tokens(read(name, split))
  assert found == direct(name, split)
  assert found


VARIANTS = {
  "official prefixes, half": TaskOptions(
    datasets.DataOptions(train_fraction=0.5),
    MethodOptions(label_prefix="predict: ", rationale_prefix="explain: "),
  ),
  "official split": TaskOptions(
    datasets.DataOptions(
      split_policy="official", train_fraction=0.5, split_seed=3
    )
  ),
  "tolerant, agreeing, normalized": TaskOptions(
    datasets.DataOptions(parser="tolerant", label_spelling="normalized"),
    MethodOptions(rationale_filter="agrees", max_rationale_tokens=60),
  ),
  "all, few": TaskOptions(
    datasets.DataOptions(max_records=5, split_seed=1),
    MethodOptions(rationale_filter="all", label_separator=" so "),
  ),
  "other vocabulary": TaskOptions(vocabulary="taxonli:3"),
  "rationales of half, few": TaskOptions(
    datasets.DataOptions(max_records=7),
    MethodOptions(rationale_fraction=0.5, rationale_weights="equal"),
  ),
  "extra records": TaskOptions(
    datasets.DataOptions(extra_records="asdiv", train_fraction=0.5),
    MethodOptions(rationale_filter="agrees", rationale_fraction=0.8),
  ),
  "extra records, few others": TaskOptions(
    datasets.DataOptions(extra_records="asdiv", max_records=3),
    MethodOptions(rationale_fraction=0.5),
  ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_change_both_paths_alike(variant, release):
  default = direct("svamp_rationale_then_label", "train")
  chosen = VARIANTS[variant]
  data = dataclasses.replace(chosen.data, data_dir=release.data.data_dir)
  with task_options.using(dataclasses.replace(chosen, data=data)):
    found = tokens(read("svamp_rationale_then_label"))
    assert found == direct("svamp_rationale_then_label", "train")
    if data.split_policy == "official":
      validation = tokens(read("svamp_label", "validation"))
      assert validation == direct("svamp_label", "validation")
  assert found != default


def test_short_lengths_cut_alike():
  lengths = {"inputs": 10, "targets": 4}
  found = tokens(read("cqa_rationale", "train", lengths))
  assert found == direct("cqa_rationale", "train", lengths)
  assert {len(example[1]) for example in found} == {4}


# --- plain SeqIO ----------------------------------------------------------------

PACKED = {
  "encoder_input_tokens",
  "encoder_segment_ids",
  "encoder_positions",
  "decoder_input_tokens",
  "decoder_target_tokens",
  "decoder_loss_weights",
  "decoder_segment_ids",
  "decoder_positions",
}
UNPACKED = {name for name in PACKED if not name.endswith(("_ids", "positions"))}


def check_converters(name: str) -> Any:
  """A plain converter makes batches of a Task or Mixture, packed or not."""
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    LENGTHS, "train", shuffle=False, num_epochs=1
  )
  for pack, features in ((True, PACKED), (False, UNPACKED)):
    converter = seqio.EncDecFeatureConverter(
      pack=pack, apply_length_check=False
    )
    batched = converter(dataset, LENGTHS).batch(2)
    batch = next(batched.as_numpy_iterator())
    assert set(batch) == features
    for feature, array in batch.items():
      side = "inputs" if feature.startswith("encoder") else "targets"
      assert array.shape[1] == LENGTHS[side]
      assert array.any(axis=1).all(), feature
  return dataset


QUICKLY_CHECKED = [
  "svamp_standard",
  "svamp_dss_paired",
  "svamp_rationale_as_input",
  "taxonli_dss_teacher",
]


@pytest.mark.parametrize("name", QUICKLY_CHECKED)
def test_plain_converters_make_batches(name):
  check_converters(name)


@pytest.mark.slow
@pytest.mark.parametrize(
  "dataset",
  [
    name if name == "cqa" else pytest.param(name, marks=pytest.mark.thorough)
    for name in ALL_DATASETS
  ],
)
def test_every_name_converts_and_equals_the_direct_path(dataset):
  for name in names_of(dataset):
    if dataset == "asdiv" and not name.endswith("_teacher"):
      continue  # it has no gold labels
    if name not in QUICKLY_CHECKED:
      found = check_converters(name)
      if not task_names.get_task(name).method.is_mixture:
        assert tokens(in_order(found)) == direct(name, "train")


def test_get_dataset_with_length_check_and_shuffling():
  dataset = seqio.get_dataset(
    "svamp_dss_paired",
    LENGTHS,
    seqio.EncDecFeatureConverter(pack=True),
    shuffle=True,
    seed=1,
    batch_size=1,
  )
  batch = next(dataset.as_numpy_iterator())
  assert batch["encoder_segment_ids"].max() > 1


def test_rates_are_read_when_a_mixture_is_used(release):
  mixture = seqio.MixtureRegistry.get("svamp_dss")
  label, rationale = (
    seqio.TaskRegistry.get(f"svamp_{name}") for name in ("label", "rationale")
  )

  def chosen(rates):
    method = MethodOptions(rates=rates)
    return task_options.using(dataclasses.replace(release, method=method))

  assert mixture.get_rate(label) == mixture.get_rate(rationale) == 1.0
  with chosen({"label": 0.25}):
    assert mixture.get_rate(label) == 0.25
  with chosen({"rationale": 0}):
    found = mixture.get_dataset(LENGTHS, num_epochs=1, shuffle=False)
    vocabulary = vocabularies.from_name("bytes")
    texts = [
      vocabulary.decode(example["inputs"])
      for example in found.as_numpy_iterator()
    ]
    assert all(text.startswith("[label] ") for text in texts)
  with chosen({"labels": 1}), pytest.raises(UserError, match="'labels'"):
    mixture.get_rate(label)


def test_a_task_with_another_vocabulary_by_seqios_helper():
  name = "svamp_label_words"
  seqio.helpers.mixture_or_task_with_new_vocab(
    "svamp_label", name, new_vocab=tasks.to_seqio("taxonli")
  )
  try:
    for split in ("train", "validation", "test"):
      with task_options.using(
        dataclasses.replace(task_options.current(), vocabulary="taxonli")
      ):
        expected = direct("svamp_label", split)
      assert tokens(read(name, split)) == expected
  finally:
    seqio.TaskRegistry.remove(name)


def test_the_evaluator_scores_with_the_datasets_metric():
  evaluator = seqio.Evaluator(
    "svamp_rationale_then_label",
    seqio.EncDecFeatureConverter(pack=False),
    eval_split="test",
    sequence_length=LENGTHS,
    async_compute_metrics=False,
  )
  records = datasets.load_split(
    "svamp", "test", options=task_options.current().data
  )
  vocabulary = vocabularies.from_name("bytes")

  def predict(dataset, model_feature_shapes=None):
    del model_feature_shapes
    found = []
    for index, _ in dataset.as_numpy_iterator():
      # by value: another spelling of the right expression; one is wrong
      label = "(1 - 1)" if index == 0 else f"{records[index].label} + 0"
      ids = vocabulary.encode(f"so [label] ({label})")
      found.append((index, [*ids, 1, *[0] * (80 - len(ids))]))
    return found

  scores, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
  scores = scores.result()["svamp_rationale_then_label"]
  right = (len(records) - 1) / len(records)
  assert scores["value_accuracy"] == pytest.approx(right)
  assert scores["accuracy"] == 0


# --- registering --------------------------------------------------------------

MINE = [
  Record(f"m{i}", f"in {i}", "yes", (Rationale("why", "yes"),))
  for i in range(20)
]


@pytest.fixture
def registries(monkeypatch):
  """What a test registers is forgotten after it."""
  for known in (seqio.TaskRegistry, seqio.MixtureRegistry):
    monkeypatch.setattr(known, "_REGISTRY", dict(known._REGISTRY))
  monkeypatch.setattr(
    registration, "_REGISTERED", dict(registration._REGISTERED)
  )
  yield
  task_records.forget_loaded_records()


@pytest.mark.usefixtures("registries")
def test_weights_of_rationales_alike():
  shares = (0.2, 0.6, 0.6 - 1e-9, 0.4, 1.0)
  records = [
    Record(f"w{i}", f"in {i}", "yes", (Rationale("why", "yes", "m", share),))
    for i, share in enumerate(shares * 3)
  ]
  tasks.add_dss_tasks("weighed", records)
  for weights in ("as_given", "equal"):
    method = MethodOptions(min_rationale_weight=0.6, rationale_weights=weights)
    with task_options.using(TaskOptions(method=method)):
      found = tokens(read("weighed_rationale"))
      assert found == direct("weighed_rationale", "train")
      assert len(found) in range(5, 10)
      kept = {round(weight, 3) for *_, weight in found}
      assert kept == ({1.0} if weights == "equal" else {0.6, 1.0})


@pytest.mark.usefixtures("registries")
def test_one_call_registers_another_projects_data(tmp_path):
  path = tmp_path / "test.csv"
  path.write_text("q,a\nwhat,it\n")
  tasks.add_dss_tasks("mine", MINE, vocabulary="bytes:9")
  tasks.add_dss_tasks(
    "theirs",
    {"train": lambda: MINE, "test": path},
    field_mapping={"input": "q", "label": "a"},
  )
  tasks.add_dss_tasks(
    "wrong", {"train": path}, field_mapping={"input": "question"}
  )
  with pytest.raises(UserError, match=r"no column 'question'.*q, a"):
    read("wrong_label")
  assert seqio.TaskRegistry.get("mine_label").splits == ("train", "validation")
  features = seqio.TaskRegistry.get("mine_label").output_features
  assert features["targets"].vocabulary == seqio.ByteVocabulary(9)
  assert tokens(read("mine_rationale")) == direct("mine_rationale", "train")
  (only,) = read("theirs_label", "test")
  assert only["inputs_pretokenized"] == b"[label] what"
  assert len(read("mine_label", "train")) == 18
  with pytest.raises(UserError, match=r"has no split 'test'.*train, valid"):
    read("mine_label", "test")
  check_converters("theirs_dss_paired_teacher")


@pytest.mark.usefixtures("registries")
def test_a_method_that_is_made_later_is_registered_when_asked_for(
  monkeypatch, release
):
  monkeypatch.setattr(subtasks, "METHODS", dict(METHODS))
  name = f"svamp_{several_teachers(('palm', 'gpt-neox'))}"
  assert name not in seqio.MixtureRegistry.names()
  data = dataclasses.replace(release.data, rationale_source="palm+gpt-neox")
  with task_options.using(dataclasses.replace(release, data=data)):
    leaves = task_lookup.find_provider(name, "train").leaves
    assert [leaf.name for leaf in leaves] == [
      "label", "rationale_palm", "rationale_gpt_neox",
    ]  # fmt: skip
    for leaf in leaves[1:]:
      found = tokens(read(leaf.task.name))
      assert found == direct(leaf.task.name, "train")
      assert found
  check_converters(name)


@pytest.mark.parametrize("name", ["svamp_label_teacher", "svamp_rationale"])
def test_blank_labels_and_rationales_alike(name, release):
  method = MethodOptions(unreadable_labels="blank", rationale_filter="all")
  with task_options.using(dataclasses.replace(release, method=method)):
    found = tokens(read(name))
    assert found == direct(name, "train")
    blank = sum(targets == [1] for _, targets, *_ in found)
    assert blank > 0


@pytest.mark.usefixtures("registries")
def test_the_same_call_again_is_nothing_another_is_an_error():
  first = tasks.add_dss_tasks("mine", {"train": MINE})
  assert tasks.add_dss_tasks("mine", {"train": list(MINE)}) == first
  with pytest.raises(UserError, match="already registered as 'mine'"):
    tasks.add_dss_tasks("mine", {"train": MINE[:3]})
  with pytest.raises(UserError, match="other arguments"):
    tasks.add_dss_tasks(
      "mine", {"train": MINE}, data_options=datasets.DataOptions(max_records=1)
    )
  with pytest.raises(UserError, match="unknown dataset 'nothing'"):
    tasks.add_dss_tasks("nothing")


@pytest.mark.usefixtures("registries")
def test_a_name_that_seqio_already_has_is_not_taken_over():
  seqio.TaskRegistry.add(
    "mine_label",
    source=seqio.FunctionDataSource(
      lambda split, shuffle_files: None, splits=["train"]
    ),
    output_features={},
    preprocessors=[],
  )
  with pytest.raises(UserError, match=r"already has.*'mine_label'"):
    tasks.add_dss_tasks("mine", {"train": MINE})
  assert "mine_standard" not in seqio.TaskRegistry.names()


@pytest.mark.usefixtures("registries")
def test_pinned_options_decide_how_the_source_is_read(release):
  seen = []

  def load(split, read_options):
    seen.append((split, read_options.parser, read_options.train_fraction))
    return MINE

  spec = datasets.DatasetSpec("mine", load, source_splits=("train",))
  tasks.add_dss_tasks(
    "mine", spec, data_options=datasets.DataOptions(parser="tolerant")
  )
  half = dataclasses.replace(release.data, train_fraction=0.5)
  with task_options.using(dataclasses.replace(release, data=half)):
    assert len(read("mine_label")) == 9  # fraction from the configuration
  # parser pinned, and nothing of what comes after the placeholder
  assert set(seen) == {("train", "tolerant", 1.0)}


# --- SeqIO's offline cache --------------------------------------------------------


def write_cache(name: str, folder, monkeypatch) -> None:
  """Writes a Task's cache as `seqio_cache_tasks` lays it out, without Beam."""
  import tensorflow as tf

  task = seqio.TaskRegistry.get(name)
  target = folder / seqio.get_task_dir_from_name(name)
  target.mkdir(parents=True)
  for split in task.splits:
    found = list(
      task.preprocess_precache(
        task.source.get_dataset(split=split, shuffle=False)
      )
    )
    prefix = seqio.get_cached_tfrecord_prefix(str(target), split)
    for shard in range(2):
      path = f"{prefix}-{shard:05d}-of-00002"
      with tf.io.TFRecordWriter(path) as writer:
        for example in reversed(found[shard::2]):
          writer.write(seqio.dict_to_tfexample(example).SerializeToString())
    info = {
      "num_shards": 2,
      "seqio_version": seqio.__version__,
      "features": {
        key: {"shape": value.shape.as_list(), "dtype": value.dtype.name}
        for key, value in found[0].items()
      },
    }
    assert not any(f["dtype"] == "bool" for f in info["features"].values())
    with open(seqio.get_cached_info_path(str(target), split), "w") as file:
      json.dump(info, file)
    with open(seqio.get_cached_stats_path(str(target), split), "w") as file:
      json.dump({"examples": len(found)}, file)
  (target / "COMPLETED").write_text("")
  use_cache(name, folder, monkeypatch)


def use_cache(name: str, folder, monkeypatch) -> None:
  monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(folder)])
  task = seqio.TaskRegistry.get(name)
  monkeypatch.setattr(task, "_cache_dir", None)
  monkeypatch.setattr(task, "_stats", {})


@pytest.fixture
def cached(tmp_path, monkeypatch):
  """`svamp_rationale`, cached from the committed files."""
  write_cache("svamp_rationale", tmp_path / "cache", monkeypatch)
  return tmp_path / "cache" / "svamp_rationale"


@pytest.mark.usefixtures("cached")
def test_a_cache_serves_every_option_that_comes_after_it(release):
  chosen = [release]
  for variant in ("official prefixes, half", "other vocabulary"):
    data = dataclasses.replace(
      VARIANTS[variant].data, data_dir=release.data.data_dir
    )
    chosen.append(dataclasses.replace(VARIANTS[variant], data=data))
  for each in chosen:
    with task_options.using(each):
      found = tokens(read("svamp_rationale", use_cached=True))
      assert found == direct("svamp_rationale", "train")
  with task_options.using(release):
    found = tokens(read("svamp_rationale", "validation", use_cached=True))
    assert found == direct("svamp_rationale", "validation")


@pytest.mark.usefixtures("cached")
def test_a_cache_stands_in_for_data_that_is_not_there(release, monkeypatch):
  expected = tokens(read("svamp_rationale"))
  monkeypatch.delenv(datasets.DATA_DIR_VARIABLE, raising=False)
  elsewhere = dataclasses.replace(release.data, data_dir=None)
  with task_options.using(dataclasses.replace(release, data=elsewhere)):
    assert tokens(read("svamp_rationale", use_cached=True)) == expected


@pytest.mark.usefixtures("cached")
def test_a_cache_of_other_data_is_refused_with_both_fingerprints(
  release, monkeypatch
):
  task = seqio.TaskRegistry.get("svamp_rationale")
  made = task.task_records.fingerprint("train", with_data=True)
  data = dataclasses.replace(release.data, label_spelling="normalized")
  with task_options.using(dataclasses.replace(release, data=data)):
    wanted = task.task_records.fingerprint("train", with_data=True)
    with pytest.raises(UserError, match="made from other data") as raised:
      read("svamp_rationale", use_cached=True)
  assert made in str(raised.value)
  assert wanted in str(raised.value)
  assert made != wanted
  # without the data, the way it was read decides
  gone = dataclasses.replace(data, data_dir="/nowhere")
  with (
    task_options.using(dataclasses.replace(release, data=gone)),
    pytest.raises(UserError, match="made from other data"),
  ):
    read("svamp_rationale", use_cached=True)


@pytest.mark.parametrize("damage", ["info", "records", "shards"])
def test_an_unreadable_cache_is_one_line(cached, damage):
  import tensorflow as tf

  if damage == "info":
    info = seqio.get_cached_info_path(str(cached), "train")
    with open(info, "w") as file:
      file.write("{")
  for path in cached.glob("train.tfrecord*"):
    if damage == "records":
      path.write_bytes(b"no records here, and more of them")
    elif damage == "shards":
      path.unlink()
  with pytest.raises(UserError, match="cannot be read") as raised:
    read("svamp_rationale", use_cached=True)
  assert "\n" not in str(raised.value)
  assert str(cached) in str(raised.value)
  assert tf.executing_eagerly()


def test_a_task_that_is_not_cached_says_so(tmp_path, monkeypatch):
  use_cache("svamp_label", tmp_path, monkeypatch)
  with pytest.raises(UserError, match=r"not cached in .*set use_cached"):
    read("svamp_label", use_cached=True)


@pytest.mark.slow
def test_seqios_own_caching_with_beam(tmp_path, monkeypatch, release):
  """What `seqio_cache_tasks` does, where Apache Beam is installed."""
  beam = pytest.importorskip(
    "apache_beam", reason="needs Apache Beam (the `beam` extra)"
  )
  from absl import flags
  from seqio.scripts import cache_tasks_main

  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["test", "--min_shards=2"])
  name = "svamp_rationale"
  use_cache(name, tmp_path, monkeypatch)
  with beam.Pipeline() as pipeline:
    cache_tasks_main.run_pipeline(pipeline, [name], str(tmp_path))
  use_cache(name, tmp_path, monkeypatch)
  assert tokens(read(name, use_cached=True)) == direct(name, "train")


# --- files of records in the place of a dataset's source ---------------------


def test_a_folder_of_records_gives_the_tokens_of_the_direct_path(
  tmp_path, monkeypatch
):
  from dss_jax.datasets.records import write_records

  write_records(tmp_path / "train.jsonl", MINE)
  data = datasets.DataOptions(data_dir=str(tmp_path), source="records")
  with task_options.using(TaskOptions(data, vocabulary="bytes")):
    task = seqio.TaskRegistry.get("cqa_rationale")
    assert set(task.splits) == {"train", "validation"}
    for split in ("train", "validation"):
      assert tokens(read("cqa_rationale", split)) == direct(
        "cqa_rationale", split
      )
    write_records(tmp_path / "validation.jsonl", MINE[:3])
    task_records.forget_loaded_records()
    before = task.task_records.fingerprint("train", with_data=True)
    assert tokens(read("cqa_rationale", "validation")) == direct(
      "cqa_rationale", "validation"
    )
    assert len(read("cqa_rationale", "train")) == len(MINE)
    write_records(tmp_path / "train.jsonl", MINE[:-1])
    task_records.forget_loaded_records()
    assert task.task_records.fingerprint("train", with_data=True) != before
  assert set(task.splits) == {"train", "validation", "test"}
