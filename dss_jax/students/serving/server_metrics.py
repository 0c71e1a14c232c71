"""The server's counters, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram, registry

from dss_jax.students.predictions import Prediction
from dss_jax.students.serving import batching
from dss_jax.students.serving.jobs import Wanted

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_SECONDS = (
  *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
  *(1.0, 2.5, 5.0, 10.0, 30.0),
)
_INPUTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_GAUGES = {
  "queue_inputs": "Inputs that wait.",
  "open_requests": "Requests that are accepted and not answered.",
  "predictor_busy_seconds": (
    "For how long the predictor has been at its present batch."
  ),
  "ready": "1 when clients should send requests, as /healthz says.",
}


class Metrics(batching.Observer):
  """Counters of one server, in a registry of its own."""

  def __init__(
    self, model: Mapping[str, Any], gauges: Mapping[str, Callable[[], float]]
  ):
    """Starts at zero.

    Args:
      model: names the model; its values become labels of `dss_jax_model_info`.
      gauges: the present value of each of `_GAUGES`.
    """
    self._registry = registry.CollectorRegistry()

    def make(
      kind: Any, name: str, description: str, *args: Any, **options: Any
    ):
      return kind(
        f"dss_jax_{name}",
        description,
        *args,
        registry=self._registry,
        **options,
      )

    self._requests = make(
      Counter, "requests", "Requests answered.", ["path", "status"]
    )
    self._seconds = make(
      Histogram,
      "request_seconds",
      "From a request's head to its answer, for /v1/predict.",
      buckets=_SECONDS,
    )
    self._queue_seconds = make(
      Histogram,
      "queue_seconds",
      "From a request's arrival until its first input is computed.",
      buckets=_SECONDS,
    )
    self._batch_inputs = make(
      Histogram, "batch_inputs", "Inputs computed together.", buckets=_INPUTS
    )
    self._batch_seconds = make(
      Histogram,
      "batch_seconds",
      "For a batch to be computed.",
      buckets=_SECONDS,
    )
    self._inputs = make(Counter, "inputs", "Inputs computed.", ["outputs"])
    self._truncated = make(
      Counter,
      "truncated_inputs",
      "Inputs that were longer than the student reads.",
    )
    self._tokens = make(
      Counter, "tokens", "Tokens of inputs that the student read."
    )
    self._unknown = make(
      Counter,
      "unknown_tokens",
      "Tokens of inputs that the student's vocabulary does not know.",
    )
    self._failures = make(
      Counter, "predictor_failures", "Calls of the predictor that raised."
    )
    self._dropped = make(
      Counter,
      "dropped_inputs",
      "Inputs dropped before they were computed.",
      ["reason"],
    )
    for name, description in _GAUGES.items():
      make(Gauge, name, description).set_function(gauges[name])
    info = make(
      Gauge, "model_info", "1; the labels say which model.", list(model)
    )
    info.labels(*map(str, model.values())).set(1)
    prometheus_client.ProcessCollector(registry=self._registry)
    prometheus_client.PlatformCollector(registry=self._registry)

  def render(self) -> bytes:
    """All counters, as text."""
    return prometheus_client.generate_latest(self._registry)

  def request(self, path: str, status: int, seconds: float) -> None:
    """Counts a request that was answered."""
    self._requests.labels(path, str(status)).inc()
    if path == "/v1/predict":
      self._seconds.observe(seconds)

  def answered(self, queue_s: float, predictions: Sequence[Prediction]) -> None:
    """Counts a request whose inputs were computed."""
    self._queue_seconds.observe(queue_s)
    self._truncated.inc(sum(p.truncated for p in predictions))
    self._tokens.inc(sum(p.num_tokens for p in predictions))
    self._unknown.inc(sum(max(p.unknown_tokens, 0) for p in predictions))

  def batch(self, size: int, wanted: Wanted, seconds: float) -> None:
    self._batch_inputs.observe(size)
    self._batch_seconds.observe(seconds)
    self._inputs.labels("+".join(wanted.outputs)).inc(size)

  def failure(self, size: int) -> None:
    self._failures.inc()

  def dropped(self, reason: str, size: int) -> None:
    self._dropped.labels(reason).inc(size)
