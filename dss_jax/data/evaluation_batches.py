"""Batches for evaluation: every example exactly once, in few shapes.

Two kinds: `padded_batches` of inputs alone, to be decoded, and `EpochBatches`
of inputs and targets, packed, to be scored.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.data import packed_features, packing
from dss_jax.data.batches import row_range
from dss_jax.data.packed_features import FeatureSpec, Layout
from dss_jax.data.packing import BatchShape
from dss_jax.data.row_filling import Items, Window
from dss_jax.data.token_arrays import ExampleSet

# Examples packed at once; more would fill rows no better.
_CHUNK = 8192


class PaddedBatch(NamedTuple):
  """Inputs to decode.

  Attributes:
    index: [rows] int64, position of each row's inputs in what
      `padded_batches` was given; -1 for rows that only fill the batch.
    encoder_input_tokens: [rows, length] int32, 0 = padding.
  """

  index: np.ndarray
  encoder_input_tokens: np.ndarray


def padded_batches(
  inputs: Sequence[Sequence[int]],
  batch_size: int,
  *,
  lengths: Sequence[int] | None = None,
  batch_sizes: Sequence[int] | None = None,
) -> Iterator[PaddedBatch]:
  """Batches of inputs of about the same length, shortest first.

  Args:
    inputs: ids of each input, EOS included.
    batch_size: rows of a batch.
    lengths: the row lengths to use, ascending, in tokens: the declared shapes.
      By default `declared_lengths` of each batch's longest input.
    batch_sizes: the smaller numbers of rows that a batch may have where fewer
      are left. By default none: rows that only fill the batch are added.

  Yields:
    Every input once. Only the first batch, of the shortest inputs, may have
    rows that only fill it.

  Raises:
    UserError: an input is longer than all `lengths`.
  """
  size = np.array([len(ids) for ids in inputs], np.int64)
  order = np.argsort(size, kind="stable")
  first = len(order) % batch_size
  bounds = [*([0] if first else []), *range(first, len(order) + 1, batch_size)]
  parts = [order[i:j] for i, j in itertools.pairwise(bounds)]
  longest = [int(size[part[-1]]) for part in parts]
  if lengths is None:
    lengths = declared_lengths(longest)
  lengths = sorted(lengths)
  if size.size and size.max() > lengths[-1]:
    raise UserError(
      f"an input has {size.max()} tokens, but evaluation rows have at most"
      f" {lengths[-1]}: raise the declared lengths, or lower"
      " TASK_FEATURE_LENGTHS['inputs']"
    )
  sizes = {*(batch_sizes or ()), batch_size}
  for part, least in zip(parts, longest, strict=True):
    rows = min(s for s in sizes if s >= len(part))
    index = np.full(rows, -1, np.int64)
    index[: len(part)] = part
    tokens = np.zeros((rows, min(n for n in lengths if n >= least)), np.int32)
    for row, i in enumerate(part.tolist()):
      tokens[row, : size[i]] = inputs[i]
    yield PaddedBatch(index, tokens)


def declared_lengths(
  sizes: Sequence[int] | np.ndarray,
  *,
  num_lengths: int = 3,
  multiple: int = 8,
) -> tuple[int, ...]:
  """The row lengths that waste the fewest tokens on rows of these sizes.

  Args:
    sizes: [num_rows], tokens that each must hold.
    num_lengths: at most so many lengths (each is compiled once).
    multiple: lengths are multiples of this many tokens.

  Returns:
    Lengths, ascending; the last holds the longest input.
  """
  rounded = (
    -(-np.maximum(np.asarray(sizes, np.int64), 1) // multiple) * multiple
  )
  if not rounded.size:
    return (multiple,)
  values, counts = np.unique(rounded, return_counts=True)
  below = np.concatenate([[0], np.cumsum(counts)])
  # best[j]: (tokens, lengths) of the inputs below values[j] in k lengths.
  best: list[tuple[int, tuple[int, ...]]] = [
    (int(below[j + 1] * values[j]), (int(values[j]),))
    for j in range(len(values))
  ]
  for _ in range(num_lengths - 1):
    longer = list(best)
    for j in range(len(values)):
      for i in range(j):
        tokens = best[i][0] + int((below[j + 1] - below[i + 1]) * values[j])
        if tokens < longer[j][0]:
          longer[j] = (tokens, (*best[i][1], int(values[j])))
    best = longer
  return best[-1][1]


class EpochBatches:
  """All examples of a set, each exactly once, packed; `len()` batches.

  Of the training batch's shape if that is given, so nothing new is compiled.
  All alternatives of a record are there, whatever the sub-tasks' rates. The
  last batch of every few thousand examples may be part empty.

  Attributes:
    example_set: the examples.
    shape: the global batch; `records_per_batch` plays no part.
    feature_specs: name -> shape and dtype of the global batch's features.
  """

  def __init__(
    self,
    example_set: ExampleSet,
    shape: BatchShape,
    *,
    row_slice: slice = slice(None),
  ):
    """`row_slice`: the rows of the global batch to build (of this host).

    Raises:
      UserError: an example is longer than a row.
    """
    self.example_set = example_set
    self.shape = shape
    self.feature_specs: dict[str, FeatureSpec] = packed_features.feature_specs(
      shape.rows, shape.encoder_length, shape.decoder_length
    )
    self._first_row, self._last_row = row_range(row_slice, shape.rows)
    self._layout, self._num_batches = self._plan()

  def __len__(self) -> int:
    return self._num_batches

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """This host's rows of a batch: name -> [rows, length]."""
    if not 0 <= index < self._num_batches:
      raise IndexError(f"batch {index} of {self._num_batches}")
    start = index * self.shape.rows
    return packed_features.fill(
      self.example_set.subtasks,
      self._layout.rows(start + self._first_row, start + self._last_row),
      rows=self._last_row - self._first_row,
      encoder_length=self.shape.encoder_length,
      decoder_length=self.shape.decoder_length,
    )

  def _plan(self) -> tuple[Layout, int]:
    subtasks = self.example_set.subtasks
    subtask = np.repeat(np.arange(len(subtasks)), [len(s) for s in subtasks])
    example = np.concatenate([np.arange(len(s)) for s in subtasks])
    inputs = np.concatenate([s.input_lengths for s in subtasks])
    targets = np.concatenate([s.target_lengths for s in subtasks])
    # Sub-tasks mixed, so that rows can balance long and short targets.
    mixed = np.lexsort((subtask, example))
    row = np.zeros(len(mixed), np.int64)
    rank = np.zeros(len(mixed), np.int64)
    packing.check_fits_row(
      int(inputs.max(initial=0)),
      int(targets.max(initial=0)),
      (self.shape.encoder_length, self.shape.decoder_length),
    )
    num_batches = 0
    for start in range(0, len(mixed), _CHUNK):
      chunk = mixed[start : start + _CHUNK]
      if self.shape.pack:
        window, batches = self._fill(inputs[chunk], targets[chunk])
        row[chunk], rank[chunk] = window.row, window.rank
      else:
        row[chunk] = np.arange(len(chunk))
        batches = -(-len(chunk) // self.shape.rows)
      row[chunk] += num_batches * self.shape.rows
      num_batches += batches
    layout = Layout.of(subtask, example, row, rank, inputs, targets)
    return layout, num_batches

  def _fill(
    self, inputs: np.ndarray, targets: np.ndarray
  ) -> tuple[Window, int]:
    """The examples in as few batches as the packer needs."""
    lengths = (self.shape.encoder_length, self.shape.decoder_length)
    items = Items.of(np.arange(len(inputs)), inputs, targets, lengths)
    batches = 1
    for total, length in zip((inputs, targets), lengths, strict=True):
      batches = max(batches, -(-int(total.sum()) // (length * self.shape.rows)))
    while True:
      window = Window(
        items,
        rows=self.shape.rows,
        row_lengths=lengths,
        num_batches=batches,
      )
      window.fill(even=False)
      window.fill_gaps()
      if not len(window.waiting()):
        return window, batches
      batches += 1
