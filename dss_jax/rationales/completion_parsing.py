"""Parsing: a completion becomes a rationale and an answer, or a reason why not.

The answer itself is read by `dss_jax.datasets.completions.tolerant_reader`, as
in the released completions. This module handles what only new completions have:
refusals, known truncation, thoughts, and chat models' habit to repeat the
question.

Statuses are those of `dss_jax.datasets.completions`, and

  refused               the teacher, or its provider, will not answer
  markup                tokens of a chat template within the rationale, which is
                        left out: it may be another turn's, as may the label
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.datasets import arithmetic, completions
from dss_jax.datasets.completions import (
  ANSWER_KINDS,
  Parsed,
  template_tokens,
  tolerant_reader,
)
from dss_jax.datasets.records import MAX_FIELD_CHARS, Record
from dss_jax.rationales.prompts import Prompt, choices_of
from dss_jax.rationales.teacher_requests import Completion

STATUSES = (*completions.STATUSES, "refused", "markup")
PARSERS = ("tolerant", "official")
# What becomes the rationale of a model that thinks before it answers.
RATIONALE_SOURCES = ("answer", "reasoning", "both")

# Providers' words for an end that the model chose, an end at max_tokens, and a
# refusal. With another word, the text itself shows how it ended.
_ENDED = ("stop", "end_turn", "stop_sequence", "eos", "eos_token")
_CUT_OFF = ("length", "max_tokens", "max_output_tokens")
_REFUSED = ("content_filter", "refusal", "safety")

# The dataset whose official parser reads a prompt's completions.
_OFFICIAL = {"cqa": "cqa", "svamp": "svamp", "esnli": "esnli", "anli": "anli1"}

# A record holds neither NUL nor halves of surrogate pairs.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_REFUSAL = re.compile(
  r"(?:i['\u2019]?m|i am) (?:very |really )?(?:sorry|unable)\b|sorry, (?:but )?i\b"
  r"|i (?:cannot|can['\u2019]?t|will not|won['\u2019]?t) (?:help|assist|answer|provide)\b"
  r"|as an ai\b",
  re.I,
)


def parse(
  prompt: Prompt,
  record: Record,
  completion: Completion,
  parser: str = "tolerant",
  rationale_from: str = "answer",
) -> Parsed:
  """Reads a completion; never raises because of what is in it.

  Args:
    prompt: the prompt that was sent.
    record: the record that it was about, which holds the choices.
    completion: what the teacher answered.
    parser: "tolerant", or "official" for exactly what the paper's code does
      (only for prompts of the released datasets, by their names).
    rationale_from: "answer" takes the rationale from what the teacher said,
      "reasoning" from what it thought, in a field of its own or in tags, and
      "both" from one after the other. The label is always what it said.

  Returns:
    Rationale, label and status. Both texts can be stored in a record.

  Raises:
    UserError: if there is no such parser for the prompt.
  """
  text = _storable(completion.text)
  ended = completion.finish_reason.lower()
  if completion.refusal or ended in _REFUSED:
    return Parsed("", None, "refused")
  check_parser(prompt, parser, rationale_from)
  if parser == "official":
    dataset = _OFFICIAL[prompt.name]
    read = completions.parser(dataset, "official", completion.model)
    return read(text, choices_of(record) or None)
  said = template_tokens.take_apart(text)
  is_cut_off = None if ended not in (*_CUT_OFF, *_ENDED) else ended in _CUT_OFF
  if said.is_whole:
    is_cut_off = False
  parsed = _read_said(prompt, record, said.text, is_cut_off)
  thoughts = _storable(completion.reasoning or "") or said.thoughts
  if rationale_from == "reasoning":
    parsed = _with_rationale(parsed, thoughts)
  elif rationale_from == "both":
    both = filter(None, (thoughts, parsed.rationale))
    parsed = _with_rationale(parsed, "\n\n".join(both))
  elif parsed.status == "empty" and said.is_shown:
    # The prompt asked for a rationale in these tags.
    parsed = _with_rationale(parsed, said.thoughts)
  if parsed.status == "ok" and template_tokens.has_markup(
    f"{parsed.rationale} {parsed.label}"
  ):
    # Whether its turn had ended there cannot be told.
    return Parsed("", parsed.label, "markup")
  return parsed


def _read_said(
  prompt: Prompt, record: Record, text: str, is_cut_off: bool | None
) -> Parsed:
  """What a teacher said, thoughts and control tokens aside."""
  text = _without_question(prompt, record, text)
  if not text.strip():
    return Parsed("", None, "truncated" if is_cut_off else "empty")
  # Choices come from the record, whose facts are unchecked.
  choices = [_storable(choice) for choice in choices_of(record)]
  parsed = tolerant_reader.read(
    prompt.form, text, choices, is_cut_off=is_cut_off
  )
  if parsed.status == "no_marker" and _REFUSAL.match(text.lstrip()):
    return Parsed("", None, "refused")
  return parsed


def _with_rationale(parsed: Parsed, rationale: str) -> Parsed:
  """The same answer with another rationale, if the answer could be read."""
  if parsed.label is None or parsed.status not in ("ok", "empty"):
    return parsed
  return Parsed(rationale.strip(), parsed.label).checked()


def check_parser(
  prompt: Prompt, parser: str, rationale_from: str = "answer"
) -> None:
  """Raises UserError if there is no such parser for the prompt."""
  checks.one_of("ExtractionPlan.parser", parser, PARSERS)
  checks.one_of(
    "ExtractionPlan.rationale_from", rationale_from, RATIONALE_SOURCES
  )
  if parser == "official" and rationale_from != "answer":
    raise UserError(
      f"rationale_from is {rationale_from}, and the official parser reads"
      " answers only; set parser to tolerant, or rationale_from to answer",
      fields=("ExtractionPlan.parser", "ExtractionPlan.rationale_from"),
    )
  if parser == "official" and prompt.name not in _OFFICIAL:
    raise UserError(
      f"there is no official parser for prompt {prompt.name!r}, only for"
      f" {', '.join(_OFFICIAL)}; set parser to tolerant",
      fields="ExtractionPlan.parser",
    )


def _storable(text: str) -> str:
  return _UNSTORABLE.sub("\ufffd", text[:MAX_FIELD_CHARS])


def _without_question(prompt: Prompt, record: Record, text: str) -> str:
  """The text without a repetition of the question before it, and without "A:".

  Only a repetition of this record's question, with "Q:" before it, is removed:
  another question is one that the teacher invented, and what follows it answers
  something else. Without "Q:", the question's words may be the rationale's first
  step.
  """
  head = prompt.form.next_exemplar
  question: list[str] = []
  if head and text.lstrip().startswith(head):
    try:
      shown = prompt.input_text(record).removesuffix(prompt.lead)
    except UserError:
      shown = ""
    question = [line.strip() for line in shown.split("\n")]
  lead = prompt.lead if prompt.lead != prompt.answer_marker else ""
  rest = _after_lines(text, [line for line in question if line])
  begins = rest.lstrip()
  return begins[len(lead) :] if lead and begins.startswith(lead) else rest


def _after_lines(text: str, lines: Sequence[str]) -> str:
  """What follows the lines, blank ones aside; all if they are not there."""
  begin = 0
  for wanted in lines:
    words = ""
    while not words:
      if begin > len(text):
        return text
      end = text.find("\n", begin)
      end = len(text) if end < 0 else end
      words = text[begin:end].strip()
      begin = end + 1
    if words != wanted:
      return text
  return text[begin:]


def same_answer(prompt_or_kind: Prompt | str, first: str, second: str) -> bool:
  """Whether two labels are the same answer.

  Args:
    prompt_or_kind: the prompt, or one of `ANSWER_KINDS`.
    first: a label.
    second: another.

  Returns:
    For expressions and numbers, whether both have the same value (a label
    without a value is no answer); else whether they are equal up to case and
    space.
  """
  key = answer_key(prompt_or_kind, first)
  if _is_arithmetic(prompt_or_kind) and key.startswith("?"):
    return False
  return key == answer_key(prompt_or_kind, second)


def answer_key(prompt_or_kind: Prompt | str, label: str) -> str:
  """One text for all labels that are the same answer, for counting votes.

  An arithmetic label without a value has a key that begins with "?".
  """
  plain = " ".join(label.casefold().split())
  if not _is_arithmetic(prompt_or_kind):
    return plain
  value = arithmetic.value(label)
  if value is None and _kind(prompt_or_kind) == "number":
    value = arithmetic.value(re.sub(r"[,$€£\s]", "", label))
  # -0.0 and 0.0 are equal and spelled differently.
  return f"?{plain}" if value is None else repr(value + 0.0)


def _kind(prompt_or_kind: Prompt | str) -> str:
  if isinstance(prompt_or_kind, Prompt):
    return prompt_or_kind.answer_kind
  if prompt_or_kind not in ANSWER_KINDS:
    raise UserError(
      f"answer kind {prompt_or_kind!r}; allowed: {', '.join(ANSWER_KINDS)}"
    )
  return prompt_or_kind


def _is_arithmetic(prompt_or_kind: Prompt | str) -> bool:
  return _kind(prompt_or_kind) in ("expression", "number")
