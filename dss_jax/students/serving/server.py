"""Starting to listen, and stopping without losing what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from dss_jax.base.errors import UserError, one_line
from dss_jax.students.serving import app, batching, connections
from dss_jax.students.serving.service import ModelCard, Service
from dss_jax.students.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

# For what is answered in the end to be written.
_GRACE_S = 2


def bind(settings: ServeSettings) -> socket.socket:
  """Takes the address; connections are refused until `serve` listens.

  Raises:
    UserError: the address is taken, or not this machine's.
  """
  family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
  bound = socket.socket(family, socket.SOCK_STREAM)
  try:
    if os.name == "posix":
      bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((settings.host, settings.port))
  except (OSError, TypeError) as error:  # the latter: of no such name
    bound.close()
    reason = one_line(getattr(error, "strerror", None) or error)
    raise UserError(
      f"cannot listen on {settings.host}:{settings.port} ({reason}): choose"
      " another --port (0 takes any free one) or --host"
    ) from None
  return bound


def address(bound: socket.socket) -> str:
  """Where a browser finds it."""
  host, port = bound.getsockname()[:2]
  return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
  backend: batching.Backend,
  card: ModelCard,
  settings: ServeSettings,
  bound: socket.socket,
  say: Callable[[str], None],
) -> int:
  """Serves until a signal says to stop.

  Args:
    backend: the model; it is warmed up here.
    card: what to tell of it.
    settings: limits.
    bound: from `bind`.
    say: told when requests are accepted, and how it ends.

  Returns:
    The exit status: 0 after a signal, 1 when the predictor has died.

  Raises:
    Exception: what warming up raised.
  """
  server = _Server(backend, card, settings, say)
  server.run(sockets=[bound])
  return server.exit_status()


class _Server(uvicorn.Server):
  """uvicorn's, with a queue to drain before it goes."""

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

    super().__init__(
      uvicorn.Config(
        app.make_app(self._service),
        http=connections.protocol(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=connections.MAX_HEAD_BYTES,
        timeout_keep_alive=int(settings.keep_alive_s),
        timeout_graceful_shutdown=int(settings.drain_s) + _GRACE_S,
      )
    )

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    await super().startup(sockets)
    for bound in sockets or ():
      self._say(f"listening on {address(bound)}")
    self._service.batcher.start(asyncio.get_running_loop())

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    batcher = self._service.batcher
    if batcher.open_requests:
      self._say(f"stopping; {batcher.open_requests} requests to answer first")
    batcher.drain()
    timer = asyncio.get_running_loop().call_later(
      self._settings.drain_s, batcher.stop
    )
    try:
      await super().shutdown(sockets)
    finally:
      timer.cancel()

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """As uvicorn's, but a signal that was heeded is not raised again."""
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
    if not self._service.batcher.join(_GRACE_S):
      # In the middle of a compilation or a batch that nobody waits for: the
      # interpreter cannot end beside it in good order.
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


def log_to_stderr() -> None:
  """Sends what the server logs to standard error, plainly."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  access: Any = logging.getLogger("dss_jax.students.serving.access")
  access.setLevel(logging.INFO)
  for name in ("dss_jax.students.serving", "uvicorn.error"):
    log = logging.getLogger(name)
    log.addHandler(handler)
    log.propagate = False
  # What goes wrong in an answer the guard has told; clients that do not speak
  # HTTP, or go away in the middle of it, are not worth a line each.
  logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
