"""The answer in a teacher's completion, read as a person would read it.

One reader for every dataset: an `AnswerForm` says what the answers look like
and which words come before them. Time grows with the length of the text and no
faster, whatever the text is.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Sequence

from dss_jax.datasets import arithmetic
from dss_jax.datasets.completions.answer_form import AnswerForm, Parsed
from dss_jax.datasets.completions.official import parenthesised

_LETTER = re.compile(r"\(([A-Za-z])\)\s*([^()]*)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_RESULT = re.compile(r"^\s*=\s*[$€£]?\s*-?\d[\d,.]*\s*$")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")


@dataclasses.dataclass(frozen=True)
class _Answered:
  """A completion cut at the next exemplar and split at its marker."""

  rationale: str
  answer: str
  is_cut_off: bool


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
  split = _split(form, completion, is_cut_off)
  if isinstance(split, Parsed):
    return split
  if form.kind == "choice":
    return _read_choice(split, choices or ())
  if form.kind == "label":
    return _read_label(split, form.labels)
  if form.kind == "expression":
    return _read_expression(split)
  if is_cut_off and split.is_cut_off and not _ends_sentence(split.answer):
    # "12" may be the beginning of "120".
    return Parsed(split.rationale, None, "truncated")
  if form.kind == "number":
    return _read_number(split)
  return _read_text(split)


def _split(
  form: AnswerForm, completion: str, is_cut_off: bool | None
) -> _Answered | Parsed:
  following = form.next_pattern and form.next_pattern.search(completion)
  head = completion[: following.start()] if following else completion
  head = head.strip()
  runs_on = following is not None
  if runs_on:
    is_cut_off = False
  is_open = not runs_on and not _ends_sentence(head)
  if form.has_field_marker:
    rationale, marker, answer = head.partition(form.marker)
    if marker:
      # A bare label does not end like a sentence.
      is_open = not runs_on
      cut = is_open if is_cut_off is None else is_cut_off
      return _Answered(rationale.strip(), answer.strip(), cut)
  cut = is_open if is_cut_off is None else is_cut_off
  if not form.has_field_marker:
    for pattern in form.marker_patterns:
      found = collections.deque(pattern.finditer(head), maxlen=1)
      if not found:
        continue
      last = found[0]
      # "..., so the answer is neutral" leaves a comma behind.
      rationale = head[: last.start()].rstrip().rstrip(",;").rstrip()
      return _Answered(rationale, head[last.end() :].strip(), cut)
  # A rationale that was cut off in the middle is nothing to learn from.
  if cut:
    return Parsed("", None, "truncated")
  return Parsed(head, None, "no_marker")


def _ends_sentence(text: str) -> bool:
  return _SENTENCE_END.search(text) is not None


def _read_choice(split: _Answered, choices: Sequence[str]) -> Parsed:
  """The choice that the line names, by its text or else by its letter."""
  line = split.answer.partition("\n")[0]
  named = _LETTER.findall(line) or [("", line)]
  letter, text = named[0]
  plain = plain_text(text)
  index = ord(letter.lower()) - ord("a") if letter else -1
  by_letter = choices[index] if 0 <= index < len(choices) else None
  by_text = [choice for choice in choices if plain_text(choice) == plain]
  if not by_text:
    # "(d) lake. I hope this helps!"
    first = plain_text(text.partition(". ")[0])
    by_text = [choice for choice in choices if plain_text(choice) == first]
  if by_letter in by_text:
    label, status = by_letter, "ok"
  elif by_text:
    label = by_text[0]
    status = "ok" if not letter else "letter_text_mismatch"
  elif by_letter is not None:
    label, status = by_letter, "label_not_in_choices" if plain else "ok"
  else:
    status = "truncated" if split.is_cut_off else "no_label"
    return Parsed(split.rationale, None, status)
  if len(named) > 1:
    status = "multiple_answers"
  return Parsed(split.rationale, label, status).checked()


def plain_text(text: str) -> str:
  """A choice's text without what a teacher changes in repeating it."""
  text = " ".join(text.casefold().split()).strip(" .,;:!?\"'")
  return re.sub(r",? (?:or|and)$|^(?:or|and)$", "", text)


def _read_label(split: _Answered, labels: Sequence[str]) -> Parsed:
  """The label that the answer begins with; it may have lost its end."""
  answer = split.answer
  words = re.sub(r"^\W+", "", answer)
  for text in (answer, words):
    for label in sorted(labels, key=len, reverse=True):
      if _begins_with(text, label):
        return Parsed(split.rationale, label).checked()
  if not words:
    status = "truncated" if split.is_cut_off else "no_label"
    return Parsed(split.rationale, None, status)
  # "entail" at the very end can only be one of the labels.
  begun = [label for label in labels if _begins_with(label, words, whole=False)]
  if split.is_cut_off and (begun or re.fullmatch(r"\w+", words)):
    if len(begun) == 1:
      return Parsed(split.rationale, begun[0]).checked()
    return Parsed(split.rationale, None, "truncated")
  return Parsed(split.rationale, None, "label_not_in_choices")


def _begins_with(text: str, start: str, *, whole: bool = True) -> bool:
  """Whether `text` begins with `start` in any case, as whole words or not."""
  if text[: len(start)].lower() != start.lower():
    return False
  following = text[len(start) - 1 : len(start) + 1]
  return not whole or re.fullmatch(r"\w\w", following) is None


# Signs that teachers write as mathematicians do.
_SIGNS = str.maketrans("\u00d7\u22c5\u00f7\u2212\u2013", "**/--")


def _read_expression(split: _Answered) -> Parsed:
  """The same expression as officially, only if it has a value.

  The prompts ask for one pair of parentheses around the whole expression. A
  teacher sometimes continues after it, `(16 * 17) * 4`; the status says so, and
  the label stays what it is officially.
  """
  answer = split.answer.translate(_SIGNS)
  label = parenthesised(answer)
  if label is None or arithmetic.value(label) is None:
    status = "no_label" if label is None else "unevaluable"
    if split.is_cut_off:
      status = "truncated"
    return Parsed(split.rationale, None, status)
  before, _, after = answer.partition(label)
  # "(84 / 2) = 42" is whole.
  rest = before + _RESULT.sub("", after.partition("\n")[0])
  status = "ok" if not rest.strip(" .$") else "label_cut"
  return Parsed(split.rationale, label, status).checked()


def _read_number(split: _Answered) -> Parsed:
  """The first number after the last "=" of the line; "$1,250" is 1250."""
  line = split.answer.partition("\n")[0].translate(_SIGNS)
  match = _NUMBER.search(re.sub(r"[$€£]\s?", "", line.rpartition("=")[2]))
  if match is None:
    status = "truncated" if split.is_cut_off else "no_label"
    return Parsed(split.rationale, None, status)
  label = match.group().replace(",", "")
  if arithmetic.value(label) is None:
    return Parsed(split.rationale, None, "unevaluable")
  return Parsed(split.rationale, label).checked()


def _read_text(split: _Answered) -> Parsed:
  """The first line, without the sentence's full stop."""
  label = split.answer.partition("\n")[0].strip().removesuffix(".").rstrip()
  if not label:
    status = "truncated" if split.is_cut_off else "no_label"
    return Parsed(split.rationale, None, status)
  return Parsed(split.rationale, label).checked()
