"""The features of a batch: filled from examples and their rows, and unpacked.

All are [rows, length]. Segments and positions mean what they mean in SeqIO's
packing: a row's examples are its segments 1, 2, ..., 0 is padding; positions
count from 0 in each segment; decoder inputs are the targets shifted right
within each segment, starting with 0.

  row: two examples, inputs (7 8 1) and (9 1), targets (5 1) and (6 4 1)

  encoder_input_tokens    7 8 1 9 1 0
  encoder_segment_ids     1 1 1 2 2 0
  encoder_positions       0 1 2 0 1 0
  decoder_target_tokens   5 1 6 4 1 0
  decoder_input_tokens    0 5 0 6 4 0
  decoder_loss_weights    1 1 1 1 1 0
  decoder_segment_ids     1 1 2 2 2 0
  decoder_positions       0 1 0 1 2 0
  decoder_subtask_ids     1 1 2 2 2 0   position in `subtasks`, from 1
  decoder_record_ids      3 3 4 4 4 0   record's position in its split, from 1
  decoder_example_weights 1 1 w w w 0   float32
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dss_jax.data.tokens.token_arrays import TokenArrays

_ENCODER = (
  "encoder_input_tokens",
  "encoder_segment_ids",
  "encoder_positions",
)
_DECODER = (
  "decoder_input_tokens",
  "decoder_target_tokens",
  "decoder_loss_weights",
  "decoder_segment_ids",
  "decoder_positions",
  "decoder_subtask_ids",
  "decoder_record_ids",
  "decoder_example_weights",
)
FEATURES = (*_ENCODER, *_DECODER)


class FeatureSpec(NamedTuple):
  """Shape and dtype of a feature."""

  shape: tuple[int, ...]
  dtype: np.dtype


def feature_specs(
  rows: int, encoder_length: int, decoder_length: int
) -> dict[str, FeatureSpec]:
  """Shape and dtype of each feature of a batch of that many rows."""
  return {
    name: FeatureSpec(
      (rows, encoder_length if name in _ENCODER else decoder_length),
      np.dtype(np.float32 if name == "decoder_example_weights" else np.int32),
    )
    for name in FEATURES
  }


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
  """Examples and where they lie, ordered by row and then by place in it.

  Attributes:
    subtask: [num_examples] int64, position in the sub-tasks.
    example: [num_examples] int64, position in that sub-task's arrays.
    row: [num_examples] int64, ascending.
    segment: [num_examples] int64, from 1 in each row.
    input_start: [num_examples] int64, the row's position of its first token.
    target_start: [num_examples] int64.
    input_length: [num_examples] int64, tokens.
    target_length: [num_examples] int64, tokens.
  """

  subtask: np.ndarray
  example: np.ndarray
  row: np.ndarray
  segment: np.ndarray
  input_start: np.ndarray
  target_start: np.ndarray
  input_length: np.ndarray
  target_length: np.ndarray

  @classmethod
  def of(
    cls,
    subtask: np.ndarray,
    example: np.ndarray,
    row: np.ndarray,
    rank: np.ndarray,
    input_length: np.ndarray,
    target_length: np.ndarray,
  ) -> Layout:
    """Numbers and places the examples of each row, in the order of `rank`."""
    order = np.lexsort((rank, row))
    subtask, example, row = subtask[order], example[order], row[order]
    input_length, target_length = input_length[order], target_length[order]
    n = len(row)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    size = np.diff(first, append=n)
    input_end = np.cumsum(input_length)
    target_end = np.cumsum(target_length)
    input_start = input_end - input_length
    target_start = target_end - target_length
    return cls(
      subtask,
      example,
      row,
      np.arange(n) - np.repeat(first, size) + 1,
      input_start - np.repeat(input_start[first], size),
      target_start - np.repeat(target_start[first], size),
      input_length,
      target_length,
    )

  def __len__(self) -> int:
    return len(self.row)

  def rows(self, rows: np.ndarray) -> Layout:
    """The part in some rows, ascending, which are counted from 0 in this part."""
    first = np.searchsorted(self.row, rows)
    count = np.searchsorted(self.row, rows, side="right") - first
    begin = np.cumsum(count) - count
    members = np.repeat(first - begin, count) + np.arange(count.sum())
    part = {
      field.name: getattr(self, field.name)[members]
      for field in dataclasses.fields(self)
    }
    part["row"] = np.repeat(np.arange(len(rows)), count)
    return Layout(**part)


def fill(
  subtasks: Sequence[TokenArrays],
  layout: Layout,
  *,
  rows: int,
  encoder_length: int,
  decoder_length: int,
) -> dict[str, np.ndarray]:
  """The features of rows 0 to `rows` - 1 of a layout."""
  batch = {
    name: np.zeros(spec.shape, spec.dtype)
    for name, spec in feature_specs(
      rows, encoder_length, decoder_length
    ).items()
  }
  flat = {name: array.reshape(-1) for name, array in batch.items()}
  for k, arrays in enumerate(subtasks):
    members = np.flatnonzero(layout.subtask == k)
    if not members.size:
      continue
    example = layout.example[members]
    segment = layout.segment[members]

    side = _Tokens(
      arrays.input_offsets[example],
      layout.row[members] * encoder_length + layout.input_start[members],
      layout.input_length[members],
    )
    side.put(flat["encoder_input_tokens"], arrays.inputs[side.source])
    side.put(flat["encoder_positions"], side.position)
    side.put_each(flat["encoder_segment_ids"], segment)

    side = _Tokens(
      arrays.target_offsets[example],
      layout.row[members] * decoder_length + layout.target_start[members],
      layout.target_length[members],
    )
    tokens = arrays.targets[side.source]
    shifted = np.roll(tokens, 1)
    shifted[side.first] = 0
    side.put(flat["decoder_input_tokens"], shifted)
    side.put(flat["decoder_target_tokens"], tokens)
    side.put(flat["decoder_loss_weights"], 1)
    side.put(flat["decoder_positions"], side.position)
    side.put(flat["decoder_subtask_ids"], k + 1)
    side.put_each(flat["decoder_segment_ids"], segment)
    side.put_each(flat["decoder_record_ids"], arrays.record_ids[example] + 1)
    side.put_each(flat["decoder_example_weights"], arrays.weights[example])
  return batch


class _Tokens:
  """Where the tokens of some examples come from and go to.

  Attributes:
    source: [num_tokens] int64, index in the flat tokens.
    position: [num_tokens] int64, place in the example, from 0.
    first: [num_examples] int64, each example's first token among these.
  """

  def __init__(
    self, source: np.ndarray, target: np.ndarray, length: np.ndarray
  ):
    """Starts of each example in the flat tokens and in the flat rows."""
    end = np.cumsum(length)
    self.first = end - length
    self._length = length
    every = np.arange(end[-1])
    self.source = every + np.repeat(source - self.first, length)
    self.position = every - np.repeat(self.first, length)
    self._target = every + np.repeat(target - self.first, length)

  def put(self, out: np.ndarray, values: np.ndarray | int) -> None:
    """Writes one value per token."""
    out[self._target] = values

  def put_each(self, out: np.ndarray, values: np.ndarray) -> None:
    """Writes one value per example on all its tokens."""
    out[self._target] = np.repeat(values, self._length)


class PackedExample(NamedTuple):
  """One example found in a batch.

  Attributes:
    row: row of the batch.
    segment: its number in the row, from 1.
    subtask: position in `ExampleSet.subtasks`, from 0.
    record: the record's position in its split, from 0.
    inputs: input ids.
    targets: target ids.
    weight: example weight.
  """

  row: int
  segment: int
  subtask: int
  record: int
  inputs: list[int]
  targets: list[int]
  weight: float


def unpack(batch: Mapping[str, np.ndarray]) -> list[PackedExample]:
  """The examples of a batch, by row and segment.

  Reads what a model sees (segment ids), not how the batch was made.
  """
  found = []
  arrays = {name: np.asarray(batch[name]) for name in FEATURES}
  for row, segments in enumerate(arrays["decoder_segment_ids"]):
    for segment in range(1, int(segments.max(initial=0)) + 1):
      encoder = arrays["encoder_segment_ids"][row] == segment
      decoder = segments == segment
      if not decoder.any():
        continue
      first = int(decoder.argmax())
      found.append(
        PackedExample(
          row,
          segment,
          int(arrays["decoder_subtask_ids"][row, first]) - 1,
          int(arrays["decoder_record_ids"][row, first]) - 1,
          arrays["encoder_input_tokens"][row, encoder].tolist(),
          arrays["decoder_target_tokens"][row, decoder].tolist(),
          float(arrays["decoder_example_weights"][row, first]),
        )
      )
  return found
