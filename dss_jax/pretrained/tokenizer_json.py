"""`tokenizer.json`, as Hugging Face's `tokenizers` library writes it, for a T5.

It holds what a SentencePiece model holds: pieces with their scores, and the
table by which characters are normalised. One is turned into the other here,
both ways, so that all text goes through one library. What a SentencePiece
model cannot express changes the ids of texts, and is refused: other
normalisers, other ways to cut words, and added tokens, around which
`tokenizers` cuts words and drops spaces. (Texts never become special tokens
here, except `</s>`.)

A vocabulary's own added tokens stand in the file as in the vocabulary: a step
puts a private character in the place of each, which is a piece.
"""

from __future__ import annotations

import base64
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax import vocabularies
from dss_jax.base.errors import UserError, one_line
from dss_jax.base.special_ids import UNK_ID
from dss_jax.pretrained import sentencepiece_models
from dss_jax.pretrained.files import bounds
from dss_jax.pretrained.sentencepiece_models import (
  SPACE,
  SPECIAL,
  UNIGRAM,
  USER_DEFINED,
)

FILE = "tokenizer.json"
MAX_BYTES = 32 * 2**20  # mT5's has half of that
MAX_PIECES = 500_000  # mT5 has 250,100
_SENTINEL = re.compile(r"▁?<extra_id_(\d{1,4})>")
_REMEDY = "retrain it with T5's tokenizer, or give another folder"

# Parts that together do what SentencePiece does to spaces: none at the ends,
# one between words, and one before the first. Several kinds are in use.
_SPACE_NORMALIZERS: tuple[dict[str, Any], ...] = (
  {"type": "Strip", "strip_left": False, "strip_right": True},
  {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE},
  {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
)
_METASPACE = {"type": "Metaspace", "replacement": SPACE, "split": True}
# Cuts words where SentencePiece does. `WhitespaceSplit`, which T5's tokenizer of
# transformers has in its place, cuts at all of Unicode's spaces.
_SPLIT_AT_SPACES: dict[str, Any] = {
  "type": "Split",
  "pattern": {"String": " "},
  "behavior": "Removed",
  "invert": False,
}


class Tokenizer(NamedTuple):
  """What a file holds.

  Attributes:
    model: a serialised SentencePiece model, without T5's sentinels.
    extra_ids: how many of these follow.
    added_tokens: a vocabulary's own, which follow the sentinels.
  """

  model: bytes
  extra_ids: int
  added_tokens: tuple[str, ...] = ()


def read(path: pathlib.Path) -> Tokenizer:
  """A file as a SentencePiece model.

  Raises:
    UserError: for a damaged file, or one that would make other ids than a
      SentencePiece model can.
  """
  content = bounds.read_json(path, MAX_BYTES)
  with bounds.reading(path, "tokenizer"):
    pieces = _pieces(content)
    tokens = _added_tokens(content.get("added_tokens"))
    pieces += _beyond(tokens, len(pieces))
    normalizers = _parts(content.get("normalizer"), "normalizers")
    marked, normalizers = _marked(normalizers, [text for text, _ in pieces])
    pieces = pieces[: len(pieces) - len(marked)]
    texts = [text for text, _ in pieces]
    extra_ids = _sentinels_at_the_end(texts)
    check_added_tokens(tokens, texts, path)
    charsmap = _charsmap(normalizers, path)
    _check_words(content, normalizers, charsmap, path)
    added = {text for _, text in tokens}
    base = pieces[: len(pieces) - extra_ids]
    return Tokenizer(
      sentencepiece_models.serialised(base, charsmap, added), extra_ids, marked
    )


def check_added_tokens(
  tokens: Iterable[tuple[int, str]], pieces: Sequence[str], path: pathlib.Path
) -> None:
  """Raises UserError for an added token that is none of T5's.

  Args:
    tokens: id and text of each.
    pieces: the text of each id.
    path: the file that adds them.
  """
  for token_id, text in tokens:
    known = 0 <= token_id < len(pieces) and pieces[token_id] == text
    if not known or (text not in SPECIAL and not _SENTINEL.fullmatch(text)):
      raise UserError(
        f"{str(path)!r} adds the token {one_line(repr(text), longest=60)} with"
        f" the id {token_id}, which T5's vocabulary does not have there;"
        f" transformers cuts the words around it, so that texts would get other"
        f" ids: {_REMEDY}"
      )


# ------------------------------------------------------------------- what it says


def _pieces(content: Mapping[str, Any]) -> list[tuple[str, float]]:
  """Text and score of each id; raises for what SentencePiece would not be."""
  model = content.get("model")
  if not isinstance(model, dict):
    raise bounds.MalformedError("it has no model")
  vocab = model.get("vocab")
  kind = model.get("type", "Unigram" if isinstance(vocab, list) else None)
  if kind != "Unigram" or not isinstance(vocab, list):
    raise bounds.MalformedError(
      f"its model is {one_line(repr(kind), longest=60)}, and T5's is Unigram"
    )
  if model.get("byte_fallback"):
    raise bounds.MalformedError("it falls back to bytes, which T5's does not")
  if not len(SPECIAL) < len(vocab) <= MAX_PIECES:
    raise bounds.MalformedError(f"it has {len(vocab)} pieces")
  for entry in vocab:
    if (
      not isinstance(entry, list)
      or len(entry) != 2
      or not isinstance(entry[0], str)
      or not entry[0]
      or type(entry[1]) not in (int, float)
      or not math.isfinite(entry[1])
    ):
      raise bounds.MalformedError(
        f"{one_line(repr(entry), longest=60)} is no piece with a score"
      )
  found = tuple(text for text, _ in vocab[: len(SPECIAL)])
  if found != SPECIAL or model.get("unk_id") != UNK_ID:
    raise bounds.MalformedError(
      f"its first pieces are {one_line(found, longest=60)} with unk_id"
      f" {one_line(model.get('unk_id'), longest=20)}; they must be"
      f" {', '.join(SPECIAL)} with unk_id {UNK_ID}"
    )
  return [(text, float(score)) for text, score in vocab]


def _added_tokens(value: Any) -> list[tuple[int, str]]:
  """Id and text of each added token, by their ids."""
  if value is None:
    return []
  tokens = []
  for token in value:
    token_id = token.get("id") if isinstance(token, dict) else None
    if type(token_id) is not int or not isinstance(token.get("content"), str):
      raise bounds.MalformedError("an added token has no id or no content")
    tokens.append((token_id, token["content"]))
  return sorted(tokens)


def _beyond(
  tokens: Iterable[tuple[int, str]], size: int
) -> list[tuple[str, float]]:
  """The added tokens that follow the model's own pieces without a gap."""
  found: list[tuple[str, float]] = []
  for token_id, text in tokens:
    if token_id == size + len(found):
      found.append((text, 0.0))
  return found


def _sentinels_at_the_end(texts: Sequence[str]) -> int:
  """How many of T5's sentinels are last, the first having the last id."""
  for count, text in enumerate(reversed(texts)):
    if text != f"<extra_id_{count}>":
      return count
  return len(texts)


def _marked(
  normalizers: list[dict[str, Any]], texts: Sequence[str]
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
  """The added tokens that a file of our own has, and its other steps."""
  by_marker: dict[str, str] = {}
  for part in normalizers:
    pattern, marker = part.get("pattern"), part.get("content")
    token = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(token, str) or not isinstance(marker, str):
      break
    by_marker[marker] = token
  count = len(by_marker)
  last = texts[-count:] if count else ()
  tokens = tuple(by_marker.get(text, "") for text in last)
  if normalizers[:count] != _replacements(tokens):
    return (), normalizers
  return tokens, normalizers[count:]


def _replacements(tokens: Sequence[str]) -> list[dict[str, Any]]:
  """The steps that put a vocabulary's markers in the place of tokens."""
  marked = [
    (token, vocabularies.marker(index)) for index, token in enumerate(tokens)
  ]
  return [
    {"type": "Replace", "pattern": {"String": token}, "content": marker}
    for token, marker in sorted(marked, key=lambda pair: -len(pair[0]))
  ]


def _charsmap(parts: list[dict[str, Any]], path: pathlib.Path) -> bytes:
  """SentencePiece's table for normalising characters."""
  first = parts[0] if parts else {}
  if first.get("type") != "Precompiled" or not all(
    part in _SPACE_NORMALIZERS for part in parts[1:]
  ):
    kinds = ", ".join(str(part.get("type")) for part in parts) or "none"
    raise UserError(
      f"{str(path)!r} normalises texts by {one_line(kinds, longest=80)}, where"
      f" T5's tokenizer has Precompiled: {_REMEDY}"
    )
  charsmap = first.get("precompiled_charsmap")
  if not isinstance(charsmap, str) or not charsmap:
    raise bounds.MalformedError("its normalizer has no precompiled_charsmap")
  return base64.b64decode(charsmap, validate=True)


def _check_words(
  content: Mapping[str, Any],
  normalizers: list[dict[str, Any]],
  charsmap: bytes,
  path: pathlib.Path,
) -> None:
  """Raises UserError for another way to cut words, or to end a text."""
  words = _parts(content.get("pre_tokenizer"), "pretokenizers")
  kinds = [part.get("type") for part in words]
  steps = {part.get("type") for part in normalizers}
  at_spaces = words[:1] == [_SPLIT_AT_SPACES]
  one_space = at_spaces or "WhitespaceSplit" in kinds or "Replace" in steps
  last = words[-1] if words else {}
  last = {"split": True, **last}
  prefix = last.get("prepend_scheme", "always")  # old ones call it otherwise
  if (
    kinds[at_spaces:] not in (["WhitespaceSplit", "Metaspace"], ["Metaspace"])
    or not one_space
    or any(last.get(name) != value for name, value in _METASPACE.items())
    or prefix not in ("always", "first")
    or last.get("add_prefix_space") is False
  ):
    shown = one_line(", ".join(map(str, kinds)) or "none", longest=80)
    raise UserError(
      f"{str(path)!r} cuts texts into words by {shown}, otherwise than T5's"
      f" tokenizer (WhitespaceSplit, Metaspace): {_REMEDY}"
    )
  if "WhitespaceSplit" in kinds or "Strip" in steps:
    kept = sentencepiece_models.spaces_kept(charsmap)
    if kept:
      raise UserError(
        f"{str(path)!r} cuts texts at every space of Unicode's, and its table"
        f" keeps some as characters, such as U+{ord(kept[0]):04X}, otherwise"
        f" than T5's: {_REMEDY}"
      )
  ending = content.get("post_processor")
  single = ending.get("single") if isinstance(ending, dict) else None
  wanted = ["Sequence", "SpecialToken"]
  if (
    not isinstance(single, list)
    or [next(iter(part), None) for part in single] != wanted
    or single[1]["SpecialToken"].get("id") != SPECIAL[1]
  ):
    raise UserError(
      f"{str(path)!r} ends texts otherwise than with {SPECIAL[1]}: {_REMEDY}"
    )


def _parts(value: Any, name: str) -> list[dict[str, Any]]:
  """A step of the tokenizer as a list of steps."""
  if value is None:
    return []
  if isinstance(value, dict) and value.get("type") == "Sequence":
    value = value.get(name)
  parts = value if isinstance(value, list) else [value]
  if not all(isinstance(part, dict) for part in parts):
    raise bounds.MalformedError(f"its {name} are no objects")
  return parts


def _overlap(tokens: Sequence[str]) -> bool:
  """Whether an end of one token begins another.

  Then the first one in a text counts for a vocabulary, and the longest one for
  steps that follow one another.
  """
  # Beginning -> the token that has it; empty where several have.
  begun: dict[str, str] = {}
  for token in {*tokens}:
    for length in range(1, len(token)):
      start = token[:length]
      begun[start] = "" if start in begun else token
  return any(
    begun.get(token[start:], token) != token
    for token in tokens
    for start in range(1, len(token))
  )


def of_vocabulary(
  vocabulary: vocabularies.SentencePieceVocabulary,
) -> dict[str, Any] | None:
  """The content of `tokenizer.json` for a vocabulary.

  Returns:
    None for a model that treats spaces otherwise than T5's, or added tokens of
    which one ends as another begins.
  """
  tokens = vocabulary.added_tokens
  message = sentencepiece_models.parsed(
    pathlib.Path(vocabulary.path).read_bytes()
  )
  normalizer = message.normalizer_spec
  if (
    message.trainer_spec.model_type != UNIGRAM
    or message.trainer_spec.byte_fallback
    or not normalizer.precompiled_charsmap
    or not normalizer.add_dummy_prefix
    or not normalizer.remove_extra_whitespaces
    or any(piece.type == USER_DEFINED for piece in message.pieces)
    or _overlap(tokens)
  ):
    return None
  pieces = [[piece.piece, piece.score] for piece in message.pieces]
  pieces[: len(SPECIAL)] = [[text, 0.0] for text in SPECIAL]
  size = len(pieces)
  pieces += [
    [text, 0.0] for text in sentencepiece_models.sentinels(vocabulary.extra_ids)
  ]
  special = [*range(len(SPECIAL)), *range(size, len(pieces))]
  pieces += [[vocabularies.marker(i), 0.0] for i in range(len(tokens))]
  metaspace = _METASPACE | {"prepend_scheme": "always"}
  to_text = [
    {
      "type": "Replace",
      "pattern": {"String": part["content"]},
      "content": part["pattern"]["String"],
    }
    for part in _replacements(tokens)
  ]
  characters = {
    "type": "Precompiled",
    "precompiled_charsmap": base64.b64encode(
      normalizer.precompiled_charsmap
    ).decode("ascii"),
  }
  end = {"SpecialToken": {"id": SPECIAL[1], "type_id": 0}}
  first, second = (
    {"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B")
  )
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
      {
        "id": token_id,
        "content": pieces[token_id][0],
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
      }
      for token_id in special
    ],
    "normalizer": {
      "type": "Sequence",
      "normalizers": [*_replacements(tokens), characters],
    }
    if tokens
    else characters,
    "pre_tokenizer": {
      "type": "Sequence",
      "pretokenizers": [dict(_SPLIT_AT_SPACES), metaspace],
    },
    "post_processor": {
      "type": "TemplateProcessing",
      "single": [first, end],
      "pair": [first, end, second, end],
      "special_tokens": {
        SPECIAL[1]: {"id": SPECIAL[1], "ids": [1], "tokens": [SPECIAL[1]]}
      },
    },
    "decoder": {"type": "Sequence", "decoders": [metaspace, *to_text]}
    if tokens
    else metaspace,
    "model": {
      "type": "Unigram",
      "unk_id": UNK_ID,
      "vocab": pieces,
      "byte_fallback": False,
    },
  }
