"""A question and its answer as one row of JSON values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from dss_jax.datasets import metrics
from dss_jax.students.bulk.questions import Question
from dss_jax.students.predictions import Prediction

# The keys of a row, in order; then come the input's own.
COLUMNS = (
  "id",
  "input",
  "label",
  "label_score",
  "label_scores",
  "votes",
  "rationale",
  "rationale_score",
  "alternatives",
  "gold_label",
  "correct",
  "truncated",
  "error",
)
# More digits would differ between machines.
_DIGITS = 5


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a row holds.

  Attributes:
    with_input: whether it repeats the input.
    metric: tells whether a label is right.
  """

  with_input: bool = True
  metric: str = "accuracy"


def row_of(
  question: Question, answer: Prediction, layout: Layout
) -> dict[str, Any]:
  """The row of one answer; keys that have nothing to say are left out."""
  row: dict[str, Any] = {"id": question.id}
  if layout.with_input and question.item is not None:
    row["input"] = question.item.input
  if answer.error is None:
    row |= _answer(answer)
  if question.gold is not None:
    row["gold_label"] = question.gold
    if answer.label is not None:
      row["correct"] = metrics.is_correct(
        layout.metric, question.gold, answer.label
      )
  if answer.truncated:
    row["truncated"] = True
  if answer.error is not None:
    row["error"] = answer.error
  for key, value in question.extra.items():
    name = key
    while name in COLUMNS or name in row:
      name = f"original_{name}"
    row[name] = value
  return row


def _answer(answer: Prediction) -> dict[str, Any]:
  row: dict[str, Any] = {}
  for name in ("label", "rationale"):
    text = getattr(answer, name)
    if text is None:
      continue
    row[name] = text
    row[f"{name}_score"] = _number(getattr(answer, f"{name}_score"))
    if name == "label" and answer.label_scores is not None:
      row["label_scores"] = {
        label: _number(score) for label, score in answer.label_scores.items()
      }
    if name == "label" and answer.votes is not None:
      row["votes"] = _number(answer.votes)
  if answer.alternatives:
    row["alternatives"] = [
      {
        name: value if isinstance(value, str) else _number(value)
        for name, value in dataclasses.asdict(each).items()
        if value is not None
      }
      for each in answer.alternatives
    ]
  return row


def _number(value: float | None) -> float | None:
  """Rounded; JSON has no infinity, the score of what cannot be."""
  if value is None or not math.isfinite(value):
    return None
  return round(value, _DIGITS)


def line_of(row: Mapping[str, Any]) -> bytes:
  """The row as a line of JSON.

  A value of the input's own that no file can hold costs that value only.
  """
  try:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"
  except (ValueError, TypeError, RecursionError):
    kept = {key: value for key, value in row.items() if key in COLUMNS}
    kept.setdefault("error", "keys of its own cannot be written as JSON")
    text = json.dumps(kept, ensure_ascii=True, allow_nan=False)
    return text.encode("utf-8") + b"\n"
