"""Listens, bounds connections, and stops without losing accepted requests."""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http import auto, h11_impl

from dss_jax.base.errors import UserError, one_line
from dss_jax.students.serving import access_control, app, batching
from dss_jax.students.serving.service import Service
from dss_jax.students.serving.settings import ServeSettings
from dss_jax.students.serving.student_backend import ModelCard

logger = logging.getLogger(__name__)

# Seconds in which the last answers are written.
_GRACE_S = 2
# Bytes of a request line and headers.
MAX_HEAD_BYTES = 16 << 10

# Socket option: on for 0 seconds.
_NO_LINGER = struct.pack("ii" if os.name == "posix" else "hh", 1, 0)

# uvicorn's connections: with httptools if it is installed, else with h11, which
# is pure Python.
FASTEST: Any = auto.AutoHTTPProtocol
PURE_PYTHON: Any = h11_impl.H11Protocol


def bind(settings: ServeSettings) -> socket.socket:
  """Takes the address; connections are refused until `serve` listens.

  Raises:
    UserError: if the address is taken, or not this machine's.
  """
  family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
  bound = socket.socket(family, socket.SOCK_STREAM)
  try:
    if os.name == "posix":
      bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((settings.host, settings.port))
  except (OSError, TypeError) as error:  # TypeError: no name can be like this
    bound.close()
    reason = one_line(getattr(error, "strerror", None) or error)
    raise UserError(
      f"cannot listen on {settings.host}:{settings.port} ({reason}): choose"
      " another port (0 takes any free one) or host",
      fields=("ServeSettings.port", "ServeSettings.host"),
    ) from None
  return bound


def address(bound: socket.socket) -> str:
  """The address for a browser."""
  host, port = bound.getsockname()[:2]
  return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
  backend: batching.Backend,
  card: ModelCard,
  settings: ServeSettings,
  bound: socket.socket,
  say: Callable[[str], None],
) -> int:
  """Serves until a signal stops it.

  Args:
    backend: the model; it is warmed up here.
    card: what the server says about the model.
    settings: the limits.
    bound: from `bind`.
    say: called with a line when requests are accepted, and at the end.

  Returns:
    The exit status: 0 after a signal, 1 if the predictor has died.

  Raises:
    Exception: what warming up raised.
  """
  server = _Server(backend, card, settings, say)
  server.run(sockets=[bound])
  return server.exit_status()


class _Server(uvicorn.Server):
  """uvicorn's server, with a queue that is drained before the end."""

  def __init__(
    self,
    backend: batching.Backend,
    card: ModelCard,
    settings: ServeSettings,
    say: Callable[[str], None],
  ):
    self._say = say
    self._settings = settings
    self._started_at = time.monotonic()
    self._death: BaseException | None = None
    self._was_ready = False
    self._service = Service(
      backend,
      card,
      settings,
      on_ready=self._on_ready,
      on_death=self._on_death,
    )
    self._batcher = self._service.batcher
    super().__init__(
      uvicorn.Config(
        app.make_app(self._service),
        http=bounded_protocol(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=int(settings.keep_alive_s),
        timeout_graceful_shutdown=int(settings.drain_s) + _GRACE_S,
      )
    )

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    await super().startup(sockets)
    for bound in sockets or ():
      self._say(f"listening on {address(bound)}")
    self._batcher.start(asyncio.get_running_loop())

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """Like uvicorn's; a second signal ends the time before the drain."""
    if self._service.is_leaving:
      self._service.is_leaving = False
    else:
      super().handle_exit(sig, frame)

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    await self._leave()
    if count := self._batcher.open_requests:
      self._say(f"stopping; {count} requests to answer first")
    self._batcher.drain()
    timer = asyncio.get_running_loop().call_later(
      self._settings.drain_s, self._batcher.stop
    )
    try:
      await super().shutdown(sockets)
    finally:
      timer.cancel()

  async def _leave(self) -> None:
    """Answers still, while the probe sends new requests elsewhere."""
    seconds = self._settings.lame_duck_s
    if not seconds or self._batcher.state is not batching.State.READY:
      return
    self._say(f"stopping in {seconds:g} s; a second signal stops it now")
    self._service.is_leaving = True
    end = time.monotonic() + seconds
    while (
      self._service.is_leaving
      and self._death is None
      and time.monotonic() < end
    ):
      await asyncio.sleep(0.05)
    self._service.is_leaving = False

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """Like uvicorn's, but does not raise a handled signal again."""
    handlers = {
      number: signal.signal(number, self.handle_exit)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
      yield
    finally:
      for number, handler in handlers.items():
        signal.signal(number, handler)

  def exit_status(self) -> int:
    """How it ended; does not return while the predictor still computes."""
    if self._death is not None:
      if not self._was_ready and isinstance(self._death, Exception):
        raise self._death
      logger.error("the predictor has died", exc_info=self._death)
      return 1
    self._say("stopped")
    if not self._batcher.join(_GRACE_S):
      # The thread compiles, or computes a batch that nobody waits for; the
      # interpreter cannot end in good order while it does.
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(0)
    return 0

  def _on_ready(self) -> None:
    self._was_ready = True
    seconds = time.monotonic() - self._started_at
    self._say(f"ready, warmed up in {seconds:.1f} s")

  def _on_death(self, error: BaseException) -> None:
    self._death = error
    self.should_exit = True


def bounded_protocol(settings: ServeSettings, base: Any = None) -> type:
  """The class of a server's connections, which no client can keep for nothing.

  uvicorn closes connections that are idle between requests. It would keep for
  ever a connection that never finishes a request's head or never reads an
  answer, and with httptools it would read a head without an end.

  Args:
    settings: the limits.
    base: uvicorn's class to build on; None takes FASTEST.
  """

  class BoundedProtocol(base or FASTEST):
    """A connection with limits of time and size, one of a bounded number."""

    def __init__(self, *args: Any, **kwargs: Any):
      super().__init__(*args, **kwargs)
      self._head_bytes = 0
      self._head_timer: asyncio.TimerHandle | None = None
      self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
      super().connection_made(transport)
      # Whatever the system's buffers do not take pauses the writing, and so
      # starts its timer, however little it is.
      transport.set_write_buffer_limits(high=0)
      if len(self.connections) > settings.max_connections:
        transport.abort()
      else:
        self._head_timer = self._close_later()

    def data_received(self, data: bytes) -> None:
      before = self.cycle
      # Data that arrives while a request is answered belongs to the next one.
      answering = self._is_open() and not before.more_body
      super().data_received(data)
      is_next = answering and self.cycle is before
      if self._is_open() and not is_next:
        _cancel(self._head_timer)
        self._head_timer, self._head_bytes = None, 0
        return
      # It was part of a head, or a whole request that is answered already.
      self._head_bytes += len(data)
      if self._head_timer is None and not is_next:
        self._head_timer = self._close_later()
      if self._head_bytes > MAX_HEAD_BYTES:
        most = f"{MAX_HEAD_BYTES:,} bytes"
        self._refuse(431, f"the request line and headers exceed {most}")

    def send_400_response(self, msg: str) -> None:
      """Answers what cannot be parsed, in place of uvicorn's plain text."""
      self._refuse(400, "the request is not HTTP/1.1 as it should be")

    def _refuse(self, status: int, reason: str) -> None:
      """Answers a request that does not come as far as the application."""
      if self.transport.is_closing():
        return
      if self._is_open() and not self.cycle.more_body:
        # The client would take it for the answer to the request before.
        self.cycle.keep_alive = False
        self.flow.pause_reading()
        return
      body = access_control.refusal_body(reason, "")
      head = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
        "content-type: application/json\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
      )
      self.transport.write(head.encode() + body)
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
      return self.loop.call_later(settings.read_timeout_s, self._reset)

    def _reset(self) -> None:
      """Closes the connection, and has the system forget what is unsent."""
      # Else it keeps megabytes for minutes for a client that reads nothing.
      with contextlib.suppress(OSError):  # the client may have left
        self.transport.get_extra_info("socket").setsockopt(
          socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER
        )
      self.transport.abort()

  return BoundedProtocol


def _cancel(timer: asyncio.TimerHandle | None) -> None:
  if timer is not None:
    timer.cancel()


def log_to_stderr() -> None:
  """Sends the server's log to standard error, without decoration."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  logging.getLogger("dss_jax.students.serving.access").setLevel(logging.INFO)
  for name in ("dss_jax.students.serving", "uvicorn.error"):
    log = logging.getLogger(name)
    log.addHandler(handler)
    log.propagate = False
  # The application logs failures of answers; clients that do not speak HTTP, or leave
  # in the middle of a request, are not worth a line each.
  logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
