"""Bodies of HTTP: what clients send to `dss-jax serve`, and teachers to us."""

from __future__ import annotations

import functools
import json
from typing import Any

from dss_jax.base import strict_json
from dss_jax.rationales.teachers import endpoint_errors, server_responses
from dss_jax.students.serving import predict_requests
from dss_jax.students.serving.settings import ServeSettings
from dss_jax.students.serving.student_backend import ModelCard
from fuzz.targets import Target, text_of

_SETTINGS = ServeSettings(max_items=8, max_input_chars=200)
_CARD = ModelCard("m", ("label", "rationale"), ("yes", "no"), num_best=4)


@functools.cache
def _model() -> type[predict_requests.PredictRequest]:
  return predict_requests.request_model(_SETTINGS, _CARD)


def _predict(data: bytes) -> None:
  request = predict_requests.parse(data, _model())
  assert 1 <= len(request.texts) <= _SETTINGS.max_items
  assert all(0 < len(text) <= 200 and text.strip() for text in request.texts)
  assert set(request.outputs) <= set(_CARD.outputs)
  assert 1 <= request.num_best <= _CARD.num_best


def _predict_seeds() -> list[bytes]:
  return [
    b'{"input": "Is it?"}',
    json.dumps(
      {
        "inputs": ["a", "\u00e9"],
        "outputs": ["label", "rationale"],
        "scores": True,
        "num_best": 2.0,
        "timeout_ms": 10,
      }
    ).encode(),
  ]


def _answer(data: bytes) -> None:
  body = strict_json.loads(text_of(data), finite=False)
  server_responses.error_code(body)
  server_responses.error_parameter(body)
  message = text_of(data)[:300]
  if isinstance(body, dict):
    endpoint_errors.setting_fault(body, message)
    for is_chat in (None, True, False):
      server_responses.completion_of(body, is_chat=is_chat)


def _answer_seeds() -> list[bytes]:
  message: dict[str, Any] = {
    "role": "assistant",
    "content": [{"type": "text", "text": "So the answer is red."}],
    "reasoning_content": "thoughts",
    "refusal": None,
  }
  usage = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 1},
  }
  choice = {"message": message, "text": "red", "finish_reason": "stop"}
  error = {"message": "no such parameter: seed", "code": 1, "param": "seed"}
  return [
    json.dumps({"choices": [choice], "usage": usage, "model": "m"}).encode(),
    json.dumps({"error": error}).encode(),
    b'{"detail": [{"loc": ["body", "top_k"], "msg": "extra"}]}',
  ]


def _retry_after(data: bytes) -> None:
  for name in ("retry-after", "retry-after-ms"):
    wait = server_responses.retry_after({name: text_of(data)})
    assert wait is None or wait >= 0


TARGETS = {
  "predict": Target(
    _predict,
    _predict_seeds,
    ("input", "inputs", "outputs", "scores", "num_best", "timeout_ms"),
    (predict_requests.Refused,),
  ),
  "answer": Target(
    _answer,
    _answer_seeds,
    ("choices", "message", "content", "usage", "error", "detail", "loc"),
  ),
  "retry_after": Target(
    _retry_after,
    lambda: [b"1.5", b"Wed, 21 Oct 2015 07:28:00 GMT"],
    ("GMT", "+0000", "Jan", "99999"),
    (),
    max_bytes=128,
  ),
}
