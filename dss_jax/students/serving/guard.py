"""What every request passes: names, tokens, sizes, headers, log and counts.

Plain ASGI: a request that is refused here costs next to nothing, and nothing
of its body is read.
"""

from __future__ import annotations

import hmac
import itertools
import json
import logging
import re
import secrets
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from dss_jax.students.serving.request_bodies import Refused, too_large
from dss_jax.students.serving.service import Service

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("dss_jax.students.serving.access")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Probes and the page (which asks for the token) need none.
OPEN_PATHS = frozenset({"/", "/docs", "/healthz", "/livez", "/openapi.json"})
PATHS = OPEN_PATHS | {"/metrics", "/v1/model", "/v1/predict"}

# For all answers; `pages` adds what concerns documents.
_SECURITY_HEADERS = [
  (b"x-content-type-options", b"nosniff"),
  (b"cross-origin-resource-policy", b"same-origin"),
  (b"cache-control", b"no-store"),
]
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_UNFORESEEN = Refused(
  500, "the server failed; its log says more", {"Connection": "close"}
)

# What an answer to nobody is counted as.
CLIENT_GONE = 499


class _Unsent(Exception):
  """An answer could not be sent: its connection is closed."""


class Guard:
  """Wraps an ASGI application."""

  def __init__(self, app: Any, predict: Any, service: Service):
    """Wraps them.

    Args:
      app: answers all paths but the one that matters.
      predict: answers `POST /v1/predict`.
      service: with the settings and the counters.
    """
    self._app = app
    self._predict = predict
    self._metrics = service.metrics
    self._settings = service.settings
    token = service.settings.token
    self._token = None if token is None else token.encode()
    self._known_hosts = service.settings.known_hosts
    # No secret, only unique: asking the system for randomness takes longer
    # than the rest of this.
    self._prefix = secrets.token_hex(4)
    self._count = itertools.count(1)

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      return
    start = time.perf_counter()
    headers: dict[bytes, bytes] = dict(scope["headers"])
    given = headers.get(b"x-request-id", b"")
    request_id = (
      given.decode()
      if given and _REQUEST_ID.fullmatch(given)
      else f"{self._prefix}-{next(self._count)}"
    )
    scope.setdefault("state", {})["request_id"] = request_id
    status = CLIENT_GONE

    async def answer(message: Message) -> None:
      nonlocal status
      if message["type"] == "http.response.start":
        status = message["status"]
        message["headers"] = [
          *message.get("headers", ()),
          *_SECURITY_HEADERS,
          (b"x-request-id", request_id.encode()),
        ]
      try:
        await send(message)
      except Exception as error:
        raise _Unsent from error

    try:
      await self._respond(scope, headers, request_id, receive, answer)
    except _Unsent:
      status = CLIENT_GONE
    finally:
      seconds = time.perf_counter() - start
      path = scope["path"]
      self._metrics.request(path if path in PATHS else "other", status, seconds)
      if self._settings.access_log:
        self._log(scope, status, seconds, request_id)

  async def _respond(
    self,
    scope: Scope,
    headers: dict[bytes, bytes],
    request_id: str,
    receive: Receive,
    send: Send,
  ) -> None:
    """Answers, whatever happens."""
    try:
      self._check(scope, headers)
      if scope["path"] == "/v1/predict" and scope["method"] == "POST":
        await self._predict(headers, request_id, receive, send)
      else:
        await self._app(scope, receive, send)
    except Refused as refused:
      await send_refusal(refused, request_id, send)
    except _Unsent:
      raise
    except Exception:
      logger.exception("request %s", request_id)
      # Where an answer has begun, the server closes the connection.
      await send_refusal(_UNFORESEEN, request_id, send)

  def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Raises Refused."""
    close = {"Connection": "close"}
    host = _host_name(headers.get(b"host", b""))
    if self._known_hosts is not None and host not in self._known_hosts:
      raise Refused(
        421,
        "this server is not known by the name in the header Host; address it"
        " as it was told, or name it with --allowed_host",
        close,
      )
    if self._token is not None and scope["path"] not in OPEN_PATHS:
      scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
      # In this order, so that the time taken says nothing.
      same = hmac.compare_digest(given.strip(), self._token)
      if not (same and scheme.lower() == b"bearer"):
        raise Refused(
          401,
          "the header Authorization does not hold the server's token; send"
          " 'Authorization: Bearer TOKEN'",
          {"WWW-Authenticate": "Bearer", **close},
        )
    if scope["method"] in ("GET", "HEAD"):
      return
    # A page of another site may post what it likes to the loopback, if it does
    # not want to read the answer; browsers say whose page it is.
    origin = headers.get(b"origin")
    if origin is not None:
      site = origin.lower().partition(b"://")[2]
      if not site or site != headers.get(b"host", b"").strip().lower():
        raise Refused(
          403, "pages of other sites may not use this server", close
        )
    self._check_body(headers)

  def _check_body(self, headers: dict[bytes, bytes]) -> None:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 15:
      raise Refused(
        400,
        "the header Content-Length is not a number",
        {"Connection": "close"},
      )
    if int(length) > self._settings.max_body_bytes:
      raise too_large(self._settings)

  def _log(
    self, scope: Scope, status: int, seconds: float, request_id: str
  ) -> None:
    """Says who asked for what; never the texts."""
    client = scope.get("client") or ("-", 0)
    access_logger.info(
      "%s %s %s %s %d %.1f ms %s",
      time.strftime("%Y-%m-%dT%H:%M:%S%z"),
      client[0],
      scope["method"][:16],
      urllib.parse.quote(scope["path"][:200]),
      status,
      1e3 * seconds,
      request_id,
    )


def _host_name(value: bytes) -> str:
  """The name in a Host header, without the port; "" for what is none."""
  text = value.decode("latin-1").strip().lower()
  match = re.fullmatch(
    r"(\[[0-9a-f:.]+\]|[^\[\]:@/\\?#\s,]+)(:[0-9]{1,5})?", text
  )
  return match[1].rstrip(".") if match else ""


def refusal_body(refused: Refused, request_id: str) -> bytes:
  """The JSON of every answer but 200."""
  told = {"error": refused.reason, "request_id": request_id}
  return json.dumps(told).encode()


async def send_refusal(refused: Refused, request_id: str, send: Send) -> None:
  """Answers with an error."""
  body = refusal_body(refused, request_id)
  await send_answer(refused.status, body, refused.headers, send)


async def send_answer(
  status: int, body: bytes, headers: Mapping[str, str], send: Send
) -> None:
  """Answers with JSON."""
  start = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(body)).encode()),
    *((k.lower().encode(), v.encode()) for k, v in headers.items()),
  ]
  await send(
    {"type": "http.response.start", "status": status, "headers": start}
  )
  await send({"type": "http.response.body", "body": body})
