"""Made-up scores of methods: right or wrong, by seed and item."""

import numpy as np


def scores(seeds, items, *, accuracies, deviation, seed):
  """Right or wrong answers of several methods to the same items.

  Each method's accuracy varies over seeds with `deviation`, items differ in
  difficulty, and both methods find the same items hard.

  Returns:
    [methods, seeds, items] of 0 and 1.
  """
  generator = np.random.default_rng(seed)
  difficulty = generator.uniform(-0.15, 0.15, items)
  shifts = generator.normal(0, deviation, (len(accuracies), seeds, 1))
  chances = np.asarray(accuracies)[:, None, None] + difficulty + shifts
  return (generator.random((len(accuracies), seeds, items)) < chances) * 1.0
