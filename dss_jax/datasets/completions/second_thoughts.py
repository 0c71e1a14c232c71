"""Whether a writer stands by the answer that was given.

"Wait, that is wrong" takes an answer back. "Actually", "no" or "let me check"
may, and does where another answer comes with it: "Actually, it is (c)" does,
"Actually, this is well known" does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dss_jax.datasets import arithmetic
from dss_jax.datasets.completions.answer_form import AnswerForm
from dss_jax.datasets.completions.answer_kinds import (
  EXPRESSION,
  Reading,
  plain_text,
)
from dss_jax.datasets.completions.answer_markup import MAX_ANSWER_CHARS
from dss_jax.datasets.completions.answers import Answer, same
from dss_jax.datasets.completions.whole_numbers import NUMBER_WORD

BLANK_LINE = re.compile(r"\n[ \t\r]{0,20}\n")

# No doubt is looked for beyond.
_REACH = 2 * MAX_ANSWER_CHARS
_MAX_DOUBTS = 10
_BEGIN = (
  r"(?:^|[.!?\n(,\u2013\u2014-])[\s*_\"']{0,3}"
  r"(?:(?:oh|hmm+|oops|but|so|ah|uh|well|ok|okay)[,.!\u2026]{0,3}\s){0,2}"
)
_TAKES_BACK = re.compile(
  rf"{_BEGIN}(?:wait\b(?!\s(?:for|until|till)\b)|(?:no|oh),?\swait\b|correction\b"
  r"|oops\b|(?:scratch|strike)\sthat|on\ssecond\sthought|my\s(?:mistake|bad)\b"
  r"|i\s(?:made\san?\s(?:\w+\s)?(?:mistake|error)|was\s(?:wrong|mistaken|incorrect"
  r"|confused)|mis\w+|meant\b)|let\sme\s(?:correct|fix|revise|change)"
  r"|(?:sorry|apologies|i\sapologi[sz]e)\b[^.!?\n]{0,40}\b(?:mistake|error"
  r"|confusion|wrong|mis\w+)|th(?:at|is)(?:'s|\sis|\swas)\s(?:not\s(?:right|correct)"
  r"|wrong|incorrect|a\smistake)"
  r"|(?:(?:therefore|so|thus|however),?\s)?none\sof\sth(?:e|ese)\s(?:options"
  r"|choices|above|answers))",
  re.I,
)
_DOUBT = re.compile(
  rf"{_BEGIN}(?P<words>no[,:.!\u2014-]|actually\b|hmm+\b|alternatively\b"
  r"|(?:or\s)?rather\b|let\sme\s(?:re|double|check|verify)|on\s(?:\w+\s)?reflection"
  r"|upon\s(?:reflection|review)|re-?(?:reading|checking|considering|evaluating"
  r"|examining)|(?P<polite>sorry\b|apologies|i\sapologi[sz]e|i\s(?:was|made|need\sto"
  r"|should)\b))",
  re.I,
)
_LETTER = re.compile(
  r"[(\[]([A-Za-z])[)\]]|\b(?:option|choice|letter|is|be)\s([A-Z])(?![\w'\u2019])"
)
# What is added or multiplied on the way to a result.
_OPERAND = re.compile(
  r"[$\u20ac\u00a3]?\d[\d,.]{0,30}(?:\s[a-z]{1,20})?\s?[-+*/x\u00d7\u00f7\u2212=]\s?"
)
_NUMBER = re.compile(r"-?\d[\d,]{0,30}(?:\.\d{1,30})?")


def take_back(
  form: AnswerForm,
  reading: Reading,
  after: str,
  later: Sequence[tuple[int, Answer]],
  choices: Sequence[str],
) -> bool:
  """Whether what follows an answer gives another, or doubts this one.

  Args:
    form: the kind of answer.
    reading: the answer.
    after: what the text says behind it.
    later: the answers that `after` gives, with their positions in it.
    choices: the record's, for kind "choice".
  """
  withdrawn = _TAKES_BACK.search(after, 0, _REACH)
  doubts = _doubts(after)
  first = min(
    (match.start() for match in (withdrawn, *doubts[:1]) if match),
    default=len(after),
  )
  for position, answer in later:
    if answer.claim.has_lead and answer.is_negated:
      return not BLANK_LINE.search(after, 0, position)
    if answer.reading.label is None or answer.claim.kind in ("weak", "lone"):
      continue
    is_doubted = first < position
    if not same(form, reading, answer.reading):
      # Behind a blank line, without a doubt, it is an invented exemplar's.
      return is_doubted or not BLANK_LINE.search(after, 0, position)
    if is_doubted:
      return False  # confirmed
  near = _two_paragraphs(after)
  if withdrawn and withdrawn.start() < near:
    return True
  return any(
    _names_another(form, reading, doubt, _paragraph(after, doubt), choices)
    for doubt in doubts
    if doubt.start() < near
  )


def _doubts(after: str) -> list[re.Match[str]]:
  found = []
  for match in _DOUBT.finditer(after, 0, _REACH):
    found.append(match)
    if len(found) == _MAX_DOUBTS:
      break
  return found


def _two_paragraphs(after: str) -> int:
  """Where the second paragraph ends, that of the answer being the first."""
  begin = re.match(r"[\s.!?)*\"'\u201d]*", after)
  blank = BLANK_LINE.search(after, begin.end() if begin else 0)
  second = blank and BLANK_LINE.search(after, blank.end())
  return second.start() if second else len(after)


def _paragraph(after: str, doubt: re.Match[str]) -> str:
  """What the paragraph of a doubt says, from its words on."""
  start = doubt.start("words")
  end = BLANK_LINE.search(after, start, start + MAX_ANSWER_CHARS)
  return after[start : end.start() if end else start + MAX_ANSWER_CHARS]


def _names_another(
  form: AnswerForm,
  reading: Reading,
  doubt: re.Match[str],
  text: str,
  choices: Sequence[str],
) -> bool:
  """Whether the words of a doubt name another answer than the one read."""
  label = reading.label or ""
  if form.kind == "text":
    # Any word may be an answer.
    return not doubt["polite"]
  if form.kind == "number":
    results = _OPERAND.sub("", text)
    numbers = (n.replace(",", "") for n in _NUMBER.findall(results))
    return bool(re.search(rf"\b{NUMBER_WORD}\b", results, re.I)) or not all(
      arithmetic.same_value(label, number) for number in numbers
    )
  if form.kind == "expression":
    written = (match[0].strip(" .\n") for match in EXPRESSION.finditer(text))
    return not all(
      arithmetic.same_value(label, expression)
      for expression in written
      if re.search(r"\d\s*[-+*/]\s*[\d(]", expression)
    )
  if form.kind == "choice":
    letters = (ord((m[1] or m[2]).lower()) - 97 for m in _LETTER.finditer(text))
    if any(i < len(choices) and choices[i] != label for i in letters):
      return True
  others = {plain_text(other) for other in choices or form.labels}
  text = _without(plain_text(label), text.casefold())
  return any(
    other and _without(other, text) != text
    for other in others - {plain_text(label)}
  )


def _without(words: str, text: str) -> str:
  if not words:
    return text
  return re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", " ", text)
