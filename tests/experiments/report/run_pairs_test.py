"""Two runs compared by item."""

from typing import Any

import made_runs
import numpy as np
import pytest
from scipy import stats

from dss_jax.base.errors import UserError
from dss_jax.experiments.report import run_pairs

LABELS = ("entailment", "neutral", "contradiction")


def _run(folder, right, **more):
  """A run that is right where [items] says so."""

  def answer(target, number):
    return target if right[number] else next(x for x in LABELS if x != target)

  return made_runs.make_run(folder, test=answer, **more)


def test_items_that_only_one_has_right(tmp_path):
  first, second = np.random.default_rng(0).random((2, 60)) < [[0.8], [0.5]]
  pair = run_pairs.compare(
    _run(tmp_path / "a", first),
    _run(tmp_path / "b", second, method="standard", seed=4),
  )
  assert [item.id for item in pair.only_first] == [
    f"test-{i}" for i in range(60) if first[i] and not second[i]
  ]
  assert [item.id for item in pair.only_second] == [
    f"test-{i}" for i in range(60) if second[i] and not first[i]
  ]
  assert pair.both == np.sum(first & second)
  assert pair.neither == np.sum(~first & ~second)
  for item in pair.only_first:
    assert item.first == item.target != item.second
  counts = len(pair.only_first), len(pair.only_second)
  expected: Any = stats.binomtest(counts[0], sum(counts))
  assert pair.p_value == pytest.approx(expected.pvalue)
  by_t: Any = stats.ttest_rel(first * 1.0, second * 1.0)
  interval = by_t.confidence_interval()
  assert pair.result.low == pytest.approx(interval.low)
  lines = run_pairs.describe(pair, examples=2)
  text = "\n".join(lines)
  assert f"only A {counts[0]}, only B {counts[1]}" in text
  assert text.count("    gold ") == 4
  assert "fine-tuning, t5_1_1" in text


def test_the_same_run_twice_has_no_difference(tmp_path):
  folder = _run(tmp_path / "a", np.arange(60) % 2)
  pair = run_pairs.compare(folder, folder)
  assert (pair.only_first, pair.only_second, pair.p_value) == ([], [], 1.0)


def test_other_items_cannot_be_compared(tmp_path):
  first = _run(tmp_path / "a", np.ones(60))
  second = _run(tmp_path / "b", np.ones(60), data={"taxonli_seed": 3})
  with pytest.raises(UserError, match="different test items"):
    run_pairs.compare(first, second)
