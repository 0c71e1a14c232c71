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
from dss_jax.base.atomic_files import write_atomically
from dss_jax.base.errors import UserError, damaged_file
from dss_jax.data.pairs import subtasks as subtasks_lib
from dss_jax.data.pairs.subtasks import MethodOptions, SubTask
from dss_jax.pretrained.files import bounds

FILE = "dss_jax.json"
FORMAT = 1
MODEL_FILE = "spiece.model"  # Hugging Face's name for a SentencePiece model

_MAX_BYTES = 2**22
_MAX_LABELS = 10_000
_MAX_SUBTASKS = 100
_MAX_TEXT = 1_000  # characters in a label, prefix, template or name
_MAX_LENGTH = 2**20  # tokens
_MAX_STEP = 2**31 - 1  # as in a checkpoint
_TEXTS = (
  "label_prefix",
  "rationale_prefix",
  "label_separator",
  "rationale_separator",
)
_SUBTASK_FIELDS = ("name", "input_format", "target_format")
SIDES = ("inputs", "targets")
# Entries of `Student.description`, with their types.
DESCRIPTION = {"source": str, "step": int, "task": str, "dataset": str}


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
    description: `source`, `step`, `task`, `dataset`, as far as known.
  """

  subtasks: tuple[SubTask, ...] = (subtasks_lib.STANDARD,)
  options: MethodOptions = dataclasses.field(default_factory=MethodOptions)
  feature_lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
  labels: tuple[str, ...] | None = None
  vocabulary_file: str | None = None
  extra_ids: int = 0
  description: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def vocabulary(self, folder: str | pathlib.Path) -> vocabularies.Vocabulary:
    """The vocabulary, whose file lies in `folder`."""
    if self.vocabulary_file is None:
      return vocabularies.ByteVocabulary(self.extra_ids)
    return vocabularies.SentencePieceVocabulary(
      str(pathlib.Path(folder) / self.vocabulary_file), self.extra_ids
    )


def write(folder: str | pathlib.Path, card: StudentCard) -> None:
  """Writes `dss_jax.json` into a folder."""
  kind = "bytes" if card.vocabulary_file is None else "sentencepiece"
  value = {
    "format": FORMAT,
    **card.description,
    "subtasks": [
      {name: getattr(subtask, name) for name in _SUBTASK_FIELDS}
      for subtask in card.subtasks
    ],
    "options": {name: getattr(card.options, name) for name in _TEXTS},
    "feature_lengths": dict(card.feature_lengths),
    "labels": None if card.labels is None else list(card.labels),
    "vocabulary": {
      "kind": kind,
      "file": card.vocabulary_file,
      "extra_ids": card.extra_ids,
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
    if path.stat().st_size > _MAX_BYTES:
      raise ValueError(f"larger than {_MAX_BYTES} bytes")
    value = bounds.parse_json(path.read_bytes())
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
  options = _typed("options", value.get("options", {}), dict)
  texts: dict[str, Any] = {
    name: _typed(f"options.{name}", options[name], str)
    for name in _TEXTS
    if name in options
  }
  vocabulary = _typed("vocabulary", value.get("vocabulary"), dict)
  return StudentCard(
    subtasks=_subtasks(value.get("subtasks")),
    options=MethodOptions(**texts),
    feature_lengths=_feature_lengths(value.get("feature_lengths", {})),
    labels=_labels(value.get("labels")),
    vocabulary_file=_vocabulary_file(vocabulary),
    extra_ids=_count(
      "vocabulary.extra_ids",
      vocabulary.get("extra_ids", 0),
      vocabularies.MAX_EXTRA_IDS,
    ),
    description={
      key: _count(key, value[key], _MAX_STEP)
      if kind is int
      else _typed(key, value[key], kind)
      for key, kind in DESCRIPTION.items()
      if value.get(key) is not None
    },
  )


def _subtasks(value: Any) -> tuple[SubTask, ...]:
  entries = _typed("subtasks", value, list)
  if not 1 <= len(entries) <= _MAX_SUBTASKS:
    raise ValueError(
      f"it has {len(entries)} subtasks; allowed: 1 to {_MAX_SUBTASKS}"
    )
  found = []
  for entry in entries:
    fields = _typed("an entry of subtasks", entry, dict)
    texts = {
      name: _typed(f"subtasks: {name}", fields.get(name), str)
      for name in _SUBTASK_FIELDS
    }
    if not texts["name"].isidentifier():
      raise ValueError(f"{texts['name']!r} cannot name a sub-task")
    found.append(SubTask(**texts))
  if len({subtask.name for subtask in found}) < len(found):
    raise ValueError("two subtasks have the same name")
  return tuple(found)


def _labels(value: Any) -> tuple[str, ...] | None:
  if value is None:
    return None
  labels = [
    _typed("a label", label, str) for label in _typed("labels", value, list)
  ]
  if not 1 <= len(labels) <= _MAX_LABELS or len(set(labels)) < len(labels):
    raise ValueError(
      f"its {len(labels)} labels must be 1 to {_MAX_LABELS} different ones,"
      " or null"
    )
  return tuple(labels)


def _feature_lengths(value: Any) -> dict[str, int]:
  lengths = _typed("feature_lengths", value, dict)
  return {
    side: _count(f"feature_lengths.{side}", lengths[side], _MAX_LENGTH, 1)
    for side in SIDES
    if side in lengths
  }


def _vocabulary_file(value: Mapping[str, Any]) -> str | None:
  kind, file = value.get("kind"), value.get("file")
  if kind == "bytes":
    return None
  if kind != "sentencepiece":
    raise ValueError(
      f"vocabulary.kind is {kind!r}; allowed: bytes, sentencepiece"
    )
  if not isinstance(file, str) or not bounds.PLAIN_NAME.fullmatch(file):
    raise ValueError(
      f"vocabulary.file is {file!r}; it must be the plain name of a file in the"
      " same folder"
    )
  return file


def _typed(name: str, value: Any, kind: type) -> Any:
  if not isinstance(value, kind) or isinstance(value, bool):
    raise ValueError(
      f"{name} is a {type(value).__name__}, not a {kind.__name__}"
    )
  if kind is str and len(value) > _MAX_TEXT:
    raise ValueError(f"{name} has more than {_MAX_TEXT} characters")
  return value


def _count(name: str, value: Any, most: int, least: int = 0) -> int:
  if not least <= _typed(name, value, int) <= most:
    raise ValueError(f"{name} is {value}; allowed: {least} to {most}")
  return value
