"""Batches of a stream: nothing lost, any step again, hosts' rows."""

import collections
import itertools

import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.data.feeding import streaming
from dss_jax.data.feeding.streaming import StreamingBatches
from dss_jax.data.packing import packed_features
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.data.tokens.example_stream import StreamExample
from dss_jax.vocabularies import ByteVocabulary


class Numbers:
  """A stream whose example i writes i; counts how often it is opened."""

  name = "numbers"
  split = "train"
  subtask_names = ("label", "rationale", "unused")
  rates = (1.0, 1.0, 0.0)
  fingerprint = "f" * 64
  vocabulary = ByteVocabulary()

  def __init__(self, length: int | None = None):
    self.opened: list[int] = []
    self._length = length

  def open(self, skip: int = 0):
    self.opened.append(skip)
    for i in itertools.count(skip):
      if i == self._length:
        return
      yield StreamExample(
        subtask=(i * 7 % 5) % 2,
        inputs=np.full(2 + i % 5, 3 + i % 250, np.int32),
        targets=np.array([i + 2, 1], np.int32),
        weight=1.0 + i % 3,
      )


SHAPE = BatchShape(
  rows=4, encoder_length=64, decoder_length=48, records_per_batch=20
)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
  monkeypatch.setattr(
    streaming.packing_plans, "window_batches", lambda units: 3
  )


def equal(a, b) -> bool:
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_every_example_comes_once_with_its_tags():
  batches = StreamingBatches(Numbers(), SHAPE)
  found = [
    example
    for step in range(6)
    for example in packed_features.unpack(batches[step])
  ]
  expected = list(itertools.islice(Numbers().open(), 6 * 40))
  numbers = sorted(example.targets[0] - 2 for example in found)
  assert numbers == list(range(6 * 40))
  for example in found:
    made = expected[example.targets[0] - 2]
    assert example.inputs == made.inputs.tolist()
    assert example.subtask == made.subtask
    assert example.weight == made.weight


def test_any_step_again_is_the_same_batch():
  whole = Numbers()
  in_order = StreamingBatches(whole, SHAPE)
  first = [in_order[step] for step in range(9)]
  assert whole.opened == [0]  # steps in order read the stream once
  stream = Numbers()
  resumed = StreamingBatches(stream, SHAPE)
  assert equal(resumed[7], first[7])
  assert stream.opened == [240]
  assert equal(resumed[8], first[8])
  assert equal(resumed[1], first[1])
  assert equal(resumed[7], first[7])


def test_hosts_build_their_rows():
  whole = StreamingBatches(Numbers(), SHAPE)[4]
  for rows in (slice(0, 2), np.array([1, 3])):
    part = StreamingBatches(Numbers(), SHAPE, host_rows=rows)[4]
    assert equal(part, {name: array[rows] for name, array in whole.items()})
  assert {name: array.shape for name, array in whole.items()} == {
    name: spec.shape
    for name, spec in StreamingBatches(Numbers(), SHAPE).feature_specs.items()
  }


def test_statistics_count_what_is_there():
  batches = StreamingBatches(Numbers(), SHAPE)
  total = collections.Counter()
  for step in range(3):
    counted = batches.packing_statistics(step)
    batch = batches[step]
    assert counted["encoder_tokens"] == (batch["encoder_segment_ids"] > 0).sum()
    assert counted["decoder_tokens"] == batch["decoder_loss_weights"].sum()
    total.update(counted["examples_by_subtask"])
  assert sum(total.values()) == 120
  assert total["unused"] == 0


def test_without_packing_there_is_one_example_a_row():
  shape = BatchShape(40, 64, 48, records_per_batch=20, pack=False)
  batch = StreamingBatches(Numbers(), shape)[0]
  assert (batch["encoder_segment_ids"].max(axis=1) == 1).all()
  assert batch["decoder_target_tokens"][:, 0].tolist() == list(range(2, 42))
  small = BatchShape(39, 64, 48, records_per_batch=20, pack=False)
  with pytest.raises(UserError, match="batch_size is 39"):
    _ = StreamingBatches(Numbers(), small)[0]


def test_a_sample_to_choose_shapes_by():
  sample = streaming.sample(Numbers(), 10)
  assert [len(arrays) for arrays in sample.subtasks] == [6, 4, 0]
  assert sample.rates == (1.0, 1.0, 0.0)
  assert sample.statistics()["label"]["targets"]["max"] == 2


def test_mistakes():
  with pytest.raises(UserError, match="ended after 50 examples"):
    _ = StreamingBatches(Numbers(50), SHAPE)[0]
  with pytest.raises(IndexError):
    _ = StreamingBatches(Numbers(), SHAPE)[-1]
