"""Messages that quote texts from elsewhere stay messages."""

import json

import pytest

from dss_jax.base import strict_json
from dss_jax.base.errors import UserError, damaged_file


def test_a_message_steers_no_terminal_and_has_an_end():
  assert str(UserError("a \x1b[31m label")) == "a \\x1b[31m label"
  long = str(UserError(f"columns: {'x' * 10_000}; say which"))
  assert len(long) < 5000
  assert long.startswith("columns: xx")
  assert long.endswith("xx; say which")


@pytest.mark.parametrize(
  "parse",
  [
    lambda: json.loads("[" * 100_000),
    lambda: strict_json.loads("[" * 100_000),
    lambda: strict_json.loads('{"a": 1, "a": 2}'),
    lambda: b"\xff".decode(),
    lambda: [][3],
    lambda: int(float("inf")),
  ],
)
def test_whatever_a_parser_raises_names_the_file(parse):
  with (
    pytest.raises(UserError, match=r"^a\.json is damaged .*: restore it$"),
    damaged_file("a.json", "restore it"),
  ):
    parse()


def test_what_says_enough_is_passed_on():
  with (
    pytest.raises(UserError, match=r"^enough$"),
    damaged_file("a.json", "restore it"),
  ):
    raise UserError("enough")


def test_values_are_counted_before_they_are_made(monkeypatch):
  monkeypatch.setattr(strict_json, "MAX_VALUES", 4)
  assert strict_json.loads('{"a": [1, 2, 3]}') == {"a": [1, 2, 3]}
  with pytest.raises(UserError, match="more than 4 values"):
    strict_json.loads("[{}, {}, {}]")
