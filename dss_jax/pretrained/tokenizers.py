"""The vocabulary in a Hugging Face folder."""

from __future__ import annotations

import hashlib
import pathlib
import re
from typing import Any

from dss_jax import vocabularies
from dss_jax.base.atomic_files import atomic_path
from dss_jax.base.errors import writing
from dss_jax.pretrained import (
  locations,
  sentencepiece_models,
  student_card,
  tokenizer_json,
)
from dss_jax.pretrained.files import bounds

_MODEL = "spiece.model"
_CONFIG = "tokenizer_config.json"
_ADDED = "added_tokens.json"  # how version 4 writes them, next to spiece.model
_SENTINEL = re.compile(r"<extra_id_(\d{1,4})>")
_EXTRA_IDS = 100  # T5's and its successors'
_BYTE_EXTRA_IDS = 125  # ByT5's
_MAX_CONFIG_BYTES = 16 * 2**20


def vocabulary_name(folder: pathlib.Path, vocab_size: int) -> str | None:
  """The name of a folder's vocabulary: `.../spiece.model:100`, `bytes:125`.

  Args:
    folder: with `dss_jax.json`, `tokenizer.json`, `spiece.model`, or the
      configuration of ByT5's tokenizer.
    vocab_size: length of the model's embedding table.

  Returns:
    None where the folder has none of these.

  Raises:
    UserError: for a damaged file, or a tokenizer that makes other ids than a
      vocabulary of ours can.
  """
  card = student_card.read(folder)
  if card is not None:
    name = card.vocabulary_file
    kind = "bytes" if name is None else bounds.find_file(folder, name)
    if kind is None:
      return None
    return str(
      vocabularies.NameParts(str(kind), card.extra_ids, card.added_tokens)
    )
  file = bounds.find_file(folder, _CONFIG)
  # Old ones list every special token, and there may be hundreds.
  options = bounds.read_json(file, _MAX_CONFIG_BYTES) if file else {}
  declared = _declared_extra_ids(options)
  if options.get("tokenizer_class") == "ByT5Tokenizer":
    extra_ids = _BYTE_EXTRA_IDS if declared is None else declared
    texts = [*sentencepiece_models.SPECIAL, *map(chr, range(256))]
    # In ByT5 the first sentinel has the first id.
    texts += sentencepiece_models.sentinels(extra_ids)[::-1]
    _check_added_tokens(folder, options, texts)
    return f"bytes:{extra_ids}"
  file, extra_ids = bounds.find_file(folder, _MODEL), declared
  whole = bounds.find_file(folder, tokenizer_json.FILE)
  own: tuple[str, ...] = ()
  if whole is not None:  # the one that transformers reads where both are there
    model, extra_ids, own = tokenizer_json.read(whole)
    if file is None or not sentencepiece_models.same_model(_read(file), model):
      file = _kept(model)
  if file is None:
    return None
  base = vocabularies.SentencePieceVocabulary(str(file))
  if extra_ids is None:
    # mT5's model has them inside; a user's own small model may have none.
    has_them = _knows_sentinels(base)
    fits = base.vocab_size + _EXTRA_IDS <= vocab_size
    extra_ids = _EXTRA_IDS if fits and not has_them else 0
  texts = sentencepiece_models.piece_texts(_read(file), extra_ids)
  _check_added_tokens(folder, options, texts)
  return str(vocabularies.NameParts(str(file), extra_ids, own))


def _read(file: pathlib.Path) -> bytes:
  """The model in a file, which is one that can be loaded."""
  vocabularies.SentencePieceVocabulary(str(file))
  return file.read_bytes()


def _kept(model: bytes) -> pathlib.Path:
  """A file with the model, in the cache, named by its content."""
  digest = hashlib.sha256(model).hexdigest()[:16]
  file = locations.cache_folder() / "vocabularies" / f"{digest}.model"
  if not file.is_file():
    with writing(file):
      file.parent.mkdir(parents=True, exist_ok=True)
      with atomic_path(file) as temporary:
        temporary.write_bytes(model)
  return file


def _check_added_tokens(
  folder: pathlib.Path, options: dict[str, Any], texts: list[str]
) -> None:
  """Refuses tokens that transformers adds to the vocabulary, by either file."""
  added = options.get("added_tokens_decoder")
  if isinstance(added, dict):
    tokens = [
      (_number(number), str(token.get("content")))
      for number, token in added.items()
      if isinstance(token, dict)
    ]
    tokenizer_json.check_added_tokens(tokens, texts, folder / _CONFIG)
  file = bounds.find_file(folder, _ADDED)
  if file is not None:
    tokens = [
      (number if type(number) is int else -1, text)
      for text, number in bounds.read_json(file).items()
    ]
    tokenizer_json.check_added_tokens(tokens, texts, file)


def _number(text: str) -> int:
  """The id that a key spells; -1 for what is none."""
  return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1


def _knows_sentinels(vocabulary: vocabularies.SentencePieceVocabulary) -> bool:
  piece = "▁<extra_id_0>"
  processor = vocabulary._processor
  return processor.PieceToId(piece) != vocabulary.unk_id


def _declared_extra_ids(options: dict[str, Any]) -> int | None:
  """How many sentinels tokenizer_config.json says there are."""
  count = options.get("extra_ids")
  if type(count) is int and 0 <= count <= vocabularies.MAX_EXTRA_IDS:
    return count
  tokens = options.get("additional_special_tokens")
  tokens = tokens or options.get("extra_special_tokens")
  if not isinstance(tokens, list):
    return None
  texts = {
    token.get("content") if isinstance(token, dict) else token
    for token in tokens
    if isinstance(token, dict | str)
  }
  numbers = [
    int(match.group(1))
    for match in map(_SENTINEL.fullmatch, map(str, texts))
    if match
  ]
  return max(numbers) + 1 if numbers else None
