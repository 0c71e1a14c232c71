"""Learning rates (and more) by equal trials for every method.

Each method, student and place of the grid that is searched gets the same
trials, on seeds that are then discarded; the best mean on validation wins. A
trial that fails or diverges is a trial all the same. Where a winner lies at
the edge of the first searched binding's values, all get one value more there.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.experiments.sweeps import cells
from dss_jax.experiments.sweeps.declaration import SEED, Sweep

# A trial's value on validation; None if it has none.
ValueOf = Callable[[Mapping[str, Any]], float | None]


@dataclasses.dataclass(frozen=True)
class Winner:
  """What a search chose.

  Attributes:
    place: axis -> value, without seed: for which cells.
    chosen: binding -> value.
    value: its mean on validation over the search's seeds.
    is_at_edge: whether the first binding's value is the smallest or largest
      that was tried.
    trials: how many were made for this place.
  """

  place: Mapping[str, Any]
  chosen: Mapping[str, Any]
  value: float
  is_at_edge: bool
  trials: int

  def as_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def places(sweep: Sweep) -> list[dict[str, Any]]:
  """Where is searched: each combination of the axes but the seed."""
  axes = {**sweep.axes, **sweep.search_at}
  axes.pop(SEED, None)
  return list(cells.combinations(axes))


def trials(
  sweep: Sweep, tried: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
  """The axes of all trials.

  Args:
    sweep: the sweep.
    tried: binding -> values, those that were added included.
  """
  settings = list(cells.combinations({**tried, SEED: sweep.search_seeds}))
  return [
    {**place, **setting} for place in places(sweep) for setting in settings
  ]


def winners(
  sweep: Sweep, tried: Mapping[str, Sequence[Any]], value_of: ValueOf
) -> list[Winner]:
  """The best setting of each place.

  A setting of which a trial has no value cannot win. Of equal settings the one
  named first wins.

  Args:
    sweep: the sweep.
    tried: as of `trials`.
    value_of: of the axes of a trial.

  Raises:
    UserError: no setting of a place has values.
  """
  found = []
  for place in places(sweep):
    means = []
    settings = list(cells.combinations(tried))
    for setting in settings:
      values = [
        value_of({**place, **setting, SEED: seed})
        for seed in sweep.search_seeds
      ]
      # A score that is not a number is none: it could not be compared.
      known = [v for v in values if v is not None and math.isfinite(v)]
      complete = len(known) == len(values)
      means.append(statistics.fmean(known) if complete else -math.inf)
    best = max(range(len(means)), key=means.__getitem__)
    if means[best] == -math.inf:
      raise UserError(
        f"no setting of the search worked for {cells.label(place) or 'the grid'}:"
        " all trials failed or diverged; search lower learning rates. Those that"
        " failed are tried again",
        fields="Sweep.search",
      )
    first = next(iter(tried))
    found.append(
      Winner(
        place=place,
        chosen=settings[best],
        value=means[best],
        is_at_edge=_edge(tried[first], settings[best][first]) is not None,
        trials=len(settings) * len(sweep.search_seeds),
      )
    )
  return found


def first_settings(sweep: Sweep) -> list[Winner]:
  """Stand for winners while they are not known: the first value of each."""
  chosen = next(iter(cells.combinations(sweep.search)))
  return [
    Winner(place, chosen, value=math.nan, is_at_edge=False, trials=0)
    for place in places(sweep)
  ]


def widened(
  tried: Mapping[str, Sequence[Any]], found: Sequence[Winner]
) -> dict[str, Sequence[Any]]:
  """`tried`, with a further value at each edge where a winner lies.

  The ratio to its neighbour is that of the last two values there.
  """
  first = next(iter(tried))
  values = sorted(tried[first])
  more = []
  edges = {_edge(values, winner.chosen[first]) for winner in found}
  if 0 in edges:
    more.append(_next(values[0], values[1]))
  if -1 in edges:
    more.append(_next(values[-1], values[-2]))
  return {**tried, first: sorted([*values, *more])}


def check_can_widen(sweep: Sweep) -> None:
  """Raises UserError unless the first searched binding has two numbers."""
  name, values = next(iter(sweep.search.items()))
  if len(values) < 2 or not all(
    isinstance(v, int | float) and not isinstance(v, bool) and v > 0
    for v in values
  ):
    raise UserError(
      f"the first binding of search, {name}, has the values {list(values)}; it"
      " must have two positive numbers at least, or the edges of a search"
      " cannot be told",
      fields="Sweep.search",
    )


def _edge(values: Sequence[Any], value: Any) -> int | None:
  """0 for the smallest value, -1 for the largest, None for another."""
  if value == min(values):
    return 0
  return -1 if value == max(values) else None


def _next(edge: float, inner: float) -> float:
  """One value beyond the edge, free of the noise of floating point."""
  return float(f"{edge * edge / inner:.6g}")


def chosen_for(
  sweep: Sweep, axes: Mapping[str, Any], found: Sequence[Winner]
) -> Mapping[str, Any]:
  """What the search chose for a cell of the grid.

  Axes that were not searched say nothing; along those of `search_at`, and
  where a grid of `also` has other numbers, the nearest number is taken.

  Raises:
    UserError: nothing was searched that is like the cell.
  """
  like = list(found)
  for axis in (axis for axis in sweep.axes if axis != SEED):
    value = axes.get(axis)
    distances = [_distance(value, winner.place[axis]) for winner in like]
    nearest = min(distances, default=math.inf)
    like = [
      winner
      for winner, distance in zip(like, distances, strict=True)
      if distance == nearest < math.inf
    ]
    if not like:
      raise UserError(
        f"search says nothing about {axis} {value!r}: add it to axes, or to"
        " search_at",
        fields=("Sweep.search_at", "Sweep.axes"),
      )
  return like[0].chosen


def _distance(value: Any, searched: Any) -> float:
  """How far two values of an axis are apart; infinitely, if not numbers."""
  if value == searched:
    return 0.0
  numbers = all(
    isinstance(v, int | float) and not isinstance(v, bool) and v > 0
    for v in (value, searched)
  )
  # Rounded, so that of two that are as near the first one is taken.
  return round(abs(math.log(value / searched)), 9) if numbers else math.inf
