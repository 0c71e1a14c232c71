"""How fast the device multiplies matrices: what other rates are held against."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s by the datasheets, without sparsity.
_DATASHEET = {
  "H100 NVL": 835e12,
  "H100 PCIe": 756e12,
  "H100": 989.4e12,
  "H200": 989.4e12,
  "A100": 312e12,
}


def datasheet_flops_per_s(device_kind: str) -> float | None:
  """Of a device that is known by name."""
  for name, rate in _DATASHEET.items():
    if name in device_kind:
      return rate
  return None


def rate(size: int, dtype: str, repeats: int = 10) -> dict[str, Any]:
  """FLOP/s of [size, size] products of random numbers, each repetition."""
  keys = jax.random.split(jax.random.key(0))
  a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
  product = jax.jit(jnp.matmul)
  product(a, b).block_until_ready()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    # One after another, so that starting them is not measured.
    results = [product(a, b) for _ in range(4)]
    jax.block_until_ready(results)
    seconds.append((time.perf_counter() - start) / 4)
  flops = 2.0 * size**3
  return {
    "size": size,
    "dtype": dtype,
    "flops_per_s": flops / statistics.median(seconds),
    "seconds": seconds,
    "device": jax.devices()[0].device_kind,
  }


class Side:
  """A process (see `workers`) that only multiplies."""

  def rate(self, size: int, dtype: str, repeats: int = 10) -> dict[str, Any]:
    """See the function."""
    return rate(size, dtype, repeats)
