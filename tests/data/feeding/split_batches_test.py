"""Evaluation sees every example exactly once, in few shapes."""

import collections

import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.data.feeding.split_batches import SplitBatches
from dss_jax.data.packing.packed_features import unpack
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays


@pytest.mark.parametrize("pack", [True, False])
def test_an_epoch_holds_everything_once(make_example_set, pack):
  example_set = make_example_set(70, rates=(1.0, 0.0), alternatives=2)
  shape = BatchShape(8, 56, 28, 13, pack=pack)
  epoch = SplitBatches(example_set, shape)
  hosts = [
    SplitBatches(example_set, shape, host_rows=rows)
    for rows in (slice(0, 3), slice(3, 8))
  ]
  found = collections.Counter()
  for i in range(len(epoch)):
    batch = epoch[i]
    for name, spec in epoch.feature_specs.items():
      assert (batch[name].shape, batch[name].dtype) == spec
      np.testing.assert_array_equal(
        batch[name], np.concatenate([host[i][name] for host in hosts])
      )
    for e in unpack(batch):
      found[e.subtask, e.record, tuple(e.inputs), tuple(e.targets)] += 1
  expected = collections.Counter(
    (k, int(s.record_ids[i]), *(tuple(ids.tolist()) for ids in s.example(i)))
    for k, s in enumerate(example_set.subtasks)
    for i in range(len(s))
  )
  assert found == expected
  assert sum(found.values()) == 70 * 3
  # 210 examples of 13 or so tokens in rows of 56: four a row.
  assert len(epoch) == (27 if not pack else pytest.approx(7, abs=1))
  with pytest.raises(IndexError):
    epoch[len(epoch)]


def test_an_epoch_of_nothing():
  empty = TokenArrays.from_lists("t", [], [])
  example_set = ExampleSet((empty,), (1.0,), False, 0, "f", "v", "t", "test")
  assert len(SplitBatches(example_set, BatchShape(2, 8, 8, 1))) == 0


def test_an_epoch_of_more_than_one_chunk(make_example_set, monkeypatch):
  monkeypatch.setattr("dss_jax.data.feeding.split_batches._CHUNK", 50)
  example_set = make_example_set(70)
  epoch = SplitBatches(example_set, BatchShape(8, 56, 28, 13))
  assert sum(len(unpack(epoch[i])) for i in range(len(epoch))) == 140


def test_an_example_longer_than_a_row(make_example_set):
  with pytest.raises(UserError, match="tokens of inputs, but a row has room"):
    SplitBatches(make_example_set(), BatchShape(8, 10, 28, 13))
