"""Records as elements of a pipeline."""

from __future__ import annotations

import hashlib

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import FieldMapping, Record, json_lines


def as_record(element: Record | str | bytes) -> Record:
  """A record, as it is or of its JSON line.

  A line without an id is called after its hash.

  Raises:
    UserError: the line is no record.
  """
  if isinstance(element, Record):
    return element
  try:
    text = element.decode() if isinstance(element, bytes) else element
    row = json_lines.as_mapping(strict_json.loads(text))
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return FieldMapping().record(row, default_id=f"line-{digest[:16]}")
  except UnicodeDecodeError:
    raise UserError("an element is not valid UTF-8") from None
