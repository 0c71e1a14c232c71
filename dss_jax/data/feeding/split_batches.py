"""Packed batches of a whole split, for validation losses: every example once.

Training's batches, by step, are `batches.PackedBatches`.
"""

from __future__ import annotations

import numpy as np

from dss_jax.data.feeding.batches import Batches, HostRows
from dss_jax.data.packing import packing_plans
from dss_jax.data.packing.packed_features import Layout
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.data.packing.row_packer import Items, Window
from dss_jax.data.tokens.token_arrays import ExampleSet

# Examples packed at once; more would fill rows no better.
_CHUNK = 8192


class SplitBatches(Batches):
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
    host_rows: HostRows = slice(None),
  ):
    """`host_rows`: the rows of the global batch to build (of this host).

    Raises:
      UserError: an example is longer than a row.
    """
    super().__init__(shape, host_rows)
    self.example_set = example_set
    self._layout, self._num_batches = self._plan()

  def __len__(self) -> int:
    return self._num_batches

  def __getitem__(self, step: int, /) -> dict[str, np.ndarray]:
    if not 0 <= step < self._num_batches:
      raise IndexError(f"batch {step} of {self._num_batches}")
    return self._fill(self.example_set.subtasks, self._layout, step)

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
    packing_plans.check_fits_row(
      int(inputs.max(initial=0)),
      int(targets.max(initial=0)),
      (self.shape.encoder_length, self.shape.decoder_length),
    )
    num_batches = 0
    for start in range(0, len(mixed), _CHUNK):
      chunk = mixed[start : start + _CHUNK]
      if self.shape.pack:
        window, batches = self._pack(inputs[chunk], targets[chunk])
        row[chunk], rank[chunk] = window.row, window.rank
      else:
        row[chunk] = np.arange(len(chunk))
        batches = -(-len(chunk) // self.shape.rows)
      row[chunk] += num_batches * self.shape.rows
      num_batches += batches
    layout = Layout.of(subtask, example, row, rank, inputs, targets)
    return layout, num_batches

  def _pack(
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
