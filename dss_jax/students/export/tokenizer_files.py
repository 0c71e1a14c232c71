"""Tokenizer files that transformers' AutoTokenizer reads as our vocabulary."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from dss_jax import vocabularies
from dss_jax.base.errors import UserError, one_line
from dss_jax.pretrained import (
  sentencepiece_models,
  student_card,
  tokenizer_json,
)
from dss_jax.students.student import Student

CONFIG_FILE = "tokenizer_config.json"
_SPECIAL = re.compile(r"<pad>|<unk>|<extra_id_\d+>|</s>\s*$")
_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def write(student: Student, folder: pathlib.Path) -> None:
  """Writes the files of T5's tokenizer, or of ByT5's for bytes.

  They include `spiece.model`, which CTranslate2's users need, and the same as
  `tokenizer.json`, which transformers reads without the sentencepiece package.
  """
  vocabulary = student.vocabulary
  is_bytes = isinstance(vocabulary, vocabularies.ByteVocabulary)
  config: dict[str, Any] = {
    "tokenizer_class": "ByT5Tokenizer" if is_bytes else "T5Tokenizer",
    "extra_ids": vocabulary.extra_ids,
    **_TOKENS,
  }
  if is_bytes:
    # By default, special tokens would swallow the spaces around them.
    config["added_tokens_decoder"] = {
      str(token_id): {
        "content": token,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
      }
      for token_id, token in enumerate(_TOKENS.values())
    }
  else:
    # As in our vocabulary, each part around a `</s>` begins like a whole text.
    config["legacy"] = True
    write_vocabulary(student, folder)
    if _write_whole(vocabulary, folder):
      # T5's class would build the tokenizer anew, and otherwise.
      config["tokenizer_class"] = "PreTrainedTokenizerFast"
  if "inputs" in student.feature_lengths:
    config["model_max_length"] = student.feature_lengths["inputs"]
  write_json(folder / CONFIG_FILE, config)


def _write_whole(vocabulary: Any, folder: pathlib.Path) -> bool:
  """Writes `tokenizer.json` if it can say the same as the vocabulary.

  Returns:
    Whether it alone does, and T5's class of transformers does not: tokens were
    added, or the vocabulary keeps spaces of Unicode's as characters.
  """
  content = tokenizer_json.of_vocabulary(vocabulary)
  if content is not None:
    (folder / tokenizer_json.FILE).write_text(
      json.dumps(content, ensure_ascii=False), encoding="utf-8"
    )
  elif vocabulary.added_tokens:
    raise UserError(
      f"vocabulary is {vocabulary.name}, whose added tokens the tokenizers of"
      " transformers cannot cut in the same way: export to t5x, or train with"
      " tokens that do not overlap and with T5's SentencePiece model",
      fields=("vocabulary", "format"),
    )
  return content is not None and (
    bool(vocabulary.added_tokens)
    or not sentencepiece_models.cuts_as_t5(vocabulary)
  )


def write_vocabulary(student: Student, folder: pathlib.Path) -> None:
  """Copies the SentencePiece model, if the vocabulary has one."""
  vocabulary = student.vocabulary
  if isinstance(vocabulary, vocabularies.SentencePieceVocabulary):
    shutil.copyfile(vocabulary.path, folder / student_card.MODEL_FILE)
  elif not isinstance(vocabulary, vocabularies.ByteVocabulary):
    raise UserError(
      f"vocabulary is {vocabulary.name}; only bytes and SentencePiece models can"
      " be exported",
      fields="vocabulary",
    )


def pieces(vocabulary: vocabularies.Vocabulary, table_size: int) -> list[str]:
  """The name of every id of the embedding table, as in transformers.

  Args:
    vocabulary: names its ids.
    table_size: number of ids; those without a token get a unique name.
  """
  if isinstance(vocabulary, vocabularies.ByteVocabulary):
    names = [*_TOKENS.values(), *(chr(byte) for byte in range(256))]
    sentinels = [f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)]
  else:
    import sentencepiece

    path = getattr(vocabulary, "path")  # noqa: B009
    processor = sentencepiece.SentencePieceProcessor(model_file=path)
    size = processor.get_piece_size()
    names = [*_TOKENS.values(), *map(processor.id_to_piece, range(3, size))]
    sentinels = [f"<extra_id_{i}>" for i in range(vocabulary.extra_ids)][::-1]
    added = getattr(vocabulary, "added_tokens")  # noqa: B009
    sentinels += map(vocabularies.marker, range(len(added)))
  names += sentinels
  return names + [f"<unused_{i}>" for i in range(len(names), table_size)]


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON with the layout of transformers."""
  text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)
  path.write_text(text + "\n", encoding="utf-8")


def check(student: Student, folder: pathlib.Path, texts: Sequence[str]) -> None:
  """Raises UserError if AutoTokenizer makes other ids than our vocabulary.

  Texts that spell out a special token other than `</s>`, or end with `</s>`, are
  left out, because the two differ there on purpose.
  """
  import transformers

  with quiet():
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    usual = [text for text in texts if not _SPECIAL.search(text)]
    found = [tokenizer(text)["input_ids"] for text in usual]
  for text, ids in zip(usual, found, strict=True):
    if ids != [*student.vocabulary.encode(text), vocabularies.EOS_ID]:
      raise UserError(
        f"transformers' tokenizer makes other ids of {one_line(text)!r} than"
        f" the vocabulary {student.vocabulary.name}, so nothing was written:"
        " set check to 0 to accept it, and tokenize with the sentencepiece"
        " package",
        fields="check",
      )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences transformers, which warns about choices made on purpose."""
  from transformers.utils import logging

  level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
  logging.set_verbosity_error()
  logging.disable_progress_bar()
  try:
    yield
  finally:
    logging.set_verbosity(level)
    if bars:
      logging.enable_progress_bar()
