"""From a teacher's completion to its rationale and its answer.

The released completions run on: after the answer the teacher invents the next
exemplar. Two readers find what belongs to the row:

* `official` does what the official code does, quirks included, so that its
  training data can be reproduced. Where that code gives a blank, there is no
  rationale text, or no label, here.
* `tolerant` reads an answer wherever a person would see one, gives labels in
  the dataset's own spelling only, and drops rationales that were cut off.

Each result has a status. With any status but "ok" the completion could not be
used as it is, and the status says why:

  no_marker             no "So the answer is" (or what the dataset's prompt has)
  several_markers       more than one, where the official code wants one
  no_label              the marker, and nothing after it that is an answer
  truncated             the completion ends before its answer does
  multiple_answers      "either (a) pond or (b) lake"; the label is the first
  label_not_in_choices  an answer that is none of the row's choices or labels
  letter_text_mismatch  "(c) zoo", where (c) is another of the choices
  unevaluable           an arithmetic label without a value
  label_cut             the expression goes on after the label that was read
  empty                 a label without a rationale
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from dss_jax import arithmetic
from dss_jax.datasets.raw_examples import NLI_LABELS

STATUSES = (
  "ok",
  "no_marker",
  "several_markers",
  "no_label",
  "truncated",
  "multiple_answers",
  "label_not_in_choices",
  "letter_text_mismatch",
  "unevaluable",
  "label_cut",
  "empty",
)


@dataclasses.dataclass(frozen=True)
class Parsed:
  """What a completion says.

  Attributes:
    rationale: the text before the answer; "" where there is none.
    label: the teacher's answer; None where there is none.
    status: "ok", or one of the module's reasons.
  """

  rationale: str
  label: str | None
  status: str = "ok"

  def checked(self) -> Parsed:
    """Itself, or with status "empty" if only the rationale is missing."""
    if self.status == "ok" and not self.rationale.strip():
      return dataclasses.replace(self, status="empty")
    return self


# (completion, the row's choices) -> what it says.
Parser = Callable[[str, Sequence[str] | None], Parsed]


# --- as the official code reads them -----------------------------------------


def _split_once(head: str, marker: str) -> tuple[str, str] | Parsed:
  """The parts around a marker, or what the official code makes of the rest."""
  parts = head.split(marker)
  if len(parts) == 2:
    return parts[0].rstrip(), parts[1]
  status = "no_marker" if len(parts) == 1 else "several_markers"
  return Parsed("", None, status)


def official_cqa(completion: str, choices: Sequence[str] | None) -> Parsed:
  """The text after the first "(x)", up to a second one.

  The official code stops with an error unless the marker is there exactly
  once; its reader of the other teacher's completions leaves blanks then, and
  so does this.
  """
  split = _split_once(completion.split("Q:")[0].rstrip(), "So the answer is")
  if isinstance(split, Parsed):
    return split
  rationale, answer = split
  pieces = re.split(r"\(.\)", answer)
  label = pieces[1].strip() if len(pieces) > 1 else ""
  label = label.removesuffix(".")
  if not label:
    return Parsed(rationale, None, "no_label")
  if len(pieces) > 2:
    return Parsed(rationale, label, "multiple_answers")
  if choices is not None and label not in choices:
    return Parsed(rationale, label, "label_not_in_choices")
  return Parsed(rationale, label).checked()


def official_svamp(completion: str, choices: Sequence[str] | None) -> Parsed:
  """From the first "(" to the last ")" of the answer."""
  del choices
  split = _split_once(completion.split("Q:")[0].rstrip(), "The answer is")
  if isinstance(split, Parsed):
    return split
  rationale, answer = split
  match = re.search(r"\(.*\)", answer)
  if match is None:
    return Parsed(rationale, None, "no_label")
  label = match.group()
  if arithmetic.value(label) is None:
    return Parsed(rationale, label, "unevaluable")
  return Parsed(rationale, label).checked()


def official_anli(completion: str, choices: Sequence[str] | None) -> Parsed:
  """All after the marker but the last character, taken for a full stop."""
  del choices
  split = _split_once(
    completion.split("Premise:")[0].rstrip(), "So the answer is"
  )
  return _official_anli_label(split)


def official_anli_gpt(completion: str, choices: Sequence[str] | None) -> Parsed:
  """As `official_anli`, with a second marker, which GPT-NeoX uses as well."""
  del choices
  head = completion.split("Premise:")[0].rstrip()
  split = _split_once(head, "So the answer is")
  if isinstance(split, Parsed):
    split = _split_once(head, "The answer is")
  return _official_anli_label(split)


def _official_anli_label(split: tuple[str, str] | Parsed) -> Parsed:
  if isinstance(split, Parsed):
    return split
  rationale, answer = split
  label = answer.lstrip()[:-1]
  if not label:
    return Parsed(rationale, None, "no_label")
  return _nli_checked(rationale, label)


def official_esnli(completion: str, choices: Sequence[str] | None) -> Parsed:
  """Rationale, "Answer: ", label; the rationale is kept without a label."""
  del choices
  rationale = completion.split("Answer:")[0].rstrip()
  pieces = completion.split("Answer: ")
  if len(pieces) == 1:
    return Parsed(rationale, None, "no_marker")
  label = pieces[1].split("Premise")[0].rstrip()
  if not label:
    return Parsed(rationale, None, "no_label")
  return _nli_checked(rationale, label)


def _nli_checked(rationale: str, label: str) -> Parsed:
  if label not in NLI_LABELS:
    return Parsed(rationale, label, "label_not_in_choices")
  return Parsed(rationale, label).checked()


# --- as a person reads them --------------------------------------------------

_ANSWER_MARKER = re.compile(r"(?:\bso,?\s+)?\bthe answer is\b\s*:?", re.I)
_NEXT_QUESTION = re.compile(r"(?:^|\n)\s*Q(?::|$)")
_NEXT_PREMISE = re.compile(r"(?:^|\n)\s*Premise(?::|$)")
_LETTER = re.compile(r"\(([A-Za-z])\)\s*([^()]*)")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")


@dataclasses.dataclass(frozen=True)
class _Answered:
  """A completion cut at the next exemplar and split at its last marker."""

  rationale: str
  answer: str
  is_cut_off: bool

  @classmethod
  def of(
    cls, completion: str, next_exemplar: re.Pattern[str]
  ) -> _Answered | Parsed:
    following = next_exemplar.search(completion)
    head = completion[: following.start()] if following else completion
    head = head.strip()
    is_cut_off = following is None and not _SENTENCE_END.search(head)
    markers = list(_ANSWER_MARKER.finditer(head))
    if markers:
      # "..., so the answer is neutral" leaves a comma behind.
      rationale = head[: markers[-1].start()].rstrip().rstrip(",;").rstrip()
      return cls(rationale, head[markers[-1].end() :].strip(), is_cut_off)
    # A rationale that was cut off in the middle is nothing to learn from.
    return _without_answer(head, is_cut_off)


def _without_answer(rationale: str, is_cut_off: bool) -> Parsed:
  if is_cut_off:
    return Parsed("", None, "truncated")
  return Parsed(rationale, None, "no_marker")


def tolerant_cqa(completion: str, choices: Sequence[str] | None) -> Parsed:
  """The choice that the answer names, by its text or else by its letter."""
  split = _Answered.of(completion, _NEXT_QUESTION)
  if isinstance(split, Parsed):
    return split
  rationale, choices = split.rationale, choices or ()
  named = _LETTER.findall(split.answer) or [("", split.answer)]
  letter, text = named[0]
  plain = _plain_text(text)
  index = ord(letter.lower()) - ord("a") if letter else -1
  by_letter = choices[index] if 0 <= index < len(choices) else None
  by_text = [choice for choice in choices if _plain_text(choice) == plain]
  if by_letter in by_text:
    label, status = by_letter, "ok"
  elif by_text:
    label = by_text[0]
    status = "ok" if not letter else "letter_text_mismatch"
  elif by_letter is not None:
    label, status = by_letter, "label_not_in_choices" if plain else "ok"
  else:
    status = "truncated" if split.is_cut_off else "no_label"
    return Parsed(rationale, None, status)
  if len(named) > 1:
    status = "multiple_answers"
  return Parsed(rationale, label, status).checked()


def _plain_text(text: str) -> str:
  """A choice's text without what a teacher changes in repeating it."""
  text = " ".join(text.casefold().split()).strip(" .,;:!?\"'")
  return re.sub(r",? (?:or|and)$|^(?:or|and)$", "", text)


def tolerant_svamp(completion: str, choices: Sequence[str] | None) -> Parsed:
  """The same expression as officially, only if it has a value.

  The prompts ask for one pair of parentheses around the whole expression. The
  teacher sometimes goes on after it, `(16 * 17) * 4`; the status says so, and
  the label stays what it is officially.
  """
  del choices
  split = _Answered.of(completion, _NEXT_QUESTION)
  if isinstance(split, Parsed):
    return split
  match = re.search(r"\(.*\)", split.answer)
  if match is None or arithmetic.value(match.group()) is None:
    status = "no_label" if match is None else "unevaluable"
    if split.is_cut_off:
      status = "truncated"
    return Parsed(split.rationale, None, status)
  rest = split.answer[: match.start()] + split.answer[match.end() :]
  status = "ok" if not rest.strip(" .$") else "label_cut"
  return Parsed(split.rationale, match.group(), status).checked()


def tolerant_anli(completion: str, choices: Sequence[str] | None) -> Parsed:
  """The word after the last "the answer is", also within a sentence."""
  del choices
  split = _Answered.of(completion, _NEXT_PREMISE)
  if isinstance(split, Parsed):
    return split
  return _tolerant_nli(split.rationale, split.answer, split.is_cut_off)


def tolerant_esnli(completion: str, choices: Sequence[str] | None) -> Parsed:
  """Rationale, "Answer:", label; the label may have lost its end."""
  del choices
  following = _NEXT_PREMISE.search(completion)
  head = completion[: following.start()] if following else completion
  rationale, marker, answer = head.partition("Answer:")
  if not marker:
    # "Answ" at the end of a completion is the marker's beginning.
    is_cut_off = following is None and not _SENTENCE_END.search(head.strip())
    return _without_answer(head.strip(), is_cut_off)
  return _tolerant_nli(rationale.strip(), answer, following is None)


def _tolerant_nli(rationale: str, answer: str, is_cut_off: bool) -> Parsed:
  match = re.match(r"\W*(\w+)(.*)", answer, re.S)
  if match is None:
    status = "truncated" if is_cut_off else "no_label"
    return Parsed(rationale, None, status)
  word, rest = match.group(1).lower(), match.group(2).strip()
  if word in NLI_LABELS:
    return Parsed(rationale, word).checked()
  # "entail" at the very end can only be one of the labels.
  begun = [label for label in NLI_LABELS if label.startswith(word)]
  if is_cut_off and not rest:
    if len(begun) == 1:
      return Parsed(rationale, begun[0]).checked()
    return Parsed(rationale, None, "truncated")
  return Parsed(rationale, None, "label_not_in_choices")


_OFFICIAL: dict[str, Parser] = {
  "cqa": official_cqa,
  "svamp": official_svamp,
  "esnli": official_esnli,
  "anli1": official_anli,
  "anli2": official_anli,
  "anli3": official_anli,
}
_TOLERANT: dict[str, Parser] = {
  "cqa": tolerant_cqa,
  "svamp": tolerant_svamp,
  "esnli": tolerant_esnli,
  "anli1": tolerant_anli,
  "anli2": tolerant_anli,
  "anli3": tolerant_anli,
}


def parser(dataset: str, kind: str, teacher: str = "palm") -> Parser:
  """The reader of a dataset's completions.

  Args:
    dataset: a released dataset's name.
    kind: "official" or "tolerant".
    teacher: "palm" or "gpt-neox".
  """
  if kind == "tolerant":
    return _TOLERANT[dataset]
  if teacher != "gpt-neox":
    return _OFFICIAL[dataset]
  official = _OFFICIAL[dataset]
  if official is official_anli:
    official = official_anli_gpt
  # That teacher's completions start with a space or a line end.
  return lambda completion, choices: official(completion.lstrip(), choices)
