"""Checks that every request passes: names, tokens, sizes; and log and counts.

This is plain ASGI: a request that is refused here costs next to nothing, and
its body is not read.
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

from dss_jax.students.serving.predict_requests import Refused, too_large
from dss_jax.students.serving.service import Service

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("dss_jax.students.serving.access")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PREDICT_PATH = "/v1/predict"
# Probes and the page (which asks for the token) need no token.
OPEN_PATHS = frozenset({"/", "/docs", "/healthz", "/livez", "/openapi.json"})
PATHS = OPEN_PATHS | {"/metrics", "/v1/model", PREDICT_PATH}

# Headers of all answers; `pages` adds those that concern documents.
_SECURITY_HEADERS = [
  (b"x-content-type-options", b"nosniff"),
  (b"cross-origin-resource-policy", b"same-origin"),
  (b"cache-control", b"no-store"),
]
_CLOSE = {"Connection": "close"}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(
  r"(\[[0-9a-f:.]+\]|[^\[\]:@/\\?#\s,]+)(:[0-9]{1,5})?"  # name, port
)

# The status under which requests of clients that have left are counted.
CLIENT_GONE = 499


class _UnsentError(Exception):
  """An answer could not be sent because its connection is closed."""


class AccessControl:
  """Wraps an ASGI application."""

  def __init__(
    self,
    app: Any,
    predict: Callable[..., Awaitable[None]],
    service: Service,
  ):
    """Wraps both handlers.

    Args:
      app: answers all other requests.
      predict: answers `POST /v1/predict`, from (headers, request id, receive,
        send).
      service: the limits and the counters.
    """
    self._app = app
    self._predict = predict
    self._service = service
    self._settings = settings = service.settings
    self._token = None if settings.token is None else settings.token.encode()
    self._known_hosts = settings.known_hosts
    # Ids are unique, not secret: asking the system for randomness each time
    # takes longer than the rest of this class.
    self._prefix = secrets.token_hex(4)
    self._count = itertools.count(1)

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      return
    start = time.perf_counter()
    headers: dict[bytes, bytes] = dict(scope["headers"])
    request_id = f"{self._prefix}-{next(self._count)}"
    if _REQUEST_ID.fullmatch(headers.get(b"x-request-id", b"")):
      request_id = headers[b"x-request-id"].decode()
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
        if self._service.is_leaving:
          message["headers"].append((b"connection", b"close"))
      try:
        await send(message)
      except Exception as error:
        raise _UnsentError from error

    try:
      await self._respond(scope, headers, request_id, receive, answer)
    except _UnsentError:
      status = CLIENT_GONE
    finally:
      seconds = time.perf_counter() - start
      path = scope["path"]
      self._service.metrics.request(
        path if path in PATHS else "other", status, seconds
      )
      if self._settings.access_log:
        _log_access(scope, status, seconds, request_id)

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
      if scope["path"] == PREDICT_PATH and scope["method"] == "POST":
        await self._predict(headers, request_id, receive, send)
      else:
        # HEAD is answered as GET; uvicorn leaves out the body.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._app({**scope, "method": method}, receive, send)
      return
    except _UnsentError:
      raise
    except Refused as error:
      refused = error
    except Exception:
      logger.exception("request %s", request_id)
      # If an answer has begun, the server closes the connection.
      refused = Refused(500, "the server failed; its log says more", _CLOSE)
    body = refusal_body(refused.reason, request_id)
    await send_answer(refused.status, body, refused.headers, send)

  def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Raises Refused."""
    # A request with two names has none, whichever the next reader takes.
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    host = hosts[0].strip().lower() if len(hosts) == 1 else b""
    if self._known_hosts is not None:
      match = _HOST.fullmatch(host.decode("latin-1"))
      name = match[1].rstrip(".") if match else ""
      if name not in self._known_hosts:
        raise Refused(
          421,
          "this server is not known by the name in the header Host; address it"
          " by a name that it knows, or add the name to its allowed_hosts",
          _CLOSE,
        )
    if self._token is not None and scope["path"] not in OPEN_PATHS:
      scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
      # The comparison comes first, so that the time taken reveals nothing.
      same = hmac.compare_digest(token.strip(), self._token)
      if not (same and scheme.lower() == b"bearer"):
        raise Refused(
          401,
          "the header Authorization does not hold the server's token; send"
          " 'Authorization: Bearer TOKEN'",
          {"WWW-Authenticate": "Bearer", **_CLOSE},
        )
    if scope["method"] in ("GET", "HEAD"):
      return
    # A page of another site may post anything to the loopback if it does not
    # want to read the answer; browsers say whose page it is.
    origin = headers.get(b"origin")
    if origin is not None:
      site = origin.lower().partition(b"://")[2]
      if not site or site != host:
        raise Refused(
          403, "pages of other sites may not use this server", _CLOSE
        )
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 15:
      raise Refused(400, "the header Content-Length is not a number", _CLOSE)
    if int(length) > self._settings.max_body_bytes:
      raise too_large(self._settings)


def _log_access(
  scope: Scope, status: int, seconds: float, request_id: str
) -> None:
  """Logs who asked for what, but never the texts."""
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


def refusal_body(reason: str, request_id: str) -> bytes:
  """The JSON of every answer but 200."""
  return json.dumps({"error": reason, "request_id": request_id}).encode()


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
