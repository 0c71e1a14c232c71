"""Which texts have come by already, in a few bytes each."""

from __future__ import annotations

import array

_FIRST_SLOTS = 1 << 10
# Python's hashes are signed; 0 is left for an empty slot.
_DIGEST_MASK = (1 << 64) - 1


class SeenTexts:
  """A set of texts in 12 to 24 bytes a text; with numbers, twice that.

  Texts are kept as 64-bit digests (Python's keyed hash, which a file's author
  cannot aim at): among ten million different texts, two are taken for equal
  with a probability of 3 in a million.
  """

  def __init__(self, *, numbered: bool = False):
    """Starts empty.

    Args:
      numbered: whether to keep the number that each text is added with; else
        all have 0.
    """
    self._digests = _zeros(_FIRST_SLOTS)
    self._numbers = _zeros(_FIRST_SLOTS) if numbered else None
    self._count = 0

  def __len__(self) -> int:
    return self._count

  def __contains__(self, text: str) -> bool:
    return self._digests[self._slot(_digest(text))] != 0

  def get(self, text: str) -> int | None:
    """The number of a text; None if it is not there."""
    slot = self._slot(_digest(text))
    return self._number(slot) if self._digests[slot] else None

  def add(self, text: str, number: int = 0) -> int | None:
    """Adds a text, unless it is there.

    Args:
      text: of any length.
      number: kept with a text that is new; from 0, below 2**64.

    Returns:
      The number of the equal text that came first; None if there was none.
    """
    digest = _digest(text)
    slot = self._slot(digest)
    if self._digests[slot]:
      return self._number(slot)
    self._digests[slot] = digest
    if self._numbers is not None:
      self._numbers[slot] = number
    self._count += 1
    if 3 * self._count > 2 * len(self._digests):
      self._grow()
    return None

  def _slot(self, digest: int) -> int:
    """Where the digest is, or the empty slot where it belongs."""
    digests = self._digests
    mask = len(digests) - 1
    slot = digest & mask
    while digests[slot] and digests[slot] != digest:
      slot = (slot + 1) & mask
    return slot

  def _number(self, slot: int) -> int:
    return 0 if self._numbers is None else self._numbers[slot]

  def _grow(self):
    digests, numbers = self._digests, self._numbers
    self._digests = _zeros(2 * len(digests))
    if numbers is not None:
      self._numbers = _zeros(2 * len(digests))
    for old_slot, digest in enumerate(digests):
      if not digest:
        continue
      slot = self._slot(digest)
      self._digests[slot] = digest
      if numbers is not None and self._numbers is not None:
        self._numbers[slot] = numbers[old_slot]


def _zeros(count: int) -> array.array[int]:
  return array.array("Q", [0]) * count


def _digest(text: str) -> int:
  return (hash(text) & _DIGEST_MASK) or 1
