"""HTTP connections that no client can keep for nothing.

uvicorn bounds the size of a request's head and closes connections that idle
between requests; one that never finishes a head, or never reads an answer, it
would keep for ever.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# Bytes of a request line and headers.
MAX_HEAD_BYTES = 16 << 10


class BoundedProtocol(H11Protocol):
  """A connection with time limits, one of a bounded number."""

  max_connections = 512
  read_timeout_s = 10.0

  _head_timer: asyncio.TimerHandle | None = None
  _write_timer: asyncio.TimerHandle | None = None

  def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
    super().connection_made(transport)
    if len(self.connections) > self.max_connections:
      transport.abort()
      return
    self._await_head()

  def data_received(self, data: bytes) -> None:
    super().data_received(data)
    if self._awaits_head:
      if self._head_timer is None:
        self._await_head()
    else:
      self._stop_timers()

  def on_response_complete(self) -> None:
    super().on_response_complete()
    # Part of the next request may have come with this one.
    if self._awaits_head and self.conn.trailing_data[0]:
      self._await_head()

  def connection_lost(self, exc: Exception | None) -> None:
    self._stop_timers()
    super().connection_lost(exc)

  def pause_writing(self) -> None:
    super().pause_writing()
    self._write_timer = self._close_later()

  def resume_writing(self) -> None:
    super().resume_writing()
    if self._write_timer is not None:
      self._write_timer.cancel()
      self._write_timer = None

  @property
  def _awaits_head(self) -> bool:
    return self.cycle is None or self.cycle.response_complete

  def _await_head(self) -> None:
    self._stop_timers()
    self._head_timer = self._close_later()

  def _close_later(self) -> asyncio.TimerHandle:
    return self.loop.call_later(self.read_timeout_s, self.transport.abort)

  def _stop_timers(self) -> None:
    for timer in (self._head_timer, self._write_timer):
      if timer is not None:
        timer.cancel()
    self._head_timer = self._write_timer = None
