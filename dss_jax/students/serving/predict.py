"""`POST /v1/predict`, without a framework in its way.

Routing, dependencies and middleware would cost half of what a request costs;
`app` describes this path beside the others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from dss_jax.students.serving import batching, request_bodies
from dss_jax.students.serving.guard import Message, Receive, Send, send_answer
from dss_jax.students.serving.request_bodies import Refused
from dss_jax.students.serving.service import Service

PATH = "/v1/predict"

_JSON = "application/json"


class Predict:
  """Answers what the guard lets in."""

  def __init__(self, service: Service):
    self._service = service

  async def __call__(
    self,
    headers: Mapping[bytes, bytes],
    request_id: str,
    receive: Receive,
    send: Send,
  ) -> None:
    """Answers a request, unless its client goes away first.

    Raises:
      Refused: for the guard to tell.
    """
    settings, card = self._service.settings, self._service.card
    _check_media_type(headers)
    try:
      body = await request_bodies.read_body(receive, settings)
    except request_bodies.Disconnected:
      return
    inputs, asked, timeout_s = request_bodies.parse(
      body, settings, card.outputs
    )
    job = self._submit(inputs, asked.outputs, timeout_s, request_id)
    predictions = await self._wait(job, receive)
    if predictions is not None:
      content = self._service.answer(job, predictions, scores=asked.scores)
      await send_answer(200, content, {}, send)

  def _submit(self, inputs, outputs, timeout_s, request_id) -> batching.Job:
    try:
      return self._service.submit(inputs, outputs, timeout_s, request_id)
    except batching.QueueFull as full:
      seconds = min(max(math.ceil(full.retry_after_s), 1), 60)
      raise Refused(
        429,
        f"too much waits already to answer {len(inputs)} more in time (at most"
        f" {self._service.settings.max_queue} inputs may wait); try again in"
        f" {seconds} s",
        {"Retry-After": str(seconds)},
      ) from None
    except batching.Stopped as stopped:
      raise _unavailable(stopped) from None

  async def _wait(self, job: batching.Job, receive: Receive):
    """The predictions; None where the client is gone."""
    watch = asyncio.create_task(self._abandon_when_gone(job, receive))
    try:
      return await job.future
    except batching.Expired as expired:
      raise Refused(504, str(expired)) from None
    except batching.Failed as failed:
      raise Refused(500, str(failed)) from None
    except batching.Stopped as stopped:
      raise _unavailable(stopped) from None
    except asyncio.CancelledError:
      if job.gone and watch.done():
        return None
      self._service.batcher.abandon(job)
      raise
    finally:
      watch.cancel()

  async def _abandon_when_gone(
    self, job: batching.Job, receive: Receive
  ) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
      message = await receive()
    self._service.batcher.abandon(job)


def _check_media_type(headers: Mapping[bytes, bytes]) -> None:
  """Raises Refused for what is not JSON.

  Browsers let pages of other sites send forms and plain text, but no JSON.
  """
  close = {"Connection": "close"}
  kind = headers.get(b"content-type", b"").partition(b";")[0]
  if kind.strip().lower() != _JSON.encode():
    raise Refused(415, f"send the header Content-Type: {_JSON}", close)
  if headers.get(b"content-encoding", b"identity") != b"identity":
    raise Refused(415, "send the body without a Content-Encoding", close)


def _unavailable(stopped: batching.Stopped) -> Refused:
  return Refused(
    503,
    f"the server does not take requests now ({stopped})",
    {"Retry-After": "5", "Connection": "close"},
  )
