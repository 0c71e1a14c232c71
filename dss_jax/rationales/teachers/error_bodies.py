"""What servers say when they refuse: the parts that a program can act on."""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Mapping
from typing import Any


def code(told: Any) -> str:
  """The machine-readable part of an error body."""
  error = told.get("error", told) if isinstance(told, dict) else None
  if not isinstance(error, dict):
    return ""
  return f"{error.get('code')} {error.get('type')}"[:200]


def parameter(told: Any) -> str | None:
  """The field of the request that an error body blames."""
  error = told.get("error", told) if isinstance(told, dict) else None
  if not isinstance(error, dict):
    return None
  if isinstance(error.get("param"), str):
    return error["param"]
  detail = error.get("detail")
  if isinstance(detail, list) and detail and isinstance(detail[0], dict):
    where = detail[0].get("loc")
    if isinstance(where, list) and len(where) > 1 and isinstance(where[1], str):
      return where[1]
  return None


def retry_after(headers: Mapping[str, str]) -> float | None:
  """Seconds that the server asks to wait: as a number, or until a date."""
  for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
    value = headers.get(name)
    if not value:
      continue
    if re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", value):
      return float(value) * unit
    if name == "retry-after":
      try:
        date = email.utils.parsedate_to_datetime(value)
      except (ValueError, TypeError, IndexError, OverflowError):
        return None
      if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
      now = datetime.datetime.now(datetime.UTC)
      return max((date - now).total_seconds(), 0.0)
  return None
