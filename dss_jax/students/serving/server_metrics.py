"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram, registry

from dss_jax.students.serving import batching

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_SECONDS = (
  *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
  *(1.0, 2.5, 5.0, 10.0, 30.0),
)
_INPUTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics(batching.Observer):
  """Counters of one server, in a registry of its own."""

  def __init__(self, model: Mapping[str, Any], batcher_of: Any):
    """Starts at zero.

    Args:
      model: names the model; its values become labels of `dss_jax_model_info`.
      batcher_of: called for the batcher whose queue is shown.
    """
    self._registry = own = registry.CollectorRegistry()
    self._requests = Counter(
      "dss_jax_requests", "Requests answered.", ["path", "status"], registry=own
    )
    self._seconds = Histogram(
      "dss_jax_request_seconds",
      "From a request's head to its answer, for /v1/predict.",
      registry=own,
      buckets=_SECONDS,
    )
    self._queue_seconds = Histogram(
      "dss_jax_queue_seconds",
      "From a request's arrival until its first input is computed.",
      registry=own,
      buckets=_SECONDS,
    )
    self._batch_inputs = Histogram(
      "dss_jax_batch_inputs",
      "Inputs computed together.",
      registry=own,
      buckets=_INPUTS,
    )
    self._batch_seconds = Histogram(
      "dss_jax_batch_seconds",
      "For a batch to be computed.",
      registry=own,
      buckets=_SECONDS,
    )
    self._inputs = Counter(
      "dss_jax_inputs", "Inputs computed.", ["outputs"], registry=own
    )
    self._truncated = Counter(
      "dss_jax_truncated_inputs",
      "Inputs that were longer than the student reads.",
      registry=own,
    )
    self._failures = Counter(
      "dss_jax_predictor_failures",
      "Calls of the predictor that raised.",
      registry=own,
    )
    self._dropped = Counter(
      "dss_jax_dropped_inputs",
      "Inputs dropped before they were computed.",
      ["reason"],
      registry=own,
    )
    for name, told, value in (
      ("queue_inputs", "Inputs that wait.", lambda b: b.waiting),
      (
        "open_requests",
        "Requests that are accepted and not answered.",
        lambda b: b.open_requests,
      ),
      (
        "predictor_busy_seconds",
        "For how long the predictor has been at its present batch.",
        lambda b: b.busy_s,
      ),
      (
        "ready",
        "1 when requests are accepted.",
        lambda b: float(b.state is batching.State.READY),
      ),
    ):
      gauge = Gauge(f"dss_jax_{name}", told, registry=own)
      gauge.set_function(lambda value=value: value(batcher_of()))
    info = Gauge(
      "dss_jax_model_info", "1; the labels say which model.", list(model),
      registry=own,
    )  # fmt: skip
    info.labels(*map(str, model.values())).set(1)
    prometheus_client.ProcessCollector(registry=own)
    prometheus_client.PlatformCollector(registry=own)

  def render(self) -> bytes:
    """All of them, as text."""
    return prometheus_client.generate_latest(self._registry)

  def request(self, path: str, status: int, seconds: float) -> None:
    """A request was answered."""
    self._requests.labels(path, str(status)).inc()
    if path == "/v1/predict":
      self._seconds.observe(seconds)

  def answered(self, queue_s: float, truncated: int) -> None:
    """A request's inputs were computed."""
    self._queue_seconds.observe(queue_s)
    self._truncated.inc(truncated)

  def batch(self, size: int, outputs: batching.Outputs, seconds: float) -> None:
    self._batch_inputs.observe(size)
    self._batch_seconds.observe(seconds)
    self._inputs.labels("+".join(outputs)).inc(size)

  def failure(self, size: int) -> None:
    self._failures.inc()

  def dropped(self, reason: str, size: int) -> None:
    self._dropped.labels(reason).inc(size)
