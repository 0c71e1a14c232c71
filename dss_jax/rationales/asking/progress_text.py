"""How asking goes, in a few words."""

from __future__ import annotations

from dss_jax.rationales.asking.ask_options import Summary
from dss_jax.rationales.asking.pacing import Pace


def progress_text(
  summary: Summary,
  pace: Pace,
  *,
  seconds: float,
  spent: float,
  left: int | None,
) -> str:
  """A line that shows how a call of `ask` goes.

  Args:
    summary: of the call so far.
    pace: the gate, for its pauses.
    seconds: since the call began.
    spent: money, by the call.
    left: requests that are not read yet; None if nobody knows.
  """
  seconds = max(seconds, 1e-3)
  tokens = summary.prompt_tokens + summary.completion_tokens
  parts = [f"{summary.asked / seconds:.1f} req/s"]
  if tokens:
    parts.append(f"{tokens / seconds:,.0f} tok/s")
  if spent:
    text = f"cost {spent:.4g}"
    if left is not None and summary.asked:
      text += f" of about {spent * (1 + left / summary.asked):.4g}"
    parts.append(text)
  for name, value in (
    ("retries", summary.retries),
    ("rejected", summary.rejected),
    ("given up", summary.gave_up),
  ):
    if value:
      parts.append(f"{value} {name}")
  paused = pace.paused_s
  if pace.is_broken:
    parts.append("paused: nothing but failures")
  elif paused >= 1:
    parts.append(f"paused for {paused:.0f} s")
  return "  ".join(parts)
