"""From a teacher's completion to its rationale and its answer.

The released completions run on: after the answer the teacher invents the next
exemplar. Two readers find what belongs to the record:

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
  label_not_in_choices  an answer that is none of the record's choices or labels
  letter_text_mismatch  "(c) zoo", where (c) is another of the choices
  unevaluable           an arithmetic label without a value
  label_cut             the expression continues after the label that was read
  empty                 nothing at all, or a label without a rationale
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence

from dss_jax.datasets import answer_reading, arithmetic
from dss_jax.datasets.answer_reading import AnswerForm, Parsed
from dss_jax.datasets.raw_records import NLI_LABELS

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


# (completion, the record's choices) -> what it says.
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
  label = answer_reading.parenthesised(answer)
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


# --- as a person reads them --------------------------------------------------

RELEASED_FORMS: Mapping[str, AnswerForm] = {
  "cqa": AnswerForm("choice", next_exemplar="Q:"),
  "svamp": AnswerForm("expression", next_exemplar="Q:"),
  "anli": AnswerForm("label", next_exemplar="Premise:", labels=NLI_LABELS),
  "esnli": AnswerForm(
    "label", "Answer:", next_exemplar="Premise:", labels=NLI_LABELS
  ),
}


_OFFICIAL: dict[str, Parser] = {
  "cqa": official_cqa,
  "svamp": official_svamp,
  "esnli": official_esnli,
  "anli1": official_anli,
  "anli2": official_anli,
  "anli3": official_anli,
}


def parser(dataset: str, kind: str, teacher: str = "palm") -> Parser:
  """The reader of a dataset's completions.

  Args:
    dataset: a released dataset's name.
    kind: "official" or "tolerant".
    teacher: "palm" or "gpt-neox".
  """
  if kind == "tolerant":
    form = RELEASED_FORMS[dataset.rstrip("123")]
    return functools.partial(answer_reading.read, form)
  if teacher != "gpt-neox":
    return _OFFICIAL[dataset]
  official = _OFFICIAL[dataset]
  if official is official_anli:
    official = official_anli_gpt
  # That teacher's completions start with a space or a line end.
  return lambda completion, choices: official(completion.lstrip(), choices)
