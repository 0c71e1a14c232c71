"""Bodies of answers: what endpoints and batch files say alike.

Nothing in them is trusted: only text and numbers of the expected kind are
taken, whatever else they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.rationales.requests import Completion

# No answer has so many tokens. The ledger adds them up, in 64 bits.
_MAX_TOKENS = 2**40
_MAX_NAME_CHARS = 200


def completion_of(
  body: Mapping[str, Any], *, is_chat: bool | None = None
) -> Completion:
  """The first choice in the body of an answer.

  Args:
    body: of the answer.
    is_chat: which of the two interfaces was asked; None takes what is there.

  Raises:
    UserError: there is none, or it has no text.
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
  return Completion(
    text=text,
    finish_reason=_name(choice.get("finish_reason")),
    model=_name(body.get("model")),
    prompt_tokens=_tokens(usage.get("prompt_tokens")),
    completion_tokens=_tokens(usage.get("completion_tokens")),
    refusal=refusal if isinstance(refusal, str) and refusal else None,
  )


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
