"""Checks of options, with one wording for all of them.

A field is given as `Class.name`; the message says only `name`.
"""

import math
import numbers
from collections.abc import Collection
from typing import Any

from dss_jax.base.errors import UserError


def in_range(
  field: str,
  value: Any,
  least: float,
  most: float | None = None,
  *,
  or_none: bool = False,
  whole: bool = False,
) -> None:
  """Raises UserError unless `value` is a number from `least` to `most`.

  Args:
    field: the option, as `Class.name`.
    value: its value.
    least: the smallest value allowed.
    most: the largest value allowed; None for no limit.
    or_none: whether None is allowed too.
    whole: whether only whole numbers are allowed.
  """
  if or_none and value is None:
    return
  kind: Any = numbers.Integral if whole else numbers.Real
  # Written so that NaN is refused.
  if (
    isinstance(value, kind)
    and least <= value
    and (most is None or value <= most)
  ):
    return
  allowed = f"{least} or more" if most is None else f"from {least} to {most}"
  prefix = "a whole number, " if whole else ""
  _refuse(field, value, prefix + allowed + (", or None" if or_none else ""))


def positive(
  field: str,
  value: Any,
  most: float | None = None,
  *,
  or_none: bool = False,
) -> None:
  """Raises UserError unless `value` is above 0, finite and at most `most`.

  Args:
    field: the option, as `Class.name`.
    value: its value.
    most: the largest value allowed; None for any finite one.
    or_none: whether None is allowed too.
  """
  if or_none and value is None:
    return
  if 0 < value < math.inf and (most is None or value <= most):
    return
  allowed = "above 0, and finite" if most is None else f"above 0, up to {most}"
  _refuse(field, value, allowed + (", or None" if or_none else ""))


def one_of(field: str, value: Any, allowed: Collection[Any]) -> None:
  """Raises UserError unless `value` is among `allowed`."""
  if value not in allowed:
    _refuse(field, value, f"one of {', '.join(map(str, allowed))}")


def _refuse(field: str, value: Any, allowed: str) -> None:
  name = field.rpartition(".")[2]
  raise UserError(f"{name} is {value!r}; it must be {allowed}", fields=field)
