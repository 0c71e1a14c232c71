"""Options are refused in one wording, by the names of their fields."""

import pytest

from dss_jax.base import checks
from dss_jax.base.errors import UserError


@pytest.mark.parametrize("value", [1, 3.5, 4])
def test_what_is_in_range_passes(value):
  checks.in_range("Options.size", value, 1, 4)


@pytest.mark.parametrize("value", [0, 4.5, float("nan")])
def test_what_is_out_of_range_is_named_with_what_is_allowed(value):
  with pytest.raises(UserError) as caught:
    checks.in_range("Options.size", value, 1, 4)
  assert str(caught.value) == f"size is {value!r}; it must be from 1 to 4"
  assert caught.value.fields == ("Options.size",)


@pytest.mark.parametrize("value", [1.5, "2", None, 0])
def test_whole_numbers(value):
  checks.in_range("Options.count", 2, 1, whole=True)
  with pytest.raises(UserError, match="it must be a whole number, 1 or more"):
    checks.in_range("Options.count", value, 1, whole=True)


def test_what_is_no_number_is_refused():
  with pytest.raises(UserError, match="size is 'x'; it must be from 1 to 4"):
    checks.in_range("Options.size", "x", 1, 4)


def test_none_is_allowed_only_where_it_is_said():
  checks.in_range("Options.size", None, 1, or_none=True)
  with pytest.raises(UserError, match="1 or more, or None"):
    checks.in_range("Options.size", 0, 1, or_none=True)


def test_one_of():
  checks.one_of("Options.kind", "a", ("a", "b"))
  with pytest.raises(UserError, match=r"kind is 'c'; it must be one of a, b"):
    checks.one_of("Options.kind", "c", ("a", "b"))
