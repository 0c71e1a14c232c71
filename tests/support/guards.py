"""Guards that end a test which would otherwise run for hours."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
  """Fails a block that takes this many seconds of the process's CPU time.

  The limit is far above what the block takes: it does not measure, it tells an
  endless loop, or one of another order, from one that ends.
  """

  def stop(*_: object) -> None:
    raise AssertionError(f"not done after {seconds} s of CPU time")

  before = signal.signal(signal.SIGVTALRM, stop)
  signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)
