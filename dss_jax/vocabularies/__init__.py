"""Text to token ids and back, with SeqIO's ids and without TensorFlow.

Two vocabularies, as in T5 and ByT5: `ByteVocabulary` (UTF-8 bytes) and
`SentencePieceVocabulary` (any model trained with pad 0, end 1, unknown 2).
Ids equal those of the SeqIO classes of the same names, so a checkpoint trained
through one path decodes through the other.

One rule is added. Distilling step-by-step joins premise and hypothesis of its
entailment datasets with the *end-of-sequence token*: the input text holds
`</s>`, and the tokenizer turns it into that token's id. SeqIO's vocabularies
would spell out the four characters. Here `encode` cuts the text at `</s>`,
encodes each part by itself and joins the ids with `eos_id`.

A SentencePiece model writes only the characters that it was trained on: T5's
has no braces, no `<`, no line break and no two spaces in a row. `can_write`
says whether a text survives, and *added tokens* (`NAME+["{", "\\n"]`) give a
vocabulary what it lacks, each as one id, to the letter.
"""

from dss_jax.base.special_ids import EOS_ID, PAD_ID, UNK_ID
from dss_jax.vocabularies.byte_vocabulary import ByteVocabulary
from dss_jax.vocabularies.sentencepiece_vocabulary import (
  SentencePieceVocabulary,
  marker,
)
from dss_jax.vocabularies.vocabulary import (
  EOS_TEXT,
  MAX_EXTRA_IDS,
  Vocabulary,
  can_write,
  extends,
  missing_characters,
  valid_text,
  with_eos,
)
from dss_jax.vocabularies.vocabulary_names import (
  NameParts,
  default_name,
  from_name,
  model_path,
  set_default,
  split_name,
)

__all__ = [
  "EOS_ID",
  "EOS_TEXT",
  "MAX_EXTRA_IDS",
  "PAD_ID",
  "UNK_ID",
  "ByteVocabulary",
  "NameParts",
  "SentencePieceVocabulary",
  "Vocabulary",
  "can_write",
  "default_name",
  "extends",
  "from_name",
  "marker",
  "missing_characters",
  "model_path",
  "set_default",
  "split_name",
  "valid_text",
  "with_eos",
]
