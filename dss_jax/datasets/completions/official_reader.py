"""Completions as the official code reads them, quirks included.

Where that code gives a blank, there is no rationale text, or no label, here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dss_jax.datasets import arithmetic
from dss_jax.datasets.completions.answer_form import Parsed
from dss_jax.datasets.raw_records import NLI_LABELS

# (completion, the record's choices) -> what it says.
Parser = Callable[[str, Sequence[str] | None], Parsed]


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
  label = parenthesised(answer)
  if label is None:
    return Parsed(rationale, None, "no_label")
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


def parenthesised(text: str) -> str | None:
  """From the first "(" to the last ")" of the first line that has both."""
  for line in text.split("\n"):
    first, last = line.find("("), line.rfind(")")
    if 0 <= first < last:
      return line[first : last + 1]
  return None


_PARSERS: dict[str, Parser] = {
  "cqa": official_cqa,
  "svamp": official_svamp,
  "asdiv": official_svamp,
  "esnli": official_esnli,
  "anli1": official_anli,
  "anli2": official_anli,
  "anli3": official_anli,
}


def parser(dataset: str, teacher: str = "palm") -> Parser:
  """The official code's reader of a dataset's completions.

  Args:
    dataset: a released dataset's name.
    teacher: "palm" or "gpt-neox".
  """
  official = _PARSERS[dataset]
  if teacher != "gpt-neox":
    return official
  if official is official_anli:
    official = official_anli_gpt
  # That teacher's completions start with a space or a line end.
  return lambda completion, choices: official(completion.lstrip(), choices)
