"""What a pipeline has done, as its runner counts it."""

from __future__ import annotations

from apache_beam.metrics import Metrics

NAMESPACE = "dss_jax.rationales"


def count(name: str, number: int = 1) -> None:
  """Adds to a metric of the pipeline."""
  if number:
    Metrics.counter(NAMESPACE, name).inc(number)
