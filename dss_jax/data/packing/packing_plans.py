"""Several short examples a row: which example lies in which row.

A *window* is a fixed number of consecutive batches. Its units (see
`dss_jax.data.sampling`) are packed into its rows at once, so an example that
does not fit its own batch moves to a neighbouring one; nothing is dropped or
repeated, and any batch can be planned without the ones before its window. All
decisions are made on integers: every host, machine and numpy version makes the
same ones.

The planner fills one row after another, in the order of the stream:

  1. The row starts with the oldest waiting unit, so nothing waits long.
  2. While there is room for more than two others, one of the eight oldest is
     added: the one that best keeps the row's ratio of target to input tokens.
  3. The rest is closed by the best pair (or single unit) among the
     48 oldest: all pairs are compared at once, on both lengths. A
     pair hits a gap within a token or two where the next best single unit
     would leave half its length; that, and not the order of placing, is what
     makes short rows pack well.

Each row aims at an equal part of what its batch is due: the window's remaining
tokens over its remaining batches. So batches stay even, each example comes
near its place in the stream, and free space gathers in the last row of a
batch, where the few units left over at the window's end find room.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.data.packing.row_packer import TIGHT_CANDIDATES, Items, Window
from dss_jax.data.sampling import Units
from dss_jax.data.tokens.token_arrays import ExampleSet

# Units of a window, about. More make windows more alike (less spare room is
# needed) and random access dearer (a window is planned at about 5 us a unit).
_WINDOW_UNITS = 8192
# Rows, records or tokens of a row; far above any use, and plans still fit.
MAX_COUNT = 1 << 20


@dataclasses.dataclass(frozen=True)
class BatchShape:
  """The shape of every batch of a run. All counts are global.

  Attributes:
    rows: packed rows (T5X's BATCH_SIZE).
    encoder_length: tokens of a row on the encoder's side.
    decoder_length: tokens of a row on the decoder's side.
    records_per_batch: records that a batch stands for; see the sampler.
    pack: whether rows hold several examples; if not, one each.
  """

  rows: int
  encoder_length: int
  decoder_length: int
  records_per_batch: int
  pack: bool = True

  def __post_init__(self):
    for field in (
      "rows",
      "encoder_length",
      "decoder_length",
      "records_per_batch",
    ):
      checks.in_range(
        f"BatchShape.{field}", getattr(self, field), 1, whole=True
      )

  @property
  def slots(self) -> int:
    """Token slots of a batch, encoder and decoder."""
    return self.rows * (self.encoder_length + self.decoder_length)


@dataclasses.dataclass(frozen=True, eq=False)
class PackingPlan:
  """Where the examples of a window lie.

  Attributes:
    row: [num_examples] int64, row in the window: batch * rows + row of batch.
    rank: [num_examples] int64, place among the row's examples, ascending (not
      necessarily without gaps).
    moved: number of units that found no room in the order of the stream and
      were put into the free space of other batches.
    repacked: whether the whole window had to be packed a second time, tightly,
      which loses the order of the stream within the window.
  """

  row: np.ndarray
  rank: np.ndarray
  moved: int = 0
  repacked: bool = False


def window_batches(units_per_batch: int) -> int:
  """Batches of a window: a function of the batch's number of units alone."""
  return max(2, _WINDOW_UNITS // units_per_batch)


def lengths(
  example_set: ExampleSet, units: Units
) -> tuple[np.ndarray, np.ndarray]:
  """Input and target lengths of the examples, both [num_examples] int64."""
  inputs = np.empty(len(units), np.int64)
  targets = np.empty(len(units), np.int64)
  for k, subtask in enumerate(example_set.subtasks):
    members = np.flatnonzero(units.subtask == k)
    example = units.example[members]
    for offsets, out in (
      (subtask.input_offsets, inputs),
      (subtask.target_offsets, targets),
    ):
      out[members] = offsets[example + 1] - offsets[example]
  return inputs, targets


def plan_window(
  unit: np.ndarray,
  input_lengths: np.ndarray,
  target_lengths: np.ndarray,
  shape: BatchShape,
  num_batches: int,
) -> PackingPlan:
  """Packs the units of a window into its rows.

  Examples of one unit share a row if they fit one together; else they lie in
  rows of the same batch.

  Args:
    unit: [num_examples] int64, each example's unit, ascending.
    input_lengths: [num_examples] int64, tokens.
    target_lengths: [num_examples] int64, tokens.
    shape: rows and their lengths.
    num_batches: batches of the window.

  Raises:
    UserError: an example is longer than a row, or the units do not fit.
  """
  row_lengths = (shape.encoder_length, shape.decoder_length)
  check_fits_row(
    int(input_lengths.max(initial=0)),
    int(target_lengths.max(initial=0)),
    row_lengths,
  )
  items = Items.of(unit, input_lengths, target_lengths, row_lengths)
  for tight in (False, True):
    window = Window(
      items,
      rows=shape.rows,
      row_lengths=row_lengths,
      num_batches=num_batches,
    )
    if tight:
      window.fill(even=False, candidates=TIGHT_CANDIDATES)
    else:
      window.fill()
    moved = window.fill_gaps()
    if len(window.waiting()):
      continue
    row = window.row
    if tight and not items.wide:
      # Free rows are the last ones now: deal the rows out to the batches.
      row = row % num_batches * shape.rows + row // num_batches
    return PackingPlan(
      row[items.of_example],
      # Examples of one item lie side by side, in the order of the stream.
      window.rank[items.of_example] * len(unit) + np.arange(len(unit)),
      moved,
      repacked=tight,
    )
  raise _too_small(input_lengths, target_lengths, shape, num_batches)


def plan_unpacked(num_examples: int, shape: BatchShape) -> PackingPlan:
  """The plan of one batch in the unpacked mode: a row each, in order."""
  if num_examples > shape.rows:
    raise UserError(
      f"{num_examples} examples need as many rows without packing, but"
      f" batch_size is {shape.rows}: raise it, or lower records_per_batch"
      f" ({shape.records_per_batch})",
      fields=("DatasetConfig.batch_size", "DatasetConfig.records_per_batch"),
    )
  return PackingPlan(np.arange(num_examples), np.zeros(num_examples, np.int64))


def longest(example_set: ExampleSet) -> tuple[int, int]:
  """Tokens of the longest inputs and targets that can be drawn."""
  used = [
    subtask
    for subtask, rate in zip(
      example_set.subtasks, example_set.rates, strict=True
    )
    if len(subtask) and (example_set.paired or rate > 0)
  ]
  return (
    max(int(subtask.input_lengths.max()) for subtask in used),
    max(int(subtask.target_lengths.max()) for subtask in used),
  )


def longest_record(example_set: ExampleSet) -> tuple[int, int]:
  """Most inputs and targets, in tokens, of a record's examples together.

  Of alternatives in a sub-task a record counts with the longest.
  """
  totals = np.zeros((2, example_set.num_records), np.int64)
  for subtask in example_set.subtasks:
    longest = np.zeros_like(totals)
    for side, lengths in zip(
      longest, (subtask.input_lengths, subtask.target_lengths), strict=True
    ):
      np.maximum.at(side, subtask.record_ids, lengths)
    totals += longest
  return int(totals[0].max()), int(totals[1].max())


def check_example_set(example_set: ExampleSet, shape: BatchShape) -> None:
  """Raises UserError if an example is longer than a row."""
  check_fits_row(
    *longest(example_set), (shape.encoder_length, shape.decoder_length)
  )


def check_fits_row(
  longest_inputs: int, longest_targets: int, row_lengths: tuple[int, int]
) -> None:
  """Raises UserError if the longest example (tokens) is longer than a row."""
  for feature, side, longest, room in (
    ("inputs", "encoder", longest_inputs, row_lengths[0]),
    ("targets", "decoder", longest_targets, row_lengths[1]),
  ):
    if longest > room:
      raise UserError(
        f"the longest example has {longest} tokens of {feature}, but a row"
        f" has room for {room}: raise {side}_length to {longest} or more, or"
        f" lower task_feature_lengths[{feature!r}] to {room} or less",
        fields=(
          f"DatasetConfig.{side}_length",
          "DatasetConfig.task_feature_lengths",
        ),
      )


def _too_small(
  input_lengths: np.ndarray,
  target_lengths: np.ndarray,
  shape: BatchShape,
  num_batches: int,
) -> UserError:
  rows = shape.rows * num_batches
  inputs = 100 * int(input_lengths.sum()) / (rows * shape.encoder_length)
  targets = 100 * int(target_lengths.sum()) / (rows * shape.decoder_length)
  return UserError(
    f"{shape.rows} rows of {shape.encoder_length}/{shape.decoder_length}"
    f" tokens cannot hold {shape.records_per_batch} records (their inputs"
    f" alone would fill {inputs:.1f} %, their targets {targets:.1f} %): raise"
    " batch_size, lower records_per_batch, or set one of them or a row length"
    " to None, to have it chosen",
    fields=("DatasetConfig.batch_size", "DatasetConfig.records_per_batch"),
  )
