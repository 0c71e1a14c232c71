"""A teacher behind any endpoint that speaks OpenAI's protocol.

vLLM, SGLang, llama.cpp, Ollama, OpenAI, Gemini's and Vertex AI's compatible
endpoints, and others, through the official asynchronous client. Nothing that
comes back is trusted: its size and time are bounded, and only text and numbers
of the expected kind leave this module. The key comes from the environment and
goes nowhere but into the request's header.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.base import checks
from dss_jax.base.errors import UserError, one_line
from dss_jax.rationales.teacher_requests import Completion, Request
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  TransientError,
  server_responses,
)

MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")

_MAX_MESSAGE = 300

# Fields without which there is no request; a message that names one of them is
# about its content.
_CONTENT_FIELDS = {"model", "messages", "prompt"}
_UNKNOWN_FIELD = re.compile(
  r"unsupported|not supported|unknown|unrecognized|unexpected|extra_forbidden"
  r"|extra (inputs|fields)|not permitted|not allowed|cannot find field"
  r"|does not support|invalid value",
  re.IGNORECASE,
)
_TOO_LONG = re.compile(
  r"context[ _](length|window|size)|maximum context|input tokens"
  r"|(prompt|input) is too long|too many tokens",
  re.IGNORECASE,
)
_NO_MONEY = re.compile(
  r"insufficient[ _](quota|balance|credits?)|billing", re.IGNORECASE
)


class OpenAIEndpoint:
  """A `Teacher` behind an OpenAI-compatible endpoint.

  Its arguments are the fields of `extraction_plan.Endpoint`.

  Raises:
    UserError: no key, an unusable URL, an unknown field, or the package
      `openai` is absent.
  """

  def __init__(
    self,
    name: str,
    model: str,
    base_url: str | None = None,
    *,
    api_key_env: str = "OPENAI_API_KEY",
    weight: float = 1.0,
    timeout_s: float = 120.0,
    api_version: str | None = None,
    max_tokens_field: str = "max_tokens",
    omit_fields: Sequence[str] = (),
  ):
    self.name = name
    self.model = model
    self.base_url = _checked_url(base_url)
    self.weight = weight
    self.timeout_s = timeout_s
    self._api_version = api_version
    checks.one_of(
      "Endpoint.max_tokens_field", max_tokens_field, MAX_TOKENS_FIELDS
    )
    self._max_tokens_field = max_tokens_field
    required = sorted(_CONTENT_FIELDS & set(omit_fields))
    if required:
      raise UserError(
        f"omit_fields names {', '.join(required)}, without which nothing can"
        " be asked",
        fields="Endpoint.omit_fields",
      )
    self._omit_fields = tuple(omit_fields)
    self._variable = _shown_variable(api_key_env)
    key = os.environ.get(api_key_env, "").strip()
    if not key and not _is_local(self.base_url):
      raise UserError(
        f"the environment variable {self._variable} holds no API key for"
        f" {self.base_url}; set it, or name another variable",
        fields="Endpoint.api_key_env",
      )
    if not key.isascii() or not key.isprintable():
      raise UserError(
        f"the environment variable {self._variable} holds characters that no API"
        " key has; set it again",
        fields="Endpoint.api_key_env",
      )
    self._secret = _Secret(key)
    self._openai = _import_openai()
    self._client: Any = None
    self._loop: asyncio.AbstractEventLoop | None = None

  def __repr__(self) -> str:
    return (
      f"OpenAIEndpoint(name={self.name!r}, model={self.model!r},"
      f" base_url={self.base_url!r})"
    )

  def client(self) -> Any:
    """The `openai.AsyncOpenAI` of the running event loop."""
    loop = asyncio.get_running_loop()
    # Connections belong to the loop that opened them.
    if self._client is None or self._loop is not loop:
      self._loop = loop
      self._client = self._openai.AsyncOpenAI(
        api_key=self._secret.value or "none",
        base_url=self.base_url,
        # Each sending is one attempt of the ledger.
        max_retries=0,
        timeout=self.timeout_s,
        default_query=(
          {"api-version": self._api_version} if self._api_version else None
        ),
        http_client=self._openai.DefaultAsyncHttpxClient(
          event_hooks={"response": [server_responses.guard_response]},
          # What is compressed can be any size once it is not.
          headers={"Accept-Encoding": "identity"},
        ),
      )
    return self._client

  async def complete(self, request: Request, attempt_id: str) -> Completion:
    """One completion; see `Teacher.complete`."""
    import httpx2

    body = request.body()
    if self._max_tokens_field != "max_tokens":
      body[self._max_tokens_field] = body.pop("max_tokens")
    for field in self._omit_fields:
      body.pop(field, None)
    try:
      async with asyncio.timeout(self.timeout_s):
        # The client's typed methods would check and copy every field, at more
        # than the cost of everything else here.
        response = await self.client().post(
          request.url.removeprefix("/v1"),
          cast_to=httpx2.Response,
          body=body,
          options={
            "headers": {
              "X-Client-Request-Id": attempt_id,
              "Accept-Encoding": "identity",
            }
          },
        )
      return self._completion(request, response.content)
    except (TransientError, RejectedError):
      raise
    except Exception as error:
      # `from None`: the client's exceptions hold the request with its headers.
      raise self._translated(error, body) from None

  async def close(self) -> None:
    client, self._client = self._client, None
    if client is not None and self._loop is asyncio.get_running_loop():
      await client.close()

  # -- answers

  def _completion(self, request: Request, content: bytes) -> Completion:
    """Reads the body of an answer.

    Raises:
      TransientError: it is not one.
    """
    try:
      answer = json.loads(content)
    except (ValueError, RecursionError):
      raise TransientError(
        "bad_response", "the answer is not JSON: " + self._excerpt(content)
      ) from None
    if not isinstance(answer, dict):
      raise TransientError("bad_response", "the answer is not an object")
    error = answer.get("error")
    if error and not answer.get("choices"):
      # Some routers wrap another server's failure in a success.
      code = error.get("code") if isinstance(error, dict) else None
      kind = "rate_limited" if code == 429 else "server_error"
      raise TransientError(kind, self._message(answer))
    try:
      found = server_responses.completion_of(answer, is_chat=request.is_chat)
    except UserError as reason:
      raise TransientError("bad_response", str(reason)) from None
    clean = self._secret.removed_from
    return dataclasses.replace(
      found,
      text=clean(found.text),
      finish_reason=clean(found.finish_reason),
      model=clean(found.model),
      refusal=clean(found.refusal) if found.refusal else None,
    )

  # -- errors

  def _translated(self, error: Any, body: Mapping) -> Exception:
    """The client's exception as one of ours, without secrets."""
    openai = self._openai
    if isinstance(error.__cause__, TransientError):
      return error.__cause__
    if isinstance(error, openai.APIStatusError):
      return self._refusal(error.response, body)
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
      return TransientError("timeout", f"no answer in {self.timeout_s:g} s")
    if isinstance(error, (openai.APIConnectionError, OSError)):
      cause = type(error.__cause__ or error).__name__
      return TransientError(
        "connection", f"no connection to {self.base_url} ({cause})"
      )
    if isinstance(error, UnicodeEncodeError):
      return RejectedError("the prompt holds half of a surrogate pair")
    return TransientError("bad_response", type(error).__name__)

  def _refusal(self, response: Any, body: Mapping) -> Exception:
    """What a status other than success means for this request and the next."""
    status = response.status_code
    try:
      answer = json.loads(response.content)
    except (ValueError, RecursionError):
      answer = None
    text = self._message(answer) if answer else self._excerpt(response.content)
    message = f"HTTP {status}: {text}"
    where = f"{self.base_url} answers HTTP {status}: {text}"
    retry_after = server_responses.retry_after(response.headers)
    if status == 402 or (
      status == 429 and _NO_MONEY.search(server_responses.error_code(answer))
    ):
      return FatalError(f"no credit left: {where}")
    if status == 429:
      return TransientError("rate_limited", message, retry_after)
    if status in (401, 403):
      return FatalError(
        f"{where}; set the key in the environment variable {self._variable}",
        fields="Endpoint.api_key_env",
      )
    if status in (404, 405, 501):
      return FatalError(
        f"{where}; check base_url and model",
        fields=("Endpoint.base_url", "Endpoint.model"),
      )
    if status in (400, 422):
      return self._bad_request(answer, text, message, where, body)
    if status == 408:
      return TransientError("timeout", message, retry_after)
    if status in (409, 425) or status >= 500:
      return TransientError("server_error", message, retry_after)
    if status < 400:
      return FatalError(f"{where}; check base_url", fields="Endpoint.base_url")
    return RejectedError(message)

  def _bad_request(
    self, answer: Any, text: str, message: str, where: str, body: Mapping
  ) -> Exception:
    """Whether a 400 is about this prompt or about how requests are made."""
    code = server_responses.error_code(answer)
    if _TOO_LONG.search(f"{code} {text}"):
      return RejectedError(message)
    # Longest first: `max_tokens` is a part of other names.
    fields = sorted(set(body) - _CONTENT_FIELDS, key=len, reverse=True)
    parameter = server_responses.error_parameter(answer)
    if parameter not in fields:
      parameter = None
      if _UNKNOWN_FIELD.search(f"{code} {text}"):
        named = [f for f in fields if re.search(rf"\b{re.escape(f)}\b", text)]
        parameter = named[0] if named else None
    if parameter is None:
      return RejectedError(message)
    if parameter in MAX_TOKENS_FIELDS:
      other = next(f for f in MAX_TOKENS_FIELDS if f != parameter)
      advice = f"try max_tokens_field {other}, or another max_tokens"
      options = ("Endpoint.max_tokens_field", "Sampling.max_tokens")
    else:
      advice = f"change it, or name {parameter} in omit_fields"
      options = ("Endpoint.omit_fields",)
    return FatalError(
      f"{where}; the field is {parameter!r}: {advice}", fields=options
    )

  def _message(self, body: Any) -> str:
    """The message of an error body, in one line."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
      error = error.get("message") or error.get("detail") or error
    if not isinstance(error, str):
      error = json.dumps(error, ensure_ascii=False, default=str)
    return self._one_line(error)

  def _excerpt(self, content: bytes) -> str:
    text = content[: 4 * _MAX_MESSAGE].decode("utf-8", "replace")
    return self._one_line(text) or "an empty body"

  def _one_line(self, text: str) -> str:
    # The key goes first: half of it would not be recognised.
    text = self._secret.removed_from(text)[: 4 * _MAX_MESSAGE]
    text = "".join(c if c.isprintable() else " " for c in text)
    return one_line(text, longest=_MAX_MESSAGE)


def _shown_variable(name: str) -> str:
  """The name, if it is one: some users write the key itself in its place.

  Raises:
    UserError: no variable can be called so.
  """
  if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
    raise UserError(
      "api_key_env is no name of an environment variable; the key itself"
      " belongs into that variable, not here",
      fields="Endpoint.api_key_env",
    )
  if name in os.environ or re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+", name):
    return name
  return "that api_key_env names"


class _Secret:
  """A key that does not show itself."""

  __slots__ = ("value",)

  def __init__(self, value: str):
    self.value = value

  def __repr__(self) -> str:
    return "<API key>"

  def __reduce__(self) -> Any:
    raise TypeError("an API key is not to be stored")

  def removed_from(self, text: str) -> str:
    """The text as it is, unless a server sends the key back."""
    # A word as short as this is no key, and may well occur in an answer.
    if len(self.value) < 8 or self.value not in text:
      return text
    return text.replace(self.value, "[API key]")


def _import_openai() -> Any:
  try:
    import openai
  except ImportError:
    raise UserError(
      "asking an endpoint needs the package openai, which is not installed:"
      " pip install 'dss_jax[teacher]'"
    ) from None
  return openai


def _checked_url(base_url: str | None) -> str:
  """The URL, if nothing secret and nothing strange is in it."""
  if base_url is None:
    return "https://api.openai.com/v1"
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
  return base_url.rstrip("/")


def _is_local(base_url: str) -> bool:
  host = urllib.parse.urlsplit(base_url).hostname or ""
  return host in ("localhost", "::1") or host.startswith("127.")
