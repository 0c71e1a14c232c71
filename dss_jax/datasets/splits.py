"""Cutting a training set: validation and fractions, fixed or as officially.

Both policies return positions in the source, so the same code serves records
and token arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

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
  order = sorted(
    range(len(ids)),
    key=lambda i: (
      hashlib.sha256(f"{seed}:{ids[i]}".encode()).digest(),
      i,
    ),
  )
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
