"""Where an endpoint is and what it expects, before a connection is needed."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from typing import Any

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.rationales.teacher_requests import (
  CONTENT_FIELDS,
  MAX_TOKENS_FIELDS,
  Request,
)

_OPENAI = "https://api.openai.com/v1"


@dataclasses.dataclass(frozen=True)
class EndpointOptions:
  """Where an OpenAI-compatible endpoint is, and what it expects.

  Attributes:
    name: the `source` of its rationales.
    model: the model's name, as the endpoint knows it.
    weight: weight of its rationales relative to other teachers'.
    base_url: address of the endpoint, such as http://127.0.0.1:8000/v1; None is
      OpenAI's own.
    api_key_env: environment variable that holds the key; a server on this
      machine needs none.
    api_version: the `api-version` of every request, for Azure.
    timeout_s: longest wait for one answer, to its last byte, in seconds.
    max_tokens_field: the endpoint's name for the field `max_tokens`:
      "max_tokens" or "max_completion_tokens".
    omit_fields: fields of requests that the endpoint does not accept and that
      are therefore not sent, such as temperature and stop.
    headers: name and value of further headers of every request.
    api_key_header: the header that holds the key; "Authorization" holds it
      after "Bearer", another one, such as Azure's "api-key", by itself.
    api_key_command: a command, run without a shell, that prints the key, in
      place of `api_key_env`; it is run again when the key has expired.
  """

  name: str
  model: str
  weight: float = 1.0
  base_url: str | None = None
  api_key_env: str = "OPENAI_API_KEY"
  api_version: str | None = None
  timeout_s: float = 120.0
  max_tokens_field: str = "max_tokens"
  omit_fields: tuple[str, ...] = ()
  headers: tuple[tuple[str, str], ...] = ()
  api_key_header: str = "Authorization"
  api_key_command: str | None = None

  def __post_init__(self):
    checks.one_of(
      "Endpoint.max_tokens_field", self.max_tokens_field, MAX_TOKENS_FIELDS
    )
    required = sorted(CONTENT_FIELDS & set(self.omit_fields))
    if required:
      raise UserError(
        f"omit_fields names {', '.join(required)}, without which nothing can"
        " be asked",
        fields="Endpoint.omit_fields",
      )
    for name, value in (*self.headers, (self.api_key_header, "")):
      _check_header(name, value)
    _check_url(self.base_url)

  @property
  def url(self) -> str:
    """The address of the endpoint."""
    return (self.base_url or _OPENAI).rstrip("/")

  def body(self, request: Request) -> dict[str, Any]:
    """The JSON body of a request, exactly as this endpoint is sent it."""
    body = request.body()
    if self.max_tokens_field != "max_tokens":
      body[self.max_tokens_field] = body.pop("max_tokens")
    return {k: v for k, v in body.items() if k not in self.omit_fields}

  def described(self) -> dict[str, Any]:
    """Its fields, but for those that may hold a secret."""
    known = dataclasses.asdict(self)
    # Some users write the key itself in place of the variable's name.
    for name in ("api_key_env", "api_key_command"):
      known.pop(name)
    return {**known, "headers": [name for name, _ in self.headers]}


# Headers that the client itself writes.
_OWN_HEADERS = frozenset(
  {
    *("accept-encoding", "connection", "content-length", "content-type"),
    *("host", "transfer-encoding", "x-client-request-id"),
  }
)


def _check_header(name: str, value: str) -> None:
  """Raises UserError unless a header can be sent; its value is not shown."""
  usable = re.fullmatch(r"[!#$%&'*+.^`|~\w-]+", name, re.ASCII)
  if not usable or name.lower() in _OWN_HEADERS:
    raise UserError(
      f"headers names {name!r}; it must be the name of a header that the client"
      " does not write itself",
      fields="Endpoint.headers",
    )
  if not value.isascii() or not (value + " ").isprintable():
    raise UserError(
      f"the header {name} holds characters that cannot be sent",
      fields="Endpoint.headers",
    )


def _check_url(base_url: str | None) -> None:
  """Raises UserError if something secret or something strange is in a URL."""
  if base_url is None:
    return
  try:
    parts = urllib.parse.urlsplit(base_url)
    usable = parts.scheme in ("http", "https") and parts.hostname
    _ = parts.port
  except ValueError:
    usable, parts = False, None
  if not usable or parts is None:
    # Not repeated: it may hold a key.
    raise UserError(
      "base_url is no URL; it must be like http://127.0.0.1:8000/v1",
      fields="Endpoint.base_url",
    )
  if parts.username is not None or parts.query or parts.fragment:
    # Not repeated: what is in there may be secret.
    raise UserError(
      f"base_url for {parts.hostname} holds a user, a query or a fragment;"
      " give only scheme, host and path, and the key in the environment",
      fields=("Endpoint.base_url", "Endpoint.api_key_env"),
    )
