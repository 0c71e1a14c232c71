"""A SentencePiece vocabulary made from a data set's own text.

A small student that starts from random parameters gains nothing from T5's
32,000 pieces and pays for each of them in every step. A few thousand pieces
made from its own data keep rows as short, and its table small.
"""

from __future__ import annotations

import io
import random
import string
from collections.abc import Iterable, Iterator

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.base.special_ids import EOS_ID, PAD_ID, UNK_ID
from dss_jax.data.pairs.subtasks import MethodOptions
from dss_jax.datasets.records import Record
from dss_jax.vocabularies import EOS_TEXT

# Texts that are looked at, drawn at random; more of them change little.
MAX_TEXTS = 200_000
# Characters of a text that are looked at; SentencePiece skips longer ones.
_MAX_TEXT = 4_000


def texts_of(
  records: Iterable[Record], options: MethodOptions | None = None
) -> Iterator[str]:
  """What a student reads and writes of records, prefixes included.

  Args:
    records: those to train on.
    options: has the prefixes; their defaults if None.
  """
  options = options or MethodOptions()
  for record in records:
    yield options.label_prefix + record.input
    if record.label:
      yield record.label
    for rationale in record.rationales:
      if rationale.text.strip():
        yield options.rationale_prefix + record.input
        yield rationale.text


def train(texts: Iterable[str], vocab_size: int = 2000) -> bytes:
  """A serialised SentencePiece model, a unigram one as T5's.

  Every character of the texts, and of ASCII, has a piece. The same texts give
  the same model.

  Args:
    texts: what is to be written with few tokens.
    vocab_size: pieces at most; small data have fewer.

  Raises:
    UserError: there is no text, or `vocab_size` is too small for the characters
      of the texts.
  """
  import sentencepiece

  checks.in_range("vocab_size", vocab_size, 128, 1_000_000, whole=True)
  # Parts are what the vocabulary encodes: `</s>` is a token by itself.
  parts = [
    part[:_MAX_TEXT]
    for text in texts
    for part in text.split(EOS_TEXT)
    if part.strip()
  ]
  if not parts:
    raise UserError("there is no text to make a vocabulary of")
  characters = string.ascii_letters + string.digits + string.punctuation
  if len(parts) > MAX_TEXTS:
    everywhere = set().union(*parts)
    parts = random.Random(0).sample(parts, MAX_TEXTS)
    left_out = everywhere.difference(*parts)
    characters += "".join(
      sorted(each for each in left_out if each.isprintable())
    )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(parts),
      model_writer=model,
      model_type="unigram",
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      character_coverage=1.0,
      required_chars=characters,
      pad_id=PAD_ID,
      eos_id=EOS_ID,
      unk_id=UNK_ID,
      bos_id=-1,
      max_sentence_length=4 * _MAX_TEXT,
      num_threads=1,  # sums in a fixed order: the same model each time
      minloglevel=2,
    )
  except (RuntimeError, OSError) as error:
    raise UserError(
      f"SentencePiece makes no vocabulary of {vocab_size} pieces from these"
      f" texts: {' '.join(str(error).split())}",
      fields="vocab_size",
    ) from None
  return model.getvalue()
