"""The plain words of an answer that is set in Markdown, LaTeX, JSON or tags."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from dss_jax.base import strict_json
from dss_jax.datasets.completions.template_tokens import first_markup

# No answer is longer; what follows is not looked at.
MAX_ANSWER_CHARS = 1000

_BOLD = re.compile(
  r"(?<![\w)*])\*\*(?=[^\s*])([^*\n]{1,500}?)(?<=[^\s*])\*\*(?![\w(*])"
)
# What is left where a pair spans lines: before a word, or behind one.
_HALF_BOLD = re.compile(
  r"(?<!\S)\*\*(?=[^\s*\d-])|(?<=[^\s*])\*\*(?=[\s.,;:!?]|$)"
)
_EMPHASIS = re.compile(
  r"(?<![\w*)`])(\*{1,3}|_{1,3}|`{1,3})(?=[^\s*_`])([^*`\n]{1,300}?)"
  r"(?<=[^\s*_`])\1(?![\w*(`])"
)
_WRAPPER = re.compile(
  r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mathsf|mbox"
  r"|operatorname|emph)\s{0,3}\{|\\(?:displaystyle|bf|rm)(?![a-z])"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{")
_FRACTION = re.compile(
  r"\\[dt]?frac\s{0,3}\{([^{}]{1,40})\}\s{0,3}\{([^{}]{1,40})\}"
)
_PLAIN_FRACTION = re.compile(
  r"\\[dt]?frac\s{0,3}\{\s?(\d{1,20})\s?\}\s{0,3}\{\s?(\d{1,20})\s?\}"
)
_SHORT_FRACTION = re.compile(r"\\[dt]?frac(\d)(\d)")
_LATEX = (
  ("\\times", "\u00d7"),
  ("\\cdot", "\u00d7"),
  ("\\div", "\u00f7"),
  ("^{\\circ}", "\u00b0"),
  ("^\\circ", "\u00b0"),
  ("\\approx", "\u2248"),
  ("\\qquad", " "),
  ("\\quad", " "),
  ("\\pounds", "\u00a3"),
  ("\\euro", "\u20ac"),
  ("\\left", ""),
  ("\\right", ""),
  ("\\$", "$"),
  ("\\%", "%"),
  ("\\(", " "),
  ("\\)", " "),
  ("\\[", " "),
  ("\\]", " "),
  ("\\,", " "),
  ("\\;", " "),
  ("\\:", " "),
  ("\\!", ""),
  ("\\ ", " "),
  ("~", " "),
)
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb",
           "\u201e": "\u201c"}  # fmt: skip
_LEADING = re.compile(
  r"(?:[\s:#=\u2192]|(?<=\n)>|[*_`]{1,3}(?=[\s:])|[-\u2013\u2014\u2022]\s|\$\$|\\\["
  r"|\\\((?=\\boxed))+"
)
# What makes another number of the one in a box: "-\\boxed{7}", "\\boxed{7}^2".
_GLUED = re.compile(r"[^\s:(\[*$]*$")
_MORE_BEFORE = re.compile(r"[-+*/^{\d\u2212\u00d7\u221a]$|\\[a-zA-Z]+\s?$")
_MORE_AFTER = re.compile(
  r"\s?(?:[\^*/!\u00d7]|[-+\u2212]\s?\d|\\(?:pi|sqrt|times|cdot|div|frac)\b)|\d"
)
# A line ends where a tag closes, too.
_LINE = re.compile(r"(?:(?!</)[^\n])*")
_FENCE = re.compile(r"\s{0,100}:?\s{0,100}```[^\n`]{0,40}\n")


def without_bold(text: str) -> str:
  """The text without the stars of bold type; `2 ** 3` and `9**9` stay."""
  if "**" not in text:
    return text
  return _HALF_BOLD.sub("", _BOLD.sub(r"\1", text))


@dataclasses.dataclass(frozen=True)
class AnswerLine:
  """The first line of an answer.

  Attributes:
    words: what it says, plainly.
    end: where it ends in the text.
  """

  words: str
  end: int


def answer_line(text: str, start: int = 0) -> AnswerLine:
  """Reads the first line of an answer.

  Args:
    text: a text.
    start: where in it the answer begins, perhaps with white space.
  """
  if _BOXED.match(text, start):
    start -= len(_GLUED.search(text[max(start - 40, 0) : start])[0])  # type: ignore[index]
  limit = start + MAX_ANSWER_CHARS
  if fence := _FENCE.match(text, start, limit):
    start = fence.end()
    closing = text.find("```", start, limit)
    limit = closing if closing >= 0 else limit
  if leading := _LEADING.match(text, start, limit):
    start = leading.end()
  line = _LINE.match(text, start, limit)[0]  # type: ignore[index]
  line = line[: first_markup(line) or None]
  boxes = [
    (box.end(), _brace_after(line, box.end()))
    for box in itertools.islice(_BOXED.finditer(line), 3)
  ]
  if boxes and len({line[begin:end] for begin, end in boxes}) == 1:
    begin, end = boxes[0]
    outside = line[: line.rindex("\\", 0, begin)], line[end + 1 :]
    if not _MORE_BEFORE.search(outside[0]) and not _MORE_AFTER.match(
      outside[1]
    ):
      # What follows a box comments on it.
      return AnswerLine(plain(line[begin:end]), start + end + 1)
  return AnswerLine(plain(line), start + len(line))


def _brace_after(line: str, start: int) -> int:
  """Where the brace is that closes what stands at `start`, or the end."""
  depth = 1
  for i in range(start, len(line)):
    depth += (line[i] == "{") - (line[i] == "}")
    if not depth:
      return i
  return len(line)


def plain(line: str) -> str:
  """A line without LaTeX, emphasis, and signs at its end."""
  line = _unlatex(line)
  for _ in range(3):
    shorter = _EMPHASIS.sub(r"\2", line)
    if shorter == line:
      break
    line = shorter
  line = _without_symbols(line.strip(" \t*_`"))
  closing = _QUOTES.get(line[:1])
  if closing and (end := line.find(closing, 1)) > 0:
    line = line[1:end] + line[end + 1 :]
  return line.strip()


def _without_symbols(line: str) -> str:
  """The line without emoji and ticks at its end."""
  end = len(line)
  while end and (
    unicodedata.category(line[end - 1]) in ("So", "Sk", "Cf", "Mn", "Co")
    or line[end - 1].isspace()
  ):
    end -= 1
  return line[:end]


def _unlatex(line: str) -> str:
  if "\\" not in line and "$" not in line:
    return line
  line = _PLAIN_FRACTION.sub(r" \1/\2", line)
  line = _FRACTION.sub(r" (\1)/(\2)", line)
  line = _SHORT_FRACTION.sub(r" \1/\2", line)
  line = _unwrapped(line)
  for written, meant in _LATEX:
    line = line.replace(written, meant)
  # "$8$" is mathematics, "$8" is money.
  return re.sub(r"\$\$|\$(?=\S)([^$\n]{1,200})(?<=\S)\$(?!\d)", r"\1", line)


def _unwrapped(line: str) -> str:
  r"""The line without `\boxed{`, `\text{` and their closing braces."""
  pieces: list[str] = []
  wrappers: list[bool] = []
  position = 0
  while position < len(line):
    if wrapper := _WRAPPER.match(line, position):
      if wrapper[0].endswith("{"):
        wrappers.append(True)
      position = wrapper.end()
      continue
    character = line[position]
    position += 1
    if character == "{":
      wrappers.append(False)
    elif character == "}" and wrappers and wrappers.pop():
      continue
    pieces.append(character)
  return "".join(pieces)


# --- fields -------------------------------------------------------------------

_RATIONALE_KEYS = (
  "rationale", "reasoning", "explanation", "reason", "justification",
  "analysis", "steps", "step by step", "chain of thought", "thought",
  "thoughts", "thinking", "cot", "solution", "work", "working",
)  # fmt: skip
_ANSWER_KEYS = (
  "answer", "final answer", "correct answer", "answer label", "label",
  "choice", "correct choice", "option", "correct option", "prediction",
  "verdict", "result", "classification", "relationship", "output",
  "expression", "equation", "value", "text",
)  # fmt: skip
_OBJECT_BEGIN = re.compile(
  r"(?:^|\n)[ \t]{0,20}(?:```[^\n`]{0,20}\n\s{0,40})?\{"
)


@dataclasses.dataclass(frozen=True)
class JsonFields:
  """A JSON object in a text.

  Attributes:
    start: where it begins.
    end: where it ends.
    rationale: "" if it has none.
    answers: what its field for the answer holds; of a list, each item.
  """

  start: int
  end: int
  rationale: str
  answers: tuple[str, ...]


def json_fields(
  text: str, keys: tuple[str, str] | None = None
) -> JsonFields | None:
  """The first JSON object of a text, in a code fence or among words.

  Args:
    text: any text.
    keys: of the rationale and the answer; usual names are tried after them.
  """
  begin = _OBJECT_BEGIN.search(text)
  found = begin and _object(text[begin.end() - 1 :])
  if begin is None or found is None:
    return None
  fields, length = found
  # "Answer" and "answer" may both be there.
  named: dict[str, list[Any]] = {}
  for key, value in fields.items():
    named.setdefault(_plain_key(key), []).append(value)
  rationale_key, answer_key = map(_plain_key, keys or ("", ""))
  return JsonFields(
    begin.start(),
    begin.end() - 1 + length,
    "\n".join(_first(named, (rationale_key, *_RATIONALE_KEYS))),
    tuple(_first(named, (answer_key, *_ANSWER_KEYS))),
  )


def is_broken_json(text: str) -> bool:
  """Whether a text without an object begins like one."""
  begin = _OBJECT_BEGIN.match(text.lstrip())
  return (
    begin is not None
    and re.match(r"\s{0,100}\"", text.lstrip()[begin.end() :]) is not None
  )


def _plain_key(key: str) -> str:
  return " ".join(re.split(r"[\W_]+", key.casefold())).strip()


def _object(text: str) -> tuple[Mapping[str, Any], int] | None:
  """The object that a text begins with, and how long it is."""
  # Models break lines within strings, where JSON wants "\\n".
  for spelled in (text, text.replace("\n", " ")):
    try:
      _, end = json.JSONDecoder().raw_decode(spelled)
      found = strict_json.loads(spelled[:end])
    except (ValueError, RecursionError):
      continue
    return (found, end) if isinstance(found, dict) else None
  return None


def _first(named: Mapping[str, list[Any]], keys: tuple[str, ...]) -> list[str]:
  """What the first field holds that holds anything, as texts."""
  for key in keys:
    items: list[Any] = []
    for value in named.get(key, ()):
      items += value if isinstance(value, list) else [value]
    items = [item for item in items if item not in (None, "")]
    if items:
      texts = (_spelled(item) for item in items)
      return [text for text in texts if text]
  return []


def _spelled(value: Any) -> str:
  """A value as text; "" for an object or a list."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, str | int | float):
    return str(value).strip()
  return ""
