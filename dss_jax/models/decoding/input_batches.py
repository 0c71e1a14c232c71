"""Inputs to decode, in padded batches of few shapes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dss_jax.base.errors import UserError


class PaddedBatch(NamedTuple):
  """Inputs to decode.

  Attributes:
    index: [rows] int64, position of each row's inputs in what
      `padded_batches` was given; -1 for rows that only fill the batch.
    encoder_input_tokens: [rows, length] int32, 0 = padding.
  """

  index: np.ndarray
  encoder_input_tokens: np.ndarray


def padded_batches(
  inputs: Sequence[Sequence[int]],
  batch_size: int,
  *,
  lengths: Sequence[int] | None = None,
  batch_sizes: Sequence[int] | None = None,
) -> Iterator[PaddedBatch]:
  """Batches of inputs of about the same length, shortest first.

  Args:
    inputs: ids of each input, EOS included.
    batch_size: rows of a batch.
    lengths: the row lengths to use, ascending, in tokens: the declared shapes.
      By default `declared_lengths` of each batch's longest input.
    batch_sizes: the smaller numbers of rows that a batch may have where fewer
      are left. By default none: rows that only fill the batch are added.

  Yields:
    Every input once. Only the first batch, of the shortest inputs, may have
    rows that only fill it.

  Raises:
    UserError: an input is longer than all `lengths`.
  """
  size = np.array([len(ids) for ids in inputs], np.int64)
  order = np.argsort(size, kind="stable")
  first = len(order) % batch_size
  bounds = [*([0] if first else []), *range(first, len(order) + 1, batch_size)]
  parts = [order[i:j] for i, j in itertools.pairwise(bounds)]
  longest = [int(size[part[-1]]) for part in parts]
  if lengths is None:
    lengths = declared_lengths(longest)
  lengths = sorted(lengths)
  if size.size and size.max() > lengths[-1]:
    raise UserError(
      f"an input has {size.max()} tokens, but evaluation rows have at most"
      f" {lengths[-1]}: raise the declared lengths, or lower the length of"
      " inputs in task_feature_lengths",
      fields="DatasetConfig.task_feature_lengths",
    )
  sizes = {*(batch_sizes or ()), batch_size}
  for part, least in zip(parts, longest, strict=True):
    rows = min(s for s in sizes if s >= len(part))
    index = np.full(rows, -1, np.int64)
    index[: len(part)] = part
    tokens = np.zeros((rows, min(n for n in lengths if n >= least)), np.int32)
    for row, i in enumerate(part.tolist()):
      tokens[row, : size[i]] = inputs[i]
    yield PaddedBatch(index, tokens)


def declared_lengths(
  sizes: Sequence[int] | np.ndarray,
  *,
  num_lengths: int = 3,
  multiple: int = 8,
) -> tuple[int, ...]:
  """The row lengths that waste the fewest tokens on rows of these sizes.

  Args:
    sizes: [num_rows], tokens that each must hold.
    num_lengths: at most so many lengths (each is compiled once).
    multiple: lengths are multiples of this many tokens.

  Returns:
    Lengths, ascending; the last holds the longest input.
  """
  rounded = (
    -(-np.maximum(np.asarray(sizes, np.int64), 1) // multiple) * multiple
  )
  if not rounded.size:
    return (multiple,)
  values, counts = np.unique(rounded, return_counts=True)
  below = np.concatenate([[0], np.cumsum(counts)])
  # best[j]: (tokens, lengths) of the inputs below values[j] in k lengths.
  best: list[tuple[int, tuple[int, ...]]] = [
    (int(below[j + 1] * values[j]), (int(values[j]),))
    for j in range(len(values))
  ]
  for _ in range(num_lengths - 1):
    longer = list(best)
    for j in range(len(values)):
      for i in range(j):
        tokens = best[i][0] + int((below[j + 1] - below[i + 1]) * values[j])
        if tokens < longer[j][0]:
          longer[j] = (tokens, (*best[i][1], int(values[j])))
    best = longer
  return best[-1][1]
