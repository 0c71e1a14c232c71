"""Steps on a CPU that use the memory of the steps before them.

XLA takes the memory of a step's temporaries from malloc and frees it when the
step is done. Of blocks so large the C library keeps none, so every step begins
on pages that the system has to clear first: for `models/bench.gin` 1.7 GB of
them, a seventh of the step's time. The C library can be told to keep what is
freed. It does so for the heap of the main thread alone; the steps have to be
made there, instead of in a thread of JAX's.

The smallest students' steps need blocks that the C library keeps in any case,
and are so short that the loop's own work is best done beside them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import jax

from dss_jax.models import flops
from dss_jax.models.config import T5Config

# Of malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4

# With these the user has said what to keep.
_SETTINGS = (
  "GLIBC_TUNABLES",
  "MALLOC_MMAP_MAX_",
  "MALLOC_MMAP_THRESHOLD_",
  "MALLOC_TRIM_THRESHOLD_",
)

# Of 0.1 M a run would take 6 % longer; of 0.5 M and more steps are 1.2 times
# as fast.
_FEWEST_PARAMETERS = 250_000

_keeper: ctypes.CDLL | None = None


def keep(student: T5Config) -> bool:
  """Keeps freed memory from now on, if steps are made on the CPU.

  For processes that train in their main thread, and end when they have. To be
  called before JAX has looked for devices, which this does.

  Args:
    student: that is trained.

  Returns:
    Whether it is kept: not for the smallest students, on other devices, with
    another C library than GNU's, or where the environment tells that library
    what to keep.
  """
  global _keeper
  if flops.num_kernel_parameters(student) < _FEWEST_PARAMETERS:
    return False
  library = ctypes.CDLL(None)
  if not hasattr(library, "mallopt") or any(
    name in os.environ for name in _SETTINGS
  ):
    return False
  # JAX asks for this when it makes its CPU device, beside others too.
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  if jax.default_backend() != "cpu":
    return False
  # No blocks apart from the heap, and no part of the heap given back.
  if library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, -1):
    _keeper = library
  return _keeper is not None


@contextlib.contextmanager
def given_back() -> Iterator[None]:
  """For work between steps, whose blocks are of other sizes.

  What was kept is given back before and after: in what the other left, either
  would find too few pieces that are large enough, and take new ones.
  """
  _give_back()
  try:
    yield
  finally:
    _give_back()


def _give_back() -> None:
  if _keeper is not None:
    _keeper.malloc_trim(0)
