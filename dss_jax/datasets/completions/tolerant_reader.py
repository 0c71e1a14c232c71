"""A completion read as a person would read it, whatever its form.

What is said before the first claim of an answer is the rationale. Where the
answer comes first, what follows it is. The first answer counts:

* After it, models that run on invent the next exemplar. Whatever answers that
  has, and whatever it says, belongs to no record.
* "Wait, actually ..." after an answer takes it back, and so does another answer
  in the same paragraph. The teacher then stands by neither, so that the status
  is "multiple_answers"; the label is the first.

Time grows with the length of the text and no faster, whatever the text is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from dss_jax.datasets import arithmetic
from dss_jax.datasets.completions import answer_markup, claims
from dss_jax.datasets.completions.answer_form import AnswerForm, Parsed
from dss_jax.datasets.completions.answer_kinds import (
  Reading,
  read_line,
  sentence,
)

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
# Another exemplar that begins as no prompt of ours does.
_NEXT = re.compile(
  r"\n[ \t#*_>-]{0,8}(?:(?:next|another|new)\s)?(?:Q|Question|Problem|Exercise"
  r"|Example|Human|User)(?:\s?#?\d{1,4})?\s?(?:\*\*|__)?[:.]",
  re.I,
)
_TAKEN_BACK = re.compile(
  r"(?:^|[.!?\n(\u2014-])\s{0,3}(?:(?:oh|hmm+|oops|but|so|ah|uh)[,.!]?\s){0,2}"
  r"(?:wait\b|no[,:.!\u2014]|actually\b|correction\b|oops\b|hmm\b|sorry\b"
  r"|apologies|i apologi[sz]e|on (?:second thought|reflection)|scratch that"
  r"|let me (?:re|double|correct|fix|check)|i (?:made|was|misread|need to)\b"
  r"|that(?:'s| is) (?:not right|wrong|incorrect)|my mistake|alternatively\b"
  r"|(?:therefore|so|thus|however)?,? ?none of th(?:e|ese) (?:options|choices|above)"
  r"|upon (?:reflection|review)|re-?(?:reading|checking|considering|evaluating))",
  re.I,
)
_NEGATED = re.compile(r"[\W_]{0,3}(?:not|neither|isn'?t|never)\b", re.I)
_RATIONALE_HEAD = re.compile(
  r"[\s#*_>-]{0,12}(?:(?:brief|short|step[- ]by[- ]step|my)\s)?(?:explanation"
  r"|reasoning|rationale|reasons?|justification|analysis|thought process"
  r"|why)\b[*_]{0,2}[ \t]{0,3}(?:[:\u2013\u2014]|(?=\n))[*_\s]{0,8}",
  re.I,
)
_REMARKS = re.compile(
  r"(?:^|\n|(?<=[.!?])\s)[ \t]{0,3}(?:I hope (?:this|that)|Let me know|Hope"
  r" (?:this|that)|If you (?:have|need|would|want)|Feel free|Is there anything"
  r"|Please let me)\b",
)
# Words before a number, a list's number, an equation, a time.
_IN_A_SENTENCE = re.compile(
  r"[\W_]*[^\W\d_]{2}[^\d]*\d|\d{1,2}[.)](?:\s|$)|[^=:]*[=:]"
)
_BLANK_LINE = re.compile(r"\n[ \t\r]{0,20}\n")
_FIRST_WORD = re.compile(
  r"[\s,.;:)\u2013\u2014-]{0,6}(?:(?:because|since|as)\b,?\s)?", re.I
)


@dataclasses.dataclass(frozen=True)
class _Answered:
  """The first answer of a text.

  Attributes:
    start: where its claim begins.
    end: where the line of the answer begins.
    reading: what it is.
  """

  start: int
  end: int
  reading: Reading


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
  from_json = _json_answer(form, completion, choices)
  if from_json is not None:
    return from_json
  if answer_markup.is_broken_json(completion):
    # Its signs are no words of a rationale.
    return Parsed("", None, "no_marker" if is_cut_off is False else "truncated")
  head, runs_on = _own_part(form, completion)
  text = answer_markup.without_bold(head)
  ends = runs_on or _SENTENCE_END.search(head) is not None
  is_cut = not ends if is_cut_off is None else is_cut_off and not runs_on
  found = _first_answer(form, text, choices, is_cut) or _lone_answer(
    form, text, choices
  )
  if found is None:
    # A rationale that was cut off in the middle is nothing to learn from.
    if is_cut:
      return Parsed("", None, "truncated")
    return Parsed(text, None, "no_marker")
  reading = found.reading
  rationale = _trimmed(text[: _conclusion(form, text, found, choices)])
  is_known_cut = bool(is_cut_off) and not runs_on
  if reading.label is None:
    return Parsed(rationale, None, reading.status)
  is_last = not reading.rest.strip() and "\n" not in text[found.end :].strip()
  if form.kind in ("number", "text") and is_known_cut and not ends and is_last:
    # "12" may be the beginning of "120".
    return Parsed(rationale, None, "truncated")
  if reading.status == "ok" and _is_taken_back(form, text, found, choices):
    reading = dataclasses.replace(reading, status="multiple_answers")
  if reading.status == "ok" and not rationale:
    rationale = _following(form, text, found, choices)
    if rationale and is_known_cut:
      return Parsed("", reading.label, "truncated")
  return _parsed(rationale, reading)


def _json_answer(
  form: AnswerForm, completion: str, choices: Sequence[str]
) -> Parsed | None:
  """What a JSON object says, unless an answer in words comes before it."""
  fields = answer_markup.json_fields(completion, form.json_keys)
  if fields is None:
    return None
  start, rationale, answer = fields
  before = completion[:start].strip()
  earlier = _first_answer(form, before, choices, is_cut=False)
  if earlier is not None and earlier.reading.label is not None:
    return None
  line = answer_markup.answer_line(answer).words
  return _parsed(rationale or _trimmed(before), read_line(form, line, choices))


def _parsed(rationale: str, reading: Reading) -> Parsed:
  return Parsed(rationale, reading.label, reading.status).checked()


def _own_part(form: AnswerForm, completion: str) -> tuple[str, bool]:
  """The text up to where another exemplar begins, and whether one does."""
  begin = form.next_pattern and form.next_pattern.search(completion)
  head = completion[: begin.start()] if begin else completion
  head = head.strip()
  following = _NEXT.search(head)
  if following:
    head = head[: following.start()].rstrip()
  return head, begin is not None or following is not None


# --- the answer ---------------------------------------------------------------


def _read_claims(
  form: AnswerForm, text: str, choices: Sequence[str]
) -> Iterator[tuple[claims.Claim, str, Reading]]:
  """The claims of a text, the lines of their answers, and what those say."""
  for claim in claims.find(form, text):
    line = answer_markup.answer_line(text, claim.end).words
    yield claim, line, read_line(form, line, choices)


def _first_answer(
  form: AnswerForm, text: str, choices: Sequence[str], is_cut: bool
) -> _Answered | None:
  """The first claim that can be read, or else the first that cannot."""
  unread: _Answered | None = None
  weak: _Answered | None = None
  last = len(text)
  for claim, line, reading in _read_claims(form, text, choices):
    if claim.start >= last:
      break
    if is_cut and _reaches_end(text, claim.end):
      reading = _begun(form, line, reading)
    found = _Answered(claim.start, claim.end, reading)
    if claim.kind == "weak":
      # "The answer must be a bank" may be a step on the way.
      if reading.label is not None:
        weak = weak or found
      continue
    if claim.kind == "lone" and not _is_alone(reading):
      continue
    if claim.kind == "chosen" and reading.status != "ok":
      continue
    if reading.label is not None:
      if weak is None or not _BLANK_LINE.search(text, weak.end, claim.start):
        return found
      # Either of them may be of an exemplar that was invented.
      if _same(form, weak.reading, reading):
        return weak
      return dataclasses.replace(
        weak,
        reading=dataclasses.replace(weak.reading, status="multiple_answers"),
      )
    if _NEGATED.match(line) and not claim.concludes:
      continue
    unread = unread or found
    if claim.concludes:
      # It was final, unless what it says is a claim too.
      line_end = text.find("\n", claim.end + 2)
      if claim.kind == "own_field":
        last = claim.end
      elif line_end >= 0:
        last = min(last, line_end)
  return weak or unread


def _reaches_end(text: str, start: int) -> bool:
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


def _is_alone(reading: Reading) -> bool:
  """Whether the answer is all that its sentence says."""
  return reading.status == "ok" and not re.search(
    r"\w", sentence(reading.rest)[0]
  )


def _lone_answer(
  form: AnswerForm, text: str, choices: Sequence[str]
) -> _Answered | None:
  """An answer without a claim: alone in the last line, or in the first."""
  lines = [line for line in text.split("\n") if line.strip()]
  if not lines:
    return None
  last, first = lines[-1], lines[0]
  for line, is_last in ((last, True), (first, False)):
    start = text.rfind(line) if is_last else text.find(line)
    plain = answer_markup.answer_line(line).words
    if form.kind == "text" and not (is_last and line.startswith("####")):
      continue
    if form.kind in ("number", "expression") and _IN_A_SENTENCE.match(plain):
      continue
    reading = read_line(form, plain, choices)
    if form.kind in ("number", "expression", "text"):
      alone = reading.status == "ok" and len(reading.rest.split()) < 3
    else:
      alone = _is_alone(reading) and not (
        is_last and len(sentence(plain)[1].split()) > 0 and form.kind == "label"
      )
    if alone and reading.label is not None:
      return _Answered(start, start, reading)
  return None


def _same(form: AnswerForm, first: Reading, second: Reading) -> bool:
  one, other = first.label or "", second.label or ""
  if form.kind in ("number", "expression"):
    return arithmetic.same_value(one, other)
  return one.casefold() == other.casefold()


def _conclusion(
  form: AnswerForm, text: str, found: _Answered, choices: Sequence[str]
) -> int:
  """Where the rationale ends: at "So" where an answer is repeated with it.

  "The closest answer is a bank. So the answer is (b) bank." has its conclusion
  at the end, and what is before it is the rationale.
  """
  paragraph = _BLANK_LINE.search(text, found.end)
  part = text[found.end : paragraph.start() if paragraph else None]
  for claim, _, reading in _read_claims(form, part, choices):
    if reading.status != "ok" or not _same(form, found.reading, reading):
      break
    if claim.has_lead and text[: found.start].strip():
      return found.end + claim.start
  return found.start


def _is_taken_back(
  form: AnswerForm, text: str, found: _Answered, choices: Sequence[str]
) -> bool:
  """Whether the writer gives another answer, or doubts this one, after it."""
  after = text[found.end :]
  answer = answer_markup.answer_line(text, found.end)
  # The label itself may be a word of doubt, such as "no".
  said = answer.words if form.kind == "number" else found.reading.rest
  following = f"{said}{text[answer.end :]}"
  offset = len(after) - len(following)
  doubt = _TAKEN_BACK.search(following, 0, 2 * answer_markup.MAX_ANSWER_CHARS)
  for claim, line, reading in _read_claims(form, after, choices):
    if claim.has_lead and _NEGATED.match(line):
      return not _BLANK_LINE.search(after, 0, claim.start)
    if reading.label is None or claim.kind in ("weak", "lone"):
      continue
    doubted = doubt is not None and doubt.start() + offset < claim.start
    if _same(form, found.reading, reading):
      if doubted:
        return False  # confirmed
      continue
    return doubted or not _BLANK_LINE.search(after, 0, claim.start)
  if doubt is None:
    return False
  blank = _BLANK_LINE.search(following.lstrip())
  second = blank and _BLANK_LINE.search(following.lstrip(), blank.end())
  return second is None or doubt.start() < second.start()


# --- the rationale ------------------------------------------------------------


def _trimmed(text: str) -> str:
  """A rationale without the headings and signs around it."""
  text = claims.without_lead(text)
  if head := _RATIONALE_HEAD.match(text):
    text = text[head.end() :]
  return text.strip()


def _following(
  form: AnswerForm, text: str, found: _Answered, choices: Sequence[str]
) -> str:
  """The reasons that a text gives after its answer; "" if it gives none."""
  begin = found.end
  while begin < len(text) and text[begin].isspace():
    begin += 1
  line_end = text.find("\n", begin)
  remainder = found.reading.rest
  remainder = remainder[_FIRST_WORD.match(remainder).end() :]  # type: ignore[union-attr]
  if len(remainder.split()) < 3:
    remainder = ""
  rest = f"{remainder}\n{text[line_end:] if line_end >= 0 else ''}".strip()
  end = len(rest)
  for claim, _, reading in _read_claims(form, rest, choices):
    if reading.label is not None and not _same(form, found.reading, reading):
      return ""  # another exemplar, then
    if claim.concludes:
      end = min(end, claim.start)
  rationale = _trimmed(rest[:end])
  if remark := _REMARKS.search(rationale):
    rationale = rationale[: remark.start()].rstrip()
  return rationale if len(rationale.split()) > 1 else ""
