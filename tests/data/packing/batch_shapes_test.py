"""The chosen shape holds the data, wastes little and keeps what the user chose."""

import dataclasses

import guards
import numpy as np
import pytest

from dss_jax import datasets, vocabularies
from dss_jax.base.errors import UserError
from dss_jax.data.feeding.batches import PackedBatches
from dss_jax.data.packing.batch_shapes import choose_batch_shape
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.data.tokens import tokenization
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays


def _padding(example_set, shape, *, steps):
  batches = PackedBatches(example_set, shape, seed=17)
  statistics = [batches.packing_statistics(step) for step in range(steps)]
  assert not any(s["repacked"] for s in statistics)
  return np.mean([s["padding"] for s in statistics])


@pytest.mark.parametrize("paired", [False, True])
def test_the_number_of_records_is_kept(make_example_set, paired):
  example_set = make_example_set(paired=paired)
  shape = choose_batch_shape(example_set, records_per_batch=32)
  assert shape.records_per_batch == 32
  assert shape.encoder_length % 8 == shape.decoder_length % 8 == 0
  assert _padding(example_set, shape, steps=40) < 0.08
  assert shape == choose_batch_shape(
    make_example_set(paired=paired), records_per_batch=32
  )


def test_the_number_of_rows_is_kept(make_example_set):
  example_set = make_example_set()
  shape = choose_batch_shape(example_set, rows=16, rows_multiple_of=8)
  assert shape.rows == 16
  assert _padding(example_set, shape, steps=40) < 0.08


@pytest.mark.parametrize("multiple", [2, 6, 16])
def test_rows_are_divisible(make_example_set, multiple):
  shape = choose_batch_shape(
    make_example_set(), records_per_batch=32, rows_multiple_of=multiple
  )
  assert shape.rows % multiple == 0
  assert shape.records_per_batch == 32


def test_a_whole_shape_is_kept(make_example_set):
  example_set = make_example_set()
  shape = choose_batch_shape(
    example_set, records_per_batch=32, encoder_length=100
  )
  assert (shape.encoder_length, shape.records_per_batch) == (100, 32)
  shape = choose_batch_shape(example_set, rows=8, decoder_length=33)
  assert (shape.decoder_length, shape.rows) == (33, 8)
  shape = choose_batch_shape(example_set, rows=16, records_per_batch=32)
  assert (shape.rows, shape.records_per_batch) == (16, 32)
  shape = BatchShape(16, 100, 60, 32)
  assert shape == choose_batch_shape(
    example_set,
    rows=16,
    records_per_batch=32,
    encoder_length=100,
    decoder_length=60,
  )


def test_cost_of_attention_shortens_rows(make_example_set):
  example_set = make_example_set()
  lengths = [
    choose_batch_shape(
      example_set, records_per_batch=256, attention_length=attention_length
    ).encoder_length
    for attention_length in (100, 100_000)
  ]
  assert lengths[0] < lengths[1]


def test_lengths_are_capped_and_rounded(make_example_set):
  shape = choose_batch_shape(
    make_example_set(),
    records_per_batch=256,
    length_multiple=16,
    max_row_length=48,
    attention_length=1_000_000,
  )
  assert shape.encoder_length in (32, 48)
  assert shape.decoder_length in (16, 32, 48)


def test_a_long_example_lifts_the_cap():
  inputs = [[2] * 9 + [1]] * 50 + [[2] * 69 + [1]]
  arrays = TokenArrays.from_lists("t", inputs, [[2, 1]] * 51)
  example_set = ExampleSet((arrays,), (1.0,), False, 51, "f", "v", "t", "train")
  shape = choose_batch_shape(
    example_set, records_per_batch=16, max_row_length=64
  )
  assert shape.encoder_length == 72


def test_few_examples():
  arrays = TokenArrays.from_lists("t", [[2, 1]] * 5, [[3, 1]] * 5)
  example_set = ExampleSet((arrays,), (1.0,), False, 5, "f", "v", "t", "train")
  shape = choose_batch_shape(example_set, records_per_batch=1)
  assert dataclasses.asdict(shape) == {
    "rows": 1,
    "encoder_length": 8,
    "decoder_length": 8,
    "records_per_batch": 1,
    "pack": True,
  }


def test_without_packing(make_example_set):
  example_set = make_example_set()
  longest = [
    max(int(getattr(s, side).max()) for s in example_set.subtasks)
    for side in ("input_lengths", "target_lengths")
  ]
  rounded = [-(-n // 8) * 8 for n in longest]
  shape = choose_batch_shape(
    example_set, records_per_batch=10, rows_multiple_of=8, pack=False
  )
  assert shape == BatchShape(24, rounded[0], rounded[1], 10, pack=False)
  shape = choose_batch_shape(
    example_set, rows=21, encoder_length=64, decoder_length=32, pack=False
  )
  assert shape == BatchShape(21, 64, 32, 10, pack=False)
  PackedBatches(example_set, shape, seed=0)[0]
  with pytest.raises(UserError, match="11 records need 22 rows"):
    choose_batch_shape(example_set, rows=21, records_per_batch=11, pack=False)
  with pytest.raises(UserError, match="1 records need 2 rows"):
    choose_batch_shape(example_set, rows=1, pack=False)


def test_user_errors(make_example_set):
  example_set = make_example_set()
  with pytest.raises(UserError, match="neither batch_size"):
    choose_batch_shape(example_set)
  with pytest.raises(UserError, match="12 rows; it must be a multiple of 8"):
    choose_batch_shape(example_set, rows=12, rows_multiple_of=8)
  with pytest.raises(UserError, match="encoder_length is 0"):
    choose_batch_shape(example_set, rows=8, encoder_length=0)
  with pytest.raises(UserError, match="records_per_batch is -1"):
    choose_batch_shape(example_set, records_per_batch=-1)
  with pytest.raises(UserError, match="tokens of inputs, but a row has room"):
    choose_batch_shape(example_set, rows=8, encoder_length=8)
  with pytest.raises(UserError, match="no rows of up to"):
    choose_batch_shape(
      example_set, rows=2, records_per_batch=64, max_row_length=64
    )
  with pytest.raises(UserError, match="cannot hold 64 records"):
    choose_batch_shape(
      example_set,
      rows=8,
      records_per_batch=64,
      encoder_length=64,
      decoder_length=32,
    )


@pytest.fixture(scope="module")
def cqa(shared_data):
  return tokenization.build_examples(
    "cqa_dss",
    "train",
    vocabularies.from_name(str(shared_data / "dss_spm.model")),
    datasets.DataOptions(data_dir=str(shared_data / "dss_release")),
  )


@pytest.mark.shared
@pytest.mark.parametrize(("records", "most"), [(64, 0.12), (512, 0.08)])
def test_padding_over_an_epoch_of_cqa(cqa, records, most):
  shape = choose_batch_shape(cqa, records_per_batch=records)
  steps = -(-cqa.num_records // records)
  assert _padding(cqa, shape, steps=steps) <= most


def test_hopeless_shapes_are_refused_soon(make_example_set):
  with (
    guards.cpu_limit(60),
    pytest.raises(UserError, match="no rows of up to 1024/1024 tokens"),
  ):
    choose_batch_shape(make_example_set(), rows=2, records_per_batch=512)
