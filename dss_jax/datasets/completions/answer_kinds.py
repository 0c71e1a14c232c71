"""The answers themselves, kind by kind: a line of plain words becomes a label.

A line is what follows the words that announce an answer, as
`answer_markup.answer_line` gives it. Each reader takes the answer that the line
begins with, and says what follows it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from dss_jax.datasets import arithmetic
from dss_jax.datasets.completions.answer_form import AnswerForm
from dss_jax.datasets.completions.whole_numbers import number_in


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a line gives as the answer.

  Attributes:
    label: the answer; None if there is none, or none that can be determined.
    status: "ok", or a reason of `dss_jax.datasets.completions`.
    rest: what the line says after the answer.
  """

  label: str | None
  status: str = "ok"
  rest: str = ""


def read_line(
  form: AnswerForm, line: str, choices: Sequence[str] = ()
) -> Reading:
  """Reads the answer at the beginning of a line.

  Args:
    form: the kind of answer, and the labels there are.
    line: plain words.
    choices: the record's, for kind "choice".
  """
  if form.kind == "choice":
    return _choice(line, choices)
  if form.kind == "label":
    return _label(line, form.labels)
  if form.kind == "expression":
    return _expression(line)
  if form.kind == "number":
    return _number(line)
  return _text(line)


# --- what surrounds an answer -------------------------------------------------

_FILLER = re.compile(
  r"(?:(?:an?|the|clearly|probably|likely|most|therefore|thus|then|definitely"
  r"|simply|indeed|obviously|actually|option|choice|letter|answer|number|case"
  r"|of|one|that|label|class|category)\b[\s:]{1,3}|[\"'\u201c\u2018:,]\s?){0,6}",
  re.I,
)
_NEGATED = re.compile(r"[\W_]{0,3}(?:not|neither|none|never|isn'?t|no)\b", re.I)
# An answer that ends here may be explained.
_BECAUSE = re.compile(
  r"[\s,;]*(?:\b(?:because|since|as|for|which|where|who|so|given|due to|and not"
  r"|and is|not|rather than|instead of|unlike|if|when|while|by|according|in"
  r"|on|with|is (?:the )?(?:correct|right|best|answer|most|only|likely))\b"
  r"|[(\u2013\u2014]|-\s)",
  re.I,
)
_SENTENCE_END = re.compile(
  r"(?<![A-Z])(?<!\bSt)(?<!\bMr)(?<!\bDr)[.!?]+(?=\s|$)"
)


def sentence(line: str) -> tuple[str, str]:
  """The first sentence of a line without its full stop, and the rest."""
  end = _SENTENCE_END.search(line)
  if end is None:
    return line, ""
  return line[: end.start()], line[end.end() :]


# --- choices and labels -------------------------------------------------------

_MARKED_LETTER = re.compile(
  r"[(\[]\s?([A-Za-z])\s?[)\]]|([A-Za-z])(?:\)|[.:](?=\s|$)|\s[-\u2013\u2014]\s)"
)
_BARE_LETTER = re.compile(r"([A-Za-z])(?![\w'\u2019+#-]|\s?[=*/+<>^\u2248])")
_OTHER_LETTER = re.compile(
  r"(?:\b(?:or|and|nor)\b|[/&,])\s{0,3}(?:(?:option|choice)\s)?"
  r"(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?![\w'\u2019]))|[(\[]([A-Za-z])[)\]]"
)
_CONTRAST = re.compile(r"\b(?:not|than|instead|unlike|nor|but)\b", re.I)


def _choice(line: str, choices: Sequence[str]) -> Reading:
  """The choice that the line names, by its text or else by its letter."""
  filler = _FILLER.match(line)
  begin = filler.end() if filler else 0
  # A filler may be the beginning of a choice, and "a" may be a letter.
  for start in (0, begin):
    found = _choice_at(line, start, choices)
    if found.label is not None or found.status != "no_label":
      return found
  either = re.match(r"[\W_]{0,3}(?:either|both)\b\s?", line, re.I)
  if either is None:
    return Reading(None, "no_label")
  found = _choice_at(line, either.end(), choices)
  if found.label is None:
    return Reading(None, "no_label")
  return dataclasses.replace(found, status="multiple_answers")


def _choice_at(line: str, start: int, choices: Sequence[str]) -> Reading:
  letter, text = _letter(line, start, choices)
  by_letter = choices[letter] if letter is not None else None
  if by_letter is not None and re.match(r"\s?[.!]\s", text):
    # "(b). A bank is safe": the next sentence need not repeat the choice.
    named, after = _longest(text, choices)
    if named is None or not _ends(after):
      return Reading(by_letter, "ok", text)
  by_text, rest = _longest(text, choices)
  if by_text is None and (article := re.match(r"\s?(?:an?|the)\s", text, re.I)):
    by_text, rest = _longest(text[article.end() :], choices)
  if by_letter is None and by_text is None:
    return Reading(None, "no_label")
  if by_text is None:
    words = plain_text(sentence(text)[0])
    named = not words or _BECAUSE.match(text) or not words[0].isalnum()
    status = "ok" if named else "label_not_in_choices"
    reading = Reading(by_letter, status, text)
  elif by_letter is not None and plain_text(by_letter) == plain_text(by_text):
    # Two choices may have the same text.
    status = "ok" if _ends(rest) else "label_not_in_choices"
    reading = Reading(by_letter, status, rest)
  elif by_letter is not None:
    reading = Reading(by_text, "letter_text_mismatch", rest)
  elif _ends(rest):
    reading = Reading(by_text, "ok", rest)
  else:
    return Reading(None, "label_not_in_choices")
  if _names_another(reading, line, start, choices):
    return dataclasses.replace(reading, status="multiple_answers")
  return reading


def _letter(
  line: str, start: int, choices: Sequence[str]
) -> tuple[int | None, str]:
  """The number of the choice whose letter stands there, and what follows."""
  match = _MARKED_LETTER.match(line, start)
  if match is None:
    match = _BARE_LETTER.match(line, start)
    if match is None:
      return None, line[start:]
    after = line[match.end() :]
    is_word = re.match(r"\s?[^\W\d_]", after) and not _BECAUSE.match(after)
    # "a bank" has an article, "I think" a pronoun.
    if is_word and (match[1].islower() or _longest(after, choices)[0] is None):
      return None, line[start:]
  letter = next(filter(None, match.groups()))
  index = ord(letter.lower()) - ord("a")
  if index >= len(choices):
    return None, line[start:]
  return index, line[match.end() :]


def _longest(text: str, labels: Sequence[str]) -> tuple[str | None, str]:
  """The longest of the labels that a text begins with, and what follows it."""
  lead = re.match(r"[\W_]{0,4}", text)
  candidates = {0, lead.end() if lead else 0}
  best: tuple[int, int, str] | None = None
  for label in labels:
    for start in candidates:
      end = _match_words(text, start, label)
      if end is not None and (best is None or len(label) > best[0]):
        best = (len(label), end, label)
  if best is None:
    return None, text
  return best[2], text[best[1] :]


def _match_words(text: str, start: int, label: str) -> int | None:
  """Where a label ends that stands at `start`, in any case, as whole words."""
  for spelled in dict.fromkeys((label.strip(), plain_text(label))):
    pattern = r"\s{1,3}".join(map(re.escape, spelled.split()))
    if not pattern:
      continue
    match = re.compile(pattern, re.I).match(text, start)
    if match is None:
      continue
    around = text[match.end() - 1 : match.end() + 1]
    if not re.fullmatch(r"\w\w", around):
      return match.end()
  return None


def plain_text(text: str) -> str:
  """A choice's text without what a teacher changes in repeating it."""
  text = " ".join(text.casefold().split()).strip(" .,;:!?\"'*_`\u201c\u201d")
  return re.sub(r",? (?:or|and)$|^(?:or|and)$", "", text)


def _ends(rest: str) -> bool:
  """Whether an answer ends before `rest`, which then explains it."""
  return not re.match(r"\s?[^\W_]|['\u2019]\w|-\w", rest) or bool(
    _BECAUSE.match(rest)
  )


def _names_another(
  reading: Reading, line: str, start: int, choices: Sequence[str]
) -> bool:
  """Whether the same sentence gives another choice as well."""
  if re.match(r"[\W_]{0,3}(?:either|both)\b", line, re.I):
    return True
  rest = sentence(reading.rest)[0]
  for other in _OTHER_LETTER.finditer(rest):
    letter = next(filter(None, other.groups()))
    index = ord(letter.lower()) - ord("a")
    if index < len(choices) and choices[index] != reading.label:
      return not _CONTRAST.search(rest[: other.start() + 4])
  joined = re.match(r"[\s,.)\"']*(?:or|and|/)\s{0,3}", rest, re.I)
  if joined is None:
    return False
  other, _ = _longest(rest[joined.end() :], choices)
  return other is not None and other != reading.label


# Labels that may as well belong to the words behind them: "no one knows".
_DETERMINER = re.compile(
  r"(?:no|none|other|all|some|any|both|each|more|less|few|many|most|another)"
  r"(?=\s\w)(?!\s(?:it|he|she|they|we|you|i|there|th[ai][st]|th[eo]se)\b)",
  re.I,
)


def _label(line: str, labels: Sequence[str]) -> Reading:
  """The label that the line begins with, perhaps after an article."""
  filler = _FILLER.match(line)
  for start in (0, filler.end() if filler else 0):
    found, rest = _longest(line[start:], labels)
    if found and _DETERMINER.match(found + rest) and not _ends(rest):
      return Reading(None, "label_not_in_choices")
    if found is not None:
      break
  else:
    either = re.match(r"[\W_]{0,3}(?:either|both)\b\s?", line, re.I)
    found = either and _longest(line[either.end() :], labels)[0]
    if found:
      return Reading(found, "multiple_answers")
    has_words = re.search(r"\w", line)
    return Reading(None, "label_not_in_choices" if has_words else "no_label")
  joined = re.match(
    r"[\s,)\"'\u201d*]*(?:\b(?:or|and|to|nor)\b|/)\s{0,3}(?:an?\s)?",
    rest,
    re.I,
  )
  other = joined and _longest(rest[joined.end() :], labels)[0]
  if other and other != found:
    return Reading(found, "multiple_answers", rest)
  return Reading(found, "ok", rest)


# --- numbers, expressions, texts ----------------------------------------------

_REASON = re.compile(
  r",?\s(?:because|since|as (?!well)|so that|given|due to|from the|according)"
  r"\b|;(?!\W{1,3}\d)|,\s(?:which|so(?!\W{1,3}\d)|where|and (?:not|the)|if|but|when)\b"
  # A second thought.
  r"|(?:[,\u2013\u2014]|\s-)\s?(?:no|wait|actually|sorry|hmm|oops)\b"
)


def _without_reason(line: str) -> str:
  """The first sentence of a line, up to where it gives reasons."""
  statement = sentence(line)[0]
  reason = _REASON.search(statement)
  return statement[: reason.start()] if reason else statement


# "x = 7, y = 8" and "2x = 8": of several equations, or of an unknown's.
_EQUATIONS = re.compile(
  r"=.*(?:[,;](?!\d)|\b(?:and|or)\b)|\d\s?[xyznk]\s*(?:[-+*/^)=]|$)"
  r"|\b[xyznkab]\s?[-+*/^]|[-+*/]\s?[xyznk]\b"
)


def _number(line: str) -> Reading:
  """The number that the first sentence gives, behind its last "="."""
  statement = _without_reason(line)
  rest = line[len(statement) :]
  left, _, right = statement.rpartition("=")
  is_factorial = statement[-1:].isdigit() and rest.startswith("!")
  label = None
  if not is_factorial and not _EQUATIONS.search(left):
    label = number_in(right)
  if label is not None and arithmetic.value(label) is not None:
    return Reading(label, "ok", rest)
  has_number = re.search(r"\d", statement)
  return Reading(None, "unevaluable" if has_number else "no_label", rest)


# Signs that teachers write as mathematicians do.
_SIGNS = str.maketrans("\u00d7\u22c5\u00f7\u2212\u2013\u00b7", "**/--*")
_TIMES = re.compile(r"(?<=[\d)])(\s?)[xX](?=\s?[\d(])")
_MONEY = re.compile(r"[$\u20ac\u00a3]\s?(?=[\d.])")
EXPRESSION = re.compile(r"[-+*/().\d\s]+")
_RESULT = re.compile(r"^\s*=\s*[$€£]?\s*-?\d[\d,.]*")
_UNITS = re.compile(r"[\s.)`\"'\u201d]*(?:[^\W\d_][^\d(+*/^=%]*)?")


def _with_plain_signs(text: str) -> str:
  """The text with the signs of `arithmetic`, and without those of money."""
  return _MONEY.sub("", _TIMES.sub(r"\1*", text.translate(_SIGNS)))


def _expression(line: str) -> Reading:
  """The expression that the line begins with, if it is whole and has a value.

  The prompts ask for one pair of parentheses around the whole expression. A
  teacher sometimes continues after it, `(16 * 17) * 4`; the status says so, and
  the label stays what it is officially.
  """
  line = _with_plain_signs(line)
  filler = _FILLER.match(line)
  start = filler.end() if filler else 0
  match = EXPRESSION.match(line, start)
  # A sentence's full stop is none of the expression's points.
  written = (match[0] if match else "").rstrip(". \t")
  end = start + len(written)
  written = written.strip()
  has_operator = re.search(r"[\d)]\s*[-+*/]", written)
  if not written or not re.search(r"\d", written):
    status = "unevaluable" if re.match(r"\s*\(", line[start:]) else "no_label"
    return Reading(None, status)
  rest = line[end:]
  if not (written.startswith("(") or has_operator):
    return Reading(None, "unevaluable" if has_operator else "no_label")
  after = _RESULT.sub("", rest)
  is_listed = re.search(r"^,\d|\b(?:or|and)\b[^.]{0,20}\d", after)
  if arithmetic.value(written) is None or is_listed:
    return Reading(None, "unevaluable", rest)
  if _is_parenthesised(written):
    label, status = written, "ok"
  elif not written.startswith("("):
    label, status = f"({written})", "ok"
  else:
    label = written[: written.rfind(")") + 1]
    status = "ok" if label == written else "label_cut"
    if arithmetic.value(label) is None:
      return Reading(None, "unevaluable", rest)
  if status == "ok" and not _UNITS.fullmatch(_without_reason(after)):
    status = "label_cut"
  return Reading(label, status, after)


def _is_parenthesised(text: str) -> bool:
  """Whether one pair of parentheses is around the whole text."""
  depth = 0
  for i, character in enumerate(text):
    depth += (character == "(") - (character == ")")
    if not depth:
      return i == len(text) - 1 and text.startswith("(")
  return False


# With one of these a sentence begins that is none of the answer.
_REMARK = re.compile(
  r"(?<!\bDr)(?<!\bMr)(?<!\bSt)[.!?]\s+(?=(?:I|I'm|Let|Hope|If|Please|Feel|Thank|Thanks|Note|Explanation"
  r"|This|It|Because|Since|Wait|Actually|No|Hmm|So|Therefore|That|Sorry|Oops"
  r"|Apologies|Correction|Alternatively|On|Upon|Re-?reading)\b)"
)


def _text(line: str) -> Reading:
  """The line up to its full stop, which need not be there."""
  statement, rest = line, ""
  if remark := _REMARK.search(line):
    statement, rest = line[: remark.start()], line[remark.end() :]
  label = statement.strip()
  label = label.removesuffix(".") if label.endswith(".") else label
  label = re.sub(r"(?<=\w)[!]+$", "", label.rstrip()).strip('"\u201c\u201d')
  if not re.search(r"\w", label):
    return Reading(None, "no_label")
  return Reading(label, "ok", rest)
