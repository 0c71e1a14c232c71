"""A teacher behind any endpoint that speaks OpenAI's protocol.

vLLM, SGLang, llama.cpp, Ollama, OpenAI, Gemini's and Vertex AI's compatible
endpoints, and others, through the official asynchronous client. Nothing that
comes back is trusted: its size and time are bounded, and only text and numbers
of the expected kind leave this module. The key goes nowhere but into the
request's header.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from dss_jax.base.errors import UserError, one_line
from dss_jax.rationales.teacher_requests import Completion, Request
from dss_jax.rationales.teachers import (
  FatalError,
  RejectedError,
  TransientError,
  endpoint_errors,
  server_responses,
)
from dss_jax.rationales.teachers.api_keys import ApiKey
from dss_jax.rationales.teachers.endpoint_options import EndpointOptions

_MAX_MESSAGE = 300


class OpenAIEndpoint:
  """A `Teacher` behind an OpenAI-compatible endpoint.

  Args:
    endpoint: where it is, and what it expects.

  Raises:
    UserError: no key, this machine's set-up cannot reach it, or the package
      `openai` is absent.
  """

  def __init__(self, endpoint: EndpointOptions):
    self.name = endpoint.name
    self.model = endpoint.model
    self.weight = endpoint.weight
    self.base_url = endpoint.url
    self.timeout_s = endpoint.timeout_s
    self._endpoint = endpoint
    self._openai = import_openai()
    self._key = ApiKey(endpoint)
    self._way = endpoint_errors.check_set_up(self.base_url, self._http_client)
    self._was_reached = False
    self._client: Any = None
    self._loop: asyncio.AbstractEventLoop | None = None
    self._renewing = asyncio.Lock()

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
      self._renewing = asyncio.Lock()
      version = self._endpoint.api_version
      self._client = self._openai.AsyncOpenAI(
        # Each request has headers with the key of its moment.
        api_key="none",
        base_url=self.base_url,
        # Each sending is one attempt of the ledger.
        max_retries=0,
        timeout=self.timeout_s,
        default_query={"api-version": version} if version else None,
        http_client=self._http_client(),
      )
    return self._client

  def _http_client(self) -> Any:
    import httpx2

    return self._openai.DefaultAsyncHttpxClient(
      # The concurrency bounds them; by itself the client would stop at 1000.
      limits=httpx2.Limits(),
      event_hooks={"response": [server_responses.guard_response]},
      # What is compressed can be any size once it is not.
      headers={"Accept-Encoding": "identity"},
    )

  async def complete(self, request: Request, attempt_id: str) -> Completion:
    """One completion; see `Teacher.complete`."""
    import httpx2

    body = self._endpoint.body(request)
    key_headers = self._key.headers()
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
              "Authorization": self._openai.Omit(),
              **key_headers,
              "X-Client-Request-Id": attempt_id,
              "Accept-Encoding": "identity",
            }
          },
        )
      self._was_reached = True
      self._key.worked()
      return self._completion(request, response.content)
    except (TransientError, RejectedError):
      raise
    except Exception as error:
      found = self._translated(error, body)
      if getattr(error, "status_code", None) in (401, 403):
        found = await self._after_refused_key(found, key_headers)
      # `from None`: the client's exceptions hold the request with its headers.
      raise found from None

  async def _after_refused_key(
    self, error: Exception, used: dict[str, str]
  ) -> Exception:
    """What follows from a key that the endpoint does not take."""
    if await self._key.renew(used, self._renewing):
      return TransientError("expired_key", str(error), retry_after=0.0)
    return FatalError(
      f"{error}; check the key {self._key.source}", fields=self._key.field
    )

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
    clean = self._key.removed_from
    return dataclasses.replace(
      found,
      text=clean(found.text),
      finish_reason=clean(found.finish_reason),
      model=clean(found.model),
      refusal=clean(found.refusal) if found.refusal else None,
      reasoning=clean(found.reasoning) if found.reasoning else None,
    )

  # -- errors

  def _translated(self, error: Any, body: Mapping) -> Exception:
    """The client's exception as one of ours, without secrets."""
    openai = self._openai
    if isinstance(error.__cause__, TransientError):
      return error.__cause__
    if isinstance(error, openai.APIStatusError):
      self._was_reached = True
      return self._refusal(error.response, body)
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
      return TransientError("timeout", f"no answer in {self.timeout_s:g} s")
    if isinstance(error, (openai.APIConnectionError, OSError)):
      return endpoint_errors.connection_failure(
        error, self._way, was_reached=self._was_reached
      )
    if isinstance(error, UnicodeEncodeError):
      return RejectedError("the prompt holds half of a surrogate pair")
    return TransientError("bad_response", type(error).__name__)

  def _refusal(self, response: Any, body: Mapping) -> Exception:
    """What a status other than success means for this request and the next."""
    try:
      answer = json.loads(response.content)
    except (ValueError, RecursionError):
      answer = None
    return endpoint_errors.refusal(
      response.status_code,
      answer,
      self._message(answer) if answer else self._excerpt(response.content),
      retry_after=server_responses.retry_after(response.headers),
      where=self.base_url,
      sent=body,
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
    text = self._key.removed_from(text)[: 4 * _MAX_MESSAGE]
    text = "".join(c if c.isprintable() else " " for c in text)
    return one_line(text, longest=_MAX_MESSAGE)


def import_openai() -> Any:
  try:
    import openai
  except ImportError:
    raise UserError(
      "asking an endpoint needs the package openai, which is not installed:"
      " pip install 'dss_jax[teacher]'"
    ) from None
  return openai
