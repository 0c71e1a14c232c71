"""Requests for predictions: their body is bounded, parsed and checked.

`request_model` makes the pydantic model of one server's requests, with its
limits and outputs: it is what checks a request and what OpenAPI describes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any, Literal

import pydantic

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError, one_line, printable
from dss_jax.students.serving.settings import ServeSettings
from dss_jax.students.serving.student_backend import ModelCard

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# Something besides white space, and no NUL: what a record's input must have.
# The characters stand for themselves, as every dialect of patterns reads them.
_SPACES = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_TEXT = f"^[^\0]*[^\0{_SPACES}][^\0]*$"
# OpenAPI's words for: one of both, where null counts as absent.
_ONE_OF_BOTH: list[Any] = [
  {"required": [name], "properties": {name: {"type": kind}}}
  for name, kind in (("input", "string"), ("inputs", "array"))
]


def _whole(value: Any) -> Any:
  """JSON's 2.0 is a whole number too."""
  is_whole = isinstance(value, float) and value.is_integer()
  return int(value) if is_whole else value


class PredictRequest(pydantic.BaseModel):
  """Inputs and what is wanted of them."""

  model_config = pydantic.ConfigDict(
    extra="forbid",
    strict=True,
    json_schema_extra={
      "examples": [{"inputs": ["..."], "outputs": ["label"], "scores": True}],
      "oneOf": _ONE_OF_BOTH,
    },
  )

  inputs: list[str] | None = pydantic.Field(
    None, description="Texts, without prefixes; or input."
  )
  input: str | None = pydantic.Field(
    None, description="One text, in place of inputs."
  )
  outputs: list[str] = pydantic.Field(
    ["label"], description="What to predict; GET /v1/model says what can be."
  )
  scores: bool = pydantic.Field(False, description="Whether to add scores.")
  num_best: int = pydantic.Field(
    1,
    description="How many alternatives to add to each prediction, the best"
    " first; 1 for none. GET /v1/model says how many can be.",
  )
  timeout_ms: float | None = pydantic.Field(
    None,
    allow_inf_nan=False,
    description="Within which to answer; at most, and by default, the server's"
    " own limit.",
  )

  @property
  def texts(self) -> list[str]:
    """The inputs, whichever way they were sent."""
    return [self.input] if self.input is not None else self.inputs or []


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


def request_model(
  settings: ServeSettings, card: ModelCard
) -> type[PredictRequest]:
  """The requests that a server takes: its limits, and what its model offers."""

  def items(most: int) -> Any:
    # Else pydantic would describe each of a million wrong items.
    return pydantic.Field(min_length=1, max_length=most, fail_fast=True)

  text: Any = Annotated[
    str,
    pydantic.Field(pattern=_TEXT, max_length=settings.max_input_chars),
  ]
  texts: Any = Annotated[list[text], items(settings.max_items)]
  names: Any = Annotated[list[Literal[card.outputs]], items(len(card.outputs))]
  count: Any = Annotated[
    int,
    pydantic.Field(ge=1, le=card.num_best),
    pydantic.BeforeValidator(_whole),
  ]
  milliseconds: Any = Annotated[
    float, pydantic.Field(gt=0, le=1e3 * settings.timeout_s)
  ]
  fields = PredictRequest.model_fields
  default = pydantic.Field(
    list(card.outputs[:1]), description=fields["outputs"].description
  )
  bounded: dict[str, Any] = {
    "inputs": (texts | None, fields["inputs"]),
    "input": (text | None, fields["input"]),
    "outputs": (names, default),
    "num_best": (count, fields["num_best"]),
    "timeout_ms": (milliseconds | None, fields["timeout_ms"]),
  }
  return pydantic.create_model(
    "PredictRequest",
    __base__=PredictRequest,
    __doc__=PredictRequest.__doc__,
    **bounded,
  )


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


def parse(body: bytes, model: type[PredictRequest]) -> PredictRequest:
  """Reads and checks a request.

  Args:
    body: JSON in UTF-8, every key of an object once.
    model: from `request_model`.

  Raises:
    Refused: with the field and what is allowed.
  """
  try:
    value = strict_json.loads(body.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise Refused(
      400, f"the body is not UTF-8 at byte {error.start:,}"
    ) from None
  except UserError as error:
    raise Refused(
      400, f"the body is {one_line(printable(str(error)))}"
    ) from None
  if not isinstance(value, dict):
    raise Refused(422, "the body must be a JSON object, as in GET /docs")
  for name in value.keys() - model.model_fields:
    place = printable(one_line(name, longest=60))
    fields = ", ".join(model.model_fields)
    raise Refused(422, f"{place}: there is no such field; there are {fields}")
  try:
    request = model.model_validate(value)
  except pydantic.ValidationError as error:
    raise _refused(error) from None
  if (request.input is None) == (request.inputs is None):
    raise Refused(422, "give either inputs (a list of texts) or input (a text)")
  return request


def _refused(error: pydantic.ValidationError) -> Refused:
  """The first problem that pydantic found, in one line."""
  first = error.errors(include_url=False)[0]
  kind, value = first["type"], first["input"]
  place = ""
  for part in first["loc"]:
    place += f"[{part}]" if isinstance(part, int) else f".{part}"
  reason = first["msg"]
  if kind in ("too_long", "string_too_long"):
    unit = " characters" if isinstance(value, str) else ""
    most = f"{first['ctx']['max_length']:,}"  # pyright: ignore[reportTypedDictNotRequiredAccess]
    reason = f"{len(value):,}{unit} are more than {most}"
  elif kind == "string_pattern_mismatch":
    reason = "there is no text in it, or a NUL character"
  elif isinstance(value, (int, float, str)):
    reason += f"; it is {printable(one_line(repr(value), longest=60))}"
  return Refused(422, f"{place.lstrip('.')}: {one_line(reason)}")
