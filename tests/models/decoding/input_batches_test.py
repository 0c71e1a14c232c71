"""Inputs in padded batches: each once, in few shapes."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.models.decoding.input_batches import (
  declared_lengths,
  padded_batches,
)


def test_padded_batches_by_hand():
  inputs = [[5, 1], [6, 6, 6, 1], [1], [7, 7, 1], [8, 8, 1]]
  first, second, third = padded_batches(inputs, 2, lengths=[2, 4])
  assert first.index.tolist() == [2, -1]
  assert first.encoder_input_tokens.tolist() == [[1, 0], [0, 0]]
  assert first.encoder_input_tokens.dtype == np.int32
  assert second.index.tolist() == [0, 3]
  assert second.encoder_input_tokens.tolist() == [[5, 1, 0, 0], [7, 7, 1, 0]]
  assert third.index.tolist() == [4, 1]
  assert third.encoder_input_tokens.tolist() == [[8, 8, 1, 0], [6, 6, 6, 1]]


@settings(max_examples=50, deadline=None)
@given(
  sizes=st.lists(st.integers(1, 50), max_size=60),
  batch_size=st.integers(1, 9),
)
def test_every_input_once(sizes, batch_size):
  inputs = [[i + 2] * (n - 1) + [1] for i, n in enumerate(sizes)]
  batches = list(padded_batches(inputs, batch_size))
  found = {}
  for batch in batches:
    assert len(batch.index) == len(batch.encoder_input_tokens) == batch_size
    for i, tokens in zip(batch.index, batch.encoder_input_tokens, strict=True):
      if i < 0:
        assert not tokens.any()
      else:
        found[int(i)] = tokens[tokens > 0].tolist()
  assert found == dict(enumerate(inputs))
  assert len(batches) == -(-len(inputs) // batch_size)
  assert len({b.encoder_input_tokens.shape for b in batches}) <= 3


def test_an_input_too_long():
  with pytest.raises(UserError, match=r"has 5 tokens.*at most 4"):
    list(padded_batches([[2, 2, 2, 2, 1]], 2, lengths=[2, 4]))


def test_declared_lengths_are_the_best():
  rng = np.random.default_rng(0)
  sizes = np.concatenate(
    [rng.integers(5, 40, 50), rng.integers(60, 89, 9), [88]]
  )

  def waste(lengths):
    return sum(min(n for n in lengths if n >= size) for size in sizes)

  best = min(
    waste((*below, 88)) for below in itertools.combinations(range(8, 88, 8), 2)
  )
  lengths = declared_lengths(sizes)
  assert len(lengths) == 3
  assert lengths[-1] == 88
  assert waste(lengths) == best
  assert declared_lengths(sizes, num_lengths=1) == (88,)
  assert declared_lengths([]) == (8,)
  assert declared_lengths([3, 3]) == (8,)


def test_few_inputs_take_the_smallest_batch_and_length_that_hold_them():
  shapes: Any = {"lengths": [2, 4, 8], "batch_sizes": [1, 2]}
  for inputs, shape in (
    ([[5, 1]], (1, 2)),
    ([[5, 1], [6, 6, 1]], (2, 4)),
    ([[5, 1]] * 3, (4, 2)),
  ):
    (batch,) = padded_batches(inputs, 4, **shapes)
    assert batch.encoder_input_tokens.shape == shape
    assert sorted(batch.index[batch.index >= 0]) == list(range(len(inputs)))
  rest, full = padded_batches([[5, 1]] * 5, 4, **shapes)
  assert (len(rest.index), len(full.index)) == (1, 4)
