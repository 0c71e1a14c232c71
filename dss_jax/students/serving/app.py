"""The HTTP interface and its OpenAPI description.

`make_app(service)` is an ASGI application.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import fastapi
import pydantic
from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from dss_jax import __version__
from dss_jax.students.predict_options import OUTPUTS
from dss_jax.students.predictions import Prediction
from dss_jax.students.serving import (
  access_control,
  batching,
  jobs,
  pages,
  predict_requests,
  server_metrics,
)
from dss_jax.students.serving.access_control import Receive, Send
from dss_jax.students.serving.predict_answers import (
  PredictResponse,
  Refusal,
  answer_body,
)
from dss_jax.students.serving.predict_requests import PredictRequest, Refused
from dss_jax.students.serving.service import Service

_JSON = "application/json"
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
# What the answer of /v1/model can be used for, in OpenAPI's words.
_ASK = {
  "operationId": "predict",
  "requestBody": {
    "input": "$response.body#/example",
    "outputs": "$response.body#/outputs",
  },
}


class Health(pydantic.BaseModel):
  """Answer of the two probes."""

  status: str = pydantic.Field(description="`ok`, or why it is not.")


class Limits(pydantic.BaseModel):
  """The most that one request may hold."""

  items: int
  input_chars: int
  body_bytes: int
  timeout_ms: float
  num_best: int


class ModelInfo(pydantic.BaseModel):
  """The model, and what it can be asked for."""

  model: dict[str, Any]
  outputs: list[str]
  labels: list[str] | None = pydantic.Field(
    description="The closed set of labels; null for free text."
  )
  example: str
  limits: Limits


def make_app(service: Service) -> access_control.AccessControl:
  """The application.

  Args:
    service: the model; its batcher must be started in the loop that serves.
  """
  app = fastapi.FastAPI(
    title="dss_jax",
    version=__version__,
    description="Labels and rationales of a student.",
    # FastAPI's pages load scripts from other sites; `pages` has our own.
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    redirect_slashes=False,
  )
  model = predict_requests.request_model(service.settings, service.card)
  _describe_predict(app, model)
  _add_probes(app, service)
  _add_reports(app, service)
  _add_pages(app, service)
  _add_refusals(app)
  predict = functools.partial(_predict, service, model)
  return access_control.AccessControl(app, predict, service)


# ---------------------------------------------------------------- predictions

# Routing, dependencies and middleware of the framework would take as long as
# all the rest of a request. `access_control` therefore calls `_predict` itself,
# and the framework only describes this path next to the others.


def _describe_predict(
  app: fastapi.FastAPI, model: type[PredictRequest]
) -> None:
  def described(body):
    """Never called."""

  described.__annotations__ = {"body": model}
  app.post(
    access_control.PREDICT_PATH,
    summary="Predict labels and rationales",
    description="Answers one input or several, in their order.",
    operation_id="predict",
    response_model=PredictResponse,
    responses=_refusals(
      *(400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 503, 504)
    ),
  )(described)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
  """OpenAPI's descriptions of answers that are refusals."""
  return {status: {"model": Refusal} for status in statuses}


async def _predict(
  service: Service,
  model: type[PredictRequest],
  headers: Mapping[bytes, bytes],
  request_id: str,
  receive: Receive,
  send: Send,
) -> None:
  """Answers a request that was let in, unless its client leaves first.

  Raises:
    Refused: the caller sends this answer.
  """
  _check_media_type(headers)
  try:
    body = await predict_requests.read_body(receive, service.settings)
  except predict_requests.Disconnected:
    return
  asked = predict_requests.parse(body, model)
  wanted = jobs.Wanted(
    tuple(name for name in OUTPUTS if name in asked.outputs), asked.num_best
  )
  timeout_s = (asked.timeout_ms or 1e3 * service.settings.timeout_s) / 1e3
  try:
    job = service.batcher.submit(asked.texts, wanted, timeout_s, request_id)
    predictions = await _wait(service.batcher, job, receive)
  except jobs.QueueFull as full:
    seconds = min(max(math.ceil(full.retry_after_s), 1), 60)
    raise Refused(
      429,
      f"too much waits already to answer {len(asked.texts)} more in time (at most"
      f" {service.settings.max_queue} inputs may wait); try again in"
      f" {seconds} s",
      {"Retry-After": str(seconds)},
    ) from None
  except jobs.Stopped as stopped:
    raise Refused(
      503,
      f"the server does not take requests now ({stopped})",
      {"Retry-After": "5", "Connection": "close"},
    ) from None
  except jobs.Expired as expired:
    raise Refused(504, str(expired)) from None
  except jobs.Failed as failed:
    raise Refused(500, str(failed)) from None
  if predictions is not None:
    content = answer_body(predictions, asked, service.card.to_dict())
    service.metrics.answered(
      (job.arrived if job.started is None else job.started) - job.arrived,
      predictions,
    )
    await access_control.send_answer(200, content, {}, send)


async def _wait(
  batcher: batching.Batcher, job: jobs.Job, receive: Receive
) -> Sequence[Prediction] | None:
  """The predictions; None if the client has left."""

  async def abandon_when_gone() -> None:
    while (await receive())["type"] != "http.disconnect":
      pass
    batcher.abandon(job)

  watch = asyncio.create_task(abandon_when_gone())
  try:
    return await job.future
  except asyncio.CancelledError:
    if watch.done():
      return None
    batcher.abandon(job)
    raise
  finally:
    watch.cancel()


def _check_media_type(headers: Mapping[bytes, bytes]) -> None:
  """Raises Refused for a body that is not JSON.

  Browsers let pages of other sites send forms and plain text, but not JSON.
  """
  close = {"Connection": "close"}
  kind, _, parameters = (
    headers.get(b"content-type", b"").lower().partition(b";")
  )
  if kind.strip() != _JSON.encode():
    raise Refused(415, f"send the header Content-Type: {_JSON}", close)
  charset = parameters.partition(b"charset=")[2].partition(b";")[0].strip(b' "')
  if charset not in (b"", b"utf-8", b"utf8"):
    raise Refused(415, "JSON is UTF-8; send it so, without a charset", close)
  if headers.get(b"content-encoding", b"identity") != b"identity":
    raise Refused(415, "send the body without a Content-Encoding", close)


# ---------------------------------------------------------- what FastAPI serves


def _add_probes(app: fastapi.FastAPI, service: Service) -> None:
  broken = {"model": Health, "description": "Broken: start it again."}
  waits = {"model": Health, "description": "Warming up, stopping or broken."}

  @app.get(
    "/healthz",
    summary="Whether to send requests",
    response_model=Health,
    responses={**_refusals(421, 500), 503: waits},
  )
  async def healthz() -> Response:
    ready, state = service.health()
    return JSONResponse({"status": state}, 200 if ready else 503)

  @app.get(
    "/livez",
    summary="Whether the process is worth keeping",
    response_model=Health,
    responses={**_refusals(421, 500), 503: broken},
  )
  async def livez() -> Response:
    state = service.health()[1]
    return JSONResponse({"status": state}, 200 if service.is_alive else 503)


def _add_reports(app: fastapi.FastAPI, service: Service) -> None:
  links = {"ask": _ASK} if service.card.example else {}

  @app.get(
    "/metrics",
    summary="Counters, for Prometheus",
    response_class=Response,
    responses={**_refusals(401, 421, 500), 200: {"content": _TEXT}},
  )
  async def show_metrics() -> Response:
    return Response(
      service.metrics.render(),
      headers={"Content-Type": server_metrics.CONTENT_TYPE},
    )

  @app.get(
    "/v1/model",
    summary="The model and the server's limits",
    response_model=ModelInfo,
    responses={**_refusals(401, 421, 500), 200: {"links": links}},
  )
  async def model() -> Response:
    settings, card = service.settings, service.card
    return JSONResponse(
      {
        "model": card.to_dict(),
        "outputs": card.outputs,
        "labels": card.labels,
        "example": card.example,
        "limits": {
          "items": settings.max_items,
          "input_chars": settings.max_input_chars,
          "body_bytes": settings.max_body_bytes,
          "timeout_ms": settings.timeout_s * 1e3,
          "num_best": card.num_best,
        },
      }
    )


def _add_pages(app: fastapi.FastAPI, service: Service) -> None:
  needs_token = service.settings.token is not None
  page = pages.trial_page(needs_token)
  description = functools.cache(lambda: _description(app, needs_token))
  docs = functools.cache(lambda: pages.docs_page(description()))

  @app.get("/", include_in_schema=False)
  async def index() -> Response:
    return page.response()

  @app.get("/docs", include_in_schema=False)
  async def show_docs() -> Response:
    return docs().response()

  @app.get("/openapi.json", include_in_schema=False)
  async def openapi() -> Response:
    return JSONResponse(description())


def _description(app: fastapi.FastAPI, needs_token: bool) -> dict[str, Any]:
  """The OpenAPI description, with the token where one is needed."""
  found = copy.deepcopy(app.openapi())
  if needs_token:
    bearer = {"type": "http", "scheme": "bearer"}
    found["components"]["securitySchemes"] = {"token": bearer}
    for path, operations in found["paths"].items():
      if path not in access_control.OPEN_PATHS:
        for operation in operations.values():
          operation["security"] = [{"token": []}]
  return found


def _add_refusals(app: fastapi.FastAPI) -> None:
  """Makes every answer but 200 JSON with a reason."""

  @app.exception_handler(HTTPException)
  async def refuse(request: Request, error: HTTPException) -> Response:
    reason = {
      404: "there is nothing at this path; GET /docs lists what there is",
      405: "this path does not take this method; GET /docs lists what it takes",
    }.get(error.status_code, error.detail)
    # The body of such a request is not read.
    headers = {**(error.headers or {}), "Connection": "close"}
    body = access_control.refusal_body(reason, request.state.request_id)
    return Response(body, error.status_code, headers, media_type=_JSON)
