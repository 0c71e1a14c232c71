"""Serialised SentencePiece models: made, taken apart and compared."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from dss_jax import vocabularies
from dss_jax.base.errors import UserError, one_line
from dss_jax.base.special_ids import UNK_ID

SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2
SPACE = "▁"
UNIGRAM = 1  # SentencePiece's number of the kind of model
_NORMAL, _UNKNOWN, _CONTROL, USER_DEFINED = 1, 2, 3, 4  # and of pieces
# But the next-line control, which T5's own table leaves as it is.
_SPACES = "".join(
  chr(code)
  for code in range(0x3001)
  if chr(code).isspace() and not 0x1C <= code <= 0x1F and code != 0x85
)


def spaces_kept(charsmap: bytes) -> str:
  """The spaces of Unicode's that a table makes neither " " nor nothing of."""
  import sentencepiece

  pieces = [(text, 0.0) for text in (*SPECIAL, SPACE)]
  model = sentencepiece.SentencePieceProcessor(
    model_proto=serialised(pieces, charsmap, set())
  )
  same = [model.normalize(text) for text in ("a b", "ab")]
  return "".join(c for c in _SPACES if model.normalize(f"a{c}b") not in same)


def cuts_as_t5(vocabulary: vocabularies.SentencePieceVocabulary) -> bool:
  """Whether T5's tokenizer of transformers cuts words as a vocabulary does.

  It cuts at all of Unicode's spaces; a vocabulary only at those that its table
  makes a space of.
  """
  model = parsed(pathlib.Path(vocabulary.path).read_bytes())
  return not spaces_kept(model.normalizer_spec.precompiled_charsmap)


def serialised(
  pieces: Sequence[tuple[str, float]], charsmap: bytes, added: set[str]
) -> bytes:
  message = parsed(b"")
  trainer = message.trainer_spec
  trainer.model_type, trainer.vocab_size = UNIGRAM, len(pieces)
  trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id = 0, 1, 2, -1
  message.normalizer_spec.name = "nmt_nfkc"
  message.normalizer_spec.precompiled_charsmap = charsmap
  for token_id, (text, score) in enumerate(pieces):
    kind = _NORMAL
    if token_id == UNK_ID:
      kind = _UNKNOWN
    elif token_id < UNK_ID or (text in added and not text.startswith(SPACE)):
      kind = _CONTROL
    elif text in added:
      kind = USER_DEFINED
    message.pieces.add(piece=text, score=score, type=kind)
  return message.SerializeToString(deterministic=True)


def piece_texts(model: bytes, extra_ids: int) -> list[str]:
  """The text of each id of a SentencePiece model and its sentinels."""
  texts = [piece.piece for piece in parsed(model).pieces]
  return [*SPECIAL, *texts[len(SPECIAL) :], *sentinels(extra_ids)]


def same_model(one: bytes, other: bytes) -> bool:
  """Whether two SentencePiece models give all texts the same ids.

  They have the same pieces, scores and table; how they were trained is not
  looked at.
  """
  return _essence(one) == _essence(other)


def _essence(model: bytes) -> tuple[Any, ...]:
  message = parsed(model)
  normalizer = message.normalizer_spec
  return (
    [(piece.piece, piece.score) for piece in message.pieces],
    normalizer.precompiled_charsmap,
    normalizer.add_dummy_prefix,
    normalizer.remove_extra_whitespaces,
    message.trainer_spec.model_type,
  )


def parsed(model: bytes) -> Any:
  from sentencepiece import sentencepiece_model_pb2

  # Type checkers do not see what protobuf makes at run time.
  message: Any = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009
  try:
    message.ParseFromString(model)
  except Exception as error:  # SentencePiece itself may be less strict
    raise UserError(
      f"the SentencePiece model is damaged ({one_line(error)}): give another"
      " one",
      fields="TrainConfig.vocabulary",
    ) from error
  return message


def sentinels(count: int) -> list[str]:
  """T5's names of its sentinels, by their ids: the first has the last."""
  return [f"<extra_id_{number}>" for number in reversed(range(count))]
