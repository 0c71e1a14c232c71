"""The lines of batch files: a request as one, and what one of results says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from dss_jax.errors import UserError
from dss_jax.rationales.requests import Completion, Request
from dss_jax.records import MAX_FIELD_CHARS

# Failures that are the request's own. Others (no rights, too many requests, a
# server's error, an expired batch) may be answered when asked again.
_REJECTED_STATUSES = (400, 413, 422)


def request_line(request: Request) -> bytes:
  """A request as a line of a batch file."""
  line = {
    "custom_id": request.key,
    "method": "POST",
    "url": request.url,
    "body": request.body(),
  }
  # ASCII: not every reader of lines ends them at \n alone.
  return json.dumps(line).encode() + b"\n"


@dataclasses.dataclass(frozen=True)
class Result:
  """What a line says of a request.

  Attributes:
    key: its `custom_id`, whatever that is.
    completion: the answer; None if there is none.
    reason: why there is none, in one line.
    is_final: whether asking again would change nothing.
    unix: when the answer was made, by the provider's clock.
  """

  key: str
  completion: Completion | None
  reason: str = ""
  is_final: bool = True
  unix: float | None = None


def read_result(line: str) -> Result:
  """What a line says.

  Raises:
    UserError: it is no result.
  """
  try:
    value = json.loads(line)
  except RecursionError:
    raise UserError("not usable JSON: nested too deeply") from None
  except ValueError as error:
    raise UserError(f"not JSON: {_one_line(str(error))}") from None
  key = value.get("custom_id") if isinstance(value, dict) else None
  if not isinstance(key, str):
    raise UserError("no result: it has no custom_id")
  response, error = value.get("response"), value.get("error")
  response = response if isinstance(response, dict) else {}
  status, body = response.get("status_code"), response.get("body")
  if isinstance(body, dict) and status in (None, 200) and body.get("choices"):
    completion = completion_of(body)
    created = body.get("created")
    return Result(key, completion, unix=_unix(created))
  told = error if isinstance(error, dict) else body
  told = told if isinstance(told, dict) else {}
  if isinstance(told.get("error"), dict):
    told = told["error"]
  if not told and not isinstance(status, int):
    raise UserError("no result: neither a response nor an error")
  code = status if isinstance(status, int) and status != 200 else None
  if code is None:
    code = told.get("code")
  message = told.get("message")
  reason = message if isinstance(message, str) else ""
  return Result(
    key,
    None,
    _one_line(f"{code}: {reason}"),
    is_final=isinstance(code, int) and code in _REJECTED_STATUSES,
  )


def completion_of(body: Mapping[str, Any]) -> Completion:
  """The first choice in the body of an answer, of either interface.

  Raises:
    UserError: there is none, or it is not text of a bearable length.
  """
  choices = body.get("choices")
  choice = choices[0] if isinstance(choices, list) and choices else None
  if not isinstance(choice, dict):
    raise UserError("the answer has no choices")
  refusal = None
  message = choice.get("message")
  text = choice.get("text")
  if isinstance(message, dict):
    text = _text_of(message.get("content"))
    refusal = message.get("refusal")
  if not isinstance(text, str):
    raise UserError("the answer has no text")
  if len(text) > MAX_FIELD_CHARS:
    raise UserError(
      f"the answer has {len(text)} characters, at most {MAX_FIELD_CHARS} are"
      " allowed"
    )
  usage = body.get("usage")
  usage = usage if isinstance(usage, dict) else {}
  return Completion(
    text,
    _name(choice.get("finish_reason")),
    _name(body.get("model")),
    _tokens(usage.get("prompt_tokens")),
    _tokens(usage.get("completion_tokens")),
    refusal[:MAX_FIELD_CHARS] if isinstance(refusal, str) and refusal else None,
  )


def _text_of(content: Any) -> Any:
  """A message's text: a string, null, or a list of typed parts."""
  if content is None:
    return ""
  if not isinstance(content, list):
    return content
  parts = [part for part in content if isinstance(part, dict)]
  texts = [p.get("text") for p in parts if p.get("type", "text") == "text"]
  return "".join(text for text in texts if isinstance(text, str))


def _name(value: Any) -> str:
  return value[:200] if isinstance(value, str) else ""


def _tokens(value: Any) -> int | None:
  if isinstance(value, bool) or not isinstance(value, int):
    return None
  return value if 0 <= value < 1 << 40 else None


def _unix(value: Any) -> float | None:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  return float(value) if 0 < value < 1 << 40 else None


def _one_line(text: str) -> str:
  return " ".join(text.split())[:300]
