"""Numbers of bytes, as people write and read them."""

from __future__ import annotations

import re

from dss_jax.base.errors import UserError

_UNITS = (
  {"": 1}
  | {
    f"{prefix}{end}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for end, base in (("b", 1000), ("ib", 1024), ("", 1024))
  }
  | {"b": 1}
)


def parse(text: str, field: str) -> int:
  """Bytes of "80GiB", "80 GB" or "85899345920".

  Raises:
    UserError: for anything else, naming the field.
  """
  match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
  if match and match[2] in _UNITS:
    size = int(float(match[1]) * _UNITS[match[2]])
    if 0 < size < 1 << 60:
      return size
  raise UserError(
    f"{field} is {text!r}; it must be a number of bytes with or without a unit,"
    " such as 80GiB",
    fields=field,
  )


def shown(size: float) -> str:
  """The number of bytes in three or four digits, with a binary unit."""
  units = ["B", "KiB", "MiB", "GiB", "TiB"]
  while size >= 1024 and len(units) > 1:
    size /= 1024
    del units[0]
  return f"{size:.0f} B" if units[0] == "B" else f"{size:,.1f} {units[0]}"
