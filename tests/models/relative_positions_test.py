"""Buckets of relative positions, in exact arithmetic."""

import jax
import numpy as np

from dss_jax.models import relative_positions
from dss_jax.models.config import T5Config

DISTANCES = np.arange(0, 400)


def _bucket(distance, num_buckets):
  """floor(exact + (num - exact) log(d / exact) / log(128 / exact)), exactly.

  In integers: bucket exact + k begins where (d / exact)^(num - exact) reaches
  (128 / exact)^k.
  """
  exact = num_buckets // 2
  if distance < exact:
    return distance
  far = num_buckets - exact
  k = 0
  while (
    k + 1 < far
    and distance**far * exact ** (k + 1) >= 128 ** (k + 1) * exact**far
  ):
    k += 1
  return exact + k


def test_buckets_of_the_decoder():
  buckets = relative_positions.to_buckets(-DISTANCES, bidirectional=False)
  assert buckets.tolist() == [_bucket(int(d), 32) for d in DISTANCES]
  later = relative_positions.to_buckets(DISTANCES, bidirectional=False)
  assert not later.any()


def test_buckets_of_the_encoder():
  before = relative_positions.to_buckets(-DISTANCES, bidirectional=True)
  expected = np.array([_bucket(int(d), 16) for d in DISTANCES])
  np.testing.assert_array_equal(before, expected)
  # By hand: 8 buckets of one distance each, then factors of sqrt(2).
  assert before[[7, 8, 11, 12, 15, 16, 22, 23, 31, 32, 90, 91]].tolist() == (
    [7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 14, 15]
  )
  after = relative_positions.to_buckets(DISTANCES[1:], bidirectional=True)
  np.testing.assert_array_equal(after, 16 + expected[1:])


def test_biases_are_the_tables_entries_exactly():
  config = T5Config(vocab_size=4, num_heads=3)
  module = relative_positions.RelativePositionBiases(config, bidirectional=True)
  relative = np.arange(40)[None, :] - np.arange(30)[:, None]
  params = jax.tree.map(
    lambda box: box.unbox(),
    module.init(jax.random.key(0), relative),
    is_leaf=lambda leaf: hasattr(leaf, "unbox"),
  )
  table = np.asarray(params["params"]["rel_embedding"])
  buckets = relative_positions.to_buckets(relative, bidirectional=True)
  np.testing.assert_array_equal(
    module.apply(params, relative), table[:, buckets]
  )
