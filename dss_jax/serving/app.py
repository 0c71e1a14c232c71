"""The HTTP interface: `make_app(service)` is an ASGI application."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import fastapi
from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from dss_jax import __version__
from dss_jax.serving import batching, guard, metrics, pages, reading, schema
from dss_jax.serving.reading import Refused
from dss_jax.serving.service import Service

_JSON = "application/json"


class _Gone(Response):
  """For a client that is not there any more: nothing is sent."""

  async def __call__(self, scope, receive, send) -> None:
    pass


def make_app(service: Service) -> guard.Guard:
  """The application.

  Args:
    service: the model; its batcher must be started in the loop that serves.
  """
  app = fastapi.FastAPI(
    title="dss_jax",
    version=__version__,
    description="Labels and rationales of a student.",
    # Their pages load scripts from elsewhere; there is one of our own.
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    redirect_slashes=False,
  )
  _add_predict(app, service)
  _add_reports(app, service)
  _add_pages(app, service)
  _add_refusals(app)
  return guard.Guard(app, service)


def _add_predict(app: fastapi.FastAPI, service: Service) -> None:
  settings, card = service.settings, service.card

  @app.post(
    "/v1/predict",
    summary="Predict labels and rationales",
    response_model=schema.PredictResponse,
    responses=_refusals(400, 401, 408, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={
      "requestBody": {
        "required": True,
        "content": {
          _JSON: {"schema": schema.PredictRequest.model_json_schema()}
        },
      }
    },
  )
  async def predict(request: Request) -> Response:
    _check_media_type(request)
    try:
      body = await reading.read_body(request.receive, settings)
    except reading.Disconnected:
      return _Gone()
    inputs, asked, timeout_s = reading.parse(body, settings, card.outputs)
    try:
      job = service.submit(inputs, asked.outputs, timeout_s)
    except batching.QueueFull as full:
      seconds = min(max(math.ceil(full.retry_after_s), 1), 60)
      raise Refused(
        429,
        f"{settings.max_queue} inputs are waiting already; try again in"
        f" {seconds} s",
        {"Retry-After": str(seconds)},
      ) from None
    except batching.Stopped as stopped:
      raise _unavailable(stopped) from None
    return await _answer(request, service, job, scores=asked.scores)


async def _answer(
  request: Request, service: Service, job: batching.Job, *, scores: bool
) -> Response:
  """Waits for a job, and for its client to lose patience."""
  watch = asyncio.create_task(_abandon_when_gone(request, service, job))
  try:
    predictions = await job.future
    content = service.answer(job, predictions, scores=scores)
    return Response(content, media_type=_JSON)
  except batching.Expired as expired:
    raise Refused(504, str(expired)) from None
  except batching.Failed as failed:
    raise Refused(500, str(failed)) from None
  except batching.Stopped as stopped:
    raise _unavailable(stopped) from None
  except asyncio.CancelledError:
    if job.gone and watch.done():
      return _Gone()
    service.batcher.abandon(job)
    raise
  finally:
    watch.cancel()


async def _abandon_when_gone(
  request: Request, service: Service, job: batching.Job
) -> None:
  while (await request.receive())["type"] != "http.disconnect":
    pass
  service.batcher.abandon(job)


def _add_reports(app: fastapi.FastAPI, service: Service) -> None:
  @app.get(
    "/healthz",
    summary="Whether requests are accepted",
    responses={503: {"description": "Warming up, stopping or broken."}},
  )
  @app.head("/healthz", include_in_schema=False)
  async def healthz() -> Response:
    ready, state = service.health()
    return _json({"status": state}, 200 if ready else 503)

  @app.get(
    "/livez",
    summary="Whether the process is worth keeping",
    responses={503: {"description": "Broken: start it again."}},
  )
  @app.head("/livez", include_in_schema=False)
  async def livez() -> Response:
    alive = service.is_alive
    return _json({"status": service.health()[1]}, 200 if alive else 503)

  @app.get("/metrics", summary="Counters, for Prometheus")
  async def show_metrics() -> Response:
    return Response(
      service.metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE}
    )

  @app.get("/v1/model", summary="The model and the server's limits")
  async def model() -> Response:
    settings, card = service.settings, service.card
    return _json(
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
        },
      }
    )


def _add_pages(app: fastapi.FastAPI, service: Service) -> None:
  needs_token = service.settings.token is not None
  page, docs = pages.trial_page(needs_token), pages.docs_page(app.openapi())

  @app.get("/", include_in_schema=False)
  async def index() -> Response:
    return page.response()

  @app.get("/docs", include_in_schema=False)
  async def show_docs() -> Response:
    return docs.response()

  @app.get("/openapi.json", include_in_schema=False)
  async def openapi() -> Response:
    return _json(app.openapi())


def _add_refusals(app: fastapi.FastAPI) -> None:
  """Every answer but 200 is JSON with a reason."""

  @app.exception_handler(Refused)
  async def refuse(request: Request, refused: Refused) -> Response:
    body = guard.refusal_body(refused, request.state.request_id)
    return Response(
      body, refused.status, refused.headers or None, media_type=_JSON
    )

  @app.exception_handler(HTTPException)
  async def refuse_http(request: Request, error: HTTPException) -> Response:
    reason = {
      404: "there is nothing at this path; GET /docs lists what there is",
      405: "this path does not take this method; GET /docs lists what it takes",
    }.get(error.status_code, error.detail)
    # What a body would be is not read.
    headers = {**(error.headers or {}), "Connection": "close"}
    return await refuse(request, Refused(error.status_code, reason, headers))

  @app.exception_handler(Exception)
  async def refuse_unforeseen(request: Request, error: Exception) -> Response:
    del error  # the server logs it
    reason = "the server failed; its log says more"
    return await refuse(request, Refused(500, reason, {"Connection": "close"}))


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
  return {status: {"model": schema.Refusal} for status in statuses}


def _check_media_type(request: Request) -> None:
  """Raises Refused for what is not JSON.

  Browsers let pages of other sites send forms and plain text, but no JSON.
  """
  close = {"Connection": "close"}
  kind = request.headers.get("content-type", "").partition(";")[0]
  if kind.strip().lower() != _JSON:
    raise Refused(415, f"send the header Content-Type: {_JSON}", close)
  if request.headers.get("content-encoding", "identity") != "identity":
    raise Refused(415, "send the body without a Content-Encoding", close)


def _unavailable(stopped: batching.Stopped) -> Refused:
  return Refused(
    503,
    f"the server does not take requests now ({stopped})",
    {"Retry-After": "5", "Connection": "close"},
  )


def _json(value: Any, status: int = 200) -> Response:
  return JSONResponse(value, status)
