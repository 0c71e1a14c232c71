"""How a report says its numbers: in its sentences, and in tables of savings."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dss_jax.experiments.bootstrap_statistics import Reach
from dss_jax.experiments.report.report_savings import Saving
from dss_jax.experiments.report.report_tables import MINUS, UNKNOWN
from dss_jax.experiments.report.run_groups import RunGroup


def setting(group: RunGroup) -> str:
  records = "all" if group.examples is None else f"{group.examples:,}"
  return f"{records} training records and the student {group.student}"


def how_good(difference: float) -> str:
  points = f"{abs(100 * difference):.1f}"
  if points == "0.0":
    return "as good as"
  return f"{points} points {'better' if difference > 0 else 'worse'} than"


def signed(difference: float) -> str:
  return f"{100 * difference:+.1f}".replace("-", MINUS)


def count(number: int, noun: str) -> str:
  return f"{number:,} {noun}{'s' if number != 1 else ''}"


def listed(texts: Iterable[str]) -> str:
  """`a, b and c`."""
  *others, last = texts
  return f"{', '.join(others)} and {last}" if others else last


def capital(text: str) -> str:
  return text[0].upper() + text[1:]


def needed_text(needed: Reach) -> str:
  """The size that is needed, with its interval."""
  if needed.size == math.inf:
    text = f"not reached with {_size(needed.largest)}"
    if math.isfinite(needed.low):
      text += f" (interval from {_size(needed.low)})"
    return text
  ends = (
    "below the smallest run" if needed.low == -math.inf else _size(needed.low),
    "not reached" if needed.high == math.inf else _size(needed.high),
  )
  if needed.size == -math.inf:
    text = "at or below the smallest run"
    return text if needed.high == -math.inf else f"{text} (up to {ends[1]})"
  return f"{_size(needed.size)} ({ends[0]} to {ends[1]})"


def _size(size: float) -> str:
  return f"{size:,.0f}"


def saving_text(saving: Saving) -> str:
  """The saving in percent, with its interval; a dash for none."""
  reference = saving.reference_size
  if not reference or saving.needed.size == math.inf:
    return UNKNOWN

  def share(needed: float) -> str:
    if needed == math.inf:
      return "not shown"
    # What is enough below the smallest run is not known: at least so much.
    sign = "≥ " if needed == -math.inf else ""
    size = saving.smallest if needed == -math.inf else needed
    return f"{sign}{100 * (1 - size / reference):.0f} %".replace("-", MINUS)

  needed = saving.needed
  estimate, low, high = map(share, (needed.size, needed.high, needed.low))
  return estimate if low == high else f"{estimate} ({low} to {high})"
