"""From a teacher's completion to its rationale and its answer.

The released completions run on: after the answer the teacher invents the next
exemplar. Two readers find what belongs to the record:

* `official` does what the official code does, quirks included, so that its
  training data can be reproduced. Where that code gives a blank, there is no
  rationale text, or no label, here.
* `tolerant` reads an answer wherever a person would see one, gives labels in
  the dataset's own spelling only, and drops rationales that were cut off. It
  finds where an answer is claimed (`claims`), reads it by its kind
  (`answer_kinds`, `whole_numbers`), and takes the first.

Each result has a status. With any status but "ok" the completion could not be
used as it is, and the status says why:

  no_marker             nothing says what the answer is; officially, there is no
                        "So the answer is" (or what the dataset's prompt has)
  several_markers       more than one, where the official code wants one
  no_label              the marker, and nothing after it that is an answer
  truncated             the completion ends before its answer does
  multiple_answers      "either (a) pond or (b) lake", or an answer that is
                        taken back ("Wait, ..."); the label is the first
  label_not_in_choices  an answer that is none of the record's choices or labels
  letter_text_mismatch  "(c) zoo", where (c) is another of the choices
  unevaluable           an expression or a number without one value: "(2 * x)",
                        "3-5", "1.250,50"
  label_cut             the expression continues after the label that was read
  empty                 nothing at all, or a label without a rationale
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from dss_jax.datasets.completions import official_reader, tolerant_reader
from dss_jax.datasets.completions.answer_form import (
  ANSWER_KINDS,
  AnswerForm,
  Parsed,
)
from dss_jax.datasets.completions.official_reader import Parser
from dss_jax.datasets.raw_records import NLI_LABELS

__all__ = [
  "ANSWER_KINDS",
  "RELEASED_FORMS",
  "STATUSES",
  "AnswerForm",
  "Parsed",
  "Parser",
  "parser",
]

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

RELEASED_FORMS: Mapping[str, AnswerForm] = {
  "cqa": AnswerForm("choice", next_exemplar="Q:"),
  "svamp": AnswerForm("expression", next_exemplar="Q:"),
  "asdiv": AnswerForm("expression", next_exemplar="Q:"),
  "anli": AnswerForm("label", next_exemplar="Premise:", labels=NLI_LABELS),
  "esnli": AnswerForm(
    "label", "Answer:", next_exemplar="Premise:", labels=NLI_LABELS
  ),
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
    return functools.partial(tolerant_reader.read, form)
  return official_reader.parser(dataset, teacher)
