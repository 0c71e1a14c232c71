"""HTTP connections that no client can keep for nothing.

uvicorn closes connections that idle between requests; one that never finishes
a request's head, or never reads an answer, it would keep for ever, and of its
two parsers the faster one would read a head without an end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http import auto, h11_impl

from dss_jax.students.serving.settings import ServeSettings

# Bytes of a request line and headers.
MAX_HEAD_BYTES = 16 << 10

_TOO_LARGE = (
  b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
  b"content-type: application/json\r\nconnection: close\r\n"
  b"content-length: 61\r\n\r\n"
  b'{"error": "the request line and headers exceed 16,384 bytes"}'
)

# httptools where it is installed, else h11, which is pure Python.
FASTEST: Any = auto.AutoHTTPProtocol
PURE_PYTHON: Any = h11_impl.H11Protocol


def protocol(settings: ServeSettings, base: Any = FASTEST) -> type:
  """The class of a server's connections.

  Args:
    settings: with the limits.
    base: uvicorn's class to build on.
  """

  class BoundedProtocol(base):
    """A connection with limits of time and size, one of a bounded number."""

    def __init__(self, *args: Any, **kwargs: Any):
      super().__init__(*args, **kwargs)
      self._head_bytes = 0
      self._head_timer: asyncio.TimerHandle | None = None
      self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
      super().connection_made(transport)
      if len(self.connections) > settings.max_connections:
        transport.abort()
      else:
        self._head_timer = self._close_later()

    def data_received(self, data: bytes) -> None:
      before = self.cycle
      # Whatever comes while a request is answered is of the next one.
      answering = self._is_open() and not before.more_body
      super().data_received(data)
      ahead = answering and self.cycle is before
      if self._is_open() and not ahead:
        _cancel(self._head_timer)
        self._head_timer, self._head_bytes = None, 0
        return
      # Part of a head, or the whole of a request that is answered already.
      self._head_bytes += len(data)
      if self._head_timer is None and not ahead:
        self._head_timer = self._close_later()
      if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
        if ahead:  # an answer now would be taken for that of the first
          self.transport.abort()
          return
        self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _is_open(self) -> bool:
      """Whether there is a request that is not answered."""
      return self.cycle is not None and not self.cycle.response_complete

    def pause_writing(self) -> None:
      super().pause_writing()
      self._write_timer = self._close_later()

    def resume_writing(self) -> None:
      super().resume_writing()
      _cancel(self._write_timer)

    def connection_lost(self, exc: Exception | None) -> None:
      _cancel(self._head_timer)
      _cancel(self._write_timer)
      super().connection_lost(exc)

    def _close_later(self) -> asyncio.TimerHandle:
      return self.loop.call_later(settings.read_timeout_s, self.transport.abort)

  return BoundedProtocol


def _cancel(timer: asyncio.TimerHandle | None) -> None:
  if timer is not None:
    timer.cancel()
