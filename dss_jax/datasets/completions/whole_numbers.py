"""Numbers as people write them, read whole or not at all.

"1,250", "1 250", "3/4", "1 1/2", "5 × 10³" and "2 million" have one value;
"3,5", "1.250,50", "7:30", "3-5" and "2 hours 30" have several, or none, and a
part of such a text is never taken for the number.
"""

from __future__ import annotations

import re
from fractions import Fraction

# No label has more digits, see `arithmetic.MAX_DIGITS`.
_MAX_DIGITS = 30
# With signs, separators and names of powers; Python reads no more than 4,300
# digits.
_MAX_LENGTH = 400

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u2009\u202f\u2007", " "))
_MINUS = str.maketrans(
  {"\u2212": "-", "\u2013": "-", "\u2012": "-", "\u2010": "-"}
)
_GLYPHS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
           "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5", "⅙": "1/6",
           "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
_SCALES = {
  "hundred": 100,
  "thousand": 10**3,
  "million": 10**6,
  "billion": 10**9,
  "trillion": 10**12,
}

# Groups of three behind commas, spaces or apostrophes, all alike; or as in
# India; or none.
_DIGITS = (
  r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,3}(?:['\u2019]\d{3})+"
  r"|\d{1,2}(?:,\d{2})+,\d{3}|\d+)"
)
_PLAIN = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(
  rf"(?P<sign>[-+]\s?)?(?:[$\u20ac\u00a3\u00a5\u20b9]\s?)?(?P<sign2>-)?(?:"
  rf"(?P<whole>\d{{1,9}})\s+(?P<over>\d{{1,9}})\s?/\s?(?P<under>\d{{1,9}})"
  rf"|\(?(?P<top>{_PLAIN})\)?\s?/\s?\(?(?P<bottom>{_PLAIN})\)?"
  rf"|(?P<number>{_PLAIN})"
  r"(?:[eE](?P<exponent>[-+]?\d{1,3})"
  r"|\s?(?:\u00d7|\*|x|X)\s?10\s?(?:\^|\*\*)\s?\{?\(?(?P<scientific>-?\d{1,3})\)?\}?"
  r"|\s?(?:\^|\*\*)\s?\{?\(?(?P<power>-?\d{1,3})\)?\}?"
  rf"|\s(?P<scale>{'|'.join(_SCALES)})\b)?"
  r")",
  re.ASCII,
)
# What may follow a number as its unit, exponents of lengths included.
_UNIT_EXPONENT = re.compile(
  r"\b(?:[kcdm]?m|s|ft|in|yd|mi|[a-zA-Z]{3,12})\s?\^\s?\{?-?[1-3]\}?(?![\d.,])"
  r"|\b(?:[kcdm]?m|ft|in|yd)[23](?![\d.,])"
)
# Words before a number that make it another number.
_OTHER_NUMBER = re.compile(
  r"\b(?:minus|negative|not|than|least|most|between|from|over|under|below"
  r"|above|up to|half|double|twice|triple|almost|nearly|either|both|per"
  r"|power|square|root|factorial|percent of|log|ln|exp|sqrt|sin|cos|tan)\b"
  r"|\b(?:third|quarter|(?:four|fif|six|seven|eigh|nin|ten)th)s?\s(?:of|to|past)\b"
  r"|%|[/^*\u00d7(<\u2264\u2265|\u00b1]|^\s?>",
  re.I,
)
# Numbers in words, and words that make another number of the one before them.
NUMBER_WORD = (
  r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
  r"|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
  r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|[mbtr]+illion"
  r"|dozen)s?"
)
_WORD_BEFORE = re.compile(
  rf"\b{NUMBER_WORD}[\s-]{{1,3}}(?:(?:and|a)\s)?[-$\u20ac\u00a3]?$", re.I
)
_WORD_AFTER = re.compile(
  rf"\s?-?\s?(?:(?-i:[xyznijk])(?!['\u2019])|score\s*$|{NUMBER_WORD}|hal(?:f|ves)|pi|squared|cubed|factorial|out of"
  r"|below zero|(?:third|quarter|(?:four|fif|six|seven|eigh|nin|ten|hundred"
  r"|thousand)th)s?)\b"
  rf"|[^()]*(?:,|\b(?:and|plus|minus|times|or|to|over|point|by)\b)\s(?:an?\s)?"
  rf"{NUMBER_WORD}\b",
  re.I,
)
# Constants, roots and what is left of LaTeX's commands.
_SYMBOL = re.compile(r"\\[a-zA-Z]|[\u03c0\u221a\u221b\u221e]")
_ALTERNATIVE = re.compile(
  r"\b(?:or|to|through|and a (?:half|quarter)|half\s*$)\b", re.I
)
_JOINED = re.compile(r"[^\W\d_]|[\u2019'](?=\w)")
_UNITS_JOINED = re.compile(r"(?:st|nd|rd|th|k|K|M|B|bn|e|E|x|X)\b")


def number_in(phrase: str) -> str | None:
  """The number that a phrase gives, as one number with a unit.

  Args:
    phrase: such as "$1,250 per year", without a sentence after it.

  Returns:
    The number without separators of thousands; where it is written as a
    fraction or a power its value, as a decimal or, where no decimal is exact,
    as "a/b". None if the phrase has no number, or it is not clear which.
  """
  text = _written_out(phrase)
  if _SYMBOL.search(text):
    return None
  first = re.search(
    r"(?:[-+]\s?)?(?:[$\u20ac\u00a3\u00a5\u20b9]\s?)?-?\.?\d", text
  )
  if first is None:
    return None
  match = _NUMBER.match(text, first.start())
  if match is None or len(match[0]) > _MAX_LENGTH:
    return None
  before, after = text[: first.start()], text[match.end() :]
  if re.search(r"\(\s?$", before) and re.match(r"[^()]*\)", after):
    before, after = before.rstrip()[:-1], after.replace(")", "", 1)
  if _OTHER_NUMBER.search(before) or re.search(r"[\w.,]$|[-+]\s?$", before):
    return None
  if _WORD_BEFORE.search(before) or _WORD_AFTER.match(after):
    return None
  # "The total - 8" is a difference.
  if before.strip(" =:~") and re.match(r"[-+]\s", match[0]):
    return None
  # "5 100-dollar bills" are five.
  if " " in (match["number"] or "") and re.match(r"-?[^\W\d_]", after):
    return None
  if not _is_unit(after):
    return None
  value = _value(match)
  return None if value is None else _spelled(value, match)


def _written_out(phrase: str) -> str:
  """The phrase in ASCII digits and signs; glyphs become exponents, fractions."""
  text = phrase.translate(_SPACES).translate(_MINUS)
  text = re.sub(
    "[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^" + m[0].translate(_SUPERSCRIPTS), text
  )
  for glyph, written in _GLYPHS.items():
    if glyph in text:
      text = re.sub(rf"(?<=\d)\s?{glyph}", f" {written}", text)
      text = text.replace(glyph, written)
  return text


def _is_unit(after: str) -> bool:
  """Whether what follows a number leaves it as it is."""
  if _JOINED.match(after) and _UNITS_JOINED.match(after):
    return False  # "1st", "5k": an ordinal, or thousands
  if re.match(r"\s?[-+*/^:=<>\u00d7\u00f7!']|[.,]\d|_", after) and not re.match(
    r"-[a-zA-Z]|/\s?[a-zA-Z]", after
  ):
    return False
  rest = _UNIT_EXPONENT.sub("", after)
  return not re.search(r"\d", rest) and not _ALTERNATIVE.search(rest)


def _value(match: re.Match[str]) -> Fraction | None:
  try:
    if match["whole"]:
      value = int(match["whole"]) + Fraction(
        int(match["over"]), int(match["under"])
      )
    elif match["top"]:
      value = _plain(match["top"]) / _plain(match["bottom"])
    else:
      value = _plain(match["number"])
  except ZeroDivisionError:
    return None
  power = match["power"]
  if power:
    if not value or not -_MAX_DIGITS <= int(power) <= _MAX_DIGITS:
      return None
    if abs(value) > 10**_MAX_DIGITS:
      return None
    value **= int(power)
  exponent = int(match["exponent"] or match["scientific"] or 0)
  if abs(exponent) > _MAX_DIGITS:
    return None
  value *= Fraction(10) ** exponent
  value *= _SCALES.get(match["scale"] or "", 1)
  is_negative = "-" in (match["sign"] or "") or match["sign2"]
  return -value if is_negative else value


def _plain(text: str) -> Fraction:
  return Fraction(re.sub(r"[, '\u2019]", "", text))


def _spelled(value: Fraction, match: re.Match[str]) -> str | None:
  """As in the text, a decimal, or "a/b"; None if it is too long for a label."""
  last = match.lastgroup
  if last == "number":
    digits = re.sub(r"[, '\u2019]", "", match["number"])
    sign = "-" if value < 0 else ""
    return sign + digits if len(digits) <= _MAX_DIGITS else None
  places, bottom = 0, value.denominator
  for prime in (2, 5):
    count = 0
    while bottom % prime == 0 and count <= _MAX_DIGITS:
      bottom //= prime
      count += 1
    places = max(places, count)
  if bottom != 1 or places > _MAX_DIGITS:
    text = f"{value.numerator}/{value.denominator}"
  elif not places:
    text = str(value.numerator)
  else:
    shifted = str(abs(value.numerator) * 10**places // value.denominator)
    shifted = shifted.rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    text = f"{sign}{shifted[:-places]}.{shifted[-places:]}"
  digits = sum(character.isdigit() for character in text)
  return text if digits <= _MAX_DIGITS else None
