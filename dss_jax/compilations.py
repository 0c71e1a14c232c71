"""How often JAX compiled: a train step should be compiled once."""

import functools
import threading

from jax import monitoring

_EVENT = "/jax/core/compile/backend_compile_duration"


class _Counter(threading.local):
  """A count for each thread: others compile what they like meanwhile."""

  count = 0


@functools.cache
def _counter() -> _Counter:
  counter = _Counter()

  def listen(event: str, duration_secs: float, **kwargs) -> None:
    del duration_secs, kwargs
    if event == _EVENT:
      counter.count += 1

  monitoring.register_event_duration_secs_listener(listen)
  return counter


def count() -> int:
  """Programs that this thread compiled or read from the compilation cache.

  Counted from the first call of this function in the process on.
  """
  return _counter().count
