"""The raw sets' own rows as input, label and human rationales.

The released files, TFDS and Hugging Face name the same things differently;
here they become the input and label forms of the official code. Nothing is
read from disk here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Rationale, Record

NLI_LABELS = ("entailment", "neutral", "contradiction")

# Becomes the end-of-sequence id, as `tokenizer.eos_token.join` officially.
NLI_SEPARATOR = "</s>"

_NLI_SPELLINGS = {
  **{label: label for label in NLI_LABELS},
  **{label[0]: label for label in NLI_LABELS},  # TFDS's ANLI: e, n, c
}


@dataclasses.dataclass(frozen=True)
class RawExample:
  """One row of a raw set.

  Attributes:
    input: what the student reads, without a prefix.
    label: the gold label, or None where the set has none.
    choices: the answers to choose from, where the row lists them.
    explanations: human rationales that come with the row.
    source_id: the row's id in the raw set, if it has one.
  """

  input: str
  label: str | None
  choices: tuple[str, ...] | None = None
  explanations: tuple[str, ...] = ()
  source_id: str | None = None

  def human_rationales(self) -> tuple[Rationale, ...]:
    """The explanations; whoever wrote them knew the gold label."""
    return tuple(
      Rationale(text, self.label, "human") for text in self.explanations
    )

  def record(
    self,
    split: str,
    number: int,
    rationales: Sequence[Rationale],
    completion: str | None = None,
  ) -> Record:
    """Row `number` of a split as a record, with an id such as "train-17".

    Args:
      split: the split's name.
      number: the row's position in it, from 0.
      rationales: human ones or a teacher's.
      completion: what a teacher wrote, to be kept where it cannot be used as
        it is.
    """
    meta: dict[str, Any] = {}
    if self.source_id is not None:
      meta["source_id"] = self.source_id
    if self.choices is not None:
      meta["choices"] = list(self.choices)
    if completion is not None:
      meta["completion"] = completion
    return Record(
      id=f"{split}-{number}",
      input=self.input,
      label=self.label,
      rationales=tuple(rationales),
      meta=meta,
    )


def cqa(row: Mapping[str, Any]) -> RawExample:
  """CommonsenseQA with CoS-E v1.11's explanations; the label is the text."""
  choices = row.get("choices")
  # Tables of other libraries may hold the list as a mapping of columns.
  if isinstance(choices, Mapping):
    choices = choices.get("text")
  if isinstance(choices, str) or not isinstance(choices, Sequence):
    raise UserError("no list of choices (key 'choices')")
  choices = tuple(str(choice) for choice in choices)
  if len(choices) != 5:
    raise UserError(f"{len(choices)} choices, expected 5")
  listed = "\n".join(
    f"({letter}) {choice}" for letter, choice in zip("abcde", choices)
  )
  return RawExample(
    f"{_text(row, 'question')}\nAnswer Choices:\n{listed}",
    _text(row, "answer"),
    choices,
    _explanations(row, ("abstractive_explanation",)),
    row.get("id"),
  )


def svamp(row: Mapping[str, Any]) -> RawExample:
  """SVAMP, from the released form or the original `SVAMP.json`."""
  if "input" in row:
    return RawExample(_text(row, "input"), _text(row, "label"))
  return RawExample(
    f"{_text(row, 'Body')}\n{_text(row, 'Question')}",
    _text(row, "Equation"),
    source_id=row.get("ID"),
  )


def nli(row: Mapping[str, Any]) -> RawExample:
  """e-SNLI and ANLI: premise and hypothesis around NLI_SEPARATOR."""
  premise = _text(row, "context" if "context" in row else "premise")
  label = row.get("label")
  if label is None or label == -1:  # SNLI: the annotators did not agree
    label = None
  elif isinstance(label, str) and label.lower() in _NLI_SPELLINGS:
    label = _NLI_SPELLINGS[label.lower()]
  elif isinstance(label, int) and label in range(len(NLI_LABELS)):
    label = NLI_LABELS[label]
  else:
    raise UserError(
      f"label {label!r}; allowed: 0, 1, 2, -1 or {', '.join(NLI_LABELS)}"
    )
  keys = ("explanation_1", "explanation_2", "explanation_3", "reason")
  return RawExample(
    f"{premise}{NLI_SEPARATOR}{_text(row, 'hypothesis')}",
    label,
    explanations=_explanations(row, keys),
    source_id=row.get("uid"),
  )


READERS: Mapping[str, Callable[[Mapping[str, Any]], RawExample]] = {
  "cqa": cqa,
  "svamp": svamp,
  "esnli": nli,
  "anli1": nli,
  "anli2": nli,
  "anli3": nli,
}


def _text(row: Mapping[str, Any], key: str) -> str:
  text = row.get(key)
  if not isinstance(text, str):
    raise UserError(f"no text under key {key!r}")
  return text


def _explanations(
  row: Mapping[str, Any], keys: Sequence[str]
) -> tuple[str, ...]:
  texts = (row.get(key) for key in keys)
  return tuple(text for text in texts if isinstance(text, str) and text.strip())
