"""Features by hand, and against SeqIO's own packing."""

import numpy as np
import pytest

from dss_jax.data.packing import packed_features
from dss_jax.data.packing.packed_features import Layout, PackedExample
from dss_jax.data.tokens.token_arrays import TokenArrays


def _subtasks():
  label = TokenArrays.from_lists(
    "label", [[7, 8, 1], [5, 5, 5, 1]], [[5, 1], [4, 1]], [2, 0]
  )
  rationale = TokenArrays.from_lists(
    "rationale", [[9, 1], [3, 1]], [[6, 4, 1], [7, 7, 7, 1]], [3, 5], [0.5, 2]
  )
  return label, rationale


def _layout(subtask, example, row):
  subtasks = _subtasks()
  chosen = [
    subtasks[k].example(i) for k, i in zip(subtask, example, strict=True)
  ]
  return Layout.of(
    np.array(subtask),
    np.array(example),
    np.array(row),
    np.arange(len(row)),
    np.array([len(inputs) for inputs, _ in chosen]),
    np.array([len(targets) for _, targets in chosen]),
  )


# Row 0: label example 0, rationale example 0. Row 1: the other two, the
# rationale first.
EXPECTED = {
  "encoder_input_tokens": [[7, 8, 1, 9, 1, 0, 0], [3, 1, 5, 5, 5, 1, 0]],
  "encoder_segment_ids": [[1, 1, 1, 2, 2, 0, 0], [1, 1, 2, 2, 2, 2, 0]],
  "encoder_positions": [[0, 1, 2, 0, 1, 0, 0], [0, 1, 0, 1, 2, 3, 0]],
  "decoder_target_tokens": [[5, 1, 6, 4, 1, 0], [7, 7, 7, 1, 4, 1]],
  "decoder_input_tokens": [[0, 5, 0, 6, 4, 0], [0, 7, 7, 7, 0, 4]],
  "decoder_loss_weights": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]],
  "decoder_segment_ids": [[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 2, 2]],
  "decoder_positions": [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1]],
  "decoder_subtask_ids": [[1, 1, 2, 2, 2, 0], [2, 2, 2, 2, 1, 1]],
  "decoder_record_ids": [[3, 3, 4, 4, 4, 0], [6, 6, 6, 6, 1, 1]],
  "decoder_example_weights": [
    [1, 1, 0.5, 0.5, 0.5, 0],
    [2, 2, 2, 2, 1, 1],
  ],
}


def test_two_rows_by_hand():
  layout = _layout([0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1])
  batch = packed_features.fill(
    _subtasks(), layout, rows=2, encoder_length=7, decoder_length=6
  )
  assert set(batch) == set(EXPECTED)
  specs = packed_features.feature_specs(2, 7, 6)
  for name, expected in EXPECTED.items():
    np.testing.assert_array_equal(batch[name], expected, err_msg=name)
    assert batch[name].shape == specs[name].shape
    assert batch[name].dtype == specs[name].dtype
  float_features = [n for n, s in specs.items() if s.dtype == np.float32]
  assert float_features == ["decoder_example_weights"]
  assert packed_features.unpack(batch) == [
    PackedExample(0, 1, 0, 2, [7, 8, 1], [5, 1], 1.0),
    PackedExample(0, 2, 1, 3, [9, 1], [6, 4, 1], 0.5),
    PackedExample(1, 1, 1, 5, [3, 1], [7, 7, 7, 1], 2.0),
    PackedExample(1, 2, 0, 0, [5, 5, 5, 1], [4, 1], 1.0),
  ]


def test_some_of_the_rows():
  layout = _layout([0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1])
  batch = packed_features.fill(
    _subtasks(),
    layout.rows(np.array([1])),
    rows=1,
    encoder_length=7,
    decoder_length=6,
  )
  for name, expected in EXPECTED.items():
    np.testing.assert_array_equal(batch[name], expected[1:], err_msg=name)


def test_empty_rows():
  layout = _layout([0], [1], [2])
  batch = packed_features.fill(
    _subtasks(), layout, rows=4, encoder_length=5, decoder_length=3
  )
  assert batch["encoder_input_tokens"].tolist() == [
    [0] * 5,
    [0] * 5,
    [5, 5, 5, 1, 0],
    [0] * 5,
  ]
  nothing = packed_features.fill(
    _subtasks(),
    layout.rows(np.array([3])),
    rows=1,
    encoder_length=5,
    decoder_length=3,
  )
  assert not any(array.any() for array in nothing.values())
  assert packed_features.unpack(nothing) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorFlow's own
def test_features_are_seqios():
  """The same examples in the same rows: SeqIO's packed features."""
  import seqio
  import tensorflow as tf

  rng = np.random.default_rng(0)
  inputs = [
    [*rng.integers(2, 90, rng.integers(2, 9)).tolist(), 1] for _ in range(40)
  ]
  targets = [
    [*rng.integers(2, 90, rng.integers(1, 6)).tolist(), 1] for _ in range(40)
  ]
  dataset = tf.data.Dataset.from_generator(
    lambda: (
      {"inputs": a, "targets": b} for a, b in zip(inputs, targets, strict=True)
    ),
    output_signature={
      "inputs": tf.TensorSpec([None], tf.int32),
      "targets": tf.TensorSpec([None], tf.int32),
    },
  )
  converter = seqio.EncDecFeatureConverter(pack=True)
  packed = list(
    converter(
      dataset, task_feature_lengths={"inputs": 24, "targets": 16}
    ).as_numpy_iterator()
  )
  theirs = {name: np.stack([row[name] for row in packed]) for name in packed[0]}

  # Read off which examples they put in which row, then fill those rows.
  arrays = TokenArrays.from_lists("all", inputs, targets)
  example, row = [], []
  for r, tokens in enumerate(theirs["encoder_input_tokens"]):
    for segment in range(1, theirs["encoder_segment_ids"][r].max() + 1):
      ids = tokens[theirs["encoder_segment_ids"][r] == segment].tolist()
      example.append(inputs.index(ids))
      row.append(r)
  assert sorted(example) == list(range(40))
  assert max(np.bincount(row)) > 2
  ours = packed_features.fill(
    [arrays],
    Layout.of(
      np.zeros(40, np.int64),
      np.array(example),
      np.array(row),
      np.arange(40),
      arrays.input_lengths[example],
      arrays.target_lengths[example],
    ),
    rows=len(packed),
    encoder_length=24,
    decoder_length=16,
  )
  assert len(theirs) == 8
  for name, expected in theirs.items():
    np.testing.assert_array_equal(ours[name], expected, err_msg=name)
    assert ours[name].dtype == expected.dtype
