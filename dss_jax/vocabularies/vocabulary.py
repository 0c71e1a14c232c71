"""What a vocabulary is, and what all of them share."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from dss_jax.base import text_normalization
from dss_jax.base.errors import UserError
from dss_jax.base.special_ids import EOS_ID, PAD_ID, UNK_ID

# The text that stands for the end-of-sequence token inside an input.
EOS_TEXT = "</s>"

MAX_EXTRA_IDS = 10_000
# The option that names a vocabulary.
FIELD = "TrainConfig.vocabulary"


@runtime_checkable
class Vocabulary(Protocol):
  """What dss_jax needs of a vocabulary.

  Attributes:
    name: what the vocabulary is, by content and not by place; part of every
      fingerprint of tokenised data.
    vocab_size: number of ids, extra ids included.
    pad_id, eos_id, unk_id: the reserved ids 0, 1 and 2.
  """

  @property
  def name(self) -> str: ...

  @property
  def vocab_size(self) -> int: ...

  @property
  def extra_ids(self) -> int: ...

  @property
  def pad_id(self) -> int: ...

  @property
  def eos_id(self) -> int: ...

  @property
  def unk_id(self) -> int: ...

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without a final end-of-sequence id."""
    ...

  def decode(self, ids: Iterable[int]) -> str:
    """Text of `ids` up to the first end-of-sequence id, padding skipped."""
    ...


def valid_text(text: str) -> str:
  """`text` with what UTF-8 cannot hold (lone surrogates) replaced by `?`."""
  if text.isascii():
    return text
  return text.encode("utf-8", "replace").decode("utf-8")


def encode_parts(
  text: str, encode_part: Callable[[str], list[int]], eos_id: int
) -> list[int]:
  """Encodes the parts between `</s>` and joins them with `eos_id`."""
  first, *others = valid_text(text).split(EOS_TEXT)
  ids = list(encode_part(first))
  for part in others:
    ids.append(eos_id)
    ids.extend(encode_part(part))
  return ids


def ids_of_text(ids: Iterable[int], base_size: int) -> list[int]:
  """The ids that stand for text.

  Stops before the first end-of-sequence id. Skips padding and negative ids
  (-100 marks ignored positions in some libraries). Ids from `base_size` on
  become unknown, as in SeqIO.
  """
  kept = []
  for token_id in ids:
    token_id = int(token_id)
    if token_id == EOS_ID:
      break
    if token_id > PAD_ID:
      kept.append(token_id if token_id < base_size else UNK_ID)
  return kept


def check_extra_ids(extra_ids: int) -> None:
  if not 0 <= extra_ids <= MAX_EXTRA_IDS:
    raise UserError(
      f"extra_ids is {extra_ids}; it must be from 0 to {MAX_EXTRA_IDS} (the"
      " number after the colon in a vocabulary's name)",
      fields=FIELD,
    )


def with_eos(ids: Sequence[int], max_length: int | None) -> list[int]:
  """Truncates `ids` to leave room for, and appends, the end id.

  Args:
    ids: token ids.
    max_length: tokens allowed, the end id included; None for no limit.
  """
  if max_length is not None:
    ids = ids[: max(max_length - 1, 0)]
  return [*ids, EOS_ID]


# --- what a vocabulary can write -----------------------------------------------


def can_write(vocabulary: Vocabulary, text: str) -> bool:
  """Whether a student who writes every token of `text` right writes `text`.

  Up to what `text_normalization.normal` makes the same.
  """
  ids = vocabulary.encode(text)
  if EOS_ID in ids or (vocabulary.unk_id in ids):
    return False
  return text_normalization.same(vocabulary.decode(ids), text)


def missing_characters(vocabulary: Vocabulary, text: str) -> list[str]:
  """The characters of `text` that the vocabulary cannot write, in their order.

  `</s>` is the end of a sequence and no text.
  """
  found = dict.fromkeys(text.replace(EOS_TEXT, ""))
  return [char for char in found if not can_write(vocabulary, char)]


def extends(vocabulary: Vocabulary, other: Vocabulary) -> bool:
  """Whether a student of `other` can learn on with `vocabulary`.

  It can if the ids that stand for text stand for the same; sentinels, which
  fine-tuning does not use, may differ where no added tokens follow them.
  """
  pieces = [
    known.name.partition("extra_ids=")[0] for known in (vocabulary, other)
  ]
  known_tokens = getattr(other, "added_tokens", ())
  tokens = getattr(vocabulary, "added_tokens", ())
  return pieces[0] == pieces[1] and (
    not known_tokens
    or (
      other.extra_ids == vocabulary.extra_ids
      and tokens[: len(known_tokens)] == known_tokens
    )
  )
