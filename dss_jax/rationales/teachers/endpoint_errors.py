"""What the failures of an endpoint mean for a request and for all others.

refusals     a status other than success: this request, the next, or none
settings     a 400 that blames how requests are made, not this one
connections  faults of this machine's set-up, named at once
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import socket
import ssl
import urllib.parse
from collections.abc import Callable, Collection, Iterator
from typing import Any

from dss_jax.base.errors import UserError, one_line
from dss_jax.rationales.teacher_requests import (
  CONTENT_FIELDS,
  MAX_TOKENS_FIELDS,
)
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  TransientError,
  server_responses,
)
from dss_jax.rationales.teachers.api_keys import is_local

# --- settings -----------------------------------------------------------------

# What a body may hold; endpoints differ in what they take of it.
SETTINGS = frozenset(
  {
    *MAX_TOKENS_FIELDS,
    *("temperature", "top_p", "stop", "seed", "response_format"),
    *("frequency_penalty", "presence_penalty", "n", "logprobs", "top_k"),
    *("reasoning_effort", "verbosity", "chat_template_kwargs", "min_p"),
  }
)
_OFFENCE = re.compile(
  r"unsupported|not supported|unknown|unrecognized|unexpected|extra_forbidden"
  r"|extra (inputs|fields)|not permitted|not allowed|cannot find field"
  r"|does not support|invalid|unmarshal|must be|should be|out of range"
  r"|too (large|small|high|low|many|long)|at (most|least)|no such (field|option)"
  r"|deprecated|incompatible",
  re.IGNORECASE,
)
_TOO_LONG = re.compile(
  r"context[ _](length|window|size)|maximum context|input tokens"
  r"|(prompt|input) is too long|too many tokens",
  re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class SettingFault:
  """A setting that an endpoint does not take.

  Attributes:
    field: its name in the body.
    advice: what to do, in one phrase.
    options: the options to change, as in `UserError`.
  """

  field: str
  advice: str
  options: tuple[str, ...]

  @property
  def remedy(self) -> str:
    return f"the field is {self.field!r}: {self.advice}"


def setting_fault(
  body: Any, text: str, sent: Collection[str] = SETTINGS
) -> SettingFault | None:
  """The setting that a refusal blames; None if it blames the prompt.

  Args:
    body: the refusal, decoded.
    text: its message.
    sent: the fields of the request.
  """
  code = server_responses.error_code(body)
  if _TOO_LONG.search(f"{code} {text}"):
    return None
  fields = set(sent) - CONTENT_FIELDS
  parameter = server_responses.error_parameter(body)
  if parameter is not None:
    parameter = re.split(r"\W", parameter)[0]  # response_format.json_schema
  if parameter not in fields and _OFFENCE.search(f"{code} {text}"):
    # Longest first: `max_tokens` is a part of other names.
    named = (
      f for f in sorted(fields, key=len, reverse=True) if _names(text, f)
    )
    parameter = next(named, None)
  if parameter not in fields:
    return None
  if parameter in MAX_TOKENS_FIELDS:
    other = next(f for f in MAX_TOKENS_FIELDS if f != parameter)
    return SettingFault(
      parameter,
      f"try max_tokens_field {other}, or another max_tokens",
      ("Endpoint.max_tokens_field", "Sampling.max_tokens"),
    )
  return SettingFault(
    parameter,
    f"change it, or name {parameter} in omit_fields",
    ("Endpoint.omit_fields",),
  )


def _names(text: str, field: str) -> bool:
  """Whether a message names a field, and not an English word like it."""
  name = re.escape(field)
  if "_" in field:
    return bool(re.search(rf"\b{name}\b", text))
  return bool(
    re.search(
      rf"[\"'`.\[]{name}[\"'`\s\],:]|^\W*{name}\W"
      rf"|\b(parameter|field|argument|option|property|invalid)\W+{name}\b",
      text,
      re.IGNORECASE,
    )
  )


# --- refusals -----------------------------------------------------------------

_NO_MONEY = re.compile(
  r"insufficient[ _](quota|balance|credits?)|billing", re.IGNORECASE
)
# Gateways that waited in vain for a model, which may have worked all the same.
_GATEWAY_TIMEOUTS = (408, 504, 524)


def refusal(
  status: int,
  answer: Any,
  text: str,
  *,
  retry_after: float | None,
  where: str,
  sent: Collection[str],
) -> Exception:
  """What a status other than success means for this request and the next.

  Args:
    status: of HTTP.
    answer: the body, decoded; None if it is no JSON.
    text: its message, in one line.
    retry_after: seconds that the server asks to wait, if it does.
    where: the endpoint's address.
    sent: the fields of the request.

  Returns:
    A TransientError, RejectedError or FatalError; for 401 and 403 a FatalError,
    to which the caller adds where the key is from.
  """
  message = f"HTTP {status}: {text}"
  where = f"{where} answers {message}"
  if status == 402 or (
    status == 429 and _NO_MONEY.search(server_responses.error_code(answer))
  ):
    return FatalError(f"no credit left: {where}")
  if status == 429:
    return TransientError("rate_limited", message, retry_after)
  if status in (401, 403):
    return FatalError(where)
  if status == 407:
    return FatalError(f"{where}; the proxy wants a user and a password")
  if status in (404, 405, 501):
    return FatalError(
      f"{where}; check base_url and model",
      fields=("Endpoint.base_url", "Endpoint.model"),
    )
  if status in (400, 422):
    fault = setting_fault(answer, text, sent)
    if fault is None:
      return RejectedError(message)
    return FatalError(f"{where}; {fault.remedy}", fields=fault.options)
  if status in _GATEWAY_TIMEOUTS:
    return TransientError("timeout", message, retry_after)
  if status in (409, 425) or status >= 500:
    return TransientError("server_error", message, retry_after)
  if status < 400:
    return FatalError(f"{where}; check base_url", fields="Endpoint.base_url")
  return RejectedError(message)


# --- connections --------------------------------------------------------------


def check_set_up(url: str, make_client: Callable[[], Any]) -> str:
  """Checks that nothing on this machine keeps it from the endpoint.

  Args:
    url: the endpoint's address.
    make_client: makes the client of HTTP that is to be used.

  Returns:
    The way to the endpoint, for messages: its address, and a proxy.

  Raises:
    UserError: it cannot be reached at all.
  """
  try:
    client = make_client()
  except ImportError:
    raise UserError(
      f"{_proxy_variable(url)} names a SOCKS proxy, which needs the package"
      f" socksio: pip install socksio{_without_proxy(url)}"
    ) from None
  except OSError as error:  # also ssl.SSLError
    reason = error.strerror or one_line(error)
    raise UserError(
      f"the certificates of this machine cannot be read ({reason}); check"
      " SSL_CERT_FILE and SSL_CERT_DIR"
    ) from None
  except Exception as error:  # its own InvalidURL, and ValueError
    # Its value is not shown: a proxy's URL may hold a password.
    kind = type(error).__name__
    raise UserError(
      f"{_proxy_variable(url)} holds no usable URL of a proxy ({kind}); it must"
      f" be like http://127.0.0.1:3128{_without_proxy(url)}"
    ) from None
  if not _goes_through_proxy(client, url):
    return url
  if is_local(url):
    raise UserError(
      f"base_url is {url}, on this machine, and {_proxy_variable(url)} sends its"
      f" requests through a proxy{_without_proxy(url)}",
      fields="Endpoint.base_url",
    )
  return f"{url}, through the proxy that {_proxy_variable(url)} names"


def _goes_through_proxy(client: Any, url: str) -> bool:
  """Asks the client itself, which has rules of its own for NO_PROXY."""
  import httpx2

  try:
    return client._transport_for_url(httpx2.URL(url)) is not client._transport
  except AttributeError:
    return False


def _proxy_variable(url: str) -> str:
  scheme = urllib.parse.urlsplit(url).scheme
  for name in (f"{scheme}_proxy", "all_proxy", "http_proxy", "https_proxy"):
    for shown in (name.upper(), name):
      if os.environ.get(shown):
        return shown
  return "the system's proxy setting"


def _without_proxy(url: str) -> str:
  if not is_local(url):
    return ""
  host = urllib.parse.urlsplit(url).hostname
  return f"; an endpoint on this machine needs no proxy: set NO_PROXY={host}"


def connection_failure(
  error: BaseException, way: str, *, was_reached: bool
) -> Exception:
  """A connection that failed, as one of ours.

  Args:
    error: what the client raised.
    way: to the endpoint, as `check_set_up` gives it.
    was_reached: whether the endpoint ever answered. If it did, the set-up of
      this machine cannot be the trouble, and it may come back.
  """
  import httpx2

  causes = list(_causes(error))
  cause = causes[-1]
  if any(getattr(c, "errno", None) == errno.EMFILE for c in causes):
    return FatalError(
      "this process may open no more connections: lower concurrency, or raise the"
      " system's limit (ulimit -n)",
      fields="AskOptions.concurrency",
    )
  if not was_reached and (advice := _set_up_advice(causes)):
    return FatalError(
      f"no connection to {way} ({one_line(cause) or type(cause).__name__});"
      f" {advice}",
      fields="Endpoint.base_url",
    )
  never_sent = (httpx2.ConnectError, httpx2.ProxyError, httpx2.PoolTimeout)
  kind = "connection"
  if any(isinstance(c, httpx2.TransportError) for c in causes) and not any(
    isinstance(c, (*never_sent, httpx2.ConnectTimeout)) for c in causes
  ):
    kind = "dropped"
  shown = type(error.__cause__ or error).__name__
  return TransientError(kind, f"no connection to {way} ({shown})")


def _causes(error: BaseException) -> Iterator[BaseException]:
  seen: set[int] = set()
  current: BaseException | None = error
  while current is not None and id(current) not in seen:
    seen.add(id(current))
    yield current
    current = current.__cause__ or current.__context__


def _set_up_advice(causes: list[BaseException]) -> str | None:
  """What to do about a failure that will not pass by itself."""
  import httpx2

  for cause in causes:
    if isinstance(cause, ssl.SSLCertVerificationError):
      return (
        "its certificate is not trusted on this machine: set SSL_CERT_FILE to a"
        " file with the certificate of who signed it, or install the system's"
        " ca-certificates"
      )
    if isinstance(cause, ssl.SSLError):
      return (
        "it does not speak TLS as expected: check base_url, and whether it must"
        " begin with http:// in place of https://"
      )
    if isinstance(cause, httpx2.ProxyError):
      return "the proxy refuses: check it"
    if isinstance(cause, (httpx2.UnsupportedProtocol, httpx2.InvalidURL)):
      return "check base_url"
    if isinstance(cause, socket.gaierror):
      return "no machine has this name: check base_url, and the network's DNS"
    if isinstance(cause, OSError) and cause.errno in (
      errno.EACCES,
      errno.EPERM,
      errno.ENETUNREACH,
    ):
      return "this machine's network does not allow it: check the network"
  return None
