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
_SHORT_FRACTION = re.compile(r"\\[dt]?frac(\d)(\d)")
_LATEX = (
  ("\\times", "\u00d7"),
  ("\\cdot", "\u00d7"),
  ("\\div", "\u00f7"),
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
  r"(?:[\s:>#=\u2192]|[*_`]{1,3}(?=[\s:])|[-\u2013\u2014\u2022]\s|\$\$|\\\["
  r"|\\\((?=\\boxed))+"
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
  window = text[start : start + MAX_ANSWER_CHARS]
  if fence := _FENCE.match(window):
    start += fence.end()
    window = window[fence.end() :].partition("```")[0]
  if leading := _LEADING.match(window):
    start += leading.end()
    window = window[leading.end() :]
  line = _LINE.match(window)[0]  # type: ignore[index]
  boxes = [
    (box.end(), _brace_after(line, box.end()))
    for box in itertools.islice(_BOXED.finditer(line), 3)
  ]
  if boxes and len({line[begin:end] for begin, end in boxes}) == 1:
    # What follows a box comments on it.
    begin, end = boxes[0]
    return AnswerLine(plain(line[begin:end]), min(start + end + 1, len(text)))
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


def json_fields(
  text: str, keys: tuple[str, str] | None = None
) -> tuple[int, str, str] | None:
  """Where a JSON object begins in a text, its rationale and its answer.

  Args:
    text: an object, perhaps in a code fence and with words around it.
    keys: of the rationale and the answer; usual names are tried after them.

  Returns:
    Position, rationale ("" if it has none) and answer; None if there is no such
    object.
  """
  begin = _OBJECT_BEGIN.search(text)
  if begin is None:
    return None
  fields = _object(text[begin.end() - 1 :])
  if fields is None:
    return None
  named = {_plain_key(key): value for key, value in fields.items()}
  rationale_key, answer_key = map(_plain_key, keys or ("", ""))
  answer = _first(named, (answer_key, *_ANSWER_KEYS))
  if answer is None:
    return None
  rationale = _first(named, (rationale_key, *_RATIONALE_KEYS)) or ""
  return begin.start(), rationale, answer


def is_broken_json(text: str) -> bool:
  """Whether a text begins like an object and is none."""
  begin = _OBJECT_BEGIN.match(text.lstrip())
  return (
    begin is not None
    and re.match(r"\s{0,100}\"", text.lstrip()[begin.end() :]) is not None
  )


def _plain_key(key: str) -> str:
  return " ".join(re.split(r"[\W_]+", key.casefold())).strip()


def _object(text: str) -> Mapping[str, Any] | None:
  """The object that a text begins with."""
  # Models break lines within strings, where JSON wants "\\n".
  for spelled in (text, text.replace("\n", " ")):
    try:
      _, end = json.JSONDecoder().raw_decode(spelled)
      found = strict_json.loads(spelled[:end])
    except (ValueError, RecursionError):
      continue
    return found if isinstance(found, dict) else None
  return None


def _first(named: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
  for key in keys:
    value = named.get(key)
    if isinstance(value, list) and value:
      value = "\n".join(item for item in value if isinstance(item, str))
    if isinstance(value, int | float) and not isinstance(value, bool):
      value = str(value)
    elif isinstance(value, bool):
      value = str(value).lower()
    if isinstance(value, str) and value.strip():
      return value.strip()
  return None
