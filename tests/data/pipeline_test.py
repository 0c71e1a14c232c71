"""From configurations to examples and shapes."""

import dataclasses

import pytest

from dss_jax.base.errors import UserError
from dss_jax.data import pipeline
from dss_jax.data.feeding import batches, training_data
from dss_jax.data.pairs import dataset_registration
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.datasets.records import Record
from dss_jax.vocabularies import ByteVocabulary

BYTES = ByteVocabulary()
LENGTHS = {"inputs": 16, "targets": 16}


@pytest.fixture
def config() -> pipeline.DatasetConfig:
  """Records with labels and without rationales."""
  records = [Record(f"r{i}", f"question {i}", "yes") for i in range(20)]
  dataset_registration.register_dataset(
    "plain", {"train": records, "validation": records}
  )
  return pipeline.DatasetConfig("plain_dss", LENGTHS, records_per_batch=4)


def test_a_sub_task_without_examples_is_refused(config):
  with pytest.raises(UserError, match="no examples of rationale in split 'tr"):
    pipeline.load_examples(config, BYTES)
  found = pipeline.load_examples(config, BYTES, may_be_empty=True)
  assert [len(subtask) for subtask in found.subtasks] == [20, 0]


def test_a_sub_task_that_is_never_drawn_from_may_be_empty(config):
  config = dataclasses.replace(
    config, method=MethodOptions(rates={"rationale": 0})
  )
  loaded = training_data.load(config, BYTES, seed=0)
  assert loaded.subtask_names == ("label", "rationale")
  assert isinstance(loaded.batches, batches.PackedBatches)
  counted = loaded.batches.packing_statistics(0)
  assert counted["examples_by_subtask"] == {"label": 4, "rationale": 0}


def test_a_pair_needs_both_halves_somewhere(config):
  config = dataclasses.replace(config, mixture_or_task_name="plain_dss_paired")
  with pytest.raises(UserError, match="no examples of rationale"):
    pipeline.load_examples(config, BYTES)


@pytest.mark.slow
def test_a_run_keeps_the_shape_it_began_with(config):
  config = dataclasses.replace(config, mixture_or_task_name="plain_label")

  def shape(earlier, rows_multiple_of=1, **changes):
    return training_data.load(
      dataclasses.replace(config, **changes),
      BYTES,
      seed=0,
      rows_multiple_of=rows_multiple_of,
      earlier_shape=earlier,
    ).shape

  chosen = shape(None)
  earlier = dataclasses.asdict(chosen) | {"rows": 10, "encoder_length": 40}
  assert dataclasses.asdict(shape(earlier)) == earlier
  assert dataclasses.asdict(shape(earlier, 5)) == earlier
  # Its rows do not divide, or the configuration asks for other numbers.
  assert shape(earlier, 4).rows % 4 == 0
  assert shape(earlier, records_per_batch=5).records_per_batch == 5
  assert shape(earlier, encoder_length=24).encoder_length == 24
  assert shape(earlier, pack=False).pack is False


@pytest.mark.parametrize(
  "lengths", [None, {"inputs": 8}, {"inputs": 8, "targets": 1}]
)
def test_both_lengths_are_needed(config, lengths):
  config = dataclasses.replace(config, task_feature_lengths=lengths)
  with pytest.raises(UserError, match=r"task_feature_lengths is .*of both"):
    pipeline.load_examples(config, BYTES)


def test_names_are_put_together_and_checked():
  assert pipeline.task_name("svamp") == "svamp_dss"
  assert pipeline.task_name("cqa", "label", "teacher") == "cqa_label_teacher"
  with pytest.raises(UserError, match="label_source is 'palm'"):
    pipeline.task_name("cqa", "label", "palm")
  with pytest.raises(UserError, match="no task 'cqa_dsss'"):
    pipeline.task_name("cqa", "dsss")
