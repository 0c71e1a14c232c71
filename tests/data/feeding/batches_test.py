"""Batches: pure, any order, any slice, nothing lost, nothing twice."""

import collections
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.data.feeding.batches import PackedBatches
from dss_jax.data.packing import packing_plans
from dss_jax.data.packing.packed_features import unpack
from dss_jax.data.packing.packing_plans import BatchShape, window_batches
from dss_jax.data.sampling import Sampler

SHAPE = BatchShape(
  rows=8, encoder_length=56, decoder_length=28, records_per_batch=13
)


@pytest.fixture(scope="module", autouse=True)
def _short_windows():
  """Windows of about 40 batches, to plan several in little time."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(packing_plans, "_WINDOW_UNITS", 1024)
    yield


def _assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert a[name].dtype == b[name].dtype


def _key(subtask, record, inputs, targets):
  return subtask, record, tuple(inputs), tuple(targets)


def _found(batch):
  """What the batch holds, as a multiset."""
  return collections.Counter(
    _key(e.subtask, e.record, e.inputs, e.targets) for e in unpack(batch)
  )


def _stream(example_set, seed, start, stop):
  """What the units `start` to `stop` hold, as a multiset."""
  units = Sampler(example_set, seed=seed).units(start, stop)
  found = collections.Counter()
  for k, i in zip(units.subtask, units.example, strict=True):
    subtask = example_set.subtasks[k]
    found[_key(k, subtask.record_ids[i], *map(list, subtask.example(i)))] += 1
  return found


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("pack", [True, False])
def test_every_unit_of_the_stream_exactly_once(make_example_set, paired, pack):
  example_set = make_example_set(
    40, paired=paired, without_rationale=10, alternatives=3
  )
  shape = SHAPE if pack else BatchShape(32, 40, 24, 13, pack=False)
  batches = PackedBatches(example_set, shape, seed=5)
  units = 13 if paired else 26
  num_batches = window_batches(units)
  found = collections.Counter()
  for step in range(num_batches, 2 * num_batches):
    found += _found(batches[step])
  stream = _stream(example_set, 5, num_batches * units, 2 * num_batches * units)
  assert found == stream
  # The window is many epochs long: each rationale has had its turns.
  assert len(found) == 40 + 3 * 30


@settings(max_examples=8, deadline=None)
@given(
  steps=st.lists(st.integers(0, 700), min_size=1, max_size=4),
  host_of_row=st.lists(st.integers(0, 2), min_size=8, max_size=8),
  seed=st.integers(0, 3),
)
def test_pure_in_any_order_and_of_any_rows(
  make_example_set, steps, host_of_row, seed
):
  example_set = make_example_set()
  one = PackedBatches(example_set, SHAPE, seed=seed)
  batches = {step: one[step] for step in steps}
  fresh = PackedBatches(example_set, SHAPE, seed=seed)
  # Rows of a host need not be next to each other, and a host may have none.
  host_rows = [np.flatnonzero(np.equal(host_of_row, i)) for i in range(3)]
  hosts = [
    PackedBatches(example_set, SHAPE, seed=seed, host_rows=rows)
    for rows in host_rows
  ]
  for step in sorted(steps, reverse=True):
    _assert_same(batches[step], fresh[step])
    for host, rows in zip(hosts, host_rows, strict=True):
      part = {name: array[rows] for name, array in batches[step].items()}
      _assert_same(part, host[step])


def test_seeds_differ(make_example_set):
  example_set = make_example_set()
  a, b = (PackedBatches(example_set, SHAPE, seed=s)[0] for s in (0, 1))
  assert (a["encoder_input_tokens"] != b["encoder_input_tokens"]).any()


def test_shapes_and_dtypes(make_example_set):
  batches = PackedBatches(make_example_set(), SHAPE, seed=0)
  batch = batches[3]
  assert batch.keys() == batches.feature_specs.keys()
  for name, spec in batches.feature_specs.items():
    assert (batch[name].shape, batch[name].dtype) == spec
  assert batches.feature_specs["encoder_positions"].shape == (8, 56)
  assert batches.feature_specs["decoder_record_ids"].shape == (8, 28)


def test_paired_records_share_a_row(make_example_set):
  example_set = make_example_set(paired=True, without_rationale=50)
  batches = PackedBatches(example_set, SHAPE, seed=0)
  for step in range(20):
    rows = collections.defaultdict(list)
    for example in unpack(batches[step]):
      rows[example.record].append((example.row, example.subtask))
    for record, places in rows.items():
      if record < 250:
        assert len({row for row, _ in places}) == len(places) // 2
        assert len({subtask for _, subtask in places}) == 2
      else:
        assert {subtask for _, subtask in places} == {0}


def test_paired_records_too_long_for_a_row_share_a_batch(make_example_set):
  example_set = make_example_set(paired=True)
  shape = BatchShape(40, 26, 20, 16)
  batches = PackedBatches(example_set, shape, seed=0)
  apart = 0
  for step in range(20):
    counts = collections.Counter()
    rows = collections.defaultdict(set)
    for example in unpack(batches[step]):
      counts[example.record, example.subtask] += 1
      rows[example.record].add(example.row)
    for record in rows:
      assert counts[record, 0] == counts[record, 1]
      apart += len(rows[record]) > 1
  assert apart > 100


def test_batches_are_even_and_rates_hold(make_example_set):
  example_set = make_example_set(rates=(3.0, 1.0))
  batches = PackedBatches(example_set, SHAPE, seed=0)
  num_batches = window_batches(26)
  counts = np.array(
    [
      list(batches.packing_statistics(step)["examples_by_subtask"].values())
      for step in range(num_batches)
    ]
  )
  assert counts.sum() == 26 * num_batches
  assert abs(counts[:, 0].sum() - 26 * num_batches * 3 / 4) <= 0.5
  assert np.abs(counts.sum(axis=1) - 26).max() <= 5
  assert np.abs(counts[:, 1] - 6.5).mean() < 1.5


def test_statistics(make_example_set):
  batches = PackedBatches(
    make_example_set(), SHAPE, seed=0, host_rows=slice(0, 2)
  )
  whole = PackedBatches(make_example_set(), SHAPE, seed=0)[4]
  statistics = batches.packing_statistics(4)  # global, whatever the slice
  tokens = (
    int((whole["encoder_segment_ids"] > 0).sum()),
    int(whole["decoder_loss_weights"].sum()),
  )
  assert statistics["encoder_tokens"] == tokens[0]
  assert statistics["decoder_tokens"] == tokens[1]
  assert statistics["slots"] == 8 * (56 + 28)
  assert statistics["padding"] == 1 - sum(tokens) / (8 * (56 + 28))
  assert statistics["examples"] == len(unpack(whole))
  assert not statistics["repacked"]


def test_unpacked_rows_hold_one_example_each(make_example_set):
  example_set = make_example_set()
  shape = BatchShape(28, 40, 24, 13, pack=False)
  batch = PackedBatches(example_set, shape, seed=0)[7]
  examples = unpack(batch)
  assert [example.row for example in examples] == list(range(26))
  assert {example.segment for example in examples} == {1}
  assert not batch["encoder_input_tokens"][26:].any()
  units = Sampler(example_set, seed=0).units(7 * 26, 8 * 26)
  assert [e.subtask for e in examples] == units.subtask.tolist()


def test_threads_see_the_same_batches(make_example_set):
  example_set = make_example_set()
  expected = PackedBatches(example_set, SHAPE, seed=0)
  shared = PackedBatches(example_set, SHAPE, seed=0)
  found = {}

  def work(first):
    for step in range(first, 600, 150):
      found[step] = shared[step]

  threads = [
    threading.Thread(target=work, args=(first,)) for first in range(0, 150, 50)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 12
  for step, batch in found.items():
    _assert_same(batch, expected[step])


def test_user_errors(make_example_set):
  example_set = make_example_set()
  with pytest.raises(UserError, match="tokens of inputs, but a row has room"):
    PackedBatches(example_set, BatchShape(8, 12, 28, 4), seed=0)
  crowded = PackedBatches(example_set, BatchShape(8, 56, 28, 30), seed=0)
  with pytest.raises(UserError, match="8 rows of 56/28 tokens cannot hold 30"):
    crowded[0]
  unpacked = BatchShape(25, 40, 24, 13, pack=False)
  with pytest.raises(UserError, match="26 examples need as many rows"):
    PackedBatches(example_set, unpacked, seed=0)[0]
  with pytest.raises(IndexError, match="steps count from 0"):
    PackedBatches(example_set, SHAPE, seed=0)[-1]
