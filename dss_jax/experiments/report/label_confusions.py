"""Which labels are taken for which, where there are few of them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from dss_jax import datasets
from dss_jax.base import text_normalization
from dss_jax.experiments.report.run_groups import RunGroup

# A dataset with more labels than this has no matrix.
MAX_LABELS = 12


@dataclasses.dataclass(frozen=True)
class Confusion:
  """Counts of answers, over all seeds of a group.

  Attributes:
    labels: gold labels.
    counts: [labels][labels + 1] answers; a row is a gold label, the last column
      holds answers that are none of the labels.
  """

  labels: Sequence[str]
  counts: Sequence[Sequence[int]]


def of_group(group: RunGroup) -> Confusion | None:
  """The matrix of a group; None where labels are many or free."""
  labels = _labels(group)
  if labels is None:
    return None
  places = {
    text_normalization.normal(label): i for i, label in enumerate(labels)
  }
  counts = [[0] * (len(labels) + 1) for _ in labels]
  pairs: collections.Counter[tuple[str, str]] = collections.Counter()
  for run in group.runs:
    pairs.update(zip(run.test.targets, run.test.predictions, strict=True))
  for (target, prediction), number in pairs.items():
    row = places.get(text_normalization.normal(target))
    column = places.get(text_normalization.normal(prediction), len(labels))
    if row is None:
      return None  # a target beyond the dataset's labels
    counts[row][column] += number
  return Confusion(labels, counts)


def _labels(group: RunGroup) -> Sequence[str] | None:
  name = group.series.dataset
  if group.metric != "accuracy":
    return None  # equal values have several spellings
  known = datasets.get(name).labels if name in datasets.names() else None
  if known is None:
    found = {target for run in group.runs for target in run.test.targets}
    items = len(group.runs[0].test.targets)
    # Few labels that come again and again are a closed set.
    known = tuple(sorted(found)) if 3 * len(found) <= items else ()
  return known if 1 < len(known) <= MAX_LABELS else None
