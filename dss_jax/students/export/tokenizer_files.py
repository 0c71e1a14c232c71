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
from dss_jax.pretrained import student_card
from dss_jax.students.student import Student

CONFIG_FILE = "tokenizer_config.json"
_SPECIAL = re.compile(r"<pad>|<unk>|<extra_id_\d+>|</s>\s*$")
_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def write(student: Student, folder: pathlib.Path) -> None:
  """Writes the tokenizer's files: T5's, or ByT5's for bytes.

  transformers builds its tokenizer from `spiece.model` itself; what it saves
  would lack that file, which CTranslate2's users and dss_jax need.
  """
  vocabulary = student.vocabulary
  is_bytes = isinstance(vocabulary, vocabularies.ByteVocabulary)
  config: dict[str, Any] = {
    "tokenizer_class": "ByT5Tokenizer" if is_bytes else "T5Tokenizer",
    "extra_ids": vocabulary.extra_ids,
    **_TOKENS,
  }
  if is_bytes:
    # Else its special tokens would swallow the spaces around them.
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
    # Each part around a `</s>` begins like a text of its own, as with us.
    config["legacy"] = True
    write_vocabulary(student, folder)
  if "inputs" in student.feature_lengths:
    config["model_max_length"] = student.feature_lengths["inputs"]
  write_json(folder / CONFIG_FILE, config)


def write_vocabulary(student: Student, folder: pathlib.Path) -> None:
  """Copies the SentencePiece model; bytes have none."""
  vocabulary = student.vocabulary
  if isinstance(vocabulary, vocabularies.SentencePieceVocabulary):
    shutil.copyfile(vocabulary.path, folder / student_card.MODEL_FILE)
  elif not isinstance(vocabulary, vocabularies.ByteVocabulary):
    raise UserError(
      f"the vocabulary {vocabulary.name} is neither of bytes nor of a"
      " SentencePiece model; only those can be exported"
    )


def pieces(vocabulary: vocabularies.Vocabulary, table_size: int) -> list[str]:
  """The name of every row of the embedding table, as transformers says it.

  Args:
    vocabulary: names the rows it has.
    table_size: rows in all; those that no id uses get names of their own.
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
  names += sentinels
  return names + [f"<unused_{i}>" for i in range(len(names), table_size)]


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON as transformers lays it out."""
  text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)
  path.write_text(text + "\n", encoding="utf-8")


def check(student: Student, folder: pathlib.Path, texts: Sequence[str]) -> None:
  """Raises UserError where AutoTokenizer makes other ids than our vocabulary.

  Texts that spell out a special token other than `</s>`, or end with that one,
  are left aside: there the two differ on purpose.
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
        " set --check=0 to have it all the same, and tokenize with the"
        " sentencepiece package"
      )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps transformers from telling what is so on purpose."""
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
