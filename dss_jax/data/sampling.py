"""Which examples come when: an endless stream, a pure function of (seed, place).

The stream is cut into *units*, and units into batches of equal numbers of
them:

  * not paired: a unit is one example. Sub-tasks are interleaved so that every
    prefix of the stream holds each of k sub-tasks in proportion to its rate,
    within (k - 1) / 2 examples, hence every batch does too. A batch of
    `records_per_batch` records holds that many units for each sub-task of a
    positive rate: with a `label` and a `rationale` sub-task at equal rates, 64
    records are 64 label and 64 rationale examples, the official batch.
  * paired: a unit is one record with its example of each sub-task.

Every sub-task (paired: the records) is walked in epochs, each in its own
pseudo-random order: nothing is repeated or left out within one. Of a record's
alternatives in a sub-task (several rationales) one is taken per epoch, in
turn, starting at a place that depends on the seed: m alternatives are each
seen once in m epochs. Turns ignore the example weights, which already scale
the loss: choosing by weight as well would count them twice.

Random bits are SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014) of (seed, purpose, epoch, index),
and an order is their argsort: unlike numpy's generators, whose streams may
change between versions, this is the same everywhere. Memory: one index array
per cached epoch.
"""

from __future__ import annotations

import dataclasses
import fractions
import functools

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.data.tokens.token_arrays import ExampleSet, TokenArrays

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_CACHED_EPOCHS = 4
# Shares are taken as fractions of at most this denominator, so that positions
# times numerators stay far below 2**63.
_MAX_DENOMINATOR = 10**6
_ORDER, _TURN = 1, 2  # purposes of random bits


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
  """A stretch of the stream: the examples of units `start` to `stop`.

  Attributes:
    start: the first unit's place in the stream.
    stop: one past the last unit's.
    unit: [num_examples] int64, the unit of each example, counted from `start`;
      ascending. Unpaired, simply 0, 1, 2, ...
    subtask: [num_examples] int64, position in `ExampleSet.subtasks`.
    example: [num_examples] int64, position in that sub-task's arrays.
  """

  start: int
  stop: int
  unit: np.ndarray
  subtask: np.ndarray
  example: np.ndarray

  def __len__(self) -> int:
    return len(self.unit)


class Sampler:
  """The stream of an ExampleSet under a seed.

  Attributes:
    example_set: what is sampled.
    seed: any integer.
    units_per_record: units that `records_per_batch` counts for each record.

  Raises:
    UserError: there is nothing to sample, or a sub-task of a positive rate has
      no examples.
  """

  def __init__(self, example_set: ExampleSet, *, seed: int):
    self.example_set = example_set
    self.seed = int(seed)
    _check_not_empty(example_set)
    self._pools = tuple(_Pool(subtask) for subtask in example_set.subtasks)
    if example_set.paired:
      # Records with an example of any sub-task, ascending.
      self._records = functools.reduce(
        np.union1d, (pool.records for pool in self._pools)
      )
      self._where = tuple(
        _positions(pool.records, self._records) for pool in self._pools
      )
      self.units_per_record = 1
    else:
      self._shares = _cascade(example_set.rates)
      self.units_per_record = sum(rate > 0 for rate in example_set.rates)
    self._order = functools.lru_cache(maxsize=_CACHED_EPOCHS)(
      self._compute_order
    )

  def units_per_batch(self, records_per_batch: int) -> int:
    """Units in a batch of that many records."""
    return records_per_batch * self.units_per_record

  def epoch_units(self, subtask: int = 0) -> int:
    """Units of one epoch of a sub-task (of all records, when paired)."""
    if self.example_set.paired:
      return len(self._records)
    return len(self._pools[subtask].records)

  def units(self, start: int, stop: int) -> Units:
    """The examples of the units `start` (included) to `stop` (excluded)."""
    if not 0 <= start <= stop:
      raise ValueError(f"units {start} to {stop}: expected 0 <= start <= stop")
    if self.example_set.paired:
      return self._paired_units(start, stop)
    return self._unpaired_units(start, stop)

  def _unpaired_units(self, start: int, stop: int) -> Units:
    subtask, place = self._interleave(start, stop)
    example = np.empty(stop - start, np.int64)
    for k, pool in enumerate(self._pools):
      members = np.flatnonzero(subtask == k)
      if not members.size:
        continue
      # A sub-task's places are consecutive: walk them epoch by epoch.
      first, last = int(place[members[0]]), int(place[members[-1]]) + 1
      n = len(pool.records)
      chosen = [
        pool.choose(self._order(k, n, epoch)[a:b], epoch, self._turn_key(k))
        for epoch, a, b in _epochs(first, last, n)
      ]
      example[members] = np.concatenate(chosen)
    return Units(start, stop, np.arange(stop - start), subtask, example)

  def _interleave(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Sub-task of each unit, and the unit's place in that sub-task's walk.

    Of N units, round(N * share_0) belong to sub-task 0; of the M others,
    round(M * share_1 / (1 - share_0)) to sub-task 1; and so on. Each count
    grows by 0 or 1 with N, so the counts of a prefix never shrink and always
    add up, and the stream can be entered anywhere.
    """
    rest = np.arange(start, stop + 1, dtype=np.int64)
    subtask = np.zeros(stop - start, np.int64)
    place = np.zeros(stop - start, np.int64)
    for k, share in enumerate(self._shares):
      a, b = share.numerator, share.denominator
      # floor(rest * a / b + 1/2) in two parts, so that nothing overflows.
      count = rest // b * a + (rest % b * a * 2 + b) // (2 * b)
      members = np.diff(count) == 1
      subtask[members] = k
      place[members] = count[:-1][members]
      rest = rest - count
    return subtask, place

  def _paired_units(self, start: int, stop: int) -> Units:
    units, subtasks, examples = [], [], []
    n = len(self._records)
    done = 0
    for epoch, a, b in _epochs(start, stop, n):
      records = self._order(0, n, epoch)[a:b]
      for k, pool in enumerate(self._pools):
        group = self._where[k][records]
        has = np.flatnonzero(group >= 0)
        examples.append(pool.choose(group[has], epoch, self._turn_key(k)))
        units.append(has + done)
        subtasks.append(np.full(has.size, k, np.int64))
      done += b - a
    if not units:
      none = np.zeros(0, np.int64)
      return Units(start, stop, none, none, none)
    unit, subtask, example = map(np.concatenate, (units, subtasks, examples))
    order = np.argsort(unit * len(self._pools) + subtask, kind="stable")
    return Units(start, stop, unit[order], subtask[order], example[order])

  def _compute_order(self, subtask: int, n: int, epoch: int) -> np.ndarray:
    """A permutation of range(n): this epoch's order. [n] int64, read-only."""
    bits = random_bits((self.seed, _ORDER, subtask, epoch), np.arange(n))
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order

  def _turn_key(self, subtask: int) -> tuple[int, ...]:
    return (self.seed, _TURN, subtask)


class _Pool:
  """The records of one sub-task, each with its alternatives."""

  def __init__(self, subtask: TokenArrays):
    ids = np.asarray(subtask.record_ids, np.int64)
    # Alternatives side by side, in the order of the arrays.
    self._by_record = np.argsort(ids, kind="stable")
    self.records, first = np.unique(ids[self._by_record], return_index=True)
    self._first = first.astype(np.int64)
    self._count = np.diff(np.append(self._first, ids.size))
    self._single = bool((self._count == 1).all())

  def choose(
    self, groups: np.ndarray, epoch: int, turn_key: tuple[int, ...]
  ) -> np.ndarray:
    """The example to take, for positions in `records`, in this epoch."""
    place = self._first[groups]
    if not self._single:
      turn = random_bits(turn_key, groups) >> np.uint64(1)
      place = place + (turn.astype(np.int64) + epoch) % self._count[groups]
    return self._by_record[place]


def random_bits(key: tuple[int, ...], index: np.ndarray) -> np.ndarray:
  """64 random bits for each index, [n] uint64, under a key of integers."""
  state = 0
  for part in key:
    state = _mix_int((state + _GOLDEN) ^ (part & _MASK))
  return splitmix64(state, index)


def splitmix64(state: int, index: np.ndarray) -> np.ndarray:
  """Outputs number `index` (from 1) of SplitMix64 from `state`, [n] uint64."""
  bits = index.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(state)
  bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return bits ^ (bits >> np.uint64(31))


def _mix_int(value: int) -> int:
  """SplitMix64's finaliser on a Python integer."""
  value &= _MASK
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
  return value ^ (value >> 31)


def _epochs(start: int, stop: int, n: int) -> list[tuple[int, int, int]]:
  """(epoch, first, last + 1 place in it) of each epoch the stretch touches."""
  return [
    (epoch, max(start - epoch * n, 0), min(stop - epoch * n, n))
    for epoch in range(start // n, -(-stop // n))
  ]


def _cascade(rates: tuple[float, ...]) -> list[fractions.Fraction]:
  """Each sub-task's share of what the sub-tasks before it left over."""
  exact = [fractions.Fraction(rate) for rate in rates]
  least = fractions.Fraction(1, _MAX_DENOMINATOR)
  shares = []
  for k, rate in enumerate(exact):
    share, others = fractions.Fraction(0), sum(exact[k + 1 :])
    if rate:
      share = (rate / (rate + others)).limit_denominator(_MAX_DENOMINATOR)
      # However rare: never to be drawn at all would be another mixture.
      share = max(share, least)
      share = min(share, 1 - least) if others else share
    shares.append(share)
  return shares


def _positions(records: np.ndarray, among: np.ndarray) -> np.ndarray:
  """For each of `among`, its position in `records`, or -1. Both ascending."""
  position = np.full(len(among), -1, np.int64)
  position[np.searchsorted(among, records)] = np.arange(len(records))
  return position


def _check_not_empty(example_set: ExampleSet) -> None:
  name = f"{example_set.task_name} ({example_set.split})"
  if example_set.paired:
    if not any(len(subtask) for subtask in example_set.subtasks):
      raise UserError(f"{name} has no examples to sample from")
    return
  if not any(rate > 0 for rate in example_set.rates):
    raise UserError(
      f"{name}: all mixture rates are 0 ({example_set.rates}); at least one"
      " must be positive"
    )
  for subtask, rate in zip(
    example_set.subtasks, example_set.rates, strict=True
  ):
    if rate > 0 and not len(subtask):
      raise UserError(
        f"{name}: sub-task {subtask.name!r} has rate {rate:g} but no"
        " examples; set its rate to 0 or loosen the rationale filter"
      )
