"""A completion read as a person would read it, whatever its form.

What is said before the first claim of an answer is the rationale. Where the
answer comes first, what follows it is. The first answer counts:

* After it, models that run on invent the next exemplar. Whatever answers that
  has, and whatever it says, belongs to no record.
* "Wait, ..." after an answer takes it back, and so does another answer in the
  same paragraph (see `second_thoughts`). The teacher then stands by neither, so
  that the status is "multiple_answers"; the label is the first.

Time grows with the length of the text and no faster, whatever the text is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from dss_jax.datasets.completions import (
  answer_markup,
  answers,
  claims,
  second_thoughts,
  template_tokens,
)
from dss_jax.datasets.completions.answer_form import AnswerForm, Parsed
from dss_jax.datasets.completions.answer_kinds import Reading, read_line
from dss_jax.datasets.completions.answers import Answer, same
from dss_jax.datasets.completions.second_thoughts import BLANK_LINE

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
# Another exemplar that begins as no prompt of ours does, or a problem restated.
_HEADING = re.compile(
  r"\n[ \t#*_>-]{0,8}(?:(?:next|another|new)\s)?(?:Q|Question|Problem|Exercise"
  r"|Example|Human|User)(?:\s?#?\d{1,4})?\s?(?:\*\*|__)?[:.]",
  re.I,
)
# Only an exemplar has such lines too.
_ITS_ANSWER = re.compile(
  r"\n[ \t#*_>-]{0,8}(?:A|Answer|Assistant|AI|Bot|Solution|Response)\s?(?:\*\*|__)?"
  r"[:.]",
  re.I,
)
# A text with more headings is no answer.
_MAX_HEADINGS = 20
_RATIONALE_HEAD = re.compile(
  r"[\s#*_>-]{0,12}(?:(?:brief|short|step[- ]by[- ]step|my)\s)?(?:explanation"
  r"|reasoning|rationale|reasons?|justification|analysis|thought process"
  r"|why)\b[*_]{0,2}[ \t]{0,3}(?:[:\u2013\u2014]|(?=\n))[*_\s]{0,8}",
  re.I,
)
_REMARKS = re.compile(
  r"(?:^|\n|(?<=[.!?])\s)[ \t]{0,3}(?:I hope|Hope|Let me know|If you (?:have|need"
  r"|would|want)|Feel free|Is there anything|Please let me|Thank|Happy to|Would"
  r" you like|Do you (?:have|need|want))\b",
)
_FIRST_WORD = re.compile(
  r"[\s,.;:!$)}\]*_\u2013\u2014-]{0,6}(?:(?:because|since|as)\b,?\s)?", re.I
)
_CLOSING_TAG = re.compile(r"</\w{1,20}>")


def read(
  form: AnswerForm,
  completion: str,
  choices: Sequence[str] | None = None,
  *,
  is_cut_off: bool | None = None,
) -> Parsed:
  """The rationale and the answer of a completion.

  Args:
    form: how the answer is given.
    completion: any text.
    choices: the record's, for kind "choice".
    is_cut_off: whether the teacher was stopped at its longest length. If None,
      a text that does not end like a sentence counts as cut off.

  Returns:
    What it says, with labels in the spelling of `choices` or `form.labels`.
  """
  choices = choices or ()
  fields = answer_markup.json_fields(completion, form.json_keys)
  if fields is not None and fields.answers:
    parsed = _of_json(form, completion, fields, choices)
    if parsed is not None:
      return parsed
  elif fields is not None and not completion[: fields.start].strip():
    # Its signs are no words of a rationale.
    completion = completion[fields.end :].lstrip("`\n ")
  elif fields is None and answer_markup.is_broken_json(completion):
    return Parsed("", None, "no_marker" if is_cut_off is False else "truncated")
  return _of_words(form, completion, choices, is_cut_off)


def _of_json(
  form: AnswerForm,
  completion: str,
  fields: answer_markup.JsonFields,
  choices: Sequence[str],
) -> Parsed | None:
  """What a JSON object says; None if an answer in words comes before it."""
  before = completion[: fields.start].strip()
  earlier = _first(form, before, answers.find(form, before, choices))
  if earlier is not None and earlier.reading.label is not None:
    return None
  after = _first_part(form, completion[fields.end :])
  readings = [
    read_line(form, answer_markup.answer_line(answer).words, choices)
    for answer in fields.answers[: claims.MAX_CLAIMS]
  ]
  reading = readings[0]
  later = answers.find(form, after, choices)
  if reading.status == "ok" and (
    not all(same(form, reading, other) for other in readings)
    or second_thoughts.take_back(
      form, reading, after, [(a.claim.start, a) for a in later], choices
    )
  ):
    reading = dataclasses.replace(reading, status="multiple_answers")
  return _parsed(fields.rationale or _trimmed(before), reading)


def _of_words(
  form: AnswerForm,
  completion: str,
  choices: Sequence[str],
  is_cut_off: bool | None,
) -> Parsed:
  """What a text says."""
  begin = form.next_pattern and form.next_pattern.search(completion)
  head = (completion[: begin.start()] if begin else completion).strip()
  text = answer_markup.without_bold(head)
  found = answers.find(form, text, choices)
  end = _own_end(form, text, found, choices)
  text = text[:end].rstrip()
  found = [answer for answer in found if answer.claim.start < len(text)]
  runs_on = begin is not None or end is not None
  ends = runs_on or _SENTENCE_END.search(head) is not None
  is_cut = not ends if is_cut_off is None else is_cut_off and not runs_on
  first = _first(form, text, found, is_cut)
  first = first or answers.find_lone(form, text, choices)
  if first is None:
    # A rationale that was cut off in the middle is nothing to learn from.
    if is_cut:
      return Parsed("", None, "truncated")
    return Parsed(text, None, "no_marker")
  reading = first.reading
  said = first.line[len(first.line) - len(reading.rest) :]
  after = said + text[first.end :]
  shift = first.end - len(said)
  later = [
    (answer.claim.start - shift, answer)
    for answer in found
    if answer.claim.start >= max(first.claim.end, first.claim.start + 1)
  ]
  rationale = _trimmed(text[: _conclusion(form, text, first, found)])
  if reading.label is None:
    return Parsed(rationale, None, reading.status)
  is_known_cut = bool(is_cut_off) and not runs_on
  is_last = not reading.rest.strip() and _is_last_line(text, first.claim.end)
  if form.kind in ("number", "text") and is_known_cut and not ends and is_last:
    # "12" may be the beginning of "120".
    return Parsed(rationale, None, "truncated")
  if reading.status == "ok" and second_thoughts.take_back(
    form, reading, after, later, choices
  ):
    reading = dataclasses.replace(reading, status="multiple_answers")
  if reading.status == "ok" and not rationale:
    rationale = _reasons(form, reading, after, later)
    if rationale and is_known_cut:
      return Parsed("", reading.label, "truncated")
  return _parsed(rationale, reading)


def _parsed(rationale: str, reading: Reading) -> Parsed:
  return Parsed(rationale, reading.label, reading.status).checked()


# --- where another exemplar begins --------------------------------------------


def _own_end(
  form: AnswerForm, text: str, found: list[Answer], choices: Sequence[str]
) -> int | None:
  """Where what belongs to the record ends; None at the text's end.

  After an answer, a heading ("Problem:") or a control token begins something
  else. Before one, a heading does only if an answer of its own follows: else it
  restates the problem.
  """
  given = next(
    (
      answer.claim.end
      for answer in found
      if answer.reading.label is not None or answer.claim.kind != "weak"
    ),
    len(text),
  )
  ends = []
  for count, heading in enumerate(_HEADING.finditer(text)):
    start, end = heading.span()
    if (
      count == _MAX_HEADINGS
      or given <= start
      or _ITS_ANSWER.search(text, end, min(given, end + 2000))
      or answers.find_lone(form, text[:start], choices)
    ):
      ends.append(start)
      break
  token = template_tokens.first_markup(text, given)
  if token is not None:
    ends.append(token)
  return min(ends, default=None)


def _first_part(form: AnswerForm, text: str) -> str:
  """The text behind an answer, up to where another exemplar begins."""
  patterns = filter(None, (form.next_pattern, _HEADING))
  found = (pattern.search(text) for pattern in patterns)
  ends = [match.start() for match in found if match]
  token = template_tokens.first_markup(text)
  return text[: min([*ends, len(text) if token is None else token])]


# --- the answer ---------------------------------------------------------------


def _first(
  form: AnswerForm, text: str, found: Sequence[Answer], is_cut: bool = False
) -> Answer | None:
  """The first claim that can be read, or else the first that cannot."""
  unread: Answer | None = None
  weak: Answer | None = None
  last = len(text)
  for answer in found:
    claim = answer.claim
    if claim.start >= last:
      break
    if is_cut and _is_last_line(text, claim.end):
      reading = _begun(form, answer.line, answer.reading)
      answer = dataclasses.replace(answer, reading=reading)
    if claim.kind == "weak":
      # "The answer must be a bank" may be a step on the way.
      if answer.reading.label is not None:
        weak = weak or answer
      continue
    if answer.reading.label is not None:
      if weak is None or not BLANK_LINE.search(text, weak.end, claim.start):
        return answer
      # Either of them may be of an exemplar that was invented.
      if same(form, weak.reading, answer.reading):
        return weak
      several = dataclasses.replace(weak.reading, status="multiple_answers")
      return dataclasses.replace(weak, reading=several)
    if answer.is_negated and not claim.concludes:
      continue
    unread = unread or answer
    if claim.concludes:
      # It was final, unless what it says is a claim too.
      line_end = text.find("\n", claim.end + 2)
      if claim.kind == "own_field":
        last = claim.end
      elif line_end >= 0:
        last = min(last, line_end)
  return weak or unread


def _is_last_line(text: str, start: int) -> bool:
  """Whether a text ends in the line that begins at `start`."""
  return len(text) - start < answer_markup.MAX_ANSWER_CHARS and (
    "\n" not in text[start:].strip()
  )


def _begun(form: AnswerForm, line: str, reading: Reading) -> Reading:
  """What was read at the end of a text that was cut off there."""
  if reading.label is not None:
    return reading
  words = re.sub(r"^\W+", "", line)
  if form.kind == "label" and words:
    # "entail" at the very end can only be one of the labels.
    begun = [
      label
      for label in form.labels
      if label[: len(words)].casefold() == words.casefold()
    ]
    if len(begun) == 1:
      return Reading(begun[0])
    if not begun and not re.fullmatch(r"\w+", words):
      return reading
  return Reading(None, "truncated")


# --- the rationale ------------------------------------------------------------


def _conclusion(
  form: AnswerForm, text: str, first: Answer, found: Sequence[Answer]
) -> int:
  """Where the rationale ends: at "So" where an answer is repeated with it.

  "The closest answer is a bank. So the answer is (b) bank." has its conclusion
  at the end, and what is before it is the rationale.
  """
  paragraph = BLANK_LINE.search(text, first.claim.end)
  end = paragraph.start() if paragraph else len(text)
  for answer in found:
    if not first.claim.end <= answer.claim.start < end:
      continue
    reading = answer.reading
    if reading.status != "ok" or not same(form, first.reading, reading):
      break
    if answer.claim.has_lead and text[: first.claim.start].strip():
      return answer.claim.start
  return first.claim.start


def _trimmed(text: str) -> str:
  """A rationale without the headings and signs around it."""
  text = claims.without_lead(text)
  if head := _RATIONALE_HEAD.match(text):
    text = text[head.end() :]
  return text.strip()


def _reasons(
  form: AnswerForm,
  reading: Reading,
  after: str,
  later: Sequence[tuple[int, Answer]],
) -> str:
  """The reasons that a text gives after its answer; "" if it gives none."""
  line = after.partition("\n")[0]
  tag = _CLOSING_TAG.match(line)
  begin = _FIRST_WORD.match(line, tag.end() if tag else 0).end()  # type: ignore[union-attr]
  if len(line[begin:].split()) < 3:
    begin = len(line)
  end = len(after)
  for position, answer in later:
    if answer.reading.label is not None and not same(
      form, reading, answer.reading
    ):
      return ""  # another exemplar, then
    if answer.claim.concludes:
      end = min(end, position)
  rationale = _trimmed(after[begin:end])
  if remark := _REMARKS.search(rationale):
    rationale = rationale[: remark.start()].rstrip()
  return rationale if len(rationale.split()) > 1 else ""
