"""T5's bias of attention by relative position, learned for buckets of them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.models import config as config_lib
from dss_jax.models import layer_parts

Array = jax.Array

_fan_avg_uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def within(length: int) -> np.ndarray:
  """[query, key] -> key position - query position, in tokens."""
  positions = np.arange(length)
  return positions[None, :] - positions[:, None]


def to_buckets(
  relative_position: np.ndarray, *, bidirectional: bool
) -> np.ndarray:
  """Buckets of relative positions (key position - query position, tokens).

  Near distances have a bucket each; farther ones share buckets whose width
  grows with the logarithm of the distance, up to MAX_RELPOS_DISTANCE. With
  `bidirectional`, half of the buckets is for keys after the query; else those
  (masked anyway) fall into bucket 0.

  Source: Raffel et al. 2020, section 2.1, as published in Mesh TensorFlow.

  Args:
    relative_position: int array.
    bidirectional: whether keys after the query are seen.

  Returns:
    int32 array of the same shape, in [0, NUM_RELPOS_BUCKETS).
  """
  num_buckets = config_lib.NUM_RELPOS_BUCKETS
  offset = np.zeros_like(relative_position)
  distance = -relative_position
  if bidirectional:
    num_buckets //= 2
    offset = np.where(distance < 0, num_buckets, 0)
    distance = np.abs(distance)
  else:
    distance = np.maximum(distance, 0)
  num_exact = num_buckets // 2
  # The epsilon keeps distances on a bucket's border (16, 32, 64) in the upper
  # bucket in spite of rounding; it also spares a warning at distance 0.
  ratio = distance.astype(np.float32) / num_exact + np.finfo(np.float32).eps
  log_ratio = np.log(ratio) / np.log(config_lib.MAX_RELPOS_DISTANCE / num_exact)
  far = num_exact + (log_ratio * (num_buckets - num_exact)).astype(np.int32)
  far = np.minimum(far, num_buckets - 1)
  buckets = offset + np.where(distance < num_exact, distance, far)
  return buckets.astype(np.int32)


class RelativePositionBiases(nn.Module):
  """A learned bias per head and relative position, of a stack or a layer."""

  config: config_lib.T5Config
  bidirectional: bool

  def setup(self):
    self.rel_embedding = layer_parts.parameter(
      self,
      "rel_embedding",
      _fan_avg_uniform,
      (self.config.num_heads, config_lib.NUM_RELPOS_BUCKETS),
      ("heads", "relpos_buckets"),
    )

  def __call__(self, relative_position: np.ndarray) -> Array:
    """int [...] -> bias [heads, ...] in the config's dtype.

    The positions are NumPy: they depend on lengths only, so the buckets are a
    constant of the compiled program. In a packed row the distance within the
    row is the distance within the segment wherever it is not masked.
    """
    return self.of_buckets(
      to_buckets(relative_position, bidirectional=self.bidirectional)
    )

  def of_buckets(self, buckets: Array | np.ndarray) -> Array:
    """As above, for the positions' buckets."""
    table = self.rel_embedding
    # A product with one-hot columns instead of a gather: the gradient is then a
    # product too, and not a scatter of a million numbers into 32 buckets, slow
    # on accelerators and summed in no fixed order. Exact, if not rounded first.
    one_hot = jax.nn.one_hot(buckets, table.shape[1], axis=0, dtype=table.dtype)
    bias = jnp.tensordot(table, one_hot, 1, precision="highest")
    return bias.astype(self.config.dtype)
