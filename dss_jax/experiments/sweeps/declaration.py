"""What a sweep is declared by: axes, a budget, a search of learning rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dss_jax.base import checks
from dss_jax.base.errors import UserError

# Axes whose values name gin files, and where these lie.
FILE_AXES = {"student": "models", "data": "data", "method": "methods"}
METHOD, SEED = "method", "seed"
BUDGETS = ("tokens", "steps", "plateau")

# What a seed moves: initial parameters, dropout and order, and what is drawn.
_SEED_BINDINGS = (
  "RANDOM_SEED",
  "data.DataOptions.split_seed",
  "data.DataOptions.taxonli_seed",
  "data.DataOptions.generated_seed",
)
# What the budget and the sweep bind themselves.
_TAKEN = {
  "EARLY_STOPPING_MIN_IMPROVEMENT": "min_improvement",
  "EARLY_STOPPING_PATIENCE": "patience",
  "EVAL_PERIOD": "looks",
  "MODEL_DIR": "--output_dir",
  "TRAIN_STEPS": "steps",
}


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A grid of runs; gin binds it as `sweep.Sweep`.

  An axis is the name of what differs and its values. `student`, `data` and
  `method` name gin files (`dss` is methods/dss.gin; a value that ends in .gin
  is a path); any other axis is a macro or a parameter in gin, or a name that
  `binds` explains. A value in quotes that begins with @ or % is a reference.

  Attributes:
    axes: axis -> values; every combination is a cell.
    steps: updates of the reference method's cells; the budget says what the
      other methods get.
    gin_files: common to all cells, after the student's and before the others.
    bindings: common to all cells.
    per_value: axis -> value -> bindings of the cells that have it, which win
      over the common ones: {'method': {'dss': {'BASE_LEARNING_RATE': 0.04}}}.
    also: further grids, each of which says in what it differs from `axes`:
      {'method': ['dss'], 'ALPHA': [0.3]}.
    binds: axis -> what its values are bound to, for axes that are no gin
      names. By default `seed` moves the draw of the data, the initial
      parameters and the order together.
    budget: "tokens": the other methods get as many steps as see the reference
      method's training tokens. "steps": all get the same steps. "plateau": a
      run ends when `patience` looks have brought less than `min_improvement`,
      at the latest after `steps`.
    reference: the method whose steps are given; None takes the last one.
    looks: evaluations of a run, the same number for every method.
    patience: of "plateau".
    min_improvement: of "plateau", in the selecting metric.
    search: binding -> values tried for every method before the grid, the
      learning rate first: {'BASE_LEARNING_RATE': [0.01, 0.02, 0.04]}. Empty
      searches nothing.
    search_seeds: the seeds of the trials, which no cell of the grid may have.
    search_at: axis -> the values at which is searched; cells in between take
      the nearest. Other axes are searched at each of their values.
    max_widenings: how often the first searched binding may get a further value
      for all methods, where the best one lies at its edge.

  Raises:
    UserError: a sweep that cannot be run.
  """

  axes: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
  steps: int = 0
  gin_files: Sequence[str] = ()
  bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  per_value: Mapping[str, Mapping[Any, Mapping[str, Any]]] = dataclasses.field(
    default_factory=dict
  )
  also: Sequence[Mapping[str, Sequence[Any]]] = ()
  binds: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=lambda: {SEED: _SEED_BINDINGS}
  )
  budget: str = "tokens"
  reference: str | None = None
  looks: int = 12
  patience: int = 5
  min_improvement: float = 0.005
  search: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
  search_seeds: Sequence[int] = ()
  search_at: Mapping[str, Sequence[Any]] = dataclasses.field(
    default_factory=dict
  )
  max_widenings: int = 2

  def __post_init__(self):
    checks.one_of("Sweep.budget", self.budget, BUDGETS)
    checks.in_range("Sweep.looks", self.looks, 1, whole=True)
    checks.in_range("Sweep.steps", self.steps, self.looks, whole=True)
    checks.in_range("Sweep.patience", self.patience, 1, whole=True)
    checks.in_range("Sweep.min_improvement", self.min_improvement, 0)
    checks.in_range("Sweep.max_widenings", self.max_widenings, 0, whole=True)
    for field, found in self._grids():
      _check_axes(field, found)
      for name in found:
        _check_is_free(field, name, self.binds.get(name, ()))
    for name in self.bindings:
      _check_is_free("bindings", name)
    self._check_per_value()
    self._check_budget()
    self._check_search()

  def _grids(self) -> Iterator[tuple[str, Mapping[str, Sequence[Any]]]]:
    yield "axes", self.axes
    for grid in self.also:
      yield "also", grid
    yield "search", self.search
    yield "search_at", self.search_at

  def _check_per_value(self) -> None:
    for axis, by_value in self.per_value.items():
      known = [
        v for found in (self.axes, *self.also) for v in found.get(axis, ())
      ]
      for value, bindings in by_value.items():
        if value not in known:
          raise UserError(
            f"per_value speaks of {axis} {value!r}, which no cell has; there"
            f" are {', '.join(map(str, known)) or 'none'}",
            fields="Sweep.per_value",
          )
        for name in bindings:
          _check_is_free("per_value", name)

  def _check_budget(self) -> None:
    methods = self.axes.get(METHOD, ())
    if self.budget == "tokens" and not methods:
      raise UserError(
        "budget is 'tokens', which compares methods, and there is no axis"
        " method: add it to axes, or set budget to 'steps'",
        fields=("Sweep.budget", "Sweep.axes"),
      )
    if self.reference is not None and self.reference not in methods:
      raise UserError(
        f"reference is {self.reference!r}; it must be one of the methods of"
        f" axes: {', '.join(methods) or 'there are none'}",
        fields="Sweep.reference",
      )

  def _check_search(self) -> None:
    if not self.search:
      return
    if not self.search_seeds:
      raise UserError(
        "search has no seeds: set search_seeds to some that axes does not have",
        fields="Sweep.search_seeds",
      )
    seeds = [self.axes.get(SEED, ()), *(g.get(SEED, ()) for g in self.also)]
    both = {seed for found in seeds for seed in found} & {*self.search_seeds}
    if both:
      raise UserError(
        f"seed {min(both)} is searched with and reported: take other"
        " search_seeds, since the best of many trials is no fair result",
        fields=("Sweep.search_seeds", "Sweep.axes"),
      )
    for name in self.search:
      if any(name in found for found in (self.axes, *self.also)):
        raise UserError(
          f"{name} is an axis and searched: take it out of one of them",
          fields=("Sweep.search", "Sweep.axes"),
        )
    for name in self.search_at:
      if name not in self.axes or name == SEED:
        raise UserError(
          f"search_at has {name!r}; it may have axes other than the seed:"
          f" {', '.join(axis for axis in self.axes if axis != SEED)}",
          fields="Sweep.search_at",
        )

  @property
  def reference_method(self) -> Any:
    """The method whose steps are `steps`; None without methods."""
    methods = self.axes.get(METHOD) or (None,)
    return methods[-1] if self.reference is None else self.reference

  def seeds(self) -> Sequence[Any]:
    """The seeds of the grid; none where it has no such axis."""
    return self.axes.get(SEED, ())


def _check_axes(field: str, axes: Mapping[str, Sequence[Any]]) -> None:
  """Raises UserError for an axis without values, or with one twice."""
  for name, values in axes.items():
    if not values:
      raise UserError(
        f"{name} of {field} has no values", fields=f"Sweep.{field}"
      )
    if len({repr(value) for value in values}) < len(values):
      raise UserError(
        f"{name} of {field} has a value twice: {list(values)}",
        fields=f"Sweep.{field}",
      )
    if name in FILE_AXES and not all(isinstance(v, str) for v in values):
      raise UserError(
        f"{name} of {field} is {list(values)}; its values name gin files, in"
        " quotes",
        fields=f"Sweep.{field}",
      )


def _check_is_free(field: str, name: str, bound: Sequence[str] = ()) -> None:
  """Raises UserError for a binding that the sweep makes itself."""
  for each in (name, *bound):
    if each in _TAKEN:
      raise UserError(
        f"{name!r} of {field} cannot be set here, since a sweep computes {each}:"
        f" see {_TAKEN[each]}",
        fields=f"Sweep.{field}",
      )
