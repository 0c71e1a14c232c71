"""A prompt file for a dataset that has none, to start from.

It has no exemplars, because nobody but the user can write rationales for their
own data. Chat models follow the instruction well enough to begin with;
`[[exemplars]]` added to the file make answers more alike.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence

from dss_jax.base.errors import UserError
from dss_jax.datasets import arithmetic
from dss_jax.datasets.records import Record

# More labels than this are no closed set that a prompt could list.
MAX_LABELS = 100

_TEMPLATE = """\
# A prompt for a teacher, drafted from the data: say in the instruction what the
# task is about, and what decides. A few worked examples in [[exemplars]] tables
# (input, rationale, label) make the answers better, above all those of base
# models. The prompts of tasks/prompts/ explain all keys.

instruction = {instruction}
input_format = "Input: {{input}}\\nAnswer:"
output_format = " {{rationale}} So the answer is {{answer}}."
answer_kind = "{kind}"
{labels}answer_marker = "the answer is"
stop = ["\\nInput:"]

rationalise_instruction = {rationalise_instruction}
rationalise_input_format = \"\"\"
Input: {{input}}
Right answer: {{answer}}
Answer:\"\"\"
"""

_INSTRUCTION = {
  "label": "Decide which label the input gets. The labels are: {labels}.",
  "number": "Find the number that the input asks for.",
  "text": "Answer the input with a short text.",
}
_FORM = (
  " First say in one or two short sentences which facts of the input decide."
  " Then end with one line of exactly this form, with nothing after it:\nSo the"
  " answer is {answer}."
)
_ANSWER = {"label": "LABEL", "number": "NUMBER", "text": "ANSWER"}


def closed_labels(records: Iterable[Record]) -> tuple[str, ...]:
  """The labels of records, where they are a closed set; the most common first.

  They are one if there are at most `MAX_LABELS` and each occurs four times on
  average, so that most of a new record's labels were seen before. Labels that
  differ in case only are none: nobody could tell a model's answers apart.
  """
  counts = collections.Counter(r.label for r in records if r.label)
  if (
    not 2 <= len({label.casefold() for label in counts}) == len(counts)
    or len(counts) > MAX_LABELS
    or 4 * len(counts) > counts.total()
  ):
    return ()
  return tuple(sorted(counts, key=lambda label: (-counts[label], label)))


def draft(records: Sequence[Record]) -> str:
  """The text of a prompt file for records with labels.

  Args:
    records: some of those to ask about, enough to show every label.

  Raises:
    UserError: no record has a label, so that nothing says what to answer.
  """
  labels = [record.label for record in records if record.label]
  if not labels:
    raise UserError(
      "no record has a label, and a prompt cannot be drafted without: copy one of"
      " tasks/prompts/, or map a key to labels",
      fields="SourceFlags.field_mapping",
    )
  closed = closed_labels(records)
  if closed:
    kind = "label"
  elif all(arithmetic.value(label) is not None for label in labels):
    kind = "number"
  else:
    kind = "text"
  listed = ", ".join(closed)
  form = _FORM.format(answer=_ANSWER[kind])
  return _TEMPLATE.format(
    instruction=_quoted(_INSTRUCTION[kind].format(labels=listed) + form),
    kind=kind,
    labels="".join(f"labels = {_quoted(list(closed))}\n" for _ in closed[:1]),
    rationalise_instruction=_quoted(
      "The right answer is given. Say in one or two short sentences which facts"
      " of the input make it right, then repeat it in one line of exactly this"
      f" form:\nSo the answer is {_ANSWER[kind]}."
    ),
  )


def _quoted(value: str | list[str]) -> str:
  """A TOML value; its strings are JSON's but for one control character."""
  return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
