"""Runs become groups: seeds within, everything else apart."""

import dataclasses
import json

import made_runs
import numpy as np
import pytest

from dss_jax.experiments.report import common_items, finished_runs, run_groups


def _groups(folder):
  runs, left_out = finished_runs.find([folder])
  assert left_out == []
  return run_groups.group_runs(runs)


def test_seeds_are_within_a_group_and_methods_are_not(tmp_path):
  for seed in (2, 0, 1):
    for method in ("dss", "standard"):
      made_runs.make_run(
        tmp_path / f"{method}{seed}", method=method, seed=seed, test=0.8
      )
  groups, left_out = _groups(tmp_path)
  assert left_out == []
  assert [(g.series.method, g.seeds) for g in groups] == [
    ("standard", (0, 1, 2)),
    ("dss", (0, 1, 2)),
  ]
  scores = groups[0].scores([2, 0])
  assert scores is not None
  assert scores.shape == (2, 60)
  assert np.array_equal(scores[0], groups[0].runs[2].test.correct)


def test_another_learning_rate_is_another_group_and_names_it(tmp_path):
  for number, rate in enumerate((0.02, 0.04)):
    for seed in (0, 1):
      made_runs.make_run(
        tmp_path / f"{number}{seed}", seed=seed, rate=rate, steps=100
      )
  groups, _ = _groups(tmp_path)
  assert [g.seeds for g in groups] == [(0, 1), (0, 1)]
  names = [
    run_groups.series_name(g.series, [g.series for g in groups]) for g in groups
  ]
  assert names == [
    "distilling step-by-step (BASE_LEARNING_RATE 0.02)",
    "distilling step-by-step (BASE_LEARNING_RATE 0.04)",
  ]


def test_rates_that_follow_the_size_make_one_series(tmp_path):
  """A search may choose another rate for each size."""
  for examples, rate in ((100, 0.02), (200, 0.04)):
    made_runs.make_run(
      tmp_path / str(examples), examples=examples, rate=rate, steps=examples
    )
  groups, _ = _groups(tmp_path)
  assert [g.examples for g in groups] == [100, 200]
  assert groups[0].series == groups[1].series


def test_a_setting_that_another_version_did_not_know_tells_nothing(tmp_path):
  made_runs.make_run(tmp_path / "0", seed=0, config="TRAIN_STEPS = 100\n")
  made_runs.make_run(
    tmp_path / "1", seed=1, config="TRAIN_STEPS = 100\nNEW = 'a'\n"
  )
  made_runs.make_run(tmp_path / "2", seed=2, config="")
  groups, _ = _groups(tmp_path)
  assert [g.seeds for g in groups] == [(0, 1, 2)]


def test_where_a_run_was_made_is_no_difference(tmp_path):
  text = "MODEL_DIR = {0}\nSTATS_PERIOD = {0}\ntrain.random_seed = {0}\n"
  for seed in (0, 1):
    made_runs.make_run(
      tmp_path / str(seed), seed=seed, config=text.format(seed)
    )
  groups, _ = _groups(tmp_path)
  assert [g.seeds for g in groups] == [(0, 1)]


def test_the_axes_of_a_sweep_name_its_groups(tmp_path):
  """Equal tokens take other steps for each size: one name, not many."""
  for examples in (100, 200):
    for budget, steps in (("steps", 100), ("tokens", 3 * examples)):
      made_runs.make_run(
        tmp_path / f"{examples}{budget}",
        examples=examples,
        steps=steps,
        cell={
          "axes": {"budget": budget, "RANDOM_SEED": 0, "TRAIN_FRACTION": 0.5},
          "stage": "final",
        },
      )
  groups, _ = _groups(tmp_path)
  assert {(g.examples, g.series.variant) for g in groups} == {
    (examples, (("budget", budget),))
    for examples in (100, 200)
    for budget in ("steps", "tokens")
  }


def test_a_few_records_less_are_the_same_size(tmp_path):
  sizes = (1000, 970, 900, 500)
  for size in sizes:
    made_runs.make_run(tmp_path / str(size), examples=size, steps=size)
  runs, _ = finished_runs.find([tmp_path])
  groups, _ = run_groups.group_runs(runs)
  assert {g.examples for g in groups} == {1000, 900, 500}


def test_runs_on_other_test_items_are_left_out(tmp_path):
  for seed in range(3):
    made_runs.make_run(tmp_path / f"a{seed}", seed=seed)
  made_runs.make_run(tmp_path / "fewer", seed=3, data={"taxonli_num_test": 30})
  made_runs.make_run(tmp_path / "others", seed=4, data={"taxonli_seed": 7})
  groups, left_out = _groups(tmp_path)
  assert [g.seeds for g in groups] == [(0, 1, 2)]
  assert {each.folder.name: each.kind for each in left_out} == {
    "fewer": "other test items",
    "others": "other test items",
  }
  assert not run_groups.has_own_items(groups)


def test_each_seed_may_have_items_of_its_own(tmp_path):
  """As where the seed draws the data too."""
  for seed in range(3):
    for method in ("dss", "standard"):
      made_runs.make_run(
        tmp_path / f"{method}{seed}",
        method=method,
        seed=seed,
        data={"taxonli_seed": seed},
      )
  groups, left_out = _groups(tmp_path)
  assert left_out == []
  assert [g.seeds for g in groups] == [(0, 1, 2)] * 2
  assert run_groups.has_own_items(groups)
  assert run_groups.same_items_for_each_seed(groups, (0, 1, 2))


def test_another_metric_is_left_out(tmp_path):
  for seed in (0, 1, 2):
    made_runs.make_run(tmp_path / str(seed), seed=seed)
  runs, _ = finished_runs.find([tmp_path])
  odd = dataclasses.replace(runs[2], metric="value_accuracy")
  groups, [left_out] = run_groups.group_runs([*runs[:2], odd])
  assert [g.seeds for g in groups] == [(0, 1)]
  assert left_out.kind == "another metric"


def test_a_run_that_repeats_another_counts_once(tmp_path):
  made_runs.make_run(tmp_path / "a", config="X = 1\n")
  made_runs.make_run(tmp_path / "b", config="X = 1\n")
  groups, [left_out] = _groups(tmp_path)
  assert [g.seeds for g in groups] == [(0,)]
  assert (left_out.folder.name, left_out.kind) == ("b", "repeated")
  assert left_out.reason.endswith("/a")


def test_a_sweeps_seed_may_draw_what_it_will(tmp_path):
  """Here the split alone: the seed of training is the same in all cells."""
  for seed in range(3):
    made_runs.make_run(
      tmp_path / f"cells/{seed}",
      config=f"RANDOM_SEED = 0\nDataOptions.split_seed = {seed}\n",
      cell={"axes": {"seed": seed}, "stage": "final"},
    )
  groups, left_out = _groups(tmp_path)
  assert left_out == []
  assert [g.seeds for g in groups] == [(0, 1, 2)]
  for path in tmp_path.glob("cells/*/cell.json"):
    path.unlink()
  _, [left_out, _] = _groups(tmp_path)
  assert "it has the seed 0, as" in left_out.reason
  assert "an axis `seed` of a sweep tells them apart" in left_out.reason


def test_sweeps_that_chose_rates_by_size_are_curves_of_their_own(tmp_path):
  """At one size both have runs, with other rates."""
  cells = {"a": [(100, 0.08), (500, 0.08), (900, 0.02)], "b": [(500, 0.04)]}
  for sweep, settings in cells.items():
    names = [f"{sweep}{size}" for size, _ in settings]
    for name, (size, rate) in zip(names, settings, strict=True):
      made_runs.make_run(
        tmp_path / "cells" / name,
        examples=size,
        steps=size,
        rate=rate,
        cell={"axes": {"size": size, "seed": 0}, "stage": "final"},
      )
    (tmp_path / sweep).mkdir()
    grid = {"cells": [{"cell": name} for name in names]}
    (tmp_path / sweep / "grid.json").write_text(json.dumps(grid))
  runs, _ = finished_runs.find([tmp_path / "a", tmp_path / "b"])
  found, left_out = run_groups.group_runs(runs)
  assert left_out == []
  assert [(g.examples, g.series.variant) for g in found] == [
    (100, (("sweep", "a"),)),
    (500, (("sweep", "a"),)),
    (500, (("sweep", "b"),)),
    (900, (("sweep", "a"),)),
  ]
  # Where a setting tells as much, it is the better name.
  runs, _ = finished_runs.find([tmp_path / "cells"])
  assert {run.sweep for run in runs} == {""}
  found, _ = run_groups.group_runs([r for r in runs if r.entry["steps"] == 500])
  assert [g.series.variant for g in found] == [
    (("BASE_LEARNING_RATE", "0.04"),),
    (("BASE_LEARNING_RATE", "0.08"),),
  ]


def test_other_data_make_another_series_whatever_the_size(tmp_path):
  """What is learned from may not change along a curve."""
  for size, records in ((360, None), (720, None), (3025, "asdiv")):
    made_runs.make_run(
      tmp_path / str(size),
      examples=size,
      steps=size,
      config=(
        f"EXTRA_RECORDS = {records!r}\n"
        "DataOptions.extra_records = %EXTRA_RECORDS\n"
        f"DataOptions.taxonli_num_train = {size}\n"
      ),
    )
  groups, _ = _groups(tmp_path)
  assert [(g.examples, g.series.variant) for g in groups] == [
    (360, (("EXTRA_RECORDS", "None"),)),
    (720, (("EXTRA_RECORDS", "None"),)),
    (3025, (("EXTRA_RECORDS", "'asdiv'"),)),
  ]


@pytest.mark.parametrize(
  ("first", "second", "same"),
  [
    (["[label] A is", "[label] B is"], ["A is", "B is"], True),
    (["predict: A", "predict: B"], ["[label] A", "[label] B"], True),
    (["A is", "B is"], ["A is [why] a", "B is [why] b"], True),
    (["A is", "B is"], ["A is", "C is"], False),
  ],
)
def test_inputs_are_compared_without_what_a_method_adds(first, second, same):
  answers = finished_runs.Answers((), (), (), (), None)  # type: ignore
  assert (
    common_items._same_inputs(
      dataclasses.replace(answers, inputs=tuple(first)),
      dataclasses.replace(answers, inputs=tuple(second)),
    )
    == same
  )
