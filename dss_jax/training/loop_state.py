"""What a training loop must remember besides the arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass
class LoopState:
  """What the loop must remember besides the arrays; saved with them.

  Attributes:
    best_step: the step whose evaluation was best so far.
    best_value: its selection metric.
    stale_evaluations: evaluations since then.
    encoder_tokens: non-padding input tokens trained on so far.
    decoder_tokens: non-padding target tokens trained on so far.
    examples_seen: sub-task examples trained on so far.
    nonfinite_steps: updates skipped because loss or gradient was not finite.
    nonfinite_in_a_row: how many of the latest ones.
    wall_s: seconds spent, over all starts.
  """

  best_step: int | None = None
  best_value: float | None = None
  stale_evaluations: int = 0
  encoder_tokens: int = 0
  decoder_tokens: int = 0
  examples_seen: int = 0
  nonfinite_steps: int = 0
  nonfinite_in_a_row: int = 0
  wall_s: float = 0.0

  @property
  def tokens_seen(self) -> int:
    """Non-padding tokens of all sub-tasks trained on so far."""
    return self.encoder_tokens + self.decoder_tokens

  def note_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
    """Takes in the values of steps made, as in metrics.jsonl."""
    for row in rows:
      self.encoder_tokens += int(row["encoder_tokens"])
      self.decoder_tokens += int(row["decoder_tokens"])
      self.examples_seen += int(row["examples"])
      self.nonfinite_steps += int(row["nonfinite"])
      self.nonfinite_in_a_row = (
        self.nonfinite_in_a_row + 1 if row["nonfinite"] else 0
      )

  def note_evaluation(self, step: int, value: float) -> bool:
    """Takes an evaluation in; returns whether it is the best so far."""
    if self.best_value is None or value > self.best_value:
      self.best_step, self.best_value = step, value
      self.stale_evaluations = 0
      return True
    self.stale_evaluations += 1
    return False
