"""A request's body: bounded before it is parsed, then checked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pydantic

from dss_jax.base.errors import one_line, printable
from dss_jax.students.serving.schema import PredictRequest
from dss_jax.students.serving.settings import ServeSettings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Refused(Exception):
  """A request that is answered with an error.

  Attributes:
    status: of the answer.
    reason: one line.
    headers: further ones of the answer.
  """

  def __init__(
    self, status: int, reason: str, headers: dict[str, str] | None = None
  ):
    super().__init__(reason)
    self.status = status
    self.reason = reason
    self.headers = headers or {}


class Disconnected(Exception):
  """The client has gone before its request was there."""


async def read_body(receive: Receive, settings: ServeSettings) -> bytes:
  """The body, however it is sent.

  Raises:
    Refused: it is too long or comes too slowly.
    Disconnected: it does not come at all.
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
  """For a body beyond the limit: what is left of it is not read."""
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
    The inputs, the request and its time in seconds.

  Raises:
    Refused: naming the field and what is allowed.
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
  inputs = [request.input] if request.inputs is None else request.inputs
  assert inputs is not None
  if not inputs:
    raise Refused(422, "inputs: there are none")
  if len(inputs) > settings.max_items:
    raise Refused(
      413, f"inputs: {len(inputs):,} are more than {settings.max_items:,}"
    )
  for i, text in enumerate(inputs):
    name = "input" if request.inputs is None else f"inputs[{i}]"
    assert text is not None
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
  return [text for text in inputs if text is not None]


def _refused(error: pydantic.ValidationError) -> Refused:
  """The first of what is wrong, in one line."""
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
