"""What a student is asked and what it answers."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Rationale, Record


@dataclasses.dataclass(frozen=True)
class PredictInput:
  """One input that a student is asked about.

  Attributes:
    input: the text of a record, without any prefix.
    rationale: the record's rationale, for students that read one.
    id: returned with the prediction.
  """

  input: str
  rationale: str | None = None
  id: str | None = None

  def problem(self) -> str | None:
    """Why a student cannot be asked about this; None if it can."""
    texts = () if self.rationale is None else (self.rationale,)
    try:
      # The checks of a record apply here too.
      Record("any", self.input, rationales=tuple(map(Rationale, texts)))
    except UserError as error:
      return str(error)
    return None


@dataclasses.dataclass(frozen=True)
class Alternative:
  """One of several outputs.

  Attributes:
    score: its log-probability.
    label: the label that it names; None if none was asked for.
    rationale: its rationale; None if none was asked for.
  """

  score: float
  label: str | None = None
  rationale: str | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A student's answer to one input.

  Attributes:
    label: the predicted label; None if it was not asked for, or on an error.
    label_score: the log-probability of the text that names the label.
    label_scores: probability of each label of a closed set.
    votes: share of the samples that name the label.
    rationale: the predicted rationale.
    rationale_score: the log-probability of the text that holds the rationale.
    alternatives: the `num_best` outputs, the best first: outputs with labels,
      then rationales if the student writes them as separate texts.
    truncated: whether the input was longer than the student can read.
    num_tokens: tokens that the student read, prefix and end included.
    unknown_tokens: tokens of the input, prefixes aside, that the student's
      vocabulary does not know: it read the same token for all of them.
    error: why there is no answer; None if there is one.
    id: the id of the input.
  """

  label: str | None = None
  label_score: float | None = None
  label_scores: Mapping[str, float] | None = None
  votes: float | None = None
  rationale: str | None = None
  rationale_score: float | None = None
  alternatives: tuple[Alternative, ...] = ()
  truncated: bool = False
  num_tokens: int = 0
  unknown_tokens: int = 0
  error: str | None = None
  id: str | None = None


def vote(
  samples: Sequence[Alternative],
) -> tuple[list[Alternative], float]:
  """Finds the most probable sample among those with the most common label.

  Samples without a label have no vote. Between labels with equal votes the
  more probable sample decides.

  Returns:
    The samples, with that one first, and the share of all samples that name
    its label.
  """
  votes = collections.Counter(s.label for s in samples if s.label)
  best = max(samples, key=lambda s: (votes.get(s.label or "", 0), s.score))
  share = votes.get(best.label or "", 0) / len(samples)
  return [best, *(s for s in samples if s is not best)], share
