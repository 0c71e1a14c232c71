"""Prices of models, from a table that the user can extend.

The packaged table, prices.toml, holds a few list prices as examples. Prices
change: check them against the provider's page, and keep your own in a file of
the same form, whose entries go before the packaged ones.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from dss_jax.base import value_types
from dss_jax.base.errors import UserError
from dss_jax.rationales.teacher_requests import ModelUsage
from dss_jax.rationales.toml_files import read_toml

_PACKAGED = pathlib.Path(__file__).with_name("prices.toml")
_PER = 1_000_000
# gpt-4.1-2025-04-14, gpt-4-0613, gemini-2.0-flash-001, some-model@20250101.
_REVISION = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{3,8}|-latest|@[\w.-]+)$")


@dataclasses.dataclass(frozen=True)
class Price:
  """The price of a model's tokens, a million of them, in the table's currency.

  Attributes:
    prompt: price of tokens read.
    completion: price of tokens written, thinking included.
  """

  prompt: float
  completion: float


@dataclasses.dataclass(frozen=True)
class Prices:
  """Tables of prices.

  Attributes:
    tables: name, or pattern with `*`, -> price; the user's table first.
  """

  tables: tuple[Mapping[str, Price], ...]

  @classmethod
  def load(cls, path: str | os.PathLike[str] | None = None) -> Prices:
    """The packaged table, with the entries of the user's file before it.

    Raises:
      UserError: the file cannot be used.
    """
    paths = (_PACKAGED,) if path is None else (path, _PACKAGED)
    return cls(tuple(map(_read, paths)))

  def price(self, model: str) -> Price | None:
    """The price of a model; None if no table has it.

    An entry stands for the name itself and for its dated revisions (`gpt-4.1`
    also for `gpt-4.1-2025-04-14`, but not for `gpt-4.1-mini`); of the patterns
    with `*` that fit, the longest counts.
    """
    for table in self.tables:
      for name in (model, _REVISION.sub("", model)):
        if name in table and "*" not in name:
          return table[name]
      fitting = [
        pattern
        for pattern in table
        if "*" in pattern and fnmatch.fnmatchcase(model, pattern)
      ]
      if fitting:
        return table[max(fitting, key=len)]
    return None

  def cost(
    self, model: str, prompt_tokens: float, completion_tokens: float
  ) -> float | None:
    """What the tokens cost; None if no table has the model."""
    price = self.price(model)
    if price is None:
      return None
    return (
      price.prompt * prompt_tokens + price.completion * completion_tokens
    ) / _PER

  def total(self, usage: Mapping[str, ModelUsage]) -> float:
    """The cost of all answers of a ledger; models without a price cost 0."""
    return sum(
      self.cost(model, used.prompt_tokens, used.completion_tokens) or 0.0
      for model, used in usage.items()
    )


def _read(path: str | os.PathLike[str]) -> dict[str, Price]:
  models = read_toml(path, field="prices").get("models")
  if not isinstance(models, dict):
    raise UserError(f'{path}: no entries like [models."NAME"]', fields="prices")
  return {
    name: _price(f"{path}: [models.{name!r}]", entry)
    for name, entry in models.items()
  }


def _price(where: str, entry: Any) -> Price:
  if not isinstance(entry, dict) or set(entry) != {"prompt", "completion"}:
    raise UserError(
      f"{where} must give prompt and completion, no more", fields="prices"
    )
  for value in entry.values():
    if not value_types.matches(value, float) or value < 0:
      raise UserError(f"{where}: {value!r} is no price", fields="prices")
  return Price(float(entry["prompt"]), float(entry["completion"]))
