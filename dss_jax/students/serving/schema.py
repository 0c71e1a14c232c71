"""What clients send, as pydantic checks it and OpenAPI describes it."""

from __future__ import annotations

from typing import Any, Literal

import pydantic


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
