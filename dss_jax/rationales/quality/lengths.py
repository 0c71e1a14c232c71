"""How long texts are, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# Columns of a histogram, at most.
LENGTH_BINS = 24
# Lengths above are counted as this one.
MAX_WORDS = 10_000


def num_words(text: str) -> int:
  """Words between white space, at most MAX_WORDS."""
  return min(len(text.split()), MAX_WORDS)


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Lengths of texts that are not blank, in words between white space.

  Attributes:
    count: texts.
    mean: words, to one digit.
    p50: the least length that half of the texts do not exceed.
    p95: likewise for 95 %.
    max: of all; lengths above 10,000 words count as 10,000.
    bins: (first, last, texts) of equal width, without gaps from the shortest
      to the longest, at most LENGTH_BINS; the last one also holds the longest
      1 %, so that a single long text does not flatten the rest.
  """

  count: int
  mean: float
  p50: int
  p95: int
  max: int
  bins: tuple[tuple[int, int, int], ...]


def lengths_of(counts: Mapping[int, int]) -> Lengths:
  """Lengths from a count of texts per number of words."""
  total = sum(counts.values())
  if not total:
    return Lengths(0, 0.0, 0, 0, 0, ())
  lengths = sorted(counts)

  def percentile(percent: int) -> int:
    below = 0
    for length in lengths:
      below += counts[length]
      if 100 * below >= percent * total:
        return length
    return lengths[-1]

  first, last = lengths[0], percentile(99)
  width = -(-(last - first + 1) // LENGTH_BINS)
  starts = list(range(first, last + 1, width))
  bins = [[start, start + width - 1, 0] for start in starts]
  for length, count in counts.items():
    bins[min((length - first) // width, len(bins) - 1)][2] += count
  bins[-1][1] = max(bins[-1][1], lengths[-1])
  return Lengths(
    count=total,
    mean=round(sum(k * n for k, n in counts.items()) / total, 1),
    p50=percentile(50),
    p95=percentile(95),
    max=lengths[-1],
    bins=tuple((a, b, n) for a, b, n in bins),
  )
