"""The planner of `dss_jax.data.packing.packing_plans`: packs one window.

See that module for what is done and why; this one holds how. It decides which
example goes to which row; `packed_features.fill` writes the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

# Waiting items compared in pairs: twice as many fill rows 1 % better and take
# twice as long (CQA, rows of 256).
CANDIDATES = 48
TIGHT_CANDIDATES = 128
# Waiting items looked at to keep a row's ratio of target to input tokens.
_BALANCED = 8
_INFEASIBLE = 1 << 60


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
  """What is placed: units that fit a row, and the examples of those that don't.

  Attributes:
    inputs: [num_items], input tokens; int32 where products with the row
      lengths fit, which compares pairs twice as fast, else int64.
    targets: [num_items], target tokens, likewise.
    of_example: [num_examples] int64, the item that holds each example.
    single: [num_single] int64, items that may lie anywhere; ascending, which
      is the order of the stream.
    wide: items of units that do not fit one row: (first item, items) each, to
      lie in rows of one batch.
  """

  inputs: np.ndarray
  targets: np.ndarray
  of_example: np.ndarray
  single: np.ndarray
  wide: Sequence[Sequence[int]]

  @classmethod
  def of(
    cls,
    unit: np.ndarray,
    inputs: np.ndarray,
    targets: np.ndarray,
    row_lengths: tuple[int, int],
  ) -> Items:
    """Joins the examples of each unit where they fit one row.

    Args:
      unit: [num_examples] int64, the unit of each example, ascending.
      inputs: [num_examples] integers, input tokens.
      targets: [num_examples] integers, target tokens.
      row_lengths: tokens of a row: encoder, decoder.
    """
    small = row_lengths[0] * row_lengths[1] < 1 << 28
    inputs = inputs.astype(np.int32 if small else np.int64)
    targets = targets.astype(np.int32 if small else np.int64)
    n = len(unit)
    first = np.flatnonzero(np.diff(unit, prepend=-1))
    if len(first) == n:  # one example a unit: the common, unpaired case
      every = np.arange(n)
      return cls(inputs, targets, every, every, ())
    size = np.diff(first, append=n)
    fits = (np.add.reduceat(inputs, first) <= row_lengths[0]) & (
      np.add.reduceat(targets, first) <= row_lengths[1]
    )
    # An example opens an item if it is its unit's first, or the unit is wide.
    opens = ~np.repeat(fits, size)
    opens[first] = True
    of_example = np.cumsum(opens) - 1
    start = np.flatnonzero(opens)
    item = of_example[first]
    wide = [
      range(i, i + m)
      for i, m in zip(item[~fits].tolist(), size[~fits].tolist(), strict=True)
    ]
    return cls(
      np.add.reduceat(inputs, start),
      np.add.reduceat(targets, start),
      of_example,
      item[fits],
      wide,
    )


class Window:
  """The rows of a window while they are filled.

  Attributes:
    row: [num_items] int64, the row of each item; -1 while it waits.
    rank: [num_items] int64, the item's place in its row, in order of placing.
    free_inputs: [num_rows] int64, input tokens of room left in each row.
    free_targets: [num_rows] int64.
  """

  def __init__(
    self,
    items: Items,
    *,
    rows: int,
    row_lengths: tuple[int, int],
    num_batches: int,
  ):
    self._items = items
    self._rows = rows
    self._lengths = row_lengths
    self._num_batches = num_batches
    num_rows = rows * num_batches
    self.row = np.full(len(items.inputs), -1, np.int64)
    self.rank = np.zeros(len(items.inputs), np.int64)
    self.free_inputs = np.full(num_rows, row_lengths[0], np.int64)
    self.free_targets = np.full(num_rows, row_lengths[1], np.int64)
    self._placed = 0
    # The oldest waiting single items, and how many were taken from the stream.
    self._queue = np.zeros(0, np.int64)
    self._taken = 0

  def fill(self, *, even: bool = True, candidates: int = CANDIDATES) -> None:
    """Fills row after row in the order of the stream.

    Args:
      even: give each batch its even part; if not, every row is filled as full
        as it gets.
      candidates: waiting items among which pairs are compared.
    """
    items = self._items
    mean = int(items.inputs.sum()) // max(1, len(items.inputs))
    wide = list(reversed(items.wide))
    waiting_inputs = int(items.inputs.sum())
    waiting_targets = int(items.targets.sum())
    for batch in range(self._num_batches):
      # The batch's even part of what waits.
      batches = self._num_batches - batch
      due_inputs = -(-waiting_inputs // batches)
      due_targets = -(-waiting_targets // batches)
      start = batch * self._rows
      # Wide units come first, in the batch they belong to by the stream.
      due_item = (batch + 1) * len(items.inputs) // self._num_batches
      while wide and wide[-1][0] < due_item:
        if not self._place_wide(wide[-1], batch):
          break  # no room left: try the next batch
        wide.pop()
      for row in range(start, start + self._rows):
        # One row is held back where the batch's part allows it.
        parts = max(1, start + self._rows - row - 1)
        aim_inputs, aim_targets = self._lengths
        if even:
          aim_inputs = min(aim_inputs, -(-due_inputs // parts))
          aim_targets = min(aim_targets, -(-due_targets // parts))
        self._fill_row(row, aim_inputs, aim_targets, mean, candidates)
        used_inputs = self._lengths[0] - int(self.free_inputs[row])
        used_targets = self._lengths[1] - int(self.free_targets[row])
        due_inputs -= used_inputs
        due_targets -= used_targets
        waiting_inputs -= used_inputs
        waiting_targets -= used_targets

  def fill_gaps(self) -> int:
    """Puts what still waits where it fits best; how many items that were.

    Largest first, each into the row that it leaves fullest.
    """
    items = self._items
    waiting = self.waiting()
    size = (
      items.inputs[waiting] * self._lengths[1]
      + items.targets[waiting] * self._lengths[0]
    )
    in_wide = {item for unit in items.wide for item in unit}
    for unit in items.wide:
      if self.row[unit[0]] < 0:
        # Only batches with room for the unit's longest item; the last first.
        longest = max(unit, key=lambda item: int(items.inputs[item]))
        room = (self.free_inputs >= items.inputs[longest]) & (
          self.free_targets >= items.targets[longest]
        )
        batches = np.unique(np.flatnonzero(room) // self._rows)[::-1]
        any(self._place_wide(unit, batch) for batch in batches.tolist())
    for item in waiting[np.argsort(-size, kind="stable")].tolist():
      if item not in in_wide:
        row = self._best_row(item, slice(None))
        if row >= 0:
          self._put(item, row)
    return len(waiting)

  def waiting(self) -> np.ndarray:
    """Items without a row, ascending."""
    return np.flatnonzero(self.row < 0)

  def _put(self, item: int, row: int) -> None:
    self.row[item] = row
    self.rank[item] = self._placed
    self._placed += 1
    self.free_inputs[row] -= self._items.inputs[item]
    self.free_targets[row] -= self._items.targets[item]

  def _remove(self, item: int) -> None:
    row = self.row[item]
    self.row[item] = -1
    self.free_inputs[row] += self._items.inputs[item]
    self.free_targets[row] += self._items.targets[item]

  def _best_row(self, item: int, rows: slice) -> int:
    """The row of `rows` (offset by its start) that `item` fits best, or -1."""
    inputs = self.free_inputs[rows] - self._items.inputs[item]
    targets = self.free_targets[rows] - self._items.targets[item]
    room = inputs * self._lengths[1] + targets * self._lengths[0]
    room[(inputs < 0) | (targets < 0)] = _INFEASIBLE
    best = int(room.argmin())
    return best if room[best] < _INFEASIBLE else -1

  def _place_wide(self, unit: Sequence[int], batch: int) -> bool:
    """Places all items of a wide unit in rows of one batch, or none."""
    start = batch * self._rows
    for done, item in enumerate(unit):
      row = self._best_row(item, slice(start, start + self._rows))
      if row < 0:
        for other in unit[:done]:
          self._remove(other)
        return False
      self._put(item, start + row)
    return True

  def _fill_row(
    self,
    row: int,
    aim_inputs: int,
    aim_targets: int,
    mean: int,
    candidates: int,
  ) -> None:
    """Adds waiting single items to a row until it is near its aim."""
    self._refill_queue(candidates)
    if not len(self._queue):
      return
    filler = _RowFiller(
      self._items.inputs[self._queue],
      self._items.targets[self._queue],
      free=(int(self.free_inputs[row]), int(self.free_targets[row])),
      gap=(
        aim_inputs - self._lengths[0] + int(self.free_inputs[row]),
        aim_targets - self._lengths[1] + int(self.free_targets[row]),
      ),
      scale=self._lengths,
    )
    filler.add_oldest()
    filler.add_balanced(5 * mean // 2)
    filler.add_pairs(mean // 2)
    if not filler.chosen:
      return
    chosen = self._queue[filler.chosen]
    self.row[chosen] = row
    self.rank[chosen] = np.arange(self._placed, self._placed + len(chosen))
    self._placed += len(chosen)
    self.free_inputs[row] = filler.free[0]
    self.free_targets[row] = filler.free[1]
    self._queue = self._queue[filler.waits]

  def _refill_queue(self, candidates: int) -> None:
    more = candidates - len(self._queue)
    if more > 0 and self._taken < len(self._items.single):
      fresh = self._items.single[self._taken : self._taken + more]
      self._taken += len(fresh)
      self._queue = np.concatenate([self._queue, fresh])


class _RowFiller:
  """Chooses, among the oldest waiting items, those of one row.

  Attributes:
    chosen: positions among the candidates, in order.
    waits: [num_candidates] bool, those not chosen.
    free: (input, target) tokens of room left.
  """

  def __init__(
    self,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    free: tuple[int, int],
    gap: tuple[int, int],
    scale: tuple[int, int],
  ):
    """`gap`: tokens to the row's aim; `scale`: the row's lengths."""
    self._inputs, self._targets = inputs, targets
    self.free, self._gap = free, gap
    self._scale = scale
    self.chosen: list[int] = []
    self.waits = np.ones(len(inputs), bool)

  def _add(self, i: int) -> None:
    inputs, targets = int(self._inputs[i]), int(self._targets[i])
    self.chosen.append(i)
    self.waits[i] = False
    self.free = (self.free[0] - inputs, self.free[1] - targets)
    self._gap = (self._gap[0] - inputs, self._gap[1] - targets)

  def add_oldest(self) -> None:
    """Adds the oldest item that fits, unless the row has its part already."""
    if self._gap[0] <= 0 and self._gap[1] <= 0:
      return
    fits = (self._inputs <= self.free[0]) & (self._targets <= self.free[1])
    first = int(fits.argmax())
    if fits[first]:
      self._add(first)

  def add_balanced(self, stop: int) -> None:
    """Adds old items in balance until at most `stop` input tokens are open."""
    if self._gap[0] <= stop:
      return
    waiting = np.flatnonzero(self.waits).tolist()
    inputs, targets = self._inputs.tolist(), self._targets.tolist()
    while self._gap[0] > stop:
      gap_inputs, gap_targets = self._gap
      best, least = -1, _INFEASIBLE
      for i in waiting[:_BALANCED]:
        a, b = gap_inputs - inputs[i], gap_targets - targets[i]
        if a < 0 or b < 0:
          continue
        # How far the open room would be from the row's own proportions.
        skew = abs(a * self._scale[1] - b * self._scale[0])
        if skew < least:
          best, least = i, skew
      if best < 0:
        return
      waiting.remove(best)
      self._add(best)

  def add_pairs(self, stop: int) -> None:
    """Adds the pairs or single items that come nearest to the row's aim."""
    while self.waits.any():
      index = np.flatnonzero(self.waits)
      pair = self._best_pair(self._inputs[index], self._targets[index])
      for i in pair:
        self._add(int(index[i]))
      if not pair or self._gap[0] < stop:
        return

  def _best_pair(
    self, inputs: np.ndarray, targets: np.ndarray
  ) -> tuple[int, ...]:
    """One or two positions whose lengths close the gap best; () for none."""
    n = len(inputs)
    both_inputs = inputs[:, None] + inputs
    both_targets = targets[:, None] + targets
    both_inputs.flat[:: n + 1] = inputs  # the diagonal: one item alone
    both_targets.flat[:: n + 1] = targets
    miss = self._miss(self._gap[0] - both_inputs, self._gap[1] - both_targets)
    too_long = (both_inputs > self.free[0]) | (both_targets > self.free[1])
    miss[too_long] = np.iinfo(inputs.dtype).max
    best = int(miss.argmin())
    if miss.flat[best] >= self._miss(*self._gap):
      return ()
    i, j = divmod(best, n)
    return (i,) if i == j else (i, j)

  def _miss(self, inputs, targets):
    """Distance from the aim, each side relative to its row length."""
    return abs(inputs) * self._scale[1] + abs(targets) * self._scale[0]
