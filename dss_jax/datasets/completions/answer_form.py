"""How a completion gives its answer, and what reading it comes to.

`tolerant_reader` reads answers of these forms, `whole_numbers` their numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import re

ANSWER_KINDS = ("choice", "label", "expression", "number", "text")


@dataclasses.dataclass(frozen=True)
class Parsed:
  """What a completion says.

  Attributes:
    rationale: the text before the answer; "" where there is none.
    label: the teacher's answer; None where there is none.
    status: "ok", or a reason of `dss_jax.datasets.completions`.
  """

  rationale: str
  label: str | None
  status: str = "ok"

  def checked(self) -> Parsed:
    """Itself, or with status "empty" if only the rationale is missing."""
    if self.status == "ok" and not self.rationale.strip():
      return dataclasses.replace(self, status="empty")
    return self


@dataclasses.dataclass(frozen=True)
class AnswerForm:
  """How a completion gives its answer.

  Attributes:
    kind: "choice", one of the record's choices, by letter and text, "(d) lake";
      "label", one of a few words; "expression", arithmetic in parentheses,
      "(84 / 2)"; "number"; "text", the rest of the line.
    marker: the words before the answer, such as "the answer is" or "Answer:".
      Others that say the same are understood as well; see `claims`.
    next_exemplar: how the lines begin at which another exemplar does, "Q:",
      for completions that run on; "" if there is no such beginning.
    labels: all there are, for kind "label".
    json_keys: the keys of the rationale and of the answer, where the prompt asks
      for a JSON object; usual names are understood without them.
  """

  kind: str
  marker: str = "the answer is"
  next_exemplar: str = ""
  labels: tuple[str, ...] = ()
  json_keys: tuple[str, str] | None = None

  @property
  def has_field_marker(self) -> bool:
    return self.marker.endswith(":")

  @functools.cached_property
  def next_pattern(self) -> re.Pattern[str] | None:
    begin = self.next_exemplar
    if not begin:
      return None
    # The last character may have been cut off: "Q" for "Q:".
    last = rf"(?:{re.escape(begin[-1])}|$)" if len(begin) > 1 else "(?:$)?"
    body = begin[:-1] if len(begin) > 1 else begin
    return re.compile(rf"(?:^|\n)[^\S\n]*{re.escape(body)}{last}")
