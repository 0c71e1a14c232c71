"""What tells runs of one method apart: the settings in which they differ.

Settings are the bindings of a run's config.gin; a run of a sweep has axes too.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from dss_jax.experiments.report.finished_runs import Run

# Settings that say where and how a run was made, and not what was learned: a
# difference in them makes no other group. The seeds are among them.
_NO_MATTER = re.compile(
  r"(^|[/.])(MODEL_DIR|DATA_DIR|RANDOM_SEED|STATS_PERIOD|CHECKPOINT_PERIOD"
  r"|CHECKPOINTS_KEPT|USE_CACHED_TASKS|NUM_MICROBATCHES|model_dir|data_dir"
  r"|random_seed|taxonli_seed|generated_seed|split_seed|stats_period"
  r"|profile_steps|debug_nans|materialize_dir|batch_files|num_microbatches"
  r"|EvaluationConfig\.batch_size)$"
  r"|(^|[/.])(SaveCheckpointConfig|PjitPartitioner|standard_logical_axis_rules)"
  r"\."
)
# Options of data and methods that say what is learned from. A curve over sizes
# has the same ones everywhere, but for those that make the sizes.
_LEARNED_FROM = re.compile(
  r"(^|[/.])(DataOptions|MethodOptions)"
  r"\.(?!(\w+_num_\w+|train_fraction|max_records)$)"
)
# Settings that mostly follow from another one, which then names the difference.
_CONSEQUENCES = ("EVAL_PERIOD", "EVAL_STEPS", "WARMUP_STEPS")

# What runs have in common that are told apart.
_Series = TypeVar("_Series", bound=Hashable)


def settings(run: Run) -> dict[str, str]:
  """The settings in which runs of one group must agree."""
  return _that_matter(run.settings)


def seeds(run: Run) -> dict[str, str]:
  """The settings that draw something."""
  return {k: v for k, v in run.settings.items() if k.lower().endswith("_seed")}


def _learned_from(run: Run) -> dict[str, str]:
  """The options of data and methods, by the macros that are bound to them."""
  found = {}
  for name, value in settings(run).items():
    if _LEARNED_FROM.search(name):
      macro = value.removeprefix("%")
      is_macro = value.startswith("%") and macro in run.settings
      found[macro if is_macro else name] = (
        run.settings[macro] if is_macro else value
      )
  return found


def _axes(run: Run) -> dict[str, str]:
  return _that_matter(run.axes)


def _that_matter(values: Mapping[str, Any]) -> dict[str, str]:
  return {
    str(name): str(value)
    for name, value in values.items()
    if str(name) != "seed" and not _NO_MATTER.search(str(name))
  }


# What tells a run from others of its series: names and values.
Variant = Callable[[Run], tuple[tuple[str, str], ...]]


def variants(
  by_fields: Mapping[tuple[_Series, str, int | None], Sequence[Run]],
) -> dict[_Series, Variant]:
  """For each series, what tells its groups of one size and student apart.

  These are the settings in which such runs differ, and the options of data and
  methods in which any two of its runs differ: what a search has chosen may
  change along a curve, what is learned from may not. A setting that some of
  them did not write down (another version did not know it) tells nothing. Where
  the axes of a sweep tell the same groups apart, they name them.
  """
  by_series: dict[_Series, list[Sequence[Run]]] = collections.defaultdict(list)
  for (series, _, _), runs in by_fields.items():
    by_series[series].append(runs)
  found: dict[_Series, Variant] = {}
  for series, same_size in by_series.items():
    everyone = [run for runs in same_size for run in runs]
    options = functools.partial(
      _values, _needed([everyone], _learned_from), _learned_from
    )
    parts: dict[tuple, list[Run]] = collections.defaultdict(list)
    for number, runs in enumerate(same_size):
      for run in runs:
        parts[number, options(run)].append(run)
    variant = _variant(list(parts.values()))
    found[series] = functools.partial(_joined, options, variant)
  return found


def _joined(first: Variant, second: Variant, run: Run) -> tuple:
  return first(run) + second(run)


def _variant(sets: Sequence[Sequence[Run]]) -> Variant:
  """What tells runs apart that are in one of these sets."""
  names = _needed(sets, settings)
  axes = _needed(sets, _axes)
  everyone = [run for runs in sets for run in runs]
  of_sweep = all(run.axes for run in everyone)
  if _is_told_by_sweeps(sets, names):
    return functools.partial(_values, ["sweep"], _sweep)
  if of_sweep and _num_classes(sets, axes, _axes) == _num_classes(
    sets, sorted({*names, *axes}), lambda r: settings(r) | _axes(r)
  ):
    return functools.partial(_values, axes, _axes)
  return functools.partial(_values, names, settings)


def _is_told_by_sweeps(
  sets: Sequence[Sequence[Run]], names: Sequence[str]
) -> bool:
  """Whether the names of sweeps tell runs apart, and break fewer curves.

  Two sweeps may each have chosen learning rates by size; the rates would tell
  them apart at a size that both have, and cut both curves to pieces.
  """
  everyone = [run for runs in sets for run in runs]
  return (
    all(run.sweep for run in everyone)
    and _num_classes([everyone], ["sweep"], _sweep)
    < _num_classes([everyone], names, settings)
    and _num_classes(sets, ["sweep"], _sweep)
    == _num_classes(
      sets, [*names, "sweep"], lambda run: settings(run) | _sweep(run)
    )
  )


def _sweep(run: Run) -> dict[str, str]:
  return {"sweep": run.sweep}


def _values(
  names: Sequence[str], read: Callable[[Run], dict[str, str]], run: Run
) -> tuple[tuple[str, str], ...]:
  values = read(run)
  return tuple((name, values.get(name, "?")) for name in names)


def _needed(
  sets: Sequence[Sequence[Run]], read: Callable[[Run], dict[str, str]]
) -> list[str]:
  """The fewest settings, found one by one, that tell runs of a set apart."""
  differing: set[str] = set()
  for runs in sets:
    values = [read(run) for run in runs]
    differing |= {
      name
      for name in set.intersection(*map(set, values))
      if len({each[name] for each in values}) > 1
    }
  needed: list[str] = []
  count = _num_classes(sets, needed, read)
  for name in sorted(differing, key=lambda n: (n in _CONSEQUENCES, n)):
    more = _num_classes(sets, [*needed, name], read)
    if more > count:
      needed.append(name)
      count = more
  return needed


def _num_classes(
  sets: Sequence[Sequence[Run]],
  names: Sequence[str],
  read: Callable[[Run], dict[str, str]],
) -> int:
  return sum(len({_values(names, read, r) for r in runs}) for runs in sets)
