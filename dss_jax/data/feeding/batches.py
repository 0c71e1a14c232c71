"""Batches: any step's, in any order; here those of an ExampleSet and a shape.

    batches = PackedBatches(example_set, shape, seed=0)
    batch = batches[1000]           # dict of [rows, length] arrays

A batch is a pure function of (example set, shape, seed, step): a resumed run,
or one on other hosts, sees the same ones, and there is no iterator state to
save. Each host builds only its rows (`host_rows`); how examples lie in rows is
planned by all of them alike.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dss_jax.data.packing import packed_features, packing_plans
from dss_jax.data.packing.packed_features import FeatureSpec, Layout
from dss_jax.data.packing.packing_plans import BatchShape
from dss_jax.data.sampling import Sampler
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays

# Rows of the global batch, ascending; as a slice or as int [rows].
HostRows = slice | np.ndarray

# Steps in order need one window; neighbours read ahead or behind need two.
_CACHED_WINDOWS = 3


class Batches(abc.ABC):
  """Batches of one shape; `batches[step]` is this host's rows of one.

  Attributes:
    shape: the global batch.
    feature_specs: name -> shape and dtype of the global batch's features.
  """

  def __init__(self, shape: BatchShape, host_rows: HostRows):
    """`host_rows`: the rows of the global batch to give (of this host)."""
    self.shape = shape
    self.feature_specs: dict[str, FeatureSpec] = packed_features.feature_specs(
      shape.rows, shape.encoder_length, shape.decoder_length
    )
    self._rows = np.arange(shape.rows)[host_rows]

  @abc.abstractmethod
  def __getitem__(self, step: int, /) -> dict[str, np.ndarray]:
    """This host's rows of batch `step`: name -> [rows, length]."""

  def _fill(
    self, arrays: Sequence[TokenArrays], layout: Layout, batch: int
  ) -> dict[str, np.ndarray]:
    """This host's rows of the batch of that number in a layout."""
    return packed_features.fill(
      arrays,
      layout.rows(batch * self.shape.rows + self._rows),
      rows=len(self._rows),
      encoder_length=self.shape.encoder_length,
      decoder_length=self.shape.decoder_length,
    )


class Window(NamedTuple):
  """Some consecutive batches, packed together.

  Attributes:
    arrays: the tokens of the examples, by sub-task.
    layout: where the examples lie in the rows of all its batches.
    plan: how they came there.
  """

  arrays: Sequence[TokenArrays]
  layout: Layout
  plan: packing_plans.PackingPlan


class WindowedBatches(Batches):
  """Batches without end that are packed a window of them at a time."""

  def __init__(
    self,
    shape: BatchShape,
    host_rows: HostRows,
    units: int,
    subtask_names: Sequence[str],
  ):
    """Sets the size of a window.

    Args:
      shape: the global batch.
      host_rows: the rows of the global batch to build (of this host).
      units: of the stream of examples, for one batch; see `sampling`.
      subtask_names: in the order of a window's arrays.
    """
    super().__init__(shape, host_rows)
    self._units = units
    self._subtask_names = subtask_names
    self._window_batches = (
      packing_plans.window_batches(units) if shape.pack else 1
    )
    self._window = functools.lru_cache(maxsize=_CACHED_WINDOWS)(
      self._plan_window
    )

  @abc.abstractmethod
  def _plan_window(self, number: int) -> Window:
    """Packs window `number`: its batches follow those of the one before."""

  def __getitem__(self, step: int, /) -> dict[str, np.ndarray]:
    window, batch = self._find(step)
    return self._fill(window.arrays, window.layout, batch)

  def _find(self, step: int) -> tuple[Window, int]:
    """The window of a step, and the step's place in it."""
    if step < 0:
      raise IndexError(f"step {step}: steps count from 0")
    number, batch = divmod(step, self._window_batches)
    return self._window(number), batch

  def packing_statistics(self, step: int) -> dict[str, Any]:
    """Counts of the global batch `step`.

    Returns:
      examples, examples_by_subtask (name -> count), encoder_tokens,
      decoder_tokens (without padding), slots, padding (the fraction of slots
      that is padding), and of the batch's window: moved (units that were put
      out of order into another batch's free space) and repacked.
    """
    window, batch = self._find(step)
    shape, names = self.shape, self._subtask_names
    rows = batch * shape.rows + np.arange(shape.rows)
    layout = window.layout.rows(rows)
    encoder_tokens = int(layout.input_length.sum())
    decoder_tokens = int(layout.target_length.sum())
    counts = np.bincount(layout.subtask, minlength=len(names))
    return {
      "examples": len(layout),
      "examples_by_subtask": dict(zip(names, counts.tolist(), strict=True)),
      "encoder_tokens": encoder_tokens,
      "decoder_tokens": decoder_tokens,
      "slots": shape.slots,
      "padding": 1 - (encoder_tokens + decoder_tokens) / shape.slots,
      "moved": window.plan.moved,
      "repacked": window.plan.repacked,
    }


class PackedBatches(WindowedBatches):
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
    host_rows: HostRows = slice(None),
  ):
    """`host_rows`: the rows of the global batch to build (of this host).

    Raises:
      UserError: the examples do not fit the shape (seen at once for an example
        longer than a row, else when a batch is built).
    """
    self.example_set = example_set
    self.seed = seed
    self._sampler = Sampler(example_set, seed=seed)
    super().__init__(
      shape,
      host_rows,
      self._sampler.units_per_batch(shape.records_per_batch),
      [subtask.name for subtask in example_set.subtasks],
    )
    packing_plans.check_example_set(example_set, shape)

  def _plan_window(self, number: int) -> Window:
    size = self._units * self._window_batches
    units = self._sampler.units(number * size, (number + 1) * size)
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
    return Window(self.example_set.subtasks, layout, plan)
