"""A look at the first answers, before the rest is paid for."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence

from dss_jax.base.errors import UserError, one_line, printable
from dss_jax.rationales.extraction_plan import ExtractionPlan
from dss_jax.rationales.planned_requests import PlannedRequests
from dss_jax.rationales.record_source import RecordSource
from dss_jax.rationales.teacher_answers import TeacherAnswer

# Answers shown, and characters of each.
_SHOWN = 3
_SHOWN_CHARS = 300

_ADVICE = {
  "truncated": "raise max_tokens, which asks only for those that were cut off",
  "empty": "look whether style fits the model (chat, or completion for a base"
  " model)",
  "refused": "another instruction, or another model, may be answered",
}
_THINKING = (
  "; this model thinks before it answers, and its thoughts count: where it"
  " has a field for that, lower its effort with extra_body"
)
_COMPARE = (
  "compare the answers below with the prompt's output_format: more exemplars, or"
  " a clearer instruction, may help"
)


def check_yield(
  planned: PlannedRequests, source: RecordSource, plan: ExtractionPlan
) -> None:
  """Stops a run whose first answers are mostly of no use.

  Args:
    planned: the requests to one teacher, some of them answered.
    source: the records.
    plan: `check_first` and `min_yield`.

  Raises:
    UserError: too few of the first answers name a label that can be one; the
      message says what is the matter, and what to do.
  """
  answers = list(
    itertools.islice(
      (
        answer
        for _, found in planned.answers(source.read())
        for answer in found
        if answer.completion is not None
      ),
      plan.check_first,
    )
  )
  usable = sum(answer.has_vote for answer in answers)
  # Fewer came where some were rejected; too few say nothing.
  if 2 * len(answers) < plan.check_first or usable >= plan.min_yield * len(
    answers
  ):
    return
  bad = [answer for answer in answers if not answer.has_vote]
  counts = collections.Counter(answer.parsed.status for answer in bad)
  statuses = ", ".join(f"{n} {status}" for status, n in counts.most_common())
  raise UserError(
    f"of the first {len(answers)} answers of {bad[0].teacher!r} only {usable} can"
    f" be used ({statuses}), fewer than min_yield, {plan.min_yield:g}, asks for;"
    f" {_advice(counts.most_common(1)[0][0], bad)}. All answers are kept; to go"
    " on without a change, set min_yield to 0",
    details="\n\n".join(map(_shown, bad[:_SHOWN])),
    fields="ExtractionPlan.min_yield",
  )


def _advice(status: str, bad: Sequence[TeacherAnswer]) -> str:
  advice = _ADVICE.get(status, _COMPARE)
  thinks = any(a.completion and a.completion.reasoning for a in bad)
  return advice + _THINKING if thinks and status == "truncated" else advice


def _shown(answer: TeacherAnswer) -> str:
  assert answer.completion is not None
  text = answer.completion.text or "(no text)"
  if answer.completion.reasoning:
    text += f" (thought: {answer.completion.reasoning})"
  text = printable(one_line(text, longest=_SHOWN_CHARS))
  return f"{answer.parsed.status}: {text}"
