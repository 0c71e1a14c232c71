"""Where a completion says what its answer is.

Models that were shown "So the answer is (b) bank." answer so, or "**Answer:**
B", "The correct option would be (b)", a heading, a box or a tag. Each of these
is a claim; where they stand is found here, what they claim is read by
`answer_kinds`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

from dss_jax.datasets.completions.answer_form import AnswerForm

# A text with more claims than these is no answer.
MAX_CLAIMS = 60

_WHICH = (
  r"(?:(?:final|correct|right|best|likely|likeliest|only|overall|actual"
  r"|numerical|single|closest|most\s(?:likely|appropriate|suitable|probable|accurate"
  r"|reasonable|plausible|logical|fitting)|appropriate|suitable|logical)\s{1,3})"
)
_NOUN = r"(?:answer|choice|option|label|verdict|prediction|conclusion|match)"
# How the answer to a question about labels is called as well.
_NAMES_OF_LABELS = (
  "relationship|relation|classification|category|sentiment|class"
)
_OF_WHAT = r"(?:\s(?:to|for|of|in|between|here|based|from|that|which|with)\b[^.!?:\n]{0,80}?)?"
_IS = (
  r"(?:\s{1,3}(?:is|are)\b(?:\s(?:therefore|thus|then|clearly|(?:most\s)?likely"
  r"|probably|that|simply|indeed)\b)?\s{0,3}[:=]?|\s{0,3}[:=\u2192]"
  r"|\s[-\u2013\u2014]\s)"
)
_WOULD_BE = (
  r"\s{1,3}(?:would|should|must|will|has\sto|can\sonly|(?:seems|appears|is"
  r"\slikely|ought)\sto)(?:\s(?:then|thus|therefore|(?:most\s)?likely))?\sbe\b:?"
)
_PHRASE = (
  r"\b(?:(?:the|my|our|your|its)\s{1,3}(?:[\w-]{1,14}\s{1,3}){0,2}"
  rf"|{_WHICH}{{0,2}}){_NOUN}{_OF_WHAT}"
)
_HEADING = (
  rf"(?m:^)[#>*_ \t]{{0,8}}(?:(?:the|my)\s)?{_WHICH}{{0,2}}"
  r"(?:answer|conclusion|verdict|label)[ \t*_:]{0,4}(?m:$)"
)
_BOX = r"(?=\\(?:boxed|fbox)\s{0,3}\{)"
_TAG = r"<(?:final_?)?(?:answer|label|choice|result|output|verdict)>"
_LETTER = r"[(\[]?[A-Za-z][)\]]?(?![\w'])"
_CHOSEN = (
  rf"\b(?:option|choice|answer|letter)\s{{1,2}}(?={_LETTER}[^.!?\n]{{0,80}}?\sis\s"
  r"(?:the\s)?(?:correct|right|best|answer|most))"
  r"|(?<![\w(])(?=\([A-Za-z]\)[^.!?\n()]{0,80}?\sis\s(?:(?:the\s)?(?:correct"
  r"|right)\b|the\s(?:best|only|most\s\w{1,20})\s(?:answer|choice|option)"
  r"|the\sanswer\b))"
  r"|\bI(?:\swould|\swill|'d|'ll)?\s(?:choose|pick|select|go\swith|opt\sfor"
  r"|answer)\s{1,3}"
)
_THEREFORE = (
  r"\b(?:so|therefore|thus|hence)\b[,:]?\s{1,3}(?:(?:it\sis|it's|it\smust\sbe"
  r"|that\sis)\s{1,3})?(?=[(\[]|(?:option|choice)\s)"
)

_CONCLUSION = (
  r"(?:(?:and|so|therefore|thus|hence|however|finally|overall|consequently|accordingly"
  r"|in\s(?:conclusion|summary)|to\s(?:conclude|summari[sz]e)|as\sa\sresult"
  r"|(?:based\son|given|considering|from)\s[^.!?\n]{1,60},|for\s(?:this|these)"
  r"\sreasons?|that\smeans|this\smeans|which\smeans"
  r"|(?:i|we)(?:\s(?:would|can|will)|'d)?\s(?:say|think|believe|conclude"
  r"|choose)|it\sfollows)(?:\sthat)?[,:]?)"
)
_LEAD = re.compile(
  rf"(?:(?<=[.!?:;,\n])|^|\s){_CONCLUSION}(?:\s{{1,3}}{_CONCLUSION}){{0,2}}\s{{0,3}}$",
  re.I,
)
_HYPOTHESIS = re.compile(
  r"\b(?:if|whether|suppose|assum(?:e|ing)|unless|why|how|when|what)"
  r"\b[^.,;:!?\n]{0,40}$",
  re.I,
)
# "A tempting but wrong answer is ...": no answer of the writer's.
_OTHERS = re.compile(
  r"\b(?:wrong|incorrect|false|mistaken|erroneous|invalid|bad|worst|worse"
  r"|unlikely|tempting|naive|(?<!only )(?<!best )(?<!most )(?:possible|plausible"
  r"|potential)|candidate|alternative|another|other|opposite|contrary|reverse"
  r"|least|first|second|third|initial|previous|earlier|next|his|her|their"
  r"|one|(?!let|it|that|here|there|what)\w+['\u2019]s)\s{1,3}(?:(?!(?:the|my|our|an?)\b)[\w-]{1,20}\s{1,3}){0,2}$",
  re.I,
)
_NOUN_WORD = re.compile(rf"{_NOUN}|{_NAMES_OF_LABELS}", re.I)
_SENTENCE = re.compile(r"[.!?](?=\s)\s+|\n[ \t]{0,9}\n\s*(?=[A-Z*#])")
_SIGN_END = re.compile(r"(?<!\bis)(?<!\bare)\s{0,3}[:=\u2192\u2013\u2014-]\s?$")
_BEGINS = re.compile(
  rf"(?:^|[.!?:;,\n]|{_CONCLUSION})[\s#>*_-]{{0,8}}(?:the\s|my\s)?$", re.I
)


@dataclasses.dataclass(frozen=True)
class Claim:
  """A place where a text says what its answer is.

  Attributes:
    start: where the words of the claim begin, "So" included.
    end: where the answer begins.
    kind: "own" for the prompt's marker, "phrase", "weak" ("would be"),
      "heading", "box", "tag" or "chosen".
    concludes: whether it is put as the end of the matter.
    has_lead: whether "So", "Therefore" or the like leads to it.
  """

  start: int
  end: int
  kind: str
  concludes: bool
  has_lead: bool


def find(form: AnswerForm, text: str) -> Iterator[Claim]:
  """The claims of a text in order, hypotheses left out, at most MAX_CLAIMS."""
  end = count = 0
  for match in _pattern(form).finditer(text):
    kind = match.lastgroup or ""
    if match.start() < end:
      continue
    clause = text[max(match.start() - 60, 0) : match.start()]
    if kind in ("phrase", "weak", "own", "chosen") and _HYPOTHESIS.search(
      clause
    ):
      continue
    noun = _NOUN_WORD.search(match[0])
    if noun and _OTHERS.search(clause + match[0][: noun.start()]):
      continue
    # "Consider each choice: ..." and the like begin no sentence.
    is_field = kind == "phrase" and _SIGN_END.search(match[0])
    if is_field and not _BEGINS.search(clause):
      continue
    lead = _LEAD.search(text[max(match.start() - 120, 0) : match.start()])
    start = match.start() - (len(lead[0].lstrip()) if lead else 0)
    if kind == "box":
      start = _sentence_start(text, start)
    concludes = (
      lead is not None
      or kind in ("heading", "box", "tag", "own_field")
      or match[0].rstrip().endswith((":", "="))
      or re.match(rf"(?:the\s)?{_WHICH}", match[0], re.I) is not None
    )
    end = max(match.end(), match.start() + 1)
    yield Claim(start, match.end(), kind, concludes, lead is not None)
    count += 1
    if count == MAX_CLAIMS:
      return


def _sentence_start(text: str, position: int) -> int:
  """Where the sentence begins that stands before a box, if it is short.

  "Thus, the number of pens is" is nothing to learn without the number.
  """
  before = text[max(position - 200, 0) : position]
  ends = list(_SENTENCE.finditer(before))
  begin = position - len(before) + (ends[-1].end() if ends else 0)
  is_short = ends or position == len(before)
  words = text[begin:position]
  return begin if is_short and re.search(r"[^\W\d_]{2}", words) else position


@functools.lru_cache(maxsize=64)
def _pattern(form: AnswerForm) -> re.Pattern[str]:
  words = re.sub(r"^so,?\s+", "", form.marker.strip(), flags=re.I)
  begin = r"\b" if words[:1].isalnum() else ""
  end = r"\b\s{0,3}:?" if words[-1:].isalnum() else ""
  spelled = r"\s{1,3}".join(map(re.escape, words.split()))
  phrase = _PHRASE
  if form.kind == "label":
    phrase = phrase.replace(_NOUN, f"(?:{_NOUN}|{_NAMES_OF_LABELS})")
  own = "own_field" if form.has_field_marker else "own"
  parts = [
    rf"(?P<{own}>{begin}{spelled}{end})",
    rf"(?P<heading>{_HEADING})",
    rf"(?P<tag>{_TAG})",
    rf"(?P<box>{_BOX})",
    rf"(?P<weak>{phrase}{_WOULD_BE})",
    rf"(?P<phrase>{phrase}{_IS})",
  ]
  if form.kind == "choice":
    parts += [rf"(?P<chosen>{_CHOSEN})"]
  if form.kind in ("choice", "expression"):
    parts += [rf"(?P<lone>{_THEREFORE})"]
  return re.compile("|".join(parts), re.I)


def without_lead(text: str) -> str:
  """A text without "So" and the like, and formatting, at its end."""
  for _ in range(4):
    shorter = text.rstrip().rstrip("#*_>`$\\[(|=-\u2013\u2014").rstrip()
    # "R (see x" has no formatting at its end, and keeps what it has.
    shorter = shorter.rstrip(",;").rstrip()
    tail = shorter[-120:]
    if lead := _LEAD.search(tail):
      shorter = shorter[: len(shorter) - len(tail) + lead.start()]
    if shorter == text:
      break
    text = shorter
  return text
