"""How fast the device multiplies matrices: what other rates are held against."""

from __future__ import annotations

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import measuring

_CHAIN = 8  # products in a row


def rate(size: int, dtype: str, repeats: int = 10) -> dict[str, Any]:
  """FLOP/s of [size, size] products of random numbers, each repetition."""
  keys = jax.random.split(jax.random.key(0))
  x, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
  b = b / size**0.5  # products keep their scale
  product = jax.jit(jnp.matmul)
  product(x, b).block_until_ready()
  record = measuring.empty_record()
  for _ in range(repeats):
    with measuring.clock(record):
      # Each waits for the one before, but the host for the last one only.
      for _ in range(_CHAIN):
        x = product(x, b)
      x.block_until_ready()
  flops = 2.0 * size**3 * _CHAIN
  return {
    "size": size,
    "dtype": dtype,
    "flops_per_s": flops / statistics.median(record["wall_s"]),
    "flops_per_cpu_s": flops / statistics.median(record["cpu_s"]),
    "device": jax.devices()[0].device_kind,
    "platform": jax.default_backend(),
    **record,
  }


class Side:
  """A process (see `workers`) that only multiplies."""

  def rate(self, size: int, dtype: str, repeats: int = 10) -> dict[str, Any]:
    """See the function."""
    return rate(size, dtype, repeats)
