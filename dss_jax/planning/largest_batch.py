"""The largest batch that fits, found by compiling for a few."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

# Parts of a device's memory: a batch that fills _FULL of it is not worth another
# attempt; each attempt aims to fill _AIM.
_FULL = 0.94
_AIM = 0.97
_MAX_ROWS = 1 << 20


@dataclasses.dataclass(frozen=True)
class LargestBatch:
  """The largest batch of those compiled that fits into a device's memory.

  Attributes:
    rows: of the global batch; 0 where none of them fits.
    bytes: what that batch takes on a device, in all; without any batch, what
      the state alone takes.
    tried: rows of all batches that the step was compiled for, in that order.
  """

  rows: int
  bytes: int
  tried: tuple[int, ...]


def search(
  bytes_of: Callable[[int], int],
  *,
  first: int,
  unit: int,
  state: int,
  memory: int,
  attempts: int,
) -> LargestBatch:
  """Searches along straight lines through what was compiled.

  Args:
    bytes_of: rows -> all bytes that a device needs for such a batch, which is
      more than `memory` where the batch does not fit; compiles.
    first: rows to begin with.
    unit: rows of a batch must be a multiple of this.
    state: bytes that a batch of no rows would take, about.
    memory: bytes of a device.
    attempts: batches to compile for after the first.
  """
  tried: list[int] = []
  taken = {0: state}
  rows = first
  while rows and state < memory:
    tried.append(rows)
    taken[rows] = bytes_of(rows)
    if len(tried) > attempts:
      break
    rows = _next(taken, unit, memory)
  largest = max(rows for rows in taken if not rows or taken[rows] <= memory)
  return LargestBatch(largest, taken[largest], tuple(tried))


def _next(taken: dict[int, int], unit: int, memory: int) -> int:
  """The rows to try next; 0 where the search is over.

  Between the largest batch that fits and the smallest that does not, else
  beyond the two largest that fit, where a straight line through both meets the
  memory.
  """
  fitting = sorted(rows for rows, size in taken.items() if size <= memory)
  refused = [rows for rows, size in taken.items() if size > memory]
  low = fitting[-1]
  high = min(refused, default=_MAX_ROWS + unit)
  if (low and taken[low] > _FULL * memory) or high - low <= unit:
    return 0
  other = high if refused else fitting[-2]
  slope = (taken[other] - taken[low]) / (other - low)
  aim = _AIM * memory - taken[low]
  rows = low + aim / slope if slope > 0 else 2 * low
  if refused:
    # A refused batch may say little of its size.
    rows = max(rows, low + 0.1 * (high - low))
  if len(refused) > 1:
    rows = min(rows, (low + high) / 2)
  return min(max(int(rows) // unit * unit, low + unit), high - unit)
