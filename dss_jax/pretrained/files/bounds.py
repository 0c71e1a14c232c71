"""How much a checkpoint of T5X may take, and what is said of a broken one."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError, one_line, printable
from dss_jax.pretrained.files.flax_msgpack import DTYPES

# A T5 of 11 B parameters in float32 with its Adafactor state is under 64 GiB.
MAX_BYTES = 256 * 2**30
# Chunks may reach over the end of a small array, within reason.
_MAX_SPARE_BYTES = 64 * 2**20


def broken(folder: pathlib.Path, reason: str) -> UserError:
  """What to raise for a checkpoint that cannot be read."""
  return UserError(
    f"the checkpoint {str(folder)!r} cannot be read:"
    f" {printable(one_line(reason))}:"
    " set INITIAL_CHECKPOINT_PATH to a complete one"
  )


class Budget:
  """Counts the bytes that the arrays of a checkpoint declare."""

  def __init__(self, folder: pathlib.Path, max_bytes: int = MAX_BYTES):
    self.folder = folder
    self._left = max_bytes

  def take(self, name: str, shape: Any, dtype: np.dtype) -> None:
    """Books an array, before anything of it is read."""
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 16:
      raise broken(self.folder, f"{name} has shape {shape!r}")
    self._left -= math.prod(shape) * dtype.itemsize
    if self._left < 0:
      raise broken(
        self.folder, "its arrays exceed max_bytes, what this model's could take"
      )

  def take_chunk(
    self, name: str, chunk: Any, shape: Sequence[int], dtype: np.dtype
  ) -> None:
    """Books a chunk, which is read whole even where the array ends inside."""
    self.take(name, chunk, dtype)
    spare = math.prod(chunk) - math.prod(shape)
    if spare * dtype.itemsize > _MAX_SPARE_BYTES:
      raise broken(self.folder, f"{name} has chunks larger than itself")

  def dtype(self, name: str, dtype: Any) -> np.dtype:
    """The type of that name."""
    if dtype not in DTYPES:
      raise broken(self.folder, f"{name} has dtype {dtype!r}")
    return DTYPES[dtype]
