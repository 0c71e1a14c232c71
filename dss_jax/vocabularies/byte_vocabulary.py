"""The vocabulary of ByT5: every byte is a token."""

import dataclasses
from collections.abc import Iterable

from dss_jax.base.special_ids import EOS_ID, PAD_ID, UNK_ID
from dss_jax.vocabularies.vocabulary import (
  check_extra_ids,
  encode_parts,
  ids_of_text,
)


@dataclasses.dataclass(frozen=True)
class ByteVocabulary:
  """UTF-8 bytes: id = byte + 3, as in ByT5 (arXiv 2105.13626).

  Attributes:
    extra_ids: number of further ids after the 259 of padding, end, unknown and
      the 256 bytes. ByT5's checkpoints have 125 (a table of 384 rows).
  """

  extra_ids: int = 0
  pad_id = PAD_ID
  eos_id = EOS_ID
  unk_id = UNK_ID

  _NUM_SPECIAL = 3

  def __post_init__(self):
    check_extra_ids(self.extra_ids)

  @property
  def name(self) -> str:
    return f"bytes(extra_ids={self.extra_ids})"

  @property
  def vocab_size(self) -> int:
    return self._NUM_SPECIAL + 256 + self.extra_ids

  def encode(self, text: str) -> list[int]:
    return encode_parts(text, self._encode_part, self.eos_id)

  def _encode_part(self, text: str) -> list[int]:
    return [byte + self._NUM_SPECIAL for byte in text.encode("utf-8")]

  def decode(self, ids: Iterable[int]) -> str:
    base_size = self._NUM_SPECIAL + 256
    data = bytes(
      token_id - self._NUM_SPECIAL
      for token_id in ids_of_text(ids, base_size)
      if token_id >= self._NUM_SPECIAL
    )
    # Bytes that are not UTF-8 (a student may emit any) are dropped.
    return data.decode("utf-8", errors="ignore")
