"""TPU slices that are not here, described so that steps compile for them.

The TPU compiler is part of libtpu, which needs no TPU to compile. Nothing runs:
how fast a step is, and whether its kernels compute the right numbers, only the
slice itself can tell.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import jax

from dss_jax.base.errors import UserError, one_line

# Bytes of a chip, by JAX's name of its kind; of kinds whose devices are chips.
_GIB = 2**30
CHIP_MEMORY = {
  "TPU v5 lite": 16 * _GIB,
  "TPU v5": 95 * _GIB,
  "TPU v6 lite": 32 * _GIB,
}

# Without these libtpu asks the cloud's metadata server about this machine, and
# lets one process at a time use it.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


def has_compiler() -> bool:
  """Whether the TPU compiler is installed."""
  return (
    "TPU_LIBRARY_PATH" in os.environ
    or importlib.util.find_spec("libtpu") is not None
  )


def devices(topology: str) -> Sequence[Any]:
  """The devices of a slice such as "v5e:4x4", or of several, "2*v5e:4x4".

  Raises:
    UserError: for a slice that does not exist, or without a TPU compiler.
  """
  if not has_compiler():
    raise UserError(
      "planning for TPUs needs their compiler, which is not installed here: pip"
      " install libtpu (no TPU is needed), or set TPU_LIBRARY_PATH to a libtpu.so",
      fields="plan_topology",
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  number, _, shape = topology.rpartition("*")
  try:
    if (num_slices := int(number or 1)) < 1:
      raise ValueError(f"{number} slices")
    described = topologies.get_topology_desc(
      topology_name=shape, platform="tpu", num_slices=num_slices
    )
  except (jax.errors.JaxRuntimeError, ValueError, OSError) as error:
    raise UserError(
      f"plan_topology is {topology!r}, which the TPU compiler does not know"
      f" ({one_line(error)}); it must be a kind of chip and the shape of a"
      " slice, such as v5e:4x4 or v5p:2x2x4, or of several, such as 2*v5e:4x4",
      fields="plan_topology",
    ) from error
  return described.devices
