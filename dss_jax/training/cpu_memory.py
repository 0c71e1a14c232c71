"""Lets steps on a CPU use the memory of the steps before them.

XLA takes the memory of a step's temporaries from malloc and frees it when the
step is done. The C library does not keep blocks so large, so every step begins
on pages that the system has to clear first: for `models/bench.gin` 1.7 GB of
them, a seventh of the step's time. `mallopt` makes the C library keep what is
freed. It does so only for the heap of the main thread; the steps have to be
made there, instead of in a thread of JAX's.

The steps of the smallest students need blocks that the C library keeps in any
case, and are so short that the loop's own work is best done in parallel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import jax

from dss_jax.models import flops
from dss_jax.models.config import T5Config

# Parameters of `mallopt`, from malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4

# Environment variables by which the user says what to keep.
_SETTINGS = (
  "GLIBC_TUNABLES",
  "MALLOC_MMAP_MAX_",
  "MALLOC_MMAP_THRESHOLD_",
  "MALLOC_TRIM_THRESHOLD_",
)

# With 0.1 M parameters a run would take 6 % longer; with 0.5 M and more, steps
# are 1.2 times as fast.
_FEWEST_PARAMETERS = 250_000

_keeper: ctypes.CDLL | None = None


def keep(student: T5Config) -> bool:
  """Keeps freed memory from now on, if steps are made on the CPU.

  For processes that train in their main thread and then end. It must be called
  before JAX has looked for devices, which it makes JAX do.

  Args:
    student: the student to be trained.

  Returns:
    Whether memory is kept: not for the smallest students, on other devices,
    with another C library than GNU's, or where the environment says what to
    keep.
  """
  global _keeper
  if flops.num_kernel_parameters(student) < _FEWEST_PARAMETERS:
    return False
  library = ctypes.CDLL(None)
  if not hasattr(library, "mallopt") or any(
    name in os.environ for name in _SETTINGS
  ):
    return False
  # JAX reads this when it makes its CPU device, even next to other devices.
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  if jax.default_backend() != "cpu":
    return False
  # No blocks outside of the heap, and no part of the heap given back.
  if library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, -1):
    _keeper = library
  return _keeper is not None


@contextlib.contextmanager
def given_back() -> Iterator[None]:
  """Gives kept memory back before and after work between steps.

  Such work uses blocks of other sizes than steps do: either would find too few
  pieces that are large enough in what the other left, and take new ones.
  """
  _give_back()
  try:
    yield
  finally:
    _give_back()


def _give_back() -> None:
  if _keeper is not None:
    _keeper.malloc_trim(0)
