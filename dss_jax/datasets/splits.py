"""Cutting a training set: validation and fractions, fixed or as officially.

Both policies return positions in the source, so the same code serves records
and token arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from dss_jax.base.errors import UserError

# Share of the training data that becomes validation data; the official code's
# `train_test_split(test_size=0.1, seed=0)`.
VALIDATION_SHARE = 0.1


def fraction_count(num_records: int, fraction: float) -> int:
  """How many of `num_records` a training fraction keeps: at least one."""
  return max(1, min(num_records, math.floor(num_records * fraction + 0.5)))


def fixed_split(
  ids: Sequence[str],
  *,
  fraction: float = 1.0,
  seed: int = 0,
  cut_validation: bool = True,
) -> tuple[list[int], list[int]]:
  """Validation first, then a nested fraction of the rest.

  The order that decides is that of the hashes of (seed, id): a record's place
  does not depend on which others there are, and fractions are nested (12.5 %
  of the training data are among the 25 %, and so on) on every numpy.

  Args:
    ids: the records' ids, in source order.
    fraction: share of the training data to keep, in (0, 1].
    seed: another seed gives another split.
    cut_validation: whether to cut validation data off at all.

  Returns:
    (training, validation) positions, each in source order.

  Raises:
    UserError: if nothing would be left to train on.
  """
  order = _hashed_order(ids, str(seed))
  num_validation = 0
  if cut_validation:
    num_validation = math.ceil(VALIDATION_SHARE * len(ids))
  rest = order[num_validation:]
  if not rest:
    raise UserError(
      f"{len(ids)} training records are too few to cut validation data from"
    )
  train = rest[: fraction_count(len(rest), fraction)]
  return sorted(train), sorted(order[:num_validation])


def held_out(
  inputs: Sequence[str], shares: Mapping[str, float], *, seed: int = 0
) -> dict[str, list[int]]:
  """Cuts one table into training and held-out data.

  A record's place depends on its input alone, by a hash: equal inputs, up to
  spaces, stay together, and a longer table moves none of them.

  Args:
    inputs: the records' inputs, in source order.
    shares: share of the inputs of each held-out split; about so many, because
      each input is drawn for itself.
    seed: another seed gives another split.

  Returns:
    Positions in source order, of `train` and of each split of `shares`.

  Raises:
    UserError: shares that leave nothing to train on, or a split that would be
      empty.
  """
  if not all(0 < share < 1 for share in shares.values()) or (
    sum(shares.values()) >= 1
  ):
    shown = ", ".join(f"{name} {share:g}" for name, share in shares.items())
    raise UserError(
      f"the shares to hold out are {shown}; each must be above 0, and together"
      " they must be below 1",
      fields=("ConvertFlags.validation_fraction", "ConvertFlags.test_fraction"),
    )
  found: dict[str, list[int]] = {name: [] for name in ("train", *shares)}
  ends = np.cumsum(list(shares.values()))
  for i, text in enumerate(inputs):
    key = f"{seed}:{' '.join(text.split())}".encode()
    place = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
    split = int(np.searchsorted(ends, place, side="right"))
    found[[*shares, "train"][split]].append(i)
  empty = [name for name, positions in found.items() if not positions]
  if empty:
    raise UserError(
      f"{len(inputs)} records are too few: nothing would be left for"
      f" {' and '.join(empty)}",
      fields=("ConvertFlags.validation_fraction", "ConvertFlags.test_fraction"),
    )
  return found


def nested_positions(
  ids: Sequence[str], fraction: float, *, purpose: str
) -> list[int]:
  """A share of the records, nested as the training fractions are.

  Args:
    ids: the records' ids, in source order.
    fraction: share to take, from 0 to 1.
    purpose: the shares of two purposes have nothing to do with each other, nor
      with training fractions.

  Returns:
    Positions, in source order.
  """
  count = math.floor(len(ids) * fraction + 0.5)
  return sorted(_hashed_order(ids, purpose)[:count])


def _hashed_order(ids: Sequence[str], key: str) -> list[int]:
  """Positions in the order of the hashes of (key, id)."""
  return sorted(
    range(len(ids)),
    key=lambda i: (hashlib.sha256(f"{key}:{ids[i]}".encode()).digest(), i),
  )


def official_split(
  num_records: int,
  *,
  fraction: float = 1.0,
  seed: int = 0,
  cut_validation: bool = True,
) -> tuple[list[int], list[int]]:
  """The official code's order: subsample, then cut a tenth off.

  So "12.5 %" of CQA trains on 11.25 % of it, and the validation data of two
  fractions differ.

  Args:
    num_records: size of the official training set.
    fraction: the official `--subsample`.
    seed: the official `--run`, which seeds the subsampling.
    cut_validation: False for datasets with validation data of their own.

  Returns:
    (training, validation) positions, in the official order.

  Raises:
    UserError: if nothing would be left to train on.
  """
  train = np.arange(num_records)
  if fraction < 1.0:
    kept, _ = train_test_split(num_records, 1.0 - fraction, seed)
    train = train[kept]
  validation = train[:0]
  if cut_validation:
    kept, cut = train_test_split(len(train), VALIDATION_SHARE, 0)
    train, validation = train[kept], train[cut]
  return train.tolist(), validation.tolist()


def train_test_split(
  num_records: int, test_size: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """`datasets.Dataset.train_test_split(test_size, seed=seed)`, as positions.

  The library shuffles with NumPy's default generator and takes the test part
  from the front (datasets/arrow_dataset.py).

  Args:
    num_records: how many there are to split.
    test_size: share of the test part, in (0, 1).
    seed: of the generator.

  Returns:
    (train, test) positions, int64.

  Raises:
    UserError: if the training part would be empty.
  """
  num_test = math.ceil(test_size * num_records)
  if num_test >= num_records:
    raise UserError(
      f"{num_records} training records are too few for a test share of"
      f" {test_size:g}",
      fields="DataOptions.train_fraction",
    )
  permutation = np.random.default_rng(seed).permutation(num_records)
  return permutation[num_test:], permutation[:num_test]
