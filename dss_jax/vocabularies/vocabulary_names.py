"""The names that configurations give vocabularies."""

import functools
import json
import pathlib
import re
from typing import Any, NamedTuple

from dss_jax.base.errors import UserError
from dss_jax.vocabularies.byte_vocabulary import ByteVocabulary
from dss_jax.vocabularies.sentencepiece_vocabulary import (
  NAMES,
  SHIPPED_MODELS,
  SentencePieceVocabulary,
)
from dss_jax.vocabularies.vocabulary import FIELD, Vocabulary

# Datasets that come with a vocabulary of their own.
_DEFAULTS = {
  "taxonli": "taxonli",
  **dict.fromkeys(
    ("kinds", "fits", "odd_one", "places", "sums", "counts"), "families"
  ),
}


def default_name(dataset: str) -> str:
  """The vocabulary of a dataset when a configuration names none."""
  return _DEFAULTS.get(dataset, "bytes")


def set_default(dataset: str, name: str) -> None:
  """Makes `name` the vocabulary of a dataset whose configuration has none."""
  _DEFAULTS[dataset] = name


class NameParts(NamedTuple):
  """A vocabulary's name taken apart.

  Attributes:
    base: "bytes", the name of a shipped model, or a path.
    extra_ids: number of sentinels.
    added_tokens: texts that get an id each.
  """

  base: str
  extra_ids: int = 0
  added_tokens: tuple[str, ...] = ()

  def __str__(self) -> str:
    """The name: `spiece.model:100+["{"]`."""
    added = f"+{json.dumps(self.added_tokens)}" if self.added_tokens else ""
    return f"{self.base}:{self.extra_ids}{added}"


def split_name(name: str) -> NameParts:
  """Takes `'NAME:100+["{", "}"]'` apart.

  Raises:
    UserError: what follows the + is no JSON list of texts.
  """
  base, plus, listed = name.partition("+[")
  added: Any = ()
  if plus:
    try:
      # A line break may stand for itself: gin has read the text before.
      added = json.loads(f"[{listed}", strict=False)
    except (ValueError, RecursionError):
      added = None
    if not isinstance(added, list) or not all(
      isinstance(token, str) for token in added
    ):
      raise UserError(
        f"vocabulary is {name!r}; added tokens must be a JSON list of texts"
        ' after a +, such as spiece.model:100+["{", "}", "\\n"]',
        fields=FIELD,
      )
  match = re.fullmatch(r"(.+?):(\d{1,6})", base)
  if match:
    return NameParts(match.group(1), int(match.group(2)), tuple(added))
  return NameParts(base, 0, tuple(added))


def model_path(name: str) -> pathlib.Path | None:
  """The file behind a vocabulary's name; None for bytes."""
  base = split_name(name).base
  if base == "bytes":
    return None
  return SHIPPED_MODELS.get(base) or pathlib.Path(base)


def from_name(name: str | Vocabulary) -> Vocabulary:
  """The vocabulary that a configuration names.

  Args:
    name: `"bytes"`, `"taxonli"` or `"families"` (the models of the generated
      datasets) or the path of a SentencePiece model; `:N` after any of them adds N extra
      ids, and `+["{", "\\n"]`, a JSON list, adds tokens to a SentencePiece
      model (see `SentencePieceVocabulary`). T5's own vocabulary is
      `"/path/to/spiece.model:100"`. A vocabulary object is returned as it is.

  Raises:
    UserError: no such name or file, or something else.
  """
  if isinstance(name, Vocabulary) and not isinstance(name, type):
    return name
  if not isinstance(name, str):
    raise UserError(
      f"vocabulary is {name!r}; it must be {NAMES} or the path of a"
      " SentencePiece model, or a vocabulary object",
      fields=FIELD,
    )
  base, extra_ids, added = split_name(name)
  path = model_path(name)
  if path is None:
    if added:
      raise UserError(
        f"vocabulary is {name!r}; bytes write every text, so no token can be"
        " added to them",
        fields=FIELD,
      )
    return _cached("bytes", "", extra_ids, (), None)
  if not path.is_file():
    raise UserError(
      f"vocabulary is {base!r}, which is none of {NAMES} and no SentencePiece"
      " model file on this machine",
      fields=FIELD,
    )
  stat = path.stat()
  stamp = (stat.st_mtime_ns, stat.st_size)
  return _cached("sentencepiece", str(path), extra_ids, added, stamp)


@functools.lru_cache(maxsize=16)
def _cached(
  kind: str, path: str, extra_ids: int, added: tuple[str, ...], stamp: Any
) -> Vocabulary:
  del stamp  # a changed file is another key
  if kind == "bytes":
    return ByteVocabulary(extra_ids)
  return SentencePieceVocabulary(path, extra_ids, added)
