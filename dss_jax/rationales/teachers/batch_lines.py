"""The lines of batch files: a request as one, and what one of results says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import MAX_FIELD_CHARS
from dss_jax.rationales.requests import Completion, Request
from dss_jax.rationales.teachers import answer_bodies

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
    completion = _completion(body)
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


def _completion(body: Mapping[str, Any]) -> Completion:
  """The answer in a body, of a length that an endpoint's could have.

  Raises:
    UserError: there is none, or it is longer.
  """
  completion = answer_bodies.completion_of(body)
  if len(completion.text) > MAX_FIELD_CHARS:
    raise UserError(
      f"the answer has {len(completion.text)} characters, at most"
      f" {MAX_FIELD_CHARS} are allowed"
    )
  refusal = completion.refusal
  if refusal and len(refusal) > MAX_FIELD_CHARS:
    refusal = refusal[:MAX_FIELD_CHARS]
    completion = dataclasses.replace(completion, refusal=refusal)
  return completion


def _unix(value: Any) -> float | None:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  return float(value) if 0 < value < 1 << 40 else None


def _one_line(text: str) -> str:
  return " ".join(text.split())[:300]
