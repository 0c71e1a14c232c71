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

from dss_jax.data import packing
from dss_jax.data.packing import BatchShape
from dss_jax.data.row_filling import Items, Window
from dss_jax.data.sampler import Sampler, Units
from dss_jax.data.token_arrays import ExampleSet
from dss_jax.errors import UserError

# Units that give the mean lengths; units on which a pair of row lengths is
# first tried; windows on which a shape is verified.
_SAMPLE_UNITS = 16384
_TRIAL_UNITS = 1024
_TRIAL_SHARE = 0.85  # of them have a row; the others keep the choice wide
_VERIFY_WINDOWS = 2
# Room for windows with longer examples than the sampled ones, in standard
# deviations of a window's total length. A window beyond it is packed more
# tightly, so this need not cover every window.
_SPARE_DEVIATIONS = 3.0
_SAMPLE_SEED = 0

# How much is known of a shape in the search.
_BOUND, _TRIED, _VERIFIED = 0, 1, 2

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
  max_row_length: int = 512,
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
    records_per_batch: records that a batch stands for (RECORDS_PER_BATCH).
    rows: packed rows of a global batch (BATCH_SIZE).
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
      attended to); kernels that write the scores to memory behave like 1,300
      on a GPU and 300 on a CPU, so set it lower there for shorter rows.

  Raises:
    UserError: the wishes contradict each other or the data.
  """
  for name, value in (
    ("records_per_batch (RECORDS_PER_BATCH)", records_per_batch),
    ("rows (BATCH_SIZE)", rows),
    ("encoder_length", encoder_length),
    ("decoder_length", decoder_length),
    ("rows_multiple_of", rows_multiple_of),
    ("length_multiple", length_multiple),
    ("max_row_length", max_row_length),
    ("attention_length", attention_length),
  ):
    if value is not None and not (isinstance(value, int) and value > 0):
      raise UserError(
        f"choose_batch_shape.{name} is {value!r}; a positive integer is needed"
      )
  if records_per_batch is None and rows is None:
    raise UserError(
      "neither BATCH_SIZE (packed rows) nor RECORDS_PER_BATCH is set: set"
      " one, the other follows from it"
    )
  if rows is not None and rows % rows_multiple_of:
    raise UserError(
      f"BATCH_SIZE is {rows} rows; it must be a multiple of"
      f" {rows_multiple_of} (data shards x micro-batches)"
    )
  search = _Search(
    example_set,
    wish=_Wish(records_per_batch, rows, rows_multiple_of),
    attention_length=attention_length,
  )
  encoder_lengths, decoder_lengths = (
    _length_choices(longest, given, length_multiple, max_row_length)
    for longest, given in zip(search.longest, (encoder_length, decoder_length))
  )
  shortest = (encoder_lengths[0], decoder_lengths[0])
  packing.check_fits_row(*search.longest, shortest)
  if not pack:
    return search.unpacked(shortest)
  if records_per_batch and rows and encoder_length and decoder_length:
    return search.given(shortest)
  return search.cheapest(encoder_lengths, decoder_lengths)


def _length_choices(
  longest: int, given: int | None, multiple: int, highest: int
) -> Sequence[int]:
  """Row lengths to try, ascending, at least one."""
  if given is not None:
    return (given,)
  first = -(-longest // multiple) * multiple
  return range(first, max(first, highest) + 1, multiple)


@dataclasses.dataclass(frozen=True)
class _Wish:
  """What was asked of the number of rows and records."""

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

  def roomier(self, rows: int, records: int) -> _Counts | None:
    """The next counts with more room; None where both are given."""
    if self.rows is None:
      step = max(1, rows // 256 // self.rows_multiple_of)
      return rows + step * self.rows_multiple_of, records
    if self.records is None and records > 1:
      return rows, records - max(1, records // 256)
    return None


class _Search:
  """The search over shapes for one example set.

  Attributes:
    longest: the longest example's tokens: (inputs, targets).
  """

  def __init__(
    self, example_set: ExampleSet, *, wish: _Wish, attention_length: int
  ):
    self._example_set = example_set
    self._wish = wish
    self._attention_length = attention_length
    self._sampler = Sampler(example_set, seed=_SAMPLE_SEED)
    self._upr = self._sampler.units_per_record
    self.longest = packing.longest(example_set)
    if example_set.paired:
      self._epoch_units = self._sampler.epoch_units()
    else:
      self._epoch_units = sum(
        self._sampler.epoch_units(k)
        for k, rate in enumerate(example_set.rates)
        if rate > 0
      )
    sample = self._sampler.units(0, _SAMPLE_UNITS)
    sides = packing.lengths(example_set, sample)
    self._means = tuple(float(side.sum()) / _SAMPLE_UNITS for side in sides)
    self._deviations = tuple(
      _deviation(np.bincount(sample.unit, side), sample, example_set.paired)
      for side in sides
    )

  def unpacked(self, lengths: _Lengths) -> BatchShape:
    """The shape with one example a row, which a record needs most of."""
    per_record = self._upr
    if self._example_set.paired:
      per_record = sum(len(s) > 0 for s in self._example_set.subtasks)
    rows, records = self._wish.counts(1.0, per_record)
    if rows < records * per_record:
      raise UserError(
        f"without packing, {records} records need {records * per_record}"
        f" rows, but BATCH_SIZE is {rows}: raise it, or lower"
        " RECORDS_PER_BATCH"
      )
    return BatchShape(rows, *lengths, records, pack=False)

  def given(self, lengths: _Lengths) -> BatchShape:
    """The shape of which everything is given, if it holds the data."""
    assert self._wish.rows is not None
    assert self._wish.records is not None
    shape = BatchShape(self._wish.rows, *lengths, self._wish.records)
    units, num_batches = self._window_units(shape.records_per_batch)
    packing.plan_window(*self._units(0, units), shape, num_batches)
    return shape

  def cheapest(
    self, encoder_lengths: Sequence[int], decoder_lengths: Sequence[int]
  ) -> BatchShape:
    """The cheapest packed shape of the grid that holds the data.

    Best first: a shape enters with the least it can cost, comes back with what
    a trial on a small sample says, and is taken once whole windows of it were
    planned; if these do not fit, it comes back with more room.
    """
    heap: list[tuple[float, int, _Lengths, _Counts]] = []

    def push(stage: int, lengths: _Lengths, counts: _Counts) -> None:
      cost = self._cost(lengths, counts)
      # At equal cost the further stage first, then the shorter row.
      heapq.heappush(heap, (cost, -stage, lengths, counts))

    for lengths in itertools.product(encoder_lengths, decoder_lengths):
      bound = min(x / mean for x, mean in zip(lengths, self._means))
      counts = self._wish.counts(bound, self._upr)
      if counts[0] * bound >= counts[1] * self._upr:
        push(_BOUND, lengths, counts)
    while heap:
      _, stage, lengths, counts = heapq.heappop(heap)
      if -stage == _VERIFIED:
        return BatchShape(counts[0], *lengths, counts[1])
      if -stage == _BOUND:
        fill = self._units_per_row(lengths) / (1 + self._spare(counts[1]))
        push(_TRIED, lengths, self._wish.counts(fill, self._upr))
      elif self._holds(lengths, counts):
        push(_VERIFIED, lengths, counts)
      elif more := self._wish.roomier(*counts):
        push(_TRIED, lengths, more)
    raise UserError(
      f"no rows of up to {encoder_lengths[-1]}/{decoder_lengths[-1]} tokens"
      f" hold the data with BATCH_SIZE {self._wish.rows} and"
      f" RECORDS_PER_BATCH {self._wish.records}: raise BATCH_SIZE or"
      " choose_batch_shape.max_row_length, or lower RECORDS_PER_BATCH"
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
    return (units.unit, *packing.lengths(self._example_set, units))

  def _window_units(self, records: int) -> tuple[int, int]:
    """Units and batches of a window."""
    units = self._sampler.units_per_batch(records)
    num_batches = packing.window_batches(units)
    return units * num_batches, num_batches

  def _spare(self, records: int) -> float:
    """Room for unlike windows, as a fraction of a window's mean demand."""
    units, _ = self._window_units(records)
    # Within an epoch nothing is drawn twice, so only the window's two ends
    # vary, each at most as half an epoch does.
    varying = min(units, self._epoch_units / 2)
    return _SPARE_DEVIATIONS * max(
      deviation * math.sqrt(varying) / (units * mean)
      for mean, deviation in zip(self._means, self._deviations)
    )

  def _units_per_row(self, lengths: _Lengths) -> float:
    """Units that a row holds while there are always others to choose from."""
    bound = min(x / mean for x, mean in zip(lengths, self._means))
    unit, inputs, targets = self._units(0, _TRIAL_UNITS)
    items = Items.of(unit, inputs, targets, lengths)
    rows = max(1, int(_TRIAL_SHARE * _TRIAL_UNITS / bound))
    window = Window(items, rows=rows, row_lengths=lengths, num_batches=1)
    window.fill(even=False)
    waiting = window.row[items.of_example] < 0
    placed = _TRIAL_UNITS - len(np.unique(unit[waiting]))
    return max(placed, 1) / rows

  def _holds(self, lengths: _Lengths, counts: _Counts) -> bool:
    """Whether sampled windows, with some more units, fit at first go."""
    units, num_batches = self._window_units(counts[1])
    units = math.ceil(units * (1 + self._spare(counts[1])))
    for i in range(_VERIFY_WINDOWS):
      items = Items.of(*self._units(i * units, (i + 1) * units), lengths)
      window = Window(
        items, rows=counts[0], row_lengths=lengths, num_batches=num_batches
      )
      window.fill()
      window.fill_gaps()
      if len(window.waiting()):
        return False
    return True


def _deviation(length: np.ndarray, units: Units, paired: bool) -> float:
  """Standard deviation of the units' lengths, [num_units] tokens.

  Unpaired, of those within sub-tasks: rates are exact in every window.
  """
  if paired:
    return float(length.std())
  variance = 0.0
  for k in np.unique(units.subtask):
    mine = units.subtask == k
    variance += float(length[mine].var() * mine.mean())
  return math.sqrt(variance)
