"""The answers of a text: its claims, each with what is read at it.

A text is searched once. Which of its answers is the writer's own, where the
rationale ends and what a later answer means for the first is told from this
list, in `tolerant_reader` and `second_thoughts`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from dss_jax.datasets import arithmetic
from dss_jax.datasets.completions import answer_markup, claims
from dss_jax.datasets.completions.answer_form import AnswerForm
from dss_jax.datasets.completions.answer_kinds import (
  Reading,
  read_line,
  sentence,
)
from dss_jax.datasets.completions.claims import Claim

_NEGATED = re.compile(r"[\W_]{0,3}(?:not|neither|isn'?t|never)\b", re.I)
_BECAUSE = re.compile(r"[\s,*]{0,4}(?:because|since)\b", re.I)
# Words before a number, a list's number, an equation, a time.
_IN_A_SENTENCE = re.compile(
  r"[\W_]*[^\W\d_]{2}[^\d]*\d|\d{1,2}[.)](?:\s|$)|[^=:]*[=:]"
)


@dataclasses.dataclass(frozen=True)
class Answer:
  """A place where a text gives its answer.

  Attributes:
    claim: the words that say so.
    line: the plain words of the line behind them.
    end: where that line ends in the text.
    reading: the answer that the line begins with.
  """

  claim: Claim
  line: str
  end: int
  reading: Reading

  @property
  def is_negated(self) -> bool:
    return _NEGATED.match(self.line) is not None


def find(form: AnswerForm, text: str, choices: Sequence[str]) -> list[Answer]:
  """The answers of a text in order, readable or not; at most MAX_CLAIMS.

  What only sounds like a claim ("Therefore (a) is wrong") is left out.
  """
  found = []
  for claim in claims.find(form, text):
    line = answer_markup.answer_line(text, claim.end)
    reading = read_line(form, line.words, choices)
    if claim.kind == "lone" and not _is_alone(reading):
      continue
    if claim.kind == "chosen" and reading.status != "ok":
      continue
    found.append(Answer(claim, line.words, line.end, reading))
  return found


def find_lone(
  form: AnswerForm, text: str, choices: Sequence[str]
) -> Answer | None:
  """An answer without a claim: alone in the last line, or in the first."""
  end = len(text.rstrip())
  last = text.rfind("\n", 0, end) + 1
  first = len(text) - len(text.lstrip())
  for start, is_last in ((last, True), (first, False)):
    line = answer_markup.answer_line(text, start)
    if form.kind == "text" and not (is_last and text.startswith("####", start)):
      continue
    if form.kind in ("number", "expression") and _IN_A_SENTENCE.match(
      line.words
    ):
      continue
    reading = read_line(form, line.words, choices)
    if form.kind in ("number", "expression", "text"):
      alone = reading.status == "ok" and len(reading.rest.split()) < 3
    else:
      alone = _is_alone(reading) and not (
        is_last and sentence(line.words)[1].split() and form.kind == "label"
      )
      if not is_last and reading.status == "ok":
        alone = alone or _BECAUSE.match(reading.rest) is not None
    if alone and reading.label is not None:
      claim = Claim(start, start, "lone", concludes=True, has_lead=False)
      return Answer(claim, line.words, line.end, reading)
  return None


def _is_alone(reading: Reading) -> bool:
  """Whether the answer is all that its sentence says."""
  return reading.status == "ok" and not re.search(
    r"\w", sentence(reading.rest)[0]
  )


def same(form: AnswerForm, first: Reading, second: Reading) -> bool:
  """Whether two readings have the same label, or the same value."""
  one, other = first.label or "", second.label or ""
  if form.kind in ("number", "expression"):
    return arithmetic.same_value(one, other)
  return one.casefold() == other.casefold()
