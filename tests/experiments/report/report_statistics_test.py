"""A report's numbers, from folders of runs, against other calculations."""

import math
import pathlib
import warnings
from collections.abc import Iterable
from typing import Any

import made_runs
import numpy as np
import pytest
from scipy import stats

from dss_jax.experiments import bootstrap_statistics, paired_statistics
from dss_jax.experiments.report import (
  finished_runs,
  report_content,
  report_statistics,
)
from dss_jax.experiments.report.stored_teacher import StoredAnswer, Teacher

LABELS = ("entailment", "neutral", "contradiction")


def _pair(
  folder: pathlib.Path,
  seeds: Iterable[int] = range(6),
  *,
  dss: Any,
  standard: Any,
  **more: Any,
):
  """Runs of both methods: their share of right answers, or seed -> answers."""
  both: dict[str, Any] = {"dss": dss, "standard": standard}
  for method, answers in both.items():
    for seed in seeds:
      made_runs.make_run(
        folder / f"{method}{more.get('examples', '')}_{seed}",
        method=method,
        seed=seed,
        test=answers if isinstance(answers, float) else answers(seed),
        **more,
      )


def _from_table(table):
  """Answers that are right where `table` [items] says so."""

  def answer(target, number):
    return target if table[number] else next(x for x in LABELS if x != target)

  return answer


def _wrong(target):
  return next(label for label in LABELS if label != target)


def test_an_effect_that_an_unpaired_analysis_misses_is_reported(tmp_path):
  """Seeds move both methods together: only their difference is steady."""
  generator = np.random.default_rng(4)
  luck = generator.normal(0, 0.12, 6)
  item = generator.uniform(size=400)
  _pair(
    tmp_path,
    dss=lambda seed: _from_table(item < 0.75 + luck[seed]),
    standard=lambda seed: _from_table(item < 0.70 + luck[seed]),
    items=400,
  )
  content = report_content.build([tmp_path])
  [comparison] = content.comparisons
  assert comparison.group.series.method == "dss"
  assert comparison.baseline.series.method == "standard"
  first = [run.entry["value"] for run in comparison.group.runs]
  second = [run.entry["value"] for run in comparison.baseline.runs]
  unpaired: Any = stats.ttest_ind(first, second)
  assert unpaired.pvalue > 0.3
  assert comparison.result.low > 0.02
  assert comparison.p_value == comparison.adjusted == 2 / 64
  assert comparison.test == "sign flip"
  # The arrays themselves, paired by hand.
  expected = paired_statistics.compare(
    item < 0.75 + luck[:, None], item < 0.70 + luck[:, None]
  )
  assert comparison.result.difference == pytest.approx(expected.difference)
  assert comparison.result.low == pytest.approx(expected.low)
  assert comparison.result.detectable == pytest.approx(expected.detectable)


def test_items_are_paired_by_their_ids_and_not_by_their_lines(tmp_path):
  generator = np.random.default_rng(5)
  right = generator.random(60) < 0.7
  _pair(
    tmp_path,
    seeds=[0],
    dss=lambda seed: _from_table(right),
    standard=lambda seed: _from_table(right),
  )
  path = tmp_path / "dss_0/eval/taxonli_label-test/100.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(reversed(lines)))
  content = report_content.build([tmp_path])
  [comparison] = content.comparisons
  assert math.isnan(comparison.result.detectable)
  assert (comparison.result.low, comparison.result.high) == (0.0, 0.0)


def test_one_seed_has_the_exact_test_of_mcnemar(tmp_path):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # It warns while it is imported.
    from statsmodels.stats import contingency_tables
  generator = np.random.default_rng(6)
  first, second = generator.random((2, 60)) < [[0.8], [0.6]]
  _pair(
    tmp_path,
    seeds=[0],
    dss=lambda seed: _from_table(first),
    standard=lambda seed: _from_table(second),
  )
  table = [
    [np.sum(first & second), np.sum(first & ~second)],
    [np.sum(~first & second), np.sum(~first & ~second)],
  ]
  expected: Any = contingency_tables.mcnemar(table, exact=True)
  [comparison] = report_content.build([tmp_path]).comparisons
  assert comparison.p_value == pytest.approx(expected.pvalue)
  assert comparison.test == "McNemar"


def test_only_common_seeds_are_compared(tmp_path):
  _pair(tmp_path, seeds=range(3), dss=0.8, standard=0.6)
  made_runs.make_run(tmp_path / "more", method="dss", seed=9, test=0.2)
  content = report_content.build([tmp_path])
  [comparison] = content.comparisons
  assert comparison.result.seeds == 3
  assert comparison.seeds_left_out == 1
  assert comparison.group.seeds == (0, 1, 2, 9)


def test_groups_without_a_common_seed_are_named(tmp_path):
  made_runs.make_run(tmp_path / "a", method="dss", seed=0)
  made_runs.make_run(tmp_path / "b", method="standard", seed=1)
  content = report_content.build([tmp_path])
  assert content.comparisons == []
  assert len(content.unpaired) == 1


def test_runs_at_chance_are_counted_and_both_means_given(tmp_path):
  for seed, accuracy in enumerate((0.9, 0.9, 0.2)):
    made_runs.make_run(tmp_path / str(seed), seed=seed, test=accuracy)
  [row] = report_content.build([tmp_path]).rows
  assert row.summary.at_chance == (False, False, True)
  values = [run.entry["value"] for run in row.group.runs]
  assert row.summary.mean == pytest.approx(np.mean(values))
  assert row.summary.mean_above_chance == pytest.approx(np.mean(values[:2]))
  # The most frequent of three labels.
  assert 1 / 3 <= row.chance < 0.5
  assert (row.steps, row.tokens, row.items) == (100, 100_000, 60)


def test_p_values_are_adjusted_over_the_whole_report(tmp_path):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from statsmodels.stats import multitest
  generator = np.random.default_rng(7)
  for examples in (100, 200, 400):
    tables = generator.random((2, 8, 60)) < [[[0.75]], [[0.65]]]
    _pair(
      tmp_path,
      range(8),
      dss=lambda seed, t=tables: _from_table(t[0, seed]),
      standard=lambda seed, t=tables: _from_table(t[1, seed]),
      examples=examples,
    )
  found = report_content.build([tmp_path]).comparisons
  assert len(found) == 3
  by_holm: Any = multitest.multipletests(
    [c.p_value for c in found], method="holm"
  )
  assert [c.adjusted for c in found] == pytest.approx(list(by_holm[1]))


def _exactly(share, items):
  """Right for the first `share` of the items."""
  return _from_table(np.arange(items) < round(share * items))


def test_the_saving_of_data_is_the_crossing_of_the_curves(tmp_path):
  for examples, dss, standard in (
    (100, 0.5, 0.3),
    (400, 0.7, 0.5),
    (1600, 0.9, 0.6),
  ):
    _pair(
      tmp_path,
      range(3),
      dss=lambda seed, share=dss: _exactly(share, 60),
      standard=lambda seed, share=standard: _exactly(share, 60),
      examples=examples,
    )
  content = report_content.build([tmp_path])
  [saving] = content.savings
  # 0.6 lies halfway between 0.5 and 0.7, over the logarithm.
  assert saving.needed.size == pytest.approx(200)
  assert (saving.kind, saving.reference_size) == ("data", 1600)
  assert saving.level == "fine-tuning with 1,600 records"
  assert saving.needed.low <= 200 <= saving.needed.high


def test_the_saving_of_parameters_and_what_is_never_reached(tmp_path):
  for width, dss, standard in ((8, 0.5, 0.6), (16, 0.6, 0.8)):
    _pair(
      tmp_path / str(width),
      range(2),
      dss=lambda seed, share=dss: _exactly(share, 60),
      standard=lambda seed, share=standard: _exactly(share, 60),
      width=width,
    )
  content = report_content.build([tmp_path])
  [saving] = content.savings
  assert saving.kind == "model"
  assert saving.needed.size == math.inf
  assert saving.reference_size == 13_120


def _teacher(folder, right, *, name="big"):
  """A teacher that is right where [items] says so, on both splits."""
  [run], _ = finished_runs.find([folder])
  assert run.validation is not None
  answers = {}
  for items in (run.validation, run.test):
    for number, (item, target) in enumerate(
      zip(items.ids, items.targets, strict=True)
    ):
      label = target if right[number] else _wrong(target)
      answers[item] = StoredAnswer(label, "because", target)
  return Teacher("taxonli", name, answers, {})


def _content_with(monkeypatch, folder, *teachers):
  from dss_jax.experiments.report import stored_teacher

  monkeypatch.setattr(
    stored_teacher, "of_runs", lambda *_: (list(teachers), [])
  )
  return report_content.build([folder])


def test_beating_the_teacher_is_decided_on_validation(tmp_path, monkeypatch):
  """A student that is better on test only does not beat it."""
  low, high = _exactly(0.4, 60), _exactly(0.9, 60)
  for seed in range(3):
    made_runs.make_run(
      tmp_path / f"a{seed}", seed=seed, validation=high, test=low, examples=100
    )
    made_runs.make_run(
      tmp_path / f"b{seed}", seed=seed, validation=low, test=high, examples=200
    )
  teacher = _teacher(tmp_path / "a0", np.arange(60) < 36)
  worse = _teacher(tmp_path / "a0", np.arange(60) < 30, name="worse")
  content = _content_with(monkeypatch, tmp_path, worse, teacher)
  assert content.hardest == {"taxonli": teacher}
  first, second = content.against_teacher
  assert (first.group.examples, first.beats) == (100, True)
  assert (second.group.examples, second.beats) == (200, False)
  assert first.test.difference == pytest.approx(0.4 - 0.6)
  expected = paired_statistics.compare(
    np.tile(np.arange(60) < 54, (3, 1)), np.arange(60) < 36
  )
  assert first.validation is not None
  assert first.validation.low == pytest.approx(expected.low)


def test_the_front_holds_the_cheapest_winners(tmp_path, monkeypatch):
  """Width and records against the share of right answers."""
  for width, examples, share in (
    (8, 100, 0.4),
    (8, 400, 0.9),
    (16, 100, 0.9),
    (16, 400, 1.0),
  ):
    for seed in range(3):
      made_runs.make_run(
        tmp_path / f"{width}_{examples}_{seed}",
        seed=seed,
        width=width,
        examples=examples,
        test=_exactly(share, 60),
      )
  teacher = _teacher(tmp_path / "8_100_0", np.arange(60) < 36)
  content = _content_with(monkeypatch, tmp_path, teacher)
  [points] = content.fronts.values()
  found = {
    (p.group.parameters, p.group.examples): (p.beats, p.on_front, p.frequency)
    for p in points
  }
  assert found == {
    (6560, 100): (False, False, 0.0),
    (6560, 400): (True, True, 1.0),
    (13120, 100): (True, True, 1.0),
    (13120, 400): (True, False, 0.0),
  }
  assert points[0].gap == pytest.approx(0.4 - 0.6)
  savings = {(s.kind, s.fixed): s for s in content.savings}
  reached = savings["data", "t5_1_1 8x1+1 0.00656M"]
  assert reached.level == "the teacher (big)"
  # From 24 to 54 right answers, 36 lie at two fifths.
  assert reached.needed.size == pytest.approx(100 * 4**0.4)
  # With the most records, every student is good enough.
  assert {fixed for kind, fixed in savings if kind == "model"} == {
    "400 records"
  }
  assert savings["model", "400 records"].needed.size == -math.inf


def test_a_teacher_that_lacks_items_is_compared_on_the_others(
  tmp_path, monkeypatch
):
  for examples in (100, 400):
    made_runs.make_run(
      tmp_path / str(examples), examples=examples, test=_exactly(0.9, 60)
    )
  teacher = _teacher(tmp_path / "100", np.arange(60) > 2)
  del teacher.answers["test-3"]  # type: ignore
  content = _content_with(monkeypatch, tmp_path, teacher)
  row = content.against_teacher[0]
  assert (row.test.items, row.items_left_out) == (59, 1)
  assert row.teacher_accuracy == pytest.approx(56 / 59)
  assert row.test.difference == pytest.approx((53 - 56) / 59)
  assert content.notes == [
    "big answered 59 of 60 test items of taxonli; it is compared with on these"
    " alone: the others were not asked, or got no answer."
  ]
  assert content.savings[0].needed.size == math.inf
  for number in range(1, 60):
    teacher.answers.pop(f"test-{number}", None)  # type: ignore
  content = _content_with(monkeypatch, tmp_path, teacher)
  assert content.hardest == {}
  assert content.against_teacher == []
  assert content.notes == [
    "big is not compared with on taxonli: it answered 1 of 60 test items."
  ]


def test_a_curve_without_a_common_seed_is_named(tmp_path):
  """One size's first seed has diverged, another one's second."""
  for method, size, seeds in (
    ("standard", 100, (0, 1)),
    ("standard", 400, (0, 1)),
    ("dss", 100, (0,)),
    ("dss", 400, (1,)),
  ):
    for seed in seeds:
      made_runs.make_run(
        tmp_path / f"{method}{size}{seed}",
        method=method,
        examples=size,
        seed=seed,
      )
  content = report_content.build([tmp_path])
  assert content.savings == []
  [note] = content.notes
  assert "distilling step-by-step over training-set sizes" in note
  assert "no seed has a run at each of them" in note


def test_the_front_has_each_cheapest_winner_as_often_as_it_wins():
  """Two groups of which neither is cheaper in both respects."""
  generator = np.random.default_rng(8)
  base = (generator.random((6, 500)) < 0.5) * 1.0
  better = np.maximum(base, generator.random((6, 500)) < 0.3)
  found = bootstrap_statistics.winning_frequency(
    {
      "narrow": better,
      "short": better,
      "both": better,
      "weak": base * (generator.random((6, 500)) < 0.8),
    },
    {"narrow": (1, 9), "short": (9, 1), "both": (9, 9), "weak": (1, 1)},
    base.mean(axis=0),
    draws=50,
  )
  assert found["narrow"] == found["short"] == 1.0
  assert found["both"] == 0.0
  assert found["weak"] == 0.0


def test_controls_are_compared_with_fine_tuning(tmp_path):
  made_runs.make_run(tmp_path / "s", method="standard")
  made_runs.make_run(tmp_path / "d", method="dss")
  made_runs.make_run(
    tmp_path / "c", method="dss", data={"taxonli_control": "shuffled"}
  )
  content = report_content.build([tmp_path])
  names = [content.name(c.group.series) for c in content.comparisons]
  assert names == [
    "distilling step-by-step (rationales: taxonli)",
    "distilling step-by-step (rationales: taxonli shuffled)",
  ]
  assert {c.baseline.series.method for c in content.comparisons} == {"standard"}
  assert report_statistics.BASELINE == "standard"
