"""Which texts count as the same answer."""

import unicodedata

# What SentencePiece writes for a token that stands for no text. NFKC would make
# two question marks of it, which a student can mean.
UNKNOWN = "\u2047"


def normal(text: str) -> str:
  """The form in which answers are compared: NFKC, and single spaces.

  Characters that look alike become one (full-width letters, ligatures,
  superscripts: Unicode's NFKC), every run of spaces, tabs and line breaks is
  one space, and there is none at the ends. Vocabularies of SentencePiece change
  texts in these ways and in no other, so a student is not blamed for them.
  Case counts, and so does punctuation. UNKNOWN stays what it is.
  """
  if text.isascii():
    return " ".join(text.split())
  parts = text.split(UNKNOWN)
  whole = UNKNOWN.join(unicodedata.normalize("NFKC", part) for part in parts)
  return " ".join(whole.split())


def same(first: str, second: str) -> bool:
  """Whether two texts are the same answer."""
  return normal(first) == normal(second)
