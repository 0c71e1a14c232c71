"""The packer: nothing lost, nothing twice, never over a row's lengths."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.data.packing.packing_plans import (
  BatchShape,
  longest_record,
  plan_window,
  window_batches,
)


def _plan(unit, inputs, targets, shape, num_batches):
  return plan_window(
    np.array(unit, np.int64),
    np.array(inputs, np.int64),
    np.array(targets, np.int64),
    shape,
    num_batches,
  )


def _check(plan, unit, inputs, targets, shape, num_batches):
  """The laws that every plan must keep."""
  assert plan.row.shape == plan.rank.shape == (len(unit),)
  assert len(unit) == 0 or plan.row.min() >= 0
  num_rows = shape.rows * num_batches
  for lengths, limit in (
    (inputs, shape.encoder_length),
    (targets, shape.decoder_length),
  ):
    used = np.bincount(plan.row, lengths, num_rows)
    assert len(used) == num_rows
    assert used.max() <= limit
  # Places in a row are distinct.
  assert len(set(zip(plan.row.tolist(), plan.rank.tolist()))) == len(unit)
  unit = np.asarray(unit)
  for u in np.unique(unit):
    mine = unit == u
    batches = plan.row[mine] // shape.rows
    assert (batches == batches[0]).all()
    fits = (
      np.sum(np.asarray(inputs)[mine]) <= shape.encoder_length
      and np.sum(np.asarray(targets)[mine]) <= shape.decoder_length
    )
    if fits:
      assert (plan.row[mine] == plan.row[mine][0]).all()


@st.composite
def _windows(draw):
  shape = BatchShape(
    rows=draw(st.integers(1, 6)),
    encoder_length=draw(st.integers(4, 40)),
    decoder_length=draw(st.integers(4, 40)),
    records_per_batch=1,
  )
  num_batches = draw(st.integers(1, 4))
  sizes = draw(st.lists(st.integers(1, 3), max_size=60))
  unit = np.repeat(np.arange(len(sizes)), sizes)
  n = len(unit)
  share = draw(st.sampled_from([2, 3, 1]))
  inputs = draw(
    st.lists(
      st.integers(1, max(1, shape.encoder_length // share)),
      min_size=n,
      max_size=n,
    )
  )
  targets = draw(
    st.lists(
      st.integers(1, max(1, shape.decoder_length // share)),
      min_size=n,
      max_size=n,
    )
  )
  return unit, inputs, targets, shape, num_batches


@settings(max_examples=300, deadline=None)
@given(window=_windows())
def test_laws(window):
  unit, inputs, targets, shape, num_batches = window
  rows = shape.rows * num_batches
  fill = max(
    sum(inputs) / (rows * shape.encoder_length),
    sum(targets) / (rows * shape.decoder_length),
  )
  try:
    plan = _plan(*window)
  except UserError:
    # Refused only when the rows would be rather full, or a unit is large
    # except in the one batch that it must lie in.
    largest = max(
      np.bincount(unit, inputs).max() / (shape.rows * shape.encoder_length),
      np.bincount(unit, targets).max() / (shape.rows * shape.decoder_length),
    )
    assert fill > 0.3 or largest > 0.5
    return
  assert fill <= 1
  _check(plan, *window)
  again = _plan(*window)
  np.testing.assert_array_equal(plan.row, again.row)
  np.testing.assert_array_equal(plan.rank, again.rank)


def _cqa_like(n, seed=0):
  """Alternately a label and a rationale example, of CQA's lengths."""
  rng = np.random.default_rng(seed)
  inputs = np.clip(rng.normal(52, 9, n), 25, 110).astype(np.int64)
  targets = np.where(
    np.arange(n) % 2 == 0,
    rng.integers(2, 5, n),
    np.clip(rng.normal(30, 6, n), 8, 70),
  ).astype(np.int64)
  return inputs, targets


def test_full_rows_hold_a_real_window():
  inputs, targets = _cqa_like(8192)
  shape = BatchShape(27, 256, 88, 64)
  window = (np.arange(8192), inputs, targets, shape, 64)
  plan = _plan(*window)
  _check(plan, *window)
  assert not plan.repacked
  padding = 1 - (inputs.sum() + targets.sum()) / (64 * shape.slots)
  assert padding < 0.07
  # Batches stay even and near the stream's order.
  batch = plan.row // shape.rows
  counts = np.bincount(batch, minlength=64)
  assert 118 <= counts.min() <= counts.max() <= 138
  late = np.abs(batch - np.arange(8192) // 128)
  assert np.mean(late <= 1) > 0.99


def test_pairs_share_rows_in_a_real_window():
  inputs, targets = _cqa_like(8192)
  unit = np.arange(8192) // 2
  shape = BatchShape(22, 320, 104, 64)
  window = (unit, inputs, targets, shape, 64)
  plan = _plan(*window)
  _check(plan, *window)
  assert (plan.row[::2] == plan.row[1::2]).all()
  # The label comes before the rationale, side by side.
  assert (plan.rank[1::2] == plan.rank[::2] + 1).all()


def test_pairs_too_long_for_a_row_share_a_batch():
  inputs, targets = _cqa_like(2048)
  unit = np.arange(2048) // 2
  shape = BatchShape(72, 112, 80, 64)
  window = (unit, inputs, targets, shape, 16)
  plan = _plan(*window)
  _check(plan, *window)
  together = np.mean(plan.row[::2] == plan.row[1::2])
  assert 0.1 < together < 1


def test_a_tight_window_is_repacked():
  inputs, targets = _cqa_like(8192)
  shape = BatchShape(26, 258, 86, 64)  # 98.3 % of the encoder's slots
  window = (np.arange(8192), inputs, targets, shape, 64)
  plan = _plan(*window)
  _check(plan, *window)
  assert plan.repacked
  counts = np.bincount(plan.row // shape.rows, minlength=64)
  assert 115 < counts.min() <= counts.max() < 140


def test_leftovers_move_to_free_space():
  # The stream's order leaves 7 for last; only batch 0 has room for it.
  shape = BatchShape(1, 10, 10, 1)
  plan = _plan([0, 1, 2, 3], [3, 9, 1, 7], [1, 1, 1, 1], shape, 2)
  _check(plan, [0, 1, 2, 3], [3, 9, 1, 7], [1, 1, 1, 1], shape, 2)
  assert sorted(np.bincount(plan.row, [3, 9, 1, 7])) == [10, 10]


def test_rows_too_few():
  inputs, targets = _cqa_like(128)
  shape = BatchShape(10, 256, 96, 64)
  with pytest.raises(UserError, match="raise batch_size") as raised:
    _plan(np.arange(128), inputs, targets, shape, 1)
  message = str(raised.value)
  assert "10 rows of 256/96 tokens cannot hold 64 records" in message
  assert "records_per_batch" in message
  assert "\n" not in message


@pytest.mark.parametrize(
  ("inputs", "targets", "match"),
  [
    (300, 5, "300 tokens of inputs, .* room for 256: raise .*encoder_len"),
    (5, 300, "300 tokens of targets, .* room for 96: raise .*decoder_len"),
  ],
)
def test_an_example_longer_than_a_row(inputs, targets, match):
  with pytest.raises(UserError, match=match):
    _plan([0], [inputs], [targets], BatchShape(1, 256, 96, 1), 1)


def test_rows_longer_than_products_fit_in_32_bits():
  shape = BatchShape(2, 1 << 20, 1 << 20, 1)
  inputs = [1 << 19, 1 << 19, 1 << 20, 5]
  with pytest.raises(UserError, match="cannot hold"):
    _plan(range(4), inputs, [1, 1, 1, 1], shape, 1)
  plan = _plan(range(3), inputs[:3], [1, 1, 1], shape, 1)
  _check(plan, range(3), inputs[:3], [1, 1, 1], shape, 1)


def test_no_examples():
  plan = _plan([], [], [], BatchShape(2, 8, 8, 1), 2)
  assert len(plan.row) == 0


def test_window_batches():
  assert window_batches(128) == 64
  assert window_batches(1024) == 8
  assert window_batches(100_000) == 2


@pytest.mark.parametrize("field", ["rows", "encoder_length", "decoder_length"])
def test_shapes_are_positive(field):
  with pytest.raises(UserError, match=f"{field} is 0"):
    dataclasses.replace(BatchShape(1, 1, 1, 1), **{field: 0})


def test_the_longest_record_counts_its_longest_alternatives(make_example_set):
  example_set = make_example_set(paired=True)
  totals = np.zeros((example_set.num_records, 2), int)
  for subtask in example_set.subtasks:
    for record in range(example_set.num_records):
      mine = np.flatnonzero(subtask.record_ids == record)
      if mine.size:
        totals[record] += (
          max(int(subtask.input_lengths[i]) for i in mine),
          max(int(subtask.target_lengths[i]) for i in mine),
        )
  assert longest_record(example_set) == tuple(totals.max(axis=0))
