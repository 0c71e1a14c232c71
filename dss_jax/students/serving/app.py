"""The HTTP interface: `make_app(service)` is an ASGI application."""

from __future__ import annotations

import functools
import json
from typing import Any

import fastapi
from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from dss_jax import __version__
from dss_jax.students.serving import (
  guard,
  pages,
  predict,
  schema,
  server_metrics,
)
from dss_jax.students.serving.request_bodies import Refused
from dss_jax.students.serving.service import Service

_JSON = "application/json"


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
  _describe_predict(app)
  _add_reports(app, service)
  _add_pages(app, service)
  _add_refusals(app)
  return guard.Guard(app, predict.Predict(service), service)


def _describe_predict(app: fastapi.FastAPI) -> None:
  @app.post(
    predict.PATH,
    summary="Predict labels and rationales",
    description="Answers one input or several, in their order.",
    operation_id="predict",
    response_model=schema.PredictResponse,
    responses=_refusals(
      *(400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 503, 504)
    ),
    openapi_extra={
      "requestBody": {
        "required": True,
        "content": {
          _JSON: {"schema": schema.PredictRequest.model_json_schema()}
        },
      }
    },
  )
  def described() -> None:
    """For the description alone: `predict.Predict` answers."""


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
      service.metrics.render(),
      headers={"Content-Type": server_metrics.CONTENT_TYPE},
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
  page = pages.trial_page(needs_token)
  docs = functools.cache(lambda: pages.docs_page(app.openapi()))
  description = functools.cache(lambda: json.dumps(app.openapi()))

  @app.get("/", include_in_schema=False)
  async def index() -> Response:
    return page.response()

  @app.get("/docs", include_in_schema=False)
  async def show_docs() -> Response:
    return docs().response()

  @app.get("/openapi.json", include_in_schema=False)
  async def openapi() -> Response:
    return Response(description(), media_type=_JSON)


def _add_refusals(app: fastapi.FastAPI) -> None:
  """Every answer but 200 is JSON with a reason."""

  @app.exception_handler(HTTPException)
  async def refuse(request: Request, error: HTTPException) -> Response:
    reason = {
      404: "there is nothing at this path; GET /docs lists what there is",
      405: "this path does not take this method; GET /docs lists what it takes",
    }.get(error.status_code, error.detail)
    refused = Refused(
      error.status_code,
      reason,
      # What a body would be is not read.
      {**(error.headers or {}), "Connection": "close"},
    )
    body = guard.refusal_body(refused, request.state.request_id)
    return Response(
      body, refused.status, dict(refused.headers), media_type=_JSON
    )


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
  return {status: {"model": schema.Refusal} for status in statuses}


def _json(value: Any, status: int = 200) -> Response:
  return JSONResponse(value, status)
