"""`dss_jax.json`: what a student was taught, next to its weights.

Weights and sizes do not say which prefix asks for a label, where the label
stands in an output or how long an input may be. One JSON file in every exported
folder does. It may come from anyone, so its size is bounded and all its values
are checked before they are used.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dss_jax import vocabularies
from dss_jax.base import plain_files, value_types
from dss_jax.base.atomic_files import write_atomically
from dss_jax.base.errors import UserError, damaged_file
from dss_jax.data.pairs import subtasks as subtasks_lib
from dss_jax.data.pairs.subtasks import MethodOptions, SubTask
from dss_jax.pretrained.files import bounds

FILE = "dss_jax.json"
FORMAT = 1
MODEL_FILE = "spiece.model"  # Hugging Face's name for a SentencePiece model

_MAX_BYTES = 2**22
_MAX_ENTRIES = 10_000  # labels, or sub-tasks
_MAX_TEXT = 1_000  # characters in a label, prefix, template or name
_MAX_LENGTH = 2**20  # tokens
_MAX_STEP = 2**31 - 1  # as in a checkpoint
# Types of the fields that are read, by their names.
_TEXTS = {
  "label_prefix": str,
  "rationale_prefix": str,
  "label_separator": str,
  "rationale_separator": str,
}
_SUBTASK = {"name": str, "input_format": str, "target_format": str}
_SIDES = {"inputs": int, "targets": int}
SIDES = tuple(_SIDES)
_VOCABULARY = {
  "kind": str,
  "file": str | None,
  "extra_ids": int,
  "added_tokens": list[str],
}
# Entries of `Student.description`.
DESCRIPTION = {
  "source": str | None,
  "step": int | None,
  "task": str | None,
  "dataset": str | None,
  "metric": str | None,
}
_FIELDS = {
  "subtasks": list[object],
  "options": object,
  "feature_lengths": object,
  "labels": list[str] | None,
  "vocabulary": object,
  **DESCRIPTION,
}


@dataclasses.dataclass(frozen=True)
class StudentCard:
  """What `dss_jax.json` says.

  Attributes:
    subtasks: what the student can be asked to do, the label's first.
    options: prefixes and separators, as trained with.
    feature_lengths: longest `inputs` and `targets` in tokens.
    labels: all labels there are; None for free text.
    vocabulary_file: the SentencePiece model, in the same folder; None for
      bytes.
    extra_ids: the vocabulary's sentinels.
    added_tokens: what was added to the SentencePiece model, behind these.
    description: `source`, `step`, `task`, `dataset` and the `metric`
      that says whether a label is right, as far as known.
  """

  subtasks: tuple[SubTask, ...] = (subtasks_lib.STANDARD,)
  options: MethodOptions = dataclasses.field(default_factory=MethodOptions)
  feature_lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  labels: tuple[str, ...] | None = None
  vocabulary_file: str | None = None
  extra_ids: int = 0
  added_tokens: tuple[str, ...] = ()
  description: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def vocabulary(self, folder: str | pathlib.Path) -> vocabularies.Vocabulary:
    """The vocabulary, whose file lies in `folder`."""
    if self.vocabulary_file is None:
      return vocabularies.ByteVocabulary(self.extra_ids)
    return vocabularies.SentencePieceVocabulary(
      str(pathlib.Path(folder) / self.vocabulary_file),
      self.extra_ids,
      self.added_tokens,
    )


def write(folder: str | pathlib.Path, card: StudentCard) -> None:
  """Writes `dss_jax.json` into a folder."""
  kind = "bytes" if card.vocabulary_file is None else "sentencepiece"
  value = {
    "format": FORMAT,
    **card.description,
    "subtasks": [
      {name: getattr(subtask, name) for name in _SUBTASK}
      for subtask in card.subtasks
    ],
    "options": {name: getattr(card.options, name) for name in _TEXTS},
    "feature_lengths": dict(card.feature_lengths),
    "labels": None if card.labels is None else list(card.labels),
    "vocabulary": {
      "kind": kind,
      "file": card.vocabulary_file,
      "extra_ids": card.extra_ids,
      "added_tokens": list(card.added_tokens),
    },
  }
  text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)
  write_atomically(pathlib.Path(folder) / FILE, text + "\n")


def read(folder: str | pathlib.Path) -> StudentCard | None:
  """Reads a folder's `dss_jax.json`; None where there is none.

  Unknown keys are ignored: a later version may add some.

  Raises:
    UserError: in one line, what is wrong with the file.
  """
  path = pathlib.Path(folder) / FILE
  if not path.exists():
    return None
  with damaged_file(path, "export the student again, or repair the file"):
    value = bounds.parse_json(plain_files.read(path, _MAX_BYTES))
    try:
      return _parse(value)
    except UserError as error:  # about a template or an option
      raise ValueError(str(error)) from None


def _parse(value: dict[str, Any]) -> StudentCard:
  """The card; raises ValueError for what it cannot be."""
  if value.get("format") != FORMAT or isinstance(value["format"], bool):
    raise ValueError(
      f"its format is {value.get('format')!r}; this version of dss_jax reads"
      f" {FORMAT}"
    )
  card = _fields("", value, _FIELDS)
  lengths = _fields("feature_lengths.", card.get("feature_lengths", {}), _SIDES)
  vocabulary = _fields("vocabulary.", card.get("vocabulary"), _VOCABULARY)
  for name, (number, least, most) in {
    "step": (card.get("step"), 0, _MAX_STEP),
    "vocabulary.extra_ids": (
      vocabulary.get("extra_ids"),
      0,
      vocabularies.MAX_EXTRA_IDS,
    ),
    **{f"feature_lengths.{k}": (v, 1, _MAX_LENGTH) for k, v in lengths.items()},
  }.items():
    if number is not None and not least <= number <= most:
      raise ValueError(f"{name} is {number}; allowed: {least} to {most}")
  labels = card.get("labels")
  if labels is not None and not 1 <= len(labels) == len(set(labels)):
    raise ValueError(
      f"its {len(labels)} labels must be different ones, at least 1, or null"
    )
  return StudentCard(
    subtasks=_subtasks(card.get("subtasks", [])),
    options=MethodOptions(
      **_fields("options.", card.get("options", {}), _TEXTS)
    ),
    feature_lengths=lengths,
    labels=None if labels is None else tuple(labels),
    vocabulary_file=_vocabulary_file(vocabulary),
    extra_ids=vocabulary.get("extra_ids", 0),
    added_tokens=tuple(vocabulary.get("added_tokens", ())),
    description={
      name: card[name] for name in DESCRIPTION if card.get(name) is not None
    },
  )


def _fields(where: str, value: Any, hints: Mapping[str, Any]) -> dict[str, Any]:
  """The known fields of a JSON object, which have the types they must."""
  if not isinstance(value, dict):
    raise ValueError(f"{where.rstrip('.')} is {value!r}, not a JSON object")
  found = {name: value[name] for name in hints if name in value}
  for name, item in found.items():
    if not value_types.matches(item, hints[name]):
      raise ValueError(
        f"{where}{name} is {item!r}, not {value_types.describe(hints[name])}"
      )
    for text in item if isinstance(item, list) else (item,):
      if isinstance(text, str) and len(text) > _MAX_TEXT:
        raise ValueError(f"{where}{name} has more than {_MAX_TEXT} characters")
    if isinstance(item, list) and len(item) > _MAX_ENTRIES:
      raise ValueError(f"{where}{name} has more than {_MAX_ENTRIES} entries")
  return found


def _subtasks(entries: list[Any]) -> tuple[SubTask, ...]:
  found = []
  for entry in entries:
    fields = _fields("subtasks.", entry, _SUBTASK)
    if missing := [name for name in _SUBTASK if name not in fields]:
      raise ValueError(f"an entry of subtasks lacks {', '.join(missing)}")
    if not fields["name"].isidentifier():
      raise ValueError(f"{fields['name']!r} cannot name a sub-task")
    found.append(SubTask(**fields))
  if not found:
    raise ValueError("it has no subtasks")
  if len({subtask.name for subtask in found}) < len(found):
    raise ValueError("two subtasks have the same name")
  return tuple(found)


def _vocabulary_file(vocabulary: Mapping[str, Any]) -> str | None:
  kind, file = vocabulary.get("kind"), vocabulary.get("file")
  if kind not in ("bytes", "sentencepiece"):
    raise ValueError(
      f"vocabulary.kind is {kind!r}; allowed: bytes, sentencepiece"
    )
  if kind == "bytes":
    return None
  if file is None or not bounds.PLAIN_NAME.fullmatch(file):
    raise ValueError(
      f"vocabulary.file is {file!r}; it must be the plain name of a file in the"
      " same folder"
    )
  return file
