"""The vocabulary in a Hugging Face folder."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from dss_jax import vocabularies
from dss_jax.pretrained import student_card
from dss_jax.pretrained.files import bounds

_MODEL = "spiece.model"
_SENTINEL = re.compile(r"<extra_id_(\d{1,4})>")
_EXTRA_IDS = 100  # T5's and its successors'
_BYTE_EXTRA_IDS = 125  # ByT5's
_MAX_CONFIG_BYTES = 16 * 2**20


def vocabulary_name(folder: pathlib.Path, vocab_size: int) -> str | None:
  """The name of a folder's vocabulary: `.../spiece.model:100`, `bytes:125`.

  Args:
    folder: with `dss_jax.json`, `spiece.model`, or the configuration of ByT5's
      tokenizer.
    vocab_size: length of the model's embedding table.

  Returns:
    None where the folder has none of these.

  Raises:
    UserError: for a damaged file.
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
  file = bounds.find_file(folder, "tokenizer_config.json")
  # Old ones list every special token, and there may be hundreds.
  options = bounds.read_json(file, _MAX_CONFIG_BYTES) if file else {}
  declared = _declared_extra_ids(options)
  if options.get("tokenizer_class") == "ByT5Tokenizer":
    return f"bytes:{_BYTE_EXTRA_IDS if declared is None else declared}"
  file = bounds.find_file(folder, _MODEL)
  if file is None:
    return None
  base = vocabularies.SentencePieceVocabulary(str(file))
  if declared is None:
    # mT5's model has them inside; a user's own small model may have none.
    has_them = _knows_sentinels(base)
    fits = base.vocab_size + _EXTRA_IDS <= vocab_size
    declared = _EXTRA_IDS if fits and not has_them else 0
  return f"{file}:{declared}"


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
