"""Training batches: any step's, in any order, from an ExampleSet and a shape.

    batches = PackedBatches(example_set, shape, seed=0)
    batch = batches[1000]           # dict of [rows, length] arrays

A batch is a pure function of (example set, shape, seed, step): a resumed run,
or one on other hosts, sees the same ones, and there is no iterator state to
save. Each host builds only its rows (`row_slice`); how examples lie in rows is
planned by all of them alike.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from dss_jax.data.packing import packed_features, packing_plans
from dss_jax.data.packing.packed_features import FeatureSpec, Layout
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.data.sampling import Sampler
from dss_jax.data.tokens.token_arrays import ExampleSet

# Steps in order need one window; neighbours read ahead or behind need two.
_CACHED_WINDOWS = 3


class PackedBatches:
  """The batches of an example set; `batches[step]` for any step >= 0.

  Safe to use from several threads.

  Attributes:
    example_set: the examples.
    shape: the global batch.
    seed: the stream's seed.
    feature_specs: name -> shape and dtype of the global batch's features.
  """

  def __init__(
    self,
    example_set: ExampleSet,
    shape: BatchShape,
    *,
    seed: int,
    row_slice: slice = slice(None),
  ):
    """`row_slice`: the rows of the global batch to build (of this host).

    Raises:
      UserError: the examples do not fit the shape (seen at once for an example
        longer than a row, else when a batch is built).
    """
    self.example_set = example_set
    self.shape = shape
    self.seed = seed
    self.feature_specs: dict[str, FeatureSpec] = packed_features.feature_specs(
      shape.rows, shape.encoder_length, shape.decoder_length
    )
    self._first_row, self._last_row = row_range(row_slice, shape.rows)
    self._sampler = Sampler(example_set, seed=seed)
    self._units = self._sampler.units_per_batch(shape.records_per_batch)
    self._window_batches = (
      packing_plans.window_batches(self._units) if shape.pack else 1
    )
    packing_plans.check_example_set(example_set, shape)
    self._window = functools.lru_cache(maxsize=_CACHED_WINDOWS)(
      self._plan_window
    )

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    """This host's rows of batch `step`: name -> [rows, length]."""
    return packed_features.fill(
      self.example_set.subtasks,
      self._layout(step, self._first_row, self._last_row),
      rows=self._last_row - self._first_row,
      encoder_length=self.shape.encoder_length,
      decoder_length=self.shape.decoder_length,
    )

  def packing_statistics(self, step: int) -> dict[str, Any]:
    """Counts of the global batch `step`.

    Returns:
      examples, examples_by_subtask (name -> count), encoder_tokens,
      decoder_tokens (without padding), slots, padding (the fraction of slots
      that is padding), and of the batch's window: moved (units that were put
      out of order into another batch's free space) and repacked.
    """
    layout = self._layout(step, 0, self.shape.rows)
    _, plan = self._window(step // self._window_batches)
    names = [subtask.name for subtask in self.example_set.subtasks]
    return statistics_of(layout, plan, names, self.shape)

  def _layout(self, step: int, first_row: int, last_row: int) -> Layout:
    """Where the examples of some rows of a batch lie."""
    if step < 0:
      raise IndexError(f"step {step}: steps count from 0")
    window, batch = divmod(step, self._window_batches)
    layout, _ = self._window(window)
    start = batch * self.shape.rows
    return layout.rows(start + first_row, start + last_row)

  def _plan_window(
    self, window: int
  ) -> tuple[Layout, packing_plans.PackingPlan]:
    """Where all examples of a window lie."""
    num_units = self._units * self._window_batches
    units = self._sampler.units(window * num_units, (window + 1) * num_units)
    lengths = packing_plans.lengths(self.example_set, units)
    if self.shape.pack:
      plan = packing_plans.plan_window(
        units.unit, *lengths, self.shape, self._window_batches
      )
    else:
      plan = packing_plans.plan_unpacked(len(units), self.shape)
    layout = Layout.of(
      units.subtask, units.example, plan.row, plan.rank, *lengths
    )
    return layout, plan


def statistics_of(
  layout: Layout,
  plan: packing_plans.PackingPlan,
  subtask_names: Sequence[str],
  shape: BatchShape,
) -> dict[str, Any]:
  """The counts of `PackedBatches.packing_statistics`.

  Args:
    layout: of all rows of one batch.
    plan: of the batch's window.
    subtask_names: in the order of the layout's sub-tasks.
    shape: of the batch.
  """
  encoder_tokens = int(layout.input_length.sum())
  decoder_tokens = int(layout.target_length.sum())
  counts = np.bincount(layout.subtask, minlength=len(subtask_names))
  return {
    "examples": len(layout),
    "examples_by_subtask": dict(
      zip(subtask_names, counts.tolist(), strict=True)
    ),
    "encoder_tokens": encoder_tokens,
    "decoder_tokens": decoder_tokens,
    "slots": shape.slots,
    "padding": 1 - (encoder_tokens + decoder_tokens) / shape.slots,
    "moved": plan.moved,
    "repacked": plan.repacked,
  }


def row_range(row_slice: slice, rows: int) -> tuple[int, int]:
  """(first, last + 1) of consecutive rows.

  Raises:
    ValueError: the rows are not consecutive.
  """
  start, stop, step = row_slice.indices(rows)
  if step != 1 or stop < start:
    raise ValueError(f"{row_slice}: a host's rows must be consecutive")
  return start, stop
