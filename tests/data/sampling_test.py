"""The stream: epochs, rates, pairs, alternatives; pure and random access."""

import collections
import fractions

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.data.sampling import Sampler, splitmix64
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays


def _subtask(name: str, record_ids) -> TokenArrays:
  n = len(record_ids)
  return TokenArrays.from_lists(name, [[1]] * n, [[1]] * n, record_ids)


def _set(records_by_subtask, rates=None, paired=False) -> ExampleSet:
  subtasks = tuple(
    _subtask(f"s{k}", ids) for k, ids in enumerate(records_by_subtask)
  )
  num_records = 1 + max(max(ids) for ids in records_by_subtask if ids)
  return ExampleSet(
    subtasks,
    tuple(rates or [1.0] * len(subtasks)),
    paired,
    num_records,
    "f",
    "v",
    "t",
    "train",
  )


def batch_units(sampler: Sampler, step: int, records_per_batch: int):
  """The units of a batch, before any packing."""
  n = sampler.units_per_batch(records_per_batch)
  return sampler.units(step * n, (step + 1) * n)


def _as_tuples(units):
  return list(
    zip(
      (units.unit + units.start).tolist(),
      units.subtask.tolist(),
      units.example.tolist(),
      strict=True,
    )
  )


def test_splitmix64_reference():
  # The published outputs for the state 1234567.
  np.testing.assert_array_equal(
    splitmix64(1234567, np.arange(1, 6)),
    np.array(
      [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
      ],
      np.uint64,
    ),
  )


def test_the_stream_never_changes():
  # Pinned: a run resumed under another version must see the same batches.
  units = Sampler(_set([[0, 1, 2, 3, 4, 5]]), seed=7).units(0, 12)
  assert units.example.tolist() == [1, 3, 4, 2, 0, 5, 1, 3, 5, 4, 2, 0]


@settings(max_examples=40, deadline=None)
@given(
  sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
  seed=st.integers(-5, 2**70),
)
def test_every_example_once_per_epoch(sizes, seed):
  sampler = Sampler(_set([list(range(n)) for n in sizes]), seed=seed)
  k = len(sizes)
  units = sampler.units(0, 3 * k * max(sizes))
  for subtask, n in enumerate(sizes):
    drawn = units.example[units.subtask == subtask]
    assert len(drawn) == 3 * max(sizes)  # equal rates
    for epoch in range(len(drawn) // n):
      part = drawn[epoch * n : (epoch + 1) * n]
      assert sorted(part.tolist()) == list(range(n))


@settings(max_examples=60, deadline=None)
@given(
  sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
  paired=st.booleans(),
  start=st.integers(0, 300),
  length=st.integers(0, 40),
  cut=st.integers(0, 40),
)
def test_any_stretch_is_part_of_the_one_stream(
  sizes, paired, start, length, cut
):
  example_set = _set([list(range(n)) for n in sizes], paired=paired)
  whole = _as_tuples(Sampler(example_set, seed=3).units(0, start + length))
  middle = start + min(cut, length)
  fresh = Sampler(example_set, seed=3)
  second = _as_tuples(fresh.units(middle, start + length))
  first = _as_tuples(fresh.units(start, middle))
  assert first + second == [entry for entry in whole if entry[0] >= start]


@settings(max_examples=40, deadline=None)
@given(
  rates=st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=4
  ).filter(any),
  start=st.integers(0, 10**12),
)
def test_rates_hold_in_every_prefix(rates, start):
  sampler = Sampler(_set([[0, 1, 2]] * len(rates), rates), seed=0)
  units = sampler.units(0, 500)
  counts = np.cumsum(units.subtask[:, None] == np.arange(len(rates)), axis=0)
  shares = np.array(rates) / sum(rates)
  expected = np.arange(1, 501)[:, None] * shares
  # Half an example for two sub-tasks, as much more for each further one.
  bound = (sum(rate > 0 for rate in rates) - 1) / 2
  assert np.abs(counts - expected).max() <= bound + 1e-3
  assert not counts[-1][np.array(rates) == 0].any()
  # The same far away, where products would overflow.
  far = sampler.units(start, start + 500)
  far_counts = np.bincount(far.subtask, minlength=len(rates))
  assert np.abs(far_counts - expected[-1]).max() <= 2 * bound + 1e-3


def test_batches_of_the_official_size():
  sampler = Sampler(_set([list(range(200))] * 2), seed=0)
  assert sampler.units_per_batch(64) == 128
  for step in range(5):
    batch = batch_units(sampler, step, 64)
    assert np.bincount(batch.subtask).tolist() == [64, 64]


def test_a_larger_batch_is_the_smaller_ones():
  sampler = Sampler(_set([list(range(50)), list(range(30))], (3, 1)), seed=0)
  two = batch_units(sampler, 4, 10), batch_units(sampler, 5, 10)
  one = batch_units(sampler, 2, 20)
  np.testing.assert_array_equal(
    one.example, np.concatenate([b.example for b in two])
  )


def test_epochs_and_seeds_differ():
  example_set = _set([list(range(1000))])
  first = Sampler(example_set, seed=0).units(0, 2000).example
  other = Sampler(example_set, seed=1).units(0, 1000).example
  # Random orders agree in one place on average.
  assert np.sum(first[:1000] == first[1000:]) < 10
  assert np.sum(first[:1000] == other) < 10
  assert np.sum(first[:1000] == np.arange(1000)) < 10


def test_sub_tasks_are_in_different_orders():
  units = Sampler(_set([list(range(1000))] * 2), seed=0).units(0, 2000)
  a, b = (units.example[units.subtask == k] for k in (0, 1))
  assert np.sum(a == b) < 10


def test_orders_are_uniform():
  # All 24 orders of 4 records, each about 1/24 of 4,800 epochs.
  units = Sampler(_set([[0, 1, 2, 3]]), seed=11).units(0, 4 * 4800)
  counts = collections.Counter(map(tuple, units.example.reshape(-1, 4)))
  assert len(counts) == 24
  # Chi-squared with 23 degrees of freedom: below 49.7 with p = 0.999.
  assert sum((n - 200) ** 2 / 200 for n in counts.values()) < 49.7


@pytest.mark.parametrize("paired", [False, True])
def test_alternatives_take_turns(paired):
  # Records 0, 5 and 9 have one, three and two rationales, out of order.
  ids = [5, 9, 0, 5, 9, 5]
  sampler = Sampler(_set([ids], paired=paired), seed=4)
  assert sampler.epoch_units() == 3
  epochs = sampler.units(0, 3 * 6).example.reshape(6, 3)
  for epoch in epochs:
    assert sorted(ids[i] for i in epoch) == [0, 5, 9]
  counts = collections.Counter(epochs.reshape(-1).tolist())
  assert counts == {2: 6, 0: 2, 3: 2, 5: 2, 1: 3, 4: 3}
  for three in (epochs[:3], epochs[3:]):
    assert {0, 3, 5} <= set(three.reshape(-1).tolist())


def test_turns_start_at_different_places():
  ids = np.repeat(np.arange(100), 2).tolist()
  first = Sampler(_set([ids]), seed=0).units(0, 100).example
  assert 25 < np.sum(first % 2) < 75


def test_paired_units_are_records():
  # Record 2 has no rationale, record 3 no label; record 7 nothing at all.
  labels, rationales = [0, 1, 2], [0, 1, 3]
  example_set = _set([labels, rationales], paired=True)
  sampler = Sampler(example_set, seed=0)
  assert sampler.units_per_batch(2) == 2
  assert sampler.epoch_units() == 4
  units = sampler.units(4, 8)
  by_unit = collections.defaultdict(list)
  for unit, subtask, example in _as_tuples(units):
    by_unit[unit].append((subtask, (labels, rationales)[subtask][example]))
  assert sorted(by_unit) == [4, 5, 6, 7]
  assert sorted(by_unit.values()) == sorted(
    [
      [(0, 0), (1, 0)],
      [(0, 1), (1, 1)],
      [(0, 2)],
      [(1, 3)],
    ]
  )


def test_rates_are_taken_exactly():
  # 1/3 cannot be written in binary; the share is 1/3 all the same.
  sampler = Sampler(_set([[0]] * 2, (1 / 3, 2 / 3)), seed=0)
  far = 3 * 10**14
  counts = np.bincount(sampler.units(far, far + 300).subtask)
  assert counts.tolist() == [100, 200]
  assert fractions.Fraction(1 / 3) != fractions.Fraction(1, 3)


def test_a_rare_sub_task_is_drawn():
  for rates, subtask in (((1.0, 1e-9), 1), ((1e-9, 1.0), 0)):
    sampler = Sampler(_set([range(100_000)] * 2, rates), seed=0)
    drawn = sampler.units(0, 1_000_000).subtask
    assert np.sum(drawn == subtask) == 1


def test_nothing_to_sample():
  with pytest.raises(UserError, match="'s1' has rate 2 but no examples"):
    Sampler(_set([[0], []], (1, 2)), seed=0)
  with pytest.raises(UserError, match="rates are 0"):
    Sampler(_set([[0], [0]], (0, 0)), seed=0)
  empty = ExampleSet(
    (_subtask("s", []),), (1.0,), True, 0, "f", "v", "t", "train"
  )
  with pytest.raises(UserError, match="no examples to sample"):
    Sampler(empty, seed=0)
  with pytest.raises(ValueError, match="expected 0 <= start"):
    Sampler(_set([[0]]), seed=0).units(3, 2)
