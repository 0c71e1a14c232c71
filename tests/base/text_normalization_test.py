"""Which texts count as the same answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dss_jax.base import text_normalization


@pytest.mark.parametrize(
  ("first", "second", "same"),
  [
    ("yes", " yes\n", True),
    ("a  b", "a\tb", True),
    ("x\u00b2", "x2", True),
    ("\u00bd", "1\u20442", True),
    ("\uff21", "A", True),
    ("\ufb01n", "fin", True),
    ("e\u0301", "\u00e9", True),
    ("yes", "Yes", False),
    ("yes", "yes.", False),
    ("yes", "ye s", False),
    # What stands for an unknown token is no two question marks.
    ("??", " \u2047 ", False),
    ("\uff1f?", "??", True),
    ("\uff21\u2047", "A\u2047", True),
  ],
)
def test_by_hand(first, second, same):
  assert text_normalization.same(first, second) is same


@given(st.text())
def test_normal_texts_stay_as_they_are(text):
  assert text_normalization.normal(
    text_normalization.normal(text)
  ) == text_normalization.normal(text)
