"""Answers to requests for predictions, and refusals, as OpenAPI describes them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pydantic

from dss_jax.base.errors import one_line
from dss_jax.students.serving.predict_requests import PredictRequest, Refused

if TYPE_CHECKING:
  from dss_jax.students.predictions import Prediction

_SCORE = (
  "Natural logarithm of the probability that the student gives to the whole"
  " text, its end included; null for a text that it cannot write."
)


class AlternativeBody(pydantic.BaseModel):
  """One of several texts, as good as its score says."""

  score: float | None = pydantic.Field(description=_SCORE)
  label: str | None = pydantic.Field(
    None, description="The label that the text names; null if it holds none."
  )
  rationale: str | None = pydantic.Field(
    None, description="The rationale in the text; null if it holds none."
  )


class PredictionBody(pydantic.BaseModel):
  """What is predicted of an input; what was not asked for is absent."""

  label: str | None = None
  label_score: float | None = pydantic.Field(None, description=_SCORE)
  label_scores: dict[str, float | None] | None = pydantic.Field(
    None,
    description="Probability of each label among all labels, of sum 1; null"
    " where the labels are not known.",
  )
  rationale: str | None = None
  rationale_score: float | None = pydantic.Field(None, description=_SCORE)
  alternatives: list[AlternativeBody] = pydantic.Field(
    [],
    description="Up to num_best texts, the best first. A student that writes"
    " label and rationale as separate texts has as many of each: those with"
    " labels come first.",
  )
  truncated: bool = pydantic.Field(
    description="Whether the input was longer than the student reads."
  )
  unknown_tokens: int = pydantic.Field(
    description="Tokens of the input that the student's vocabulary does not"
    " know: it read the same for all of them."
  )


class PredictResponse(pydantic.BaseModel):
  """Predictions, in the order of the inputs."""

  predictions: list[PredictionBody]
  model: dict[str, Any]


class Refusal(pydantic.BaseModel):
  """Any answer but 200."""

  error: str = pydantic.Field(description="The reason, in one line.")
  request_id: str = pydantic.Field(
    description="Also in the header X-Request-Id, and in the server's log;"
    " empty if what came is no HTTP request."
  )


def answer_body(
  predictions: Sequence[Prediction],
  asked: PredictRequest,
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
    "predictions": [_fields(p, asked) for p in predictions],
    "model": model,
  }
  text = json.dumps(answer, ensure_ascii=False, allow_nan=False)
  # A student can write half a character, which UTF-8 does not have.
  return text.encode("utf-8", "replace")


def _fields(prediction: Prediction, asked: PredictRequest) -> dict[str, Any]:
  """What was asked for of a prediction, as JSON values."""
  fields: dict[str, Any] = {}
  if "label" in asked.outputs:
    fields["label"] = prediction.label
    if asked.scores:
      fields["label_score"] = _finite(prediction.label_score)
      by_label = prediction.label_scores
      fields["label_scores"] = by_label and {
        label: _finite(score) for label, score in by_label.items()
      }
  if "rationale" in asked.outputs:
    fields["rationale"] = prediction.rationale
    if asked.scores:
      fields["rationale_score"] = _finite(prediction.rationale_score)
  if asked.num_best > 1:
    fields["alternatives"] = [
      {"score": _finite(alternative.score)}
      | {name: getattr(alternative, name) for name in asked.outputs}
      for alternative in prediction.alternatives
    ]
  fields["truncated"] = bool(prediction.truncated)
  fields["unknown_tokens"] = prediction.unknown_tokens
  return fields


def _finite(score: float | None) -> float | None:
  """JSON has no infinity, which is the score of an impossible text."""
  return None if score is None or not math.isfinite(score) else float(score)
