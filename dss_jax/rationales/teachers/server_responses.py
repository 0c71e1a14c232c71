"""What a teacher's server sends back: answers, refusals, and bounds on both.

Nothing in a body is trusted: only text and numbers of the expected kind are
taken, whatever else it holds. A body is read up to a bound, uncompressed, and a
connection over which more came than the answer is not used again.
"""

from __future__ import annotations

import datetime
import email.utils
import functools
import re
from collections.abc import Mapping
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.rationales.teacher_requests import Completion
from dss_jax.rationales.teachers import TransientError

# Far more than any completion; a body beyond is not read.
MAX_RESPONSE_BYTES = 32 * 2**20
# No answer has so many tokens. The ledger adds them up, in 64 bits.
_MAX_TOKENS = 2**40
_MAX_NAME_CHARS = 200


# --- answers -----------------------------------------------------------------


def completion_of(
  body: Mapping[str, Any], *, is_chat: bool | None = None
) -> Completion:
  """The first choice in the body of an answer.

  Args:
    body: what the server sent.
    is_chat: which of the two interfaces was asked; None takes what is there.

  Raises:
    UserError: there is no choice, or it has no text.
  """
  choices = body.get("choices")
  choice = choices[0] if isinstance(choices, list) and choices else None
  if not isinstance(choice, dict):
    raise UserError("the answer has no choices")
  text, refusal = choice.get("text"), None
  message = choice.get("message")
  if is_chat is not False and isinstance(message, dict):
    text = _text_of(message.get("content"))
    refusal = message.get("refusal")
  elif is_chat:
    raise UserError("the answer has no message")
  if not isinstance(text, str):
    raise UserError("the answer has no text")
  usage = body.get("usage")
  usage = usage if isinstance(usage, dict) else {}
  details = usage.get("prompt_tokens_details")
  details = details if isinstance(details, dict) else {}
  return Completion(
    text=text,
    finish_reason=_name(choice.get("finish_reason")),
    model=_name(body.get("model")),
    prompt_tokens=_tokens(usage.get("prompt_tokens")),
    completion_tokens=_written_tokens(usage),
    refusal=refusal if isinstance(refusal, str) and refusal else None,
    reasoning=_reasoning(message) if is_chat is not False else None,
    cached_tokens=_tokens(details.get("cached_tokens")),
  )


def _written_tokens(usage: Mapping[str, Any]) -> int | None:
  """The tokens written, with those of thoughts.

  Some providers count thoughts in the total alone.
  """
  read, written, total = (
    _tokens(usage.get(f"{name}_tokens"))
    for name in ("prompt", "completion", "total")
  )
  if read is None or written is None or total is None:
    return written
  return max(written, total - read)


def _reasoning(message: Any) -> str | None:
  """What a model thought: vLLM and DeepSeek, then OpenRouter and newer vLLM."""
  if isinstance(message, dict):
    for name in ("reasoning_content", "reasoning"):
      if isinstance(message.get(name), str) and message[name]:
        return message[name]
  return None


def _text_of(content: Any) -> Any:
  """The text of a message: a string, nothing, or a list of typed parts."""
  if content is None:
    return ""
  if isinstance(content, list):
    return "".join(
      part["text"]
      for part in content
      if isinstance(part, dict)
      and part.get("type", "text") == "text"
      and isinstance(part.get("text"), str)
    )
  return content


def _name(value: Any) -> str:
  return value[:_MAX_NAME_CHARS] if isinstance(value, str) else ""


def _tokens(value: Any) -> int | None:
  if isinstance(value, bool) or not isinstance(value, int):
    return None
  return value if 0 <= value < _MAX_TOKENS else None


# --- refusals ----------------------------------------------------------------


def error_code(body: Any) -> str:
  """The machine-readable part of an error body."""
  error = _error(body)
  return f"{error.get('code')} {error.get('type')}"[:200] if error else ""


def error_parameter(body: Any) -> str | None:
  """The field of the request that an error body blames."""
  error = _error(body)
  if isinstance(error.get("param"), str):
    return error["param"]
  detail = error.get("detail")
  if isinstance(detail, list) and detail and isinstance(detail[0], dict):
    where = detail[0].get("loc")
    if isinstance(where, list) and len(where) > 1 and isinstance(where[1], str):
      return where[1]
  return None


def _error(body: Any) -> dict[str, Any]:
  error = body.get("error", body) if isinstance(body, dict) else None
  return error if isinstance(error, dict) else {}


def retry_after(headers: Mapping[str, str]) -> float | None:
  """Seconds that the server asks to wait: as a number, or until a date."""
  for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
    value = headers.get(name, "").strip()
    if not value:
      continue
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
      return float(value) * unit
    if name == "retry-after":
      try:
        date = email.utils.parsedate_to_datetime(value)
      except (ValueError, TypeError, IndexError, OverflowError):
        return None
      if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
      now = datetime.datetime.now(datetime.UTC)
      return max((date - now).total_seconds(), 0.0)
  return None


# --- bounds ------------------------------------------------------------------


async def guard_response(response: Any) -> None:
  """Bounds what is read of a response, and keeps it from the next request."""
  if response.headers.get("content-encoding", "identity") != "identity":
    raise TransientError(
      "bad_response", "the answer is compressed, which was not asked for"
    )
  response.stream = _guarded_stream()(response)


@functools.cache
def _guarded_stream() -> Any:
  """The class of such bodies; its base is imported only when needed."""
  import httpx2

  class Guarded(httpx2.AsyncByteStream):
    def __init__(self, response: Any):
      self._stream = response.stream
      self._network = response.extensions.get("network_stream")

    async def __aiter__(self):
      size = 0
      async for chunk in self._stream:
        size += len(chunk)
        if size > MAX_RESPONSE_BYTES:
          raise TransientError(
            "bad_response", f"more than {MAX_RESPONSE_BYTES} bytes came back"
          )
        yield chunk
      # A server that sends more than the answer (the same one twice, say)
      # would have the rest of it taken for the answer to whatever is sent
      # over this connection next.
      if _is_more_there(self._stream) and self._network is not None:
        await self._network.aclose()

    async def aclose(self) -> None:
      await self._stream.aclose()

  return Guarded


def _is_more_there(stream: Any) -> bool:
  """Whether a connection has read beyond the end of its response.

  The HTTP library has no public way to ask. Where its insides are not the ones
  known here the answer is yes: every connection is then used only once, which
  is slower and as safe.
  """
  try:
    body = stream._stream._httpcore_stream._stream
    buffered, _ = body._connection._h11_state.trailing_data
  except AttributeError:
    return True
  return bool(buffered)
