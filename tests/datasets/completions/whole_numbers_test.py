"""Numbers in sentences: whole, or not at all."""

from fractions import Fraction

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.datasets import arithmetic
from dss_jax.datasets.completions.whole_numbers import number_in


@pytest.mark.parametrize(
  ("phrase", "number"),
  [
    ("8", "8"),
    ("$8.50", "8.50"),
    ("8.50 €", "8.50"),
    ("1,250", "1250"),
    ("1,250,000.5", "1250000.5"),
    ("1 250", "1250"),
    ("1\u202f250\u202f000", "1250000"),
    ("1'250", "1250"),
    ("12,34,567", "1234567"),
    ("1/2", "0.5"),
    ("3/4 of a cup", "0.75"),
    ("1/3", "1/3"),
    ("1 1/2", "1.5"),
    ("2½ hours", "2.5"),
    ("½", "0.5"),
    ("10^3", "1000"),
    ("10³", "1000"),
    ("5 \u00d7 10³", "5000"),
    ("5 x 10^-2", "0.05"),
    ("1.5e3", "1500"),
    ("2 million people", "2000000"),
    ("-7", "-7"),
    ("\u22127", "-7"),
    ("$-7", "-7"),
    (".5", ".5"),
    ("40%", "40"),
    ("40 percent", "40"),
    ("8 km/h", "8"),
    ("12 cm^2", "12"),
    ("12 m²", "12"),
    ("8-inch", "8"),
    ("that she has 8 pens", "8"),
    ("(7)", "7"),
    ("(-7) points", "-7"),
    ("7 (seven)", "7"),
    ("(12 apples)", "12"),
    ("5 hundred", "500"),
    ("8 times a week", "8"),
    ("8 pens in two boxes", "8"),
    ("90\u00b0", "90"),
    ("= -7", "-7"),
    ("007", "007"),
  ],
)
def test_numbers_are_read_whole(phrase, number):
  assert number_in(phrase) == number


@pytest.mark.parametrize(
  "phrase",
  [
    "1.250,50 €", "1.250.000", "3,5", "1,25", "0,5 kg", "1,2345",  # commas
    "7:30", "7:30 PM", "2:1", "2024-01-02", "1/2/2024", "12h30",  # times, dates
    "3-5", "3\u20135", "3 to 5", "3 or 4", "between 3 and 5", "3+", "3, 5",
    "2 hours and 30 minutes", "6 feet 2 inches", "8 dollars and 50 cents",
    "8 and a half", "1st", "2nd", "5k", "3M", "5 \u00d7 10", "2^x", "10^31",
    "12 x^2", "12 x2", "minus 7", "negative 7", "more than 7", "half of 8", "not 8", "√2", "8 / 0",
    "7 hundred thousand", "2 million five hundred thousand", "one hundred and 5",
    "three 4s", "3 dozen eggs", "2 thirds", "3 quarters", "7 squared", "7!", "8!",
    "7 factorial", "5 100-dollar bills", "12 500ml bottles", "2\u03c0", "2 pi",
    r"\sqrt{49}", r"5\sqrt{2}", r"2\pi", "log 100", "8 plus three", "-(7)", "f(7)",
    "8 apples and three pears", "7 out of ten", "\u2265 8", "< 8", "> 8",
    "the total - 8", "7 below zero", "(7 or 8)", "(7) squared", "2(7)",
    "a third of 12", "a quarter to 8", "3 score", "|-12|", "\u00b112", "12i", "12 x",
    "3 hours half", "(7) (8)", "8 = 9", "9" * 31, "0" * 5000, "1/" + "9" * 5000, "2^" + "1" * 5000, "1e" + "9" * 5000, "x", "", "many", "1/0", "5 1/0", "v1.2", "3 x 4", "0x10",
  ],
)  # fmt: skip
def test_a_part_of_a_number_is_none(phrase):
  assert number_in(phrase) is None


@hypothesis.given(
  st.integers(-(10**12), 10**12), st.integers(0, 6), st.sampled_from(",  '")
)
def test_any_decimal_is_read_as_it_is(number, places, separator):
  value = Fraction(number, 10**places)
  whole, _, decimals = f"{abs(number) / 10**places:.{places}f}".partition(".")
  hypothesis.assume(Fraction(f"{whole}.{decimals or 0}") == abs(value))
  grouped = f"{int(whole):,}".replace(",", separator)
  text = f"{'-' * (value < 0)}{grouped}{'.' * bool(decimals)}{decimals}"
  read = number_in(f"${text} a year".replace("$-", "-$"))
  assert read is not None
  assert arithmetic.value(read) == float(value)


@hypothesis.settings(max_examples=500)
@hypothesis.given(
  st.text("0123456789.,:/-^\u00d7eE %$€½³ xk()abc'", max_size=20)
)
def test_digits_are_never_lost(phrase):
  """All digits of a phrase are in the number, or there is none."""
  read = number_in(phrase)
  if read is None or any(c in phrase for c in "/^\u00d7eExX½³"):
    return
  digits = "".join(c for c in phrase if c in "0123456789")
  kept = "".join(c for c in read if c.isdigit())
  assert digits == kept
