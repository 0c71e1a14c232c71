"""Chooses the shape of a run's batches from the data's length statistics.

How full rows can get depends on how their two lengths meet the data's: rows of
256/96 fill well with one dataset and waste a third with another. So the packer
itself is asked: shapes are tried, cheapest first, on a sample of the stream,
until one holds every sampled window with some room to spare. One shape serves
the whole run, so nothing compiles twice.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections.abc import Sequence

import numpy as np

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.data.packing import packing_plans
from dss_jax.data.packing.packing_plans import MAX_COUNT, BatchShape
from dss_jax.data.packing.row_packer import Items, Window
from dss_jax.data.sampling import Sampler, Units
from dss_jax.data.tokens.token_arrays import ExampleSet

# Units that give the mean lengths, units on which a pair of row lengths is
# first tried, and windows on which a shape is verified.
_SAMPLE_UNITS = 16384
_TRIAL_UNITS = 1024
_TRIAL_SHARE = 0.85  # of them have a row; the others keep the choice wide
_TRIAL_ERROR = 1.02  # a whole window may fill rows so much better
_VERIFY_WINDOWS = 3
_GAP_SHARE = 0.02  # of a window's items may still find room in the gaps
# Room for windows with longer examples than the sampled ones, in standard
# deviations of a window's total length. A window beyond it is packed more
# tightly, so this need not cover every window.
_SPARE_DEVIATIONS = 3.0
# The least room, for windows of equal length whose examples pack less well.
_LEAST_SPARE = 0.004
_SAMPLE_SEED = 0
_COUNT_FIELDS = ("DatasetConfig.batch_size", "DatasetConfig.records_per_batch")

# How much is known of a shape in the search.
_BOUND, _BOUND_BY_TRIALS, _TRIED, _VERIFIED = range(4)

_Lengths = tuple[int, int]  # tokens of a row: encoder, decoder
_Counts = tuple[int, int]  # of a batch: rows, records


def choose_batch_shape(
  example_set: ExampleSet,
  *,
  records_per_batch: int | None = None,
  rows: int | None = None,
  encoder_length: int | None = None,
  decoder_length: int | None = None,
  rows_multiple_of: int = 1,
  pack: bool = True,
  length_multiple: int = 8,
  max_row_length: int = 1024,
  attention_length: int = 4096,
) -> BatchShape:
  """The cheapest shape that holds the data; what is given is kept.

  At least one of `records_per_batch` and `rows` is needed; the other follows
  from it. The cost of a batch is counted in encoder tokens,

      rows * (E + D + (E * E + D * D + E * D) / attention_length)

  for rows of E and D tokens, padding included: everything that is linear in
  tokens, and encoder, decoder and cross attention. Longer rows pack better,
  shorter ones attend over less.

  Args:
    example_set: the data.
    records_per_batch: records that a batch stands for.
    rows: packed rows of a global batch.
    encoder_length: tokens of a row on the encoder's side.
    decoder_length: tokens of a row on the decoder's side.
    rows_multiple_of: what the rows must be divisible by: data shards times
      micro-batches.
    pack: several examples a row; if not, one each.
    length_multiple: chosen lengths are multiples of this many tokens. 8 suits
      CPUs and GPUs; matrix units of TPUs prefer 128.
    max_row_length: chosen lengths stay at or below this many tokens, except as
      the longest example needs more.
    attention_length: the row length at which attention costs as much as all
      the rest of a layer. By arithmetic alone about 4,600 tokens in T5 1.1
      base (4 d^2 + 3 d d_ff multiply-adds a token against 2 d per token
      attended to); where the scores are written to memory, whole steps
      behave like about 1,300 on a GPU (an estimate) and 600 on a CPU (fitted to
      two measured shapes): set it lower there, for shorter rows.

  Raises:
    UserError: what is given contradicts itself or the data.
  """
  for name, value in (
    ("records_per_batch", records_per_batch),
    ("batch_size", rows),
    ("encoder_length", encoder_length),
    ("decoder_length", decoder_length),
    ("length_multiple", length_multiple),
    ("max_row_length", max_row_length),
    ("attention_length", attention_length),
  ):
    checks.in_range(
      f"DatasetConfig.{name}", value, 1, MAX_COUNT, or_none=True, whole=True
    )
  if records_per_batch is None and rows is None:
    raise UserError(
      "neither batch_size (packed rows) nor records_per_batch is set: set"
      " one, the other follows from it",
      fields=_COUNT_FIELDS,
    )
  if rows is not None and rows % rows_multiple_of:
    raise UserError(
      f"batch_size is {rows} rows; it must be a multiple of"
      f" {rows_multiple_of} (data shards x micro-batches)",
      fields="DatasetConfig.batch_size",
    )
  search = _Search(
    example_set,
    requested=_RequestedCounts(records_per_batch, rows, rows_multiple_of),
    attention_length=attention_length,
  )
  encoder_lengths, decoder_lengths = (
    _length_choices(longest, given, length_multiple, max_row_length)
    for longest, given in zip(search.longest, (encoder_length, decoder_length))
  )
  shortest = (encoder_lengths[0], decoder_lengths[0])
  packing_plans.check_fits_row(*search.longest, shortest)
  if not pack:
    return search.unpacked(shortest)
  if records_per_batch and rows and encoder_length and decoder_length:
    return search.fixed(shortest)
  return search.cheapest(encoder_lengths, decoder_lengths)


def _length_choices(
  longest: int, given: int | None, multiple: int, highest: int
) -> Sequence[int]:
  """Row lengths to try, ascending, at least one; about 3 % apart."""
  if given is not None:
    return (given,)
  first = -(-longest // multiple) * multiple
  last = max(first, highest // multiple * multiple)
  choices = [first]
  while choices[-1] < last:
    step = multiple * max(1, choices[-1] // (32 * multiple))
    choices.append(min(choices[-1] + step, last))
  return choices


@dataclasses.dataclass(frozen=True)
class _RequestedCounts:
  """The rows and records of a batch that are given; None leaves one open."""

  records: int | None
  rows: int | None
  rows_multiple_of: int

  def counts(self, units_per_row: float, units_per_record: int) -> _Counts:
    """(rows, records) if that many units fit a row."""
    fill = units_per_row / units_per_record
    if self.rows is not None:
      records = self.records or max(1, math.floor(self.rows * fill))
      return self.rows, records
    assert self.records is not None
    rows = math.ceil(self.records / fill / self.rows_multiple_of)
    return rows * self.rows_multiple_of, self.records

  def roomier(self, counts: _Counts, shortage: float) -> _Counts | None:
    """The next counts with more room; None where both are given.

    `shortage`: the part of the tokens that found no room. Steps are of 1/128
    at least.
    """
    rows, records = counts
    if self.rows is None:
      more = math.ceil(rows * max(shortage, 1 / 128) / self.rows_multiple_of)
      return rows + more * self.rows_multiple_of, records
    if self.records is None and records > 1:
      fewer = math.ceil(records * max(shortage, 1 / 128))
      return rows, max(1, records - fewer)
    return None


class _Search:
  """The search over shapes for one example set.

  Attributes:
    longest: the longest example's tokens: (inputs, targets).
  """

  def __init__(
    self,
    example_set: ExampleSet,
    *,
    requested: _RequestedCounts,
    attention_length: int,
  ):
    self._example_set = example_set
    self._requested = requested
    self._attention_length = attention_length
    self._sampler = Sampler(example_set, seed=_SAMPLE_SEED)
    self._units_per_record = self._sampler.units_per_record
    self.longest = packing_plans.longest(example_set)
    self._trials: dict[_Lengths, float] = {}
    if example_set.paired:
      self._epoch_units = self._sampler.epoch_units()
    else:
      self._epoch_units = sum(
        self._sampler.epoch_units(k)
        for k, rate in enumerate(example_set.rates)
        if rate > 0
      )
    sample = self._sampler.units(0, _SAMPLE_UNITS)
    sides = packing_plans.lengths(example_set, sample)
    self._means = tuple(float(side.sum()) / _SAMPLE_UNITS for side in sides)
    self._deviations = tuple(
      _deviation(np.bincount(sample.unit, side), sample, example_set.paired)
      for side in sides
    )

  def unpacked(self, lengths: _Lengths) -> BatchShape:
    """The shape with one example a row, which a record needs most of."""
    per_record = self._units_per_record
    if self._example_set.paired:
      per_record = sum(len(s) > 0 for s in self._example_set.subtasks)
    rows, records = self._requested.counts(1.0, per_record)
    if rows < records * per_record:
      raise UserError(
        f"without packing, {records} records need {records * per_record}"
        f" rows, but batch_size is {rows}: raise it, or lower"
        " records_per_batch",
        fields=_COUNT_FIELDS,
      )
    return BatchShape(rows, *lengths, records, pack=False)

  def fixed(self, lengths: _Lengths) -> BatchShape:
    """The shape that is given completely, if it holds the data."""
    assert self._requested.rows is not None
    assert self._requested.records is not None
    shape = BatchShape(self._requested.rows, *lengths, self._requested.records)
    units, num_batches = self._window_units(shape.records_per_batch)
    packing_plans.plan_window(*self._units(0, units), shape, num_batches)
    return shape

  def cheapest(
    self, encoder_lengths: Sequence[int], decoder_lengths: Sequence[int]
  ) -> BatchShape:
    """The cheapest packed shape of the grid that holds the data.

    Best first: a shape enters with the least it can cost, comes back with what
    trials on a small sample say, first of each of its lengths alone, then of
    both, and is taken once whole windows of it were planned; if these do not
    fit, it comes back with more room.
    """
    widest = (encoder_lengths[-1], decoder_lengths[-1])
    heap: list[tuple[float, int, _Lengths, _Counts]] = []

    def push(stage: int, lengths: _Lengths, counts: _Counts) -> None:
      cost = self._cost(lengths, counts)
      # At equal cost the further stage first, then the shorter row.
      heapq.heappush(heap, (cost, -stage, lengths, counts))

    def push_filled(stage: int, lengths: _Lengths, fill: float) -> None:
      rows, records = self._counts(fill)
      # Rows and records may both be given, and hopeless with these lengths.
      if rows * fill * _TRIAL_ERROR >= records * self._units_per_record:
        push(stage, lengths, (rows, records))

    for lengths in itertools.product(encoder_lengths, decoder_lengths):
      push_filled(_BOUND, lengths, self._ideal_fill(lengths))
    while heap:
      _, minus_stage, lengths, counts = heapq.heappop(heap)
      stage = -minus_stage
      if stage == _VERIFIED:
        return BatchShape(counts[0], *lengths, counts[1])
      if stage == _BOUND:
        fill = min(
          self._trial_fill((lengths[0], widest[1])),
          self._trial_fill((widest[0], lengths[1])),
        )
        push_filled(_BOUND_BY_TRIALS, lengths, fill)
      elif stage == _BOUND_BY_TRIALS:
        push_filled(_TRIED, lengths, self._trial_fill(lengths))
      elif not (shortage := self._shortage(lengths, counts)):
        push(_VERIFIED, lengths, counts)
      elif more := self._requested.roomier(counts, shortage):
        push(_TRIED, lengths, more)
    raise UserError(
      f"no rows of up to {encoder_lengths[-1]}/{decoder_lengths[-1]} tokens"
      f" hold the data with batch_size {self._requested.rows} and"
      f" records_per_batch {self._requested.records}: raise batch_size or"
      " max_row_length, or lower records_per_batch",
      fields=(*_COUNT_FIELDS, "DatasetConfig.max_row_length"),
    )

  def _cost(self, lengths: _Lengths, counts: _Counts) -> float:
    """Cost of a record, in encoder tokens (see `choose_batch_shape`)."""
    e, d = lengths
    row = e + d + (e * e + d * d + e * d) / self._attention_length
    return counts[0] * row / counts[1]

  def _units(
    self, start: int, stop: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(unit, input length, target length) of each example of these units."""
    units = self._sampler.units(start, stop)
    return (units.unit, *packing_plans.lengths(self._example_set, units))

  def _window_units(self, records: int) -> tuple[int, int]:
    """Units and batches of a window."""
    units = self._sampler.units_per_batch(records)
    num_batches = packing_plans.window_batches(units)
    return units * num_batches, num_batches

  def _spare(self, records: int) -> float:
    """Room for unlike windows, as a fraction of a window's mean demand."""
    units, _ = self._window_units(records)
    # Within an epoch nothing is drawn twice, so only the window's two ends
    # vary, each at most as half an epoch does.
    varying = min(units, self._epoch_units / 2)
    relative = max(
      deviation * math.sqrt(varying) / (units * mean)
      for mean, deviation in zip(self._means, self._deviations)
    )
    return _LEAST_SPARE + _SPARE_DEVIATIONS * relative

  def _counts(self, fill: float) -> _Counts:
    """(rows, records) for rows that hold `fill` units, with some to spare."""
    _, records = self._requested.counts(fill, self._units_per_record)
    return self._requested.counts(
      fill / (1 + self._spare(records)), self._units_per_record
    )

  def _ideal_fill(self, lengths: _Lengths) -> float:
    """Units that a row holds if no token of its scarcer side is left over."""
    return min(x / mean for x, mean in zip(lengths, self._means))

  def _trial_fill(self, lengths: _Lengths) -> float:
    """Units that a row holds while there are always others to choose from."""
    if lengths in self._trials:
      return self._trials[lengths]
    unit, inputs, targets = self._units(0, _TRIAL_UNITS)
    items = Items.of(unit, inputs, targets, lengths)
    rows = int(_TRIAL_SHARE * _TRIAL_UNITS / self._ideal_fill(lengths))
    rows = max(1, rows)
    window = Window(items, rows=rows, row_lengths=lengths, num_batches=1)
    window.fill(even=False)
    waiting = window.row[items.of_example] < 0
    placed = _TRIAL_UNITS - len(np.unique(unit[waiting]))
    self._trials[lengths] = max(placed, 1) / rows
    return self._trials[lengths]

  def _shortage(self, lengths: _Lengths, counts: _Counts) -> float:
    """Part of the tokens of sampled windows that finds no room at first go.

    The windows hold some more units than the shape must hold.
    """
    units, num_batches = self._window_units(counts[1])
    units = math.ceil(units * (1 + self._spare(counts[1])))
    for i in range(_VERIFY_WINDOWS):
      items = Items.of(*self._units(i * units, (i + 1) * units), lengths)
      window = Window(
        items, rows=counts[0], row_lengths=lengths, num_batches=num_batches
      )
      window.fill()
      if len(window.waiting()) < _GAP_SHARE * len(items.inputs):
        window.fill_gaps()
      waiting = window.waiting()
      if len(waiting):
        return max(
          float(side[waiting].sum() / side.sum())
          for side in (items.inputs, items.targets)
        )
    return 0.0


def _deviation(length: np.ndarray, units: Units, paired: bool) -> float:
  """Standard deviation of the units' lengths, [num_units] tokens.

  Unpaired, of those within sub-tasks: rates are exact in every window.
  """
  # Sums of integers, so that every machine finds the same number.
  length = length.astype(np.int64)
  kinds = [length]
  if not paired:
    kinds = [length[units.subtask == k] for k in np.unique(units.subtask)]
  within = 0.0
  for kind in kinds:
    total, squares = int(kind.sum()), int((kind * kind).sum())
    within += (len(kind) * squares - total * total) / len(kind)
  return math.sqrt(within / len(length))
