"""Outputs of teachers that are JSON objects: how they look, and their schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError

# How they look if a prompt does not say.
DEFAULT_FORMAT = ' {"rationale": {rationale}, "answer": {answer}}'

_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,30})(?:\.\d{1,30})?", re.ASCII)


def keys_of(output_format: str) -> tuple[str, str]:
  """The keys of the rationale and of the answer in a format.

  Raises:
    UserError: the format is no object of these two fields.
  """
  text = output_format
  for field in ("rationale", "answer"):
    text = text.replace(f"{{{field}}}", f'"{field}"')
  try:
    fields = strict_json.loads(text)
  except UserError as error:
    raise UserError(f"output_format: {error}") from None
  if isinstance(fields, dict) and list(fields.values()) == [
    "rationale",
    "answer",
  ]:
    rationale_key, answer_key = fields
    return rationale_key, answer_key
  raise UserError(
    f'output_format is {output_format.strip()!r}; for answer_format "json" it'
    f" must be an object such as {DEFAULT_FORMAT.strip()}"
  )


def answer_value(answer_kind: str, answer: str) -> str:
  """An answer as a JSON value: numbers as they are, all else in quotes."""
  if answer_kind == "number" and _NUMBER.fullmatch(answer):
    return answer
  return strict_json.dumps(answer)


def response_format(
  name: str,
  keys: tuple[str, str],
  answer_kind: str,
  labels: Sequence[str],
) -> Mapping[str, Any]:
  """The field `response_format` that asks a chat for such an object.

  Args:
    name: names the schema.
    keys: of the rationale and of the answer.
    answer_kind: see `AnswerForm`.
    labels: all there are, for kind "label".
  """
  answer: dict[str, Any] = {"type": "string"}
  if answer_kind == "label":
    answer["enum"] = list(labels)
  elif answer_kind == "number":
    answer["type"] = "number"
  rationale_key, answer_key = keys
  schema = {
    "type": "object",
    # The order is the one in which they are written.
    "properties": {rationale_key: {"type": "string"}, answer_key: answer},
    "required": [rationale_key, answer_key],
    "additionalProperties": False,
  }
  schema_name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "answer"
  return {
    "type": "json_schema",
    "json_schema": {"name": schema_name, "strict": True, "schema": schema},
  }
