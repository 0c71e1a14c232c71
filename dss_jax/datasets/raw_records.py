"""The raw sets' own entries as input, label and human rationales.

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
class RawRecord:
  """One entry of a raw set.

  Attributes:
    input: what the student reads, without a prefix.
    label: the gold label, or None where the set has none.
    choices: the answers to choose from, where the entry lists them.
    explanations: human rationales that come with the entry.
    source_id: the entry's id in the raw set, if it has one.
    notes: what else of the entry is worth keeping.
  """

  input: str
  label: str | None
  choices: tuple[str, ...] | None = None
  explanations: tuple[str, ...] = ()
  source_id: str | None = None
  notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def human_rationales(self) -> tuple[Rationale, ...]:
    """The explanations; their authors knew the gold label."""
    return tuple(
      Rationale(text, self.label, "human") for text in self.explanations
    )

  def record(
    self,
    split: str,
    number: int,
    rationales: Sequence[Rationale],
    completion: str | Mapping[str, str] | None = None,
  ) -> Record:
    """Entry `number` of a split as a record, with an id such as "train-17".

    Args:
      split: the split's name.
      number: the entry's position in it, from 0.
      rationales: human ones or a teacher's.
      completion: what a teacher wrote, or several by their names, to be kept
        where it cannot be used as it is.
    """
    meta: dict[str, Any] = dict(self.notes)
    if self.source_id is not None:
      meta["source_id"] = self.source_id
    if self.choices is not None:
      meta["choices"] = list(self.choices)
    if completion:
      meta["completion"] = completion
    return Record(
      id=f"{split}-{number}",
      input=self.input,
      label=self.label,
      rationales=tuple(rationales),
      meta=meta,
    )


def cqa(entry: Mapping[str, Any]) -> RawRecord:
  """CommonsenseQA with CoS-E v1.11's explanations; the label is the text."""
  choices = entry.get("choices")
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
  return RawRecord(
    f"{_text(entry, 'question')}\nAnswer Choices:\n{listed}",
    _text(entry, "answer"),
    choices,
    _explanations(entry, ("abstractive_explanation",)),
    entry.get("id"),
  )


def svamp(entry: Mapping[str, Any]) -> RawRecord:
  """SVAMP, from the released form or the original `SVAMP.json`."""
  if "input" in entry:
    return RawRecord(_text(entry, "input"), _text(entry, "label"))
  return RawRecord(
    f"{_text(entry, 'Body')}\n{_text(entry, 'Question')}",
    _text(entry, "Equation"),
    source_id=entry.get("ID"),
  )


def asdiv(entry: Mapping[str, Any]) -> RawRecord:
  """ASDiv, as its authors' XML or the official code's JSON names things.

  There is no gold label: the entries' answers are numbers with a unit, and what
  a student writes next to SVAMP's are expressions. Answers and formulas are
  kept as notes.
  """
  kept = {"answer": "Answer", "formula": "Formula"}
  return RawRecord(
    f"{_text(entry, 'Body')}\n{_text(entry, 'Question')}",
    None,
    source_id=entry.get("ID"),
    notes={name: entry[key] for name, key in kept.items() if entry.get(key)},
  )


def nli(entry: Mapping[str, Any]) -> RawRecord:
  """e-SNLI and ANLI: premise and hypothesis around NLI_SEPARATOR."""
  premise = _text(entry, "context" if "context" in entry else "premise")
  label = entry.get("label")
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
  return RawRecord(
    f"{premise}{NLI_SEPARATOR}{_text(entry, 'hypothesis')}",
    label,
    explanations=_explanations(entry, keys),
    source_id=entry.get("uid"),
  )


READERS: Mapping[str, Callable[[Mapping[str, Any]], RawRecord]] = {
  "cqa": cqa,
  "svamp": svamp,
  "asdiv": asdiv,
  "esnli": nli,
  "anli1": nli,
  "anli2": nli,
  "anli3": nli,
}


def _text(entry: Mapping[str, Any], key: str) -> str:
  text = entry.get(key)
  if not isinstance(text, str):
    raise UserError(f"no text under key {key!r}")
  return text


def _explanations(
  entry: Mapping[str, Any], keys: Sequence[str]
) -> tuple[str, ...]:
  texts = (entry.get(key) for key in keys)
  return tuple(text for text in texts if isinstance(text, str) and text.strip())
