"""Requests for predictions and their answers, as OpenAPI describes them.

A body is bounded before it is parsed; then pydantic checks its fields.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from dss_jax.base.errors import one_line, printable
from dss_jax.students.serving.settings import ServeSettings

if TYPE_CHECKING:
  from dss_jax.students.predictions import Prediction

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class PredictRequest(pydantic.BaseModel):
  """Inputs and what is wanted of them."""

  model_config = pydantic.ConfigDict(
    extra="forbid",
    strict=True,
    json_schema_extra={
      "examples": [{"inputs": ["..."], "outputs": ["label"], "scores": True}]
    },
  )

  inputs: list[str] | None = pydantic.Field(
    None, description="Texts, without prefixes; or input."
  )
  input: str | None = pydantic.Field(
    None, description="One text, in place of inputs."
  )
  outputs: list[Literal["label", "rationale"]] = pydantic.Field(
    ["label"], description="What to predict; GET /v1/model says what can be."
  )
  scores: bool = pydantic.Field(False, description="Whether to add scores.")
  timeout_ms: float | None = pydantic.Field(
    None,
    gt=0,
    allow_inf_nan=False,
    description="Within which to answer; at most, and by default, the server's"
    " own limit.",
  )


class PredictionBody(pydantic.BaseModel):
  """What is predicted of an input; what was not asked for is absent."""

  label: str | None = None
  label_score: float | None = pydantic.Field(
    None, description="Log-probability of the label."
  )
  label_scores: dict[str, float | None] | None = pydantic.Field(
    None, description="Probability of each, where all labels are known."
  )
  rationale: str | None = None
  rationale_score: float | None = pydantic.Field(
    None, description="Log-probability of the rationale."
  )
  truncated: bool = pydantic.Field(
    description="Whether the input was longer than the student reads."
  )


class PredictResponse(pydantic.BaseModel):
  """Predictions, in the order of the inputs."""

  predictions: list[PredictionBody]
  model: dict[str, Any]


class Refusal(pydantic.BaseModel):
  """Any answer but 200."""

  error: str = pydantic.Field(description="The reason, in one line.")
  request_id: str = pydantic.Field(
    description="Also in the header X-Request-Id, and in the server's log."
  )


class Refused(Exception):
  """A request is answered with an error.

  Attributes:
    status: status of the answer.
    reason: one line.
    headers: further headers of the answer.
  """

  def __init__(
    self, status: int, reason: str, headers: dict[str, str] | None = None
  ):
    super().__init__(reason)
    self.status = status
    self.reason = reason
    self.headers = headers or {}


class Disconnected(Exception):
  """The client left before its request was complete."""


# ---------------------------------------------------------------- the request


async def read_body(receive: Receive, settings: ServeSettings) -> bytes:
  """Reads the body, however it is sent.

  Raises:
    Refused: if it is too long or arrives too slowly.
    Disconnected: if it does not arrive at all.
  """
  parts: list[bytes] = []
  size = 0
  try:
    async with asyncio.timeout(settings.read_timeout_s):
      while True:
        message = await receive()
        if message["type"] != "http.request":
          raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > settings.max_body_bytes:
          raise too_large(settings)
        if not message.get("more_body"):
          return b"".join(parts)
  except TimeoutError:
    raise Refused(
      408,
      f"the body did not come within {settings.read_timeout_s:g} s",
      {"Connection": "close"},
    ) from None


def too_large(settings: ServeSettings) -> Refused:
  """The error for a body beyond the limit; the rest of it is not read."""
  return Refused(
    413,
    f"the body is longer than {settings.max_body_bytes:,} bytes",
    {"Connection": "close"},
  )


def parse(
  body: bytes, settings: ServeSettings, outputs: tuple[str, ...]
) -> tuple[list[str], PredictRequest, float]:
  """Reads and checks a request.

  Args:
    body: JSON in UTF-8.
    settings: the limits.
    outputs: what the model can be asked for.

  Returns:
    The inputs, the request, and its timeout in seconds.

  Raises:
    Refused: with the field and what is allowed.
  """
  try:
    request = PredictRequest.model_validate_json(body)
  except pydantic.ValidationError as error:
    raise _refused(error) from None
  inputs = _inputs(request, settings)
  missing = [name for name in request.outputs if name not in outputs]
  if missing or not request.outputs:
    raise Refused(
      422, f"outputs: this model can be asked for {' and '.join(outputs)} only"
    )
  most_ms = settings.timeout_s * 1e3
  timeout_ms = request.timeout_ms or most_ms
  if timeout_ms > most_ms:
    raise Refused(
      422, f"timeout_ms: {timeout_ms:g} is more than {most_ms:g}, the most"
    )
  return inputs, request, timeout_ms / 1e3


def _inputs(request: PredictRequest, settings: ServeSettings) -> list[str]:
  if (request.input is None) == (request.inputs is None):
    raise Refused(422, "give either inputs (a list of texts) or input (a text)")
  named = {f"inputs[{i}]": text for i, text in enumerate(request.inputs or ())}
  if request.input is not None:
    named = {"input": request.input}
  if not named:
    raise Refused(422, "inputs: there are none")
  if len(named) > settings.max_items:
    raise Refused(
      413, f"inputs: {len(named):,} are more than {settings.max_items:,}"
    )
  for name, text in named.items():
    if len(text) > settings.max_input_chars:
      raise Refused(
        413,
        f"{name}: {len(text):,} characters are more than"
        f" {settings.max_input_chars:,}",
      )
    if not text.strip():
      raise Refused(422, f"{name}: there is no text in it")
    if "\0" in text:
      raise Refused(422, f"{name}: there is a NUL character in it")
  return list(named.values())


def _refused(error: pydantic.ValidationError) -> Refused:
  """The first problem that pydantic found, in one line."""
  first = error.errors(include_url=False, include_context=False)[0]
  if first["type"] == "json_invalid":
    reason = first["msg"].removeprefix("Invalid JSON: ")
    return Refused(400, f"the body is not JSON: {one_line(reason)}")
  place = ""
  for part in first["loc"]:
    place += f"[{part}]" if isinstance(part, int) else f".{part}"
  place = printable(one_line(place.lstrip("."), longest=60)) or "the body"
  if first["type"] == "extra_forbidden":
    fields = ", ".join(PredictRequest.model_fields)
    return Refused(422, f"{place}: there is no such field; there are {fields}")
  return Refused(422, f"{place}: {one_line(first['msg'])}")


# ----------------------------------------------------------------- the answer


def answer_body(
  predictions: Sequence[Prediction],
  outputs: Sequence[str],
  *,
  scores: bool,
  model: dict[str, Any],
) -> bytes:
  """The body of a PredictResponse, as JSON in UTF-8.

  Raises:
    Refused: if the predictor cannot be asked about one of the inputs.
  """
  for i, prediction in enumerate(predictions):
    if prediction.error:
      raise Refused(422, f"inputs[{i}]: {one_line(prediction.error)}")
  answer = {
    "predictions": [_fields(p, outputs, scores) for p in predictions],
    "model": model,
  }
  text = json.dumps(answer, ensure_ascii=False, allow_nan=False)
  # A student can write half a character, which UTF-8 does not have.
  return text.encode("utf-8", "replace")


def _fields(
  prediction: Prediction, outputs: Sequence[str], scores: bool
) -> dict[str, Any]:
  fields: dict[str, Any] = {}
  if "label" in outputs:
    fields["label"] = prediction.label
    if scores:
      fields["label_score"] = _finite(prediction.label_score)
      by_label = prediction.label_scores
      fields["label_scores"] = by_label and {
        label: _finite(score) for label, score in by_label.items()
      }
  if "rationale" in outputs:
    fields["rationale"] = prediction.rationale
    if scores:
      fields["rationale_score"] = _finite(prediction.rationale_score)
  fields["truncated"] = bool(prediction.truncated)
  return fields


def _finite(score: float | None) -> float | None:
  """JSON has no infinity, which is the score of an impossible text."""
  return None if score is None or not math.isfinite(score) else float(score)
