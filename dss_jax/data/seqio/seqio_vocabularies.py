"""Vocabularies of dss_jax as SeqIO's, and SeqIO's as those of dss_jax."""

import functools
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from dss_jax import vocabularies
from dss_jax.data.seqio import task_description


def to_seqio(name: Any) -> seqio.Vocabulary:
  """SeqIO's vocabulary of the same ids; reads no file until it is used.

  Args:
    name: a vocabulary, or what `vocabularies.from_name` takes.
  """
  wrapped = getattr(name, "seqio_vocabulary", None)
  if wrapped is not None:  # another project's; see from_seqio
    return wrapped
  if isinstance(name, vocabularies.ByteVocabulary):
    name = f"bytes:{name.extra_ids}"
  elif isinstance(name, vocabularies.SentencePieceVocabulary):
    name = str(
      vocabularies.NameParts(name.path, name.extra_ids, name.added_tokens)
    )
  return _to_seqio(name)


@functools.lru_cache(maxsize=16)
def _to_seqio(name: str) -> seqio.Vocabulary:
  _, extra_ids, added_tokens = vocabularies.split_name(name)
  path = vocabularies.model_path(name)
  if path is None:
    return seqio.ByteVocabulary(extra_ids=extra_ids)
  if added_tokens:
    return _AddedTokensVocabulary(str(path), extra_ids, added_tokens)
  return seqio.SentencePieceVocabulary(str(path), extra_ids=extra_ids)


class _AddedTokensVocabulary(seqio.SentencePieceVocabulary):
  """SeqIO's vocabulary of a SentencePiece model with added tokens."""

  def __init__(self, path: str, extra_ids: int, added_tokens: tuple[str, ...]):
    super().__init__(path, extra_ids=extra_ids)
    self.added_tokens = added_tokens

  @functools.cached_property
  def ours(self) -> vocabularies.SentencePieceVocabulary:
    return vocabularies.SentencePieceVocabulary(
      self.sentencepiece_model_file, self.extra_ids, self.added_tokens
    )

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in super().__getstate__().items() if k != "ours"}

  @property
  def sp_model(self) -> bytes:
    return self.ours.model_with_added

  @property
  def _base_vocab_size(self) -> int:
    return self.ours.vocab_size

  def _encode(self, s: str) -> list[int]:
    return self.ours.encode(s)

  def _decode(self, ids: Iterable[int]) -> str:
    return self.ours.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text: Any) -> np.ndarray:
      text = tf.compat.as_text(np.asarray(text).item())
      return np.array(self.ours.encode(text), np.int32)

    ids = tf.numpy_function(encode, [s], tf.int32)
    return tf.ensure_shape(ids, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    text: Any = super()._decode_tf(ids)
    for token in self.added_tokens:
      marker = self.ours.to_markers(token)
      # RE2 gives backslashes in what replaces a meaning.
      text = tf.strings.regex_replace(
        text, re.escape(marker), token.replace("\\", r"\\")
      )
    return text

  def __str__(self) -> str:
    return f"{super().__str__()[:-1]}, added_tokens={self.added_tokens})"


class SeqioVocabulary:
  """Any other SeqIO vocabulary in the form that dss_jax uses."""

  def __init__(self, vocabulary: seqio.Vocabulary):
    self.seqio_vocabulary = vocabulary
    self.name = f"seqio({task_description.fingerprint(str(vocabulary))[:16]})"
    self.vocab_size = int(vocabulary.vocab_size)
    self.extra_ids = int(vocabulary.extra_ids)
    self.pad_id = vocabulary.pad_id
    # Some have neither; 1 is what the first is everywhere else, and where there
    # is no unknown token no id is one.
    self.eos_id = _or_default(vocabulary.eos_id, vocabularies.EOS_ID)
    self.unk_id = _or_default(vocabulary.unk_id, -1)

  def encode(self, text: str) -> list[int]:
    return [int(i) for i in self.seqio_vocabulary.encode(text)]

  def decode(self, ids: Iterable[int]) -> str:
    return self.seqio_vocabulary.decode([int(i) for i in ids if i >= 0])


def _or_default(value: int | None, default: int) -> int:
  return default if value is None else int(value)


def from_seqio(vocabulary: seqio.Vocabulary) -> vocabularies.Vocabulary:
  """Our vocabulary of the same ids, or a wrapper around SeqIO's."""
  if isinstance(vocabulary, _AddedTokensVocabulary):
    return vocabulary.ours
  if type(vocabulary) is seqio.ByteVocabulary:
    return vocabularies.ByteVocabulary(vocabulary.extra_ids)
  if (
    type(vocabulary) is seqio.SentencePieceVocabulary
    and vocabulary._normalizer_spec_overrides is None
    and vocabulary._reverse_extra_ids
    and pathlib.Path(vocabulary.sentencepiece_model_file).is_file()
  ):
    return vocabularies.SentencePieceVocabulary(
      vocabulary.sentencepiece_model_file, vocabulary.extra_ids
    )
  return SeqioVocabulary(vocabulary)


def encode_text(text: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.Tensor:
  """[length] int32 ids, with the end id for every "</s>" in the text."""
  eos = vocabulary.eos_id
  if type(vocabulary) is seqio.ByteVocabulary:
    # 0xff is no byte of UTF-8: it stands for the end id on the way.
    marked = tf.strings.regex_replace(text, vocabularies.EOS_TEXT, b"\xff")
    ids = vocabulary.encode_tf(marked)
    return tf.where(ids == vocabulary.encode_tf(b"\xff")[0], eos, ids)
  parts = tf.strings.split(text, vocabularies.EOS_TEXT)
  if type(vocabulary) is seqio.SentencePieceVocabulary:
    ragged = vocabulary.encode_tf(parts)
  else:
    ragged = tf.map_fn(
      vocabulary.encode_tf,
      parts,
      fn_output_signature=tf.RaggedTensorSpec([None], tf.int32),
    )
  ends = tf.fill([ragged.nrows(), 1], eos)
  return tf.concat([ragged, tf.cast(ends, tf.int32)], axis=1).flat_values[:-1]
