"""Which plain values a declared type lets through."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from dss_jax.base import value_types
from dss_jax.cli import gin_registry


@pytest.mark.parametrize(
  ("hint", "right", "wrong"),
  [
    (int, [0, -3], [True, 2.0, "2", None]),
    (float, [1, 0.5], [math.inf, math.nan, 10**400, "0.5", True, None]),
    (bool, [True], [1, "True", None]),
    (str, [""], [1, None, ["a"]]),
    (int | None, [1, None], [1.5, "None"]),
    (bool | str, [False, "never"], [0]),
    (tuple[str, ...], [("a",), ["a", "b"], ()], ["a", [1], 3]),
    (tuple[int, str], [(1, "a")], [(1,), ("a", 1), (1, "a", 2)]),
    (Sequence[str] | str | None, ["a", ["a"], None], [[1], 1]),
    (Mapping[str, float], [{}, {"a": 1}], [{"a": "1"}, {1: 1.0}, [1], 3]),
    (Any, [object(), 3], []),
    (Callable[..., int], [len, 3], []),
  ],
)
def test_matches(hint, right, wrong):
  assert [value_types.matches(value, hint) for value in right] == [True] * len(
    right
  )
  assert not [value for value in wrong if value_types.matches(value, hint)]


def test_what_is_not_known_yet_passes():
  unknown = object()
  hint = Mapping[str, tuple[int, ...]]
  value = {"a": [1, unknown]}
  assert not value_types.matches(value, hint)
  assert value_types.matches(value, hint, lambda each: each is unknown)


def test_describe():
  assert value_types.describe(int | None) == "a whole number or None"
  assert (
    value_types.describe(Mapping[str, float])
    == "a dictionary from a string to a finite number"
  )


def test_every_configurable_declares_all_its_parameters():
  gin_registry.register()
  for name, target in gin_registry.configurables.items():
    assert value_types.parameter_types(target), name
