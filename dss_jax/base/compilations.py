"""How often and when JAX compiled: a train step should be compiled once."""

import functools
import threading
import time

from jax import monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"
# Tracing, lowering, compiling; of these only tracing is nested.
_EVENTS = (
  "/jax/core/compile/jaxpr_trace_duration",
  "/jax/core/compile/jaxpr_to_mlir_module_duration",
  _COMPILED,
)
# More than a program of many small parts makes between two calls.
_MOST_SPANS = 10_000


class _Record(threading.local):
  """The compilations of one thread; other threads count their own."""

  def __init__(self):
    self.count = 0
    self.spans: list[tuple[float, float]] = []
    self.last_end = 0.0

  def add(self, start: float, end: float) -> None:
    """Adds a span that ends now, in place of those within it."""
    while self.spans and self.spans[-1][0] >= start:
      self.spans.pop()
    if self.spans:
      start = max(start, self.spans[-1][1])
    self.spans.append((start, end))
    self.last_end = end
    del self.spans[:-_MOST_SPANS]


@functools.cache
def _record() -> _Record:
  record = _Record()

  def listen(event: str, duration_secs: float, **kwargs) -> None:
    del kwargs
    if event in _EVENTS:
      now = time.monotonic()
      record.add(now - duration_secs, now)
      record.count += event == _COMPILED

  monitoring.register_event_duration_secs_listener(listen)
  return record


def count() -> int:
  """Programs that this thread compiled or read from the compilation cache.

  Counted from the first call of a function of this module in the process on.
  """
  return _record().count


def take_spans() -> list[tuple[float, float]]:
  """When this thread traced, lowered and compiled since the last call.

  Returns:
    (start, end) in seconds of `time.monotonic`, ascending, apart.
  """
  record = _record()
  spans, record.spans = record.spans, []
  return spans


def last_end() -> float:
  """When this thread last ended compiling, in seconds of `time.monotonic`."""
  return _record().last_end
