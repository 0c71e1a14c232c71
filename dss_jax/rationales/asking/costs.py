"""What requests to a teacher cost, and what the ledger's answers have cost."""

from __future__ import annotations

from dss_jax.base.errors import UserError
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.prices import Prices
from dss_jax.rationales.requests import Request


class Costs:
  """Costs by a table of prices; 0 where nobody knows and nothing depends on it.

  Args:
    prices: of models; None for none.
    is_limited: whether there is a limit on what may be spent, so that a model
      without a price is an error.
  """

  def __init__(self, prices: Prices | None, *, is_limited: bool):
    self._prices = prices
    self._is_limited = is_limited

  def are_known(self, model: str) -> bool:
    """Whether the model has a price."""
    return self._prices is not None and self._prices.price(model) is not None

  def of(
    self, request: Request, prompt_tokens: int, completion_tokens: int
  ) -> float:
    """What the tokens of one request cost.

    Raises:
      UserError: there is a limit, and the model has no price.
    """
    if self._prices is None:
      cost = None
    else:
      cost = self._prices.cost(request.model, prompt_tokens, completion_tokens)
    if cost is None and self._is_limited:
      raise _no_price(request.model)
    return cost or 0.0

  def spent(self, ledger: Ledger, model: str) -> float:
    """What the ledger's answers have cost.

    Args:
      ledger: its answers, of whatever models.
      model: to be asked next, for the error.

    Raises:
      UserError: there is a limit, and no prices at all.
    """
    if self._prices is None:
      if self._is_limited:
        raise _no_price(model)
      return 0.0
    spent = 0.0
    for name, tokens in ledger.totals().models.items():
      spent += (
        self._prices.cost(name, tokens.prompt_tokens, tokens.completion_tokens)
        or 0.0
      )
    return spent


def _no_price(model: str) -> UserError:
  return UserError(
    f"--max_cost needs the price of {model!r}, which is in no table; add it to"
    " a file and name that with --prices"
  )
