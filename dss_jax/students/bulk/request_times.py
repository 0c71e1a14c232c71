"""How long a student takes for one request that comes alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from dss_jax.students.predictor import PredictInput, Predictor


def measure(
  predictor: Predictor, items: Sequence[PredictInput]
) -> Mapping[str, float]:
  """Asks one item after the other, and notes how long each takes.

  Each is asked twice, and the second time counts: then nothing is compiled any
  more. A request takes the whole way from text to text; what a server adds to
  it is not in it.

  Args:
    predictor: what is asked, and in which lengths; its batches do not matter.
    items: what is asked; those that cannot be asked do not count.

  Returns:
    `requests`: how many; `median_s`, `p95_s`, `max_s`: seconds of them.
    Empty where there are none.
  """
  alone = Predictor(
    predictor.student, predictor.options, [1], lengths=predictor.lengths
  )
  askable = [item for item in items if not alone.predict([item])[0].error]
  if not askable:
    return {}
  seconds = []
  for item in askable:
    begun = time.perf_counter()
    alone.predict([item])
    seconds.append(time.perf_counter() - begun)
  return {
    "requests": len(seconds),
    "median_s": float(np.median(seconds)),
    "p95_s": float(np.quantile(seconds, 0.95)),
    "max_s": max(seconds),
  }
