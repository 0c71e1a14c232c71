"""What dss_jax knows about a dataset, and the list of those it knows."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable

from dss_jax.base.errors import UserError
from dss_jax.datasets.options import DataOptions
from dss_jax.datasets.records import Record

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """A dataset that tasks can be built on.

  Attributes:
    name: heads the names of its tasks ("svamp" in "svamp_dss").
    load: (source split, options) -> its records, in a fixed order, with
      unique ids.
    metrics: names understood by `dss_jax.datasets.metrics` for the label; the first
      one decides whether a prediction is correct.
    labels: all labels there are, or None for free text.
    source_splits: the splits that the source itself has; validation data are
      cut from the training data where it has none.
    shuffled: whether training records come in random order, so that a
      fraction is simply a prefix.
    license: of the data, for NOTICE.
    citation: whom to cite.
    url: where the data come from.
  """

  name: str
  load: Callable[[str, DataOptions], list[Record]]
  metrics: tuple[str, ...] = ("accuracy",)
  labels: tuple[str, ...] | None = None
  source_splits: tuple[str, ...] = SPLITS
  shuffled: bool = False
  license: str = ""
  citation: str = ""
  url: str = ""

  @property
  def has_arithmetic_labels(self) -> bool:
    """Whether labels are expressions that are compared by their values."""
    return "value_accuracy" in self.metrics


_SPECS: dict[str, DatasetSpec] = {}


def register(spec: DatasetSpec) -> DatasetSpec:
  """Makes a dataset known by its name; registering an equal one is harmless.

  Raises:
    UserError: if another dataset has the name.
  """
  known = _SPECS.get(spec.name)
  if known is not None and known != spec:
    raise UserError(
      f"another dataset is already registered as {spec.name!r}; choose a"
      " different name"
    )
  unknown = [split for split in spec.source_splits if split not in SPLITS]
  if unknown or "train" not in spec.source_splits:
    raise UserError(
      f"dataset {spec.name!r}: source_splits = {spec.source_splits!r}; allowed:"
      f" {', '.join(SPLITS)}, with train among them"
    )
  if not spec.metrics:
    raise UserError(f"dataset {spec.name!r} names no metric")
  _SPECS[spec.name] = spec
  return spec


def get(name: str) -> DatasetSpec:
  """The dataset of that name.

  Raises:
    UserError: naming those there are.
  """
  if name not in _SPECS:
    close = difflib.get_close_matches(name, names(), n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise UserError(
      f"unknown dataset {name!r}; {meant}known: {', '.join(names())};"
      " register your own with dss_jax.datasets.register",
      fields="dataset",
    )
  return _SPECS[name]


def names() -> tuple[str, ...]:
  """The names of all registered datasets, in alphabetical order."""
  return tuple(sorted(_SPECS))
