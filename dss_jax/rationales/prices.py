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
from collections.abc import Iterable, Mapping
from typing import Any

from dss_jax.base import value_types
from dss_jax.base.errors import UserError
from dss_jax.rationales.teacher_requests import Charge, Tokens
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
    cached: price of tokens read from the provider's cache; None if it is that
      of others.
    batch: what a batch costs, as a share of these prices.
  """

  prompt: float
  completion: float
  cached: float | None = None
  batch: float = 1.0

  def cost(self, tokens: Tokens, *, is_batch: bool = False) -> float:
    """What the tokens cost."""
    cached = self.prompt if self.cached is None else self.cached
    cost = (
      self.prompt * (tokens.read - tokens.cached)
      + cached * tokens.cached
      + self.completion * tokens.written
    )
    return cost * (self.batch if is_batch else 1.0) / _PER


_KEYS = tuple(field.name for field in dataclasses.fields(Price))


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

  def known(self, model: str) -> Price:
    """The price of a model, for `max_cost`.

    Raises:
      UserError: no table has it.
    """
    price = self.price(model)
    if price is None:
      raise UserError(
        f"max_cost needs the price of {model!r}; no table of prices has it, so"
        " add it to a file of your own",
        fields=("AskOptions.max_cost", "prices"),
      )
    return price

  def cost(
    self, model: str, prompt_tokens: float, completion_tokens: float
  ) -> float | None:
    """What tokens without a discount cost; None if no table has the model."""
    price = self.price(model)
    if price is None:
      return None
    return (
      price.prompt * prompt_tokens + price.completion * completion_tokens
    ) / _PER

  def total(self, charges: Iterable[Charge]) -> float:
    """The cost of attempts; those of models without a price cost 0."""
    priced = ((charge, self.price(charge.model)) for charge in charges)
    return sum(
      price.cost(charge.tokens, is_batch=charge.is_batch)
      for charge, price in priced
      if price is not None
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
  keys = set(entry) if isinstance(entry, dict) else set()
  if not {"prompt", "completion"} <= keys <= set(_KEYS):
    raise UserError(
      f"{where} must give prompt and completion, may give cached and batch, and"
      " no more",
      fields="prices",
    )
  for value in entry.values():
    if not value_types.matches(value, float) or value < 0:
      raise UserError(f"{where}: {value!r} is no price", fields="prices")
  if entry.get("batch", 1) > 1:
    raise UserError(
      f"{where}: batch is {entry['batch']!r}; it must be from 0 to 1, the share"
      " of these prices that a batch costs",
      fields="prices",
    )
  return Price(**{key: float(value) for key, value in entry.items()})
