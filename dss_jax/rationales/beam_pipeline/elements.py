"""Records as elements of a pipeline, and what its runner counts of them."""

from __future__ import annotations

import hashlib

from apache_beam.metrics import Metrics

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import FieldMapping, Record, json_lines

NAMESPACE = "dss_jax.rationales"


def count(name: str, number: int = 1) -> None:
  """Adds to a metric of the pipeline."""
  if number:
    Metrics.counter(NAMESPACE, name).inc(number)


def as_record(element: Record | str | bytes) -> Record:
  """The record itself, or the one of a JSON line.

  A line without an id is named by its hash.

  Raises:
    UserError: the line is no record.
  """
  if isinstance(element, Record):
    return element
  try:
    text = element.decode() if isinstance(element, bytes) else element
    fields = json_lines.as_mapping(strict_json.loads(text))
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return FieldMapping().record(fields, default_id=f"line-{digest[:16]}")
  except UnicodeDecodeError:
    raise UserError("an element is not valid UTF-8") from None
