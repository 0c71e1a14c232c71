"""The HTTP interface: `make_app(service)` is an ASGI application."""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence

import fastapi
from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from dss_jax import __version__
from dss_jax.students.predict_options import OUTPUTS
from dss_jax.students.predictions import Prediction
from dss_jax.students.serving import (
  batching,
  guard,
  pages,
  predict_requests,
  server_metrics,
)
from dss_jax.students.serving.guard import Receive, Send
from dss_jax.students.serving.predict_requests import Refused
from dss_jax.students.serving.settings import ServeSettings
from dss_jax.students.serving.student_backend import ModelCard

_JSON = "application/json"


class Service:
  """A backend with its queue, limits and counters."""

  def __init__(
    self,
    backend: batching.Backend,
    card: ModelCard,
    settings: ServeSettings,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_death: Callable[[BaseException], None] = lambda error: None,
  ):
    self.card = card
    self.settings = settings
    self.metrics = server_metrics.Metrics(card.to_dict(), lambda: self.batcher)
    self.batcher = batching.Batcher(
      backend,
      max_batch=settings.max_batch,
      max_wait_s=settings.max_wait_ms / 1e3,
      max_queue=settings.max_queue,
      observer=self.metrics,
      on_ready=on_ready,
      on_death=on_death,
    )

  def health(self) -> tuple[bool, str]:
    """Whether requests are accepted, and why or why not."""
    state, busy_s = self.batcher.state, self.batcher.busy_s
    stuck = busy_s > self.settings.stuck_after_s
    if state is batching.State.READY and stuck:
      return False, f"the predictor has been at one batch for {busy_s:.0f} s"
    return state is batching.State.READY, state.value

  @property
  def is_alive(self) -> bool:
    """Whether waiting may help: false if the predictor has ended or is stuck."""
    batcher = self.batcher
    return batcher.state is not batching.State.FAILED and (
      batcher.state is batching.State.STARTING
      or batcher.busy_s <= self.settings.stuck_after_s
    )


def make_app(service: Service) -> guard.Guard:
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
  _describe_predict(app)
  _add_reports(app, service)
  _add_pages(app, service)
  _add_refusals(app)
  predict = functools.partial(_predict, service)
  return guard.Guard(app, predict, service.settings, service.metrics)


# ---------------------------------------------------------------- predictions

# Routing, dependencies and middleware of the framework would take as long as
# all the rest of a request. `guard` therefore calls `_predict` itself, and the
# framework only describes this path next to the others.


def _describe_predict(app: fastapi.FastAPI) -> None:
  statuses = (400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 503, 504)

  @app.post(
    guard.PREDICT_PATH,
    summary="Predict labels and rationales",
    description="Answers one input or several, in their order.",
    operation_id="predict",
    response_model=predict_requests.PredictResponse,
    responses={
      status: {"model": predict_requests.Refusal} for status in statuses
    },
    openapi_extra={
      "requestBody": {
        "required": True,
        "content": {
          _JSON: {"schema": predict_requests.PredictRequest.model_json_schema()}
        },
      }
    },
  )
  def described() -> None:
    """Never called."""


async def _predict(
  service: Service,
  headers: Mapping[bytes, bytes],
  request_id: str,
  receive: Receive,
  send: Send,
) -> None:
  """Answers a request that the guard let in, unless its client leaves first.

  Raises:
    Refused: the guard sends this answer.
  """
  _check_media_type(headers)
  try:
    body = await predict_requests.read_body(receive, service.settings)
  except predict_requests.Disconnected:
    return
  inputs, asked, timeout_s = predict_requests.parse(
    body, service.settings, service.card.outputs
  )
  outputs = tuple(name for name in OUTPUTS if name in asked.outputs)
  try:
    job = service.batcher.submit(inputs, outputs, timeout_s, request_id)
    predictions = await _wait(service.batcher, job, receive)
  except batching.QueueFull as full:
    seconds = min(max(math.ceil(full.retry_after_s), 1), 60)
    raise Refused(
      429,
      f"too much waits already to answer {len(inputs)} more in time (at most"
      f" {service.settings.max_queue} inputs may wait); try again in"
      f" {seconds} s",
      {"Retry-After": str(seconds)},
    ) from None
  except batching.Stopped as stopped:
    raise Refused(
      503,
      f"the server does not take requests now ({stopped})",
      {"Retry-After": "5", "Connection": "close"},
    ) from None
  except batching.Expired as expired:
    raise Refused(504, str(expired)) from None
  except batching.Failed as failed:
    raise Refused(500, str(failed)) from None
  if predictions is not None:
    content = predict_requests.answer_body(
      predictions, outputs, scores=asked.scores, model=service.card.to_dict()
    )
    service.metrics.answered(
      (job.arrived if job.started is None else job.started) - job.arrived,
      sum(bool(prediction.truncated) for prediction in predictions),
    )
    await guard.send_answer(200, content, {}, send)


async def _wait(
  batcher: batching.Batcher, job: batching.Job, receive: Receive
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
    if job.gone and watch.done():
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
  kind = headers.get(b"content-type", b"").partition(b";")[0]
  if kind.strip().lower() != _JSON.encode():
    raise Refused(415, f"send the header Content-Type: {_JSON}", close)
  if headers.get(b"content-encoding", b"identity") != b"identity":
    raise Refused(415, "send the body without a Content-Encoding", close)


# ---------------------------------------------------------- what FastAPI serves


def _add_reports(app: fastapi.FastAPI, service: Service) -> None:
  @app.get(
    "/healthz",
    summary="Whether requests are accepted",
    responses={503: {"description": "Warming up, stopping or broken."}},
  )
  @app.head("/healthz", include_in_schema=False)
  async def healthz() -> Response:
    ready, state = service.health()
    return JSONResponse({"status": state}, 200 if ready else 503)

  @app.get(
    "/livez",
    summary="Whether the process is worth keeping",
    responses={503: {"description": "Broken: start it again."}},
  )
  @app.head("/livez", include_in_schema=False)
  async def livez() -> Response:
    state = service.health()[1]
    return JSONResponse({"status": state}, 200 if service.is_alive else 503)

  @app.get("/metrics", summary="Counters, for Prometheus")
  async def show_metrics() -> Response:
    return Response(
      service.metrics.render(),
      headers={"Content-Type": server_metrics.CONTENT_TYPE},
    )

  @app.get("/v1/model", summary="The model and the server's limits")
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
  """Makes every answer but 200 JSON with a reason."""

  @app.exception_handler(HTTPException)
  async def refuse(request: Request, error: HTTPException) -> Response:
    reason = {
      404: "there is nothing at this path; GET /docs lists what there is",
      405: "this path does not take this method; GET /docs lists what it takes",
    }.get(error.status_code, error.detail)
    # The body of such a request is not read.
    headers = {**(error.headers or {}), "Connection": "close"}
    body = guard.refusal_body(reason, request.state.request_id)
    return Response(body, error.status_code, headers, media_type=_JSON)
