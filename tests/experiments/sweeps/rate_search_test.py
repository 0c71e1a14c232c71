"""Searching learning rates: equal trials, widened at the edge for all."""

import json
import math
from typing import Any

import pytest
import small_sweeps

from dss_jax.base.errors import UserError
from dss_jax.experiments.sweeps import cells, rate_search
from dss_jax.experiments.sweeps.declaration import SEED, Sweep

RATE = "BASE_LEARNING_RATE"
SEARCH: dict[str, Any] = {
  "search": {RATE: [0.02, 0.04]},
  "search_seeds": [100, 101],
  "max_widenings": 3,
}


def _sweep(**changes):
  fields: dict[str, Any] = {
    "axes": {"method": ["standard", "dss"], "seed": [0, 1]},
    "steps": 20,
    **SEARCH,
  }
  return Sweep(**(fields | changes))


def test_every_method_has_the_same_trials():
  sweep = _sweep(search={RATE: [0.02, 0.04], "ALPHA": [0.3, 0.5, 0.7]})
  trials = rate_search.trials(sweep, sweep.search)
  by_method = {
    method: [
      {k: v for k, v in axes.items() if k != "method"}
      for axes in trials
      if axes["method"] == method
    ]
    for method in ("standard", "dss")
  }
  assert by_method["standard"] == by_method["dss"]
  assert len(by_method["dss"]) == 2 * 3 * 2
  assert {axes[SEED] for axes in trials} == {100, 101}


def test_the_best_mean_wins_and_a_missing_value_cannot():
  sweep = _sweep(search={RATE: [0.01, 0.02, 0.04]})
  values = {
    ("dss", 0.01): [0.5, 0.6],
    ("dss", 0.02): [0.9, 0.3],
    ("dss", 0.04): [0.99, None],  # diverged once
    ("standard", 0.01): [math.nan, 0.9],  # named first
    ("standard", 0.02): [0.4, 0.4],
    ("standard", 0.04): [0.4, 0.4],  # as good, and named later
  }
  standard, dss = rate_search.winners(
    sweep,
    sweep.search,
    lambda axes: values[axes["method"], axes[RATE]][axes[SEED] - 100],
  )
  assert dss.chosen == {RATE: 0.02}
  assert dss.value == pytest.approx(0.6)
  assert not dss.is_at_edge
  assert (standard.chosen, standard.trials) == ({RATE: 0.02}, 6)


def test_where_all_trials_fail_the_user_is_told():
  sweep = _sweep()
  with pytest.raises(UserError, match="no setting of the search worked"):
    rate_search.winners(sweep, sweep.search, lambda axes: None)


def test_widening_adds_one_value_beyond_each_edge_that_won():
  def winner(rate):
    return rate_search.Winner({}, {RATE: rate}, 0.5, True, 2)

  tried = {RATE: [0.04, 0.01, 0.02], "ALPHA": [0.5]}
  up = rate_search.widened(tried, [winner(0.04), winner(0.02)])
  assert up == {RATE: [0.01, 0.02, 0.04, 0.08], "ALPHA": [0.5]}
  both = rate_search.widened(tried, [winner(0.04), winner(0.01)])
  assert both[RATE] == [0.005, 0.01, 0.02, 0.04, 0.08]
  uneven = rate_search.widened({RATE: [0.001, 0.003, 0.03]}, [winner(0.03)])
  assert uneven[RATE] == [0.001, 0.003, 0.03, 0.3]


@pytest.mark.parametrize("values", [[0.1], [0, 1], ["a", "b"], [True, 2]])
def test_edges_need_two_positive_numbers(values):
  with pytest.raises(UserError, match="two positive numbers"):
    rate_search.check_can_widen(_sweep(search={"ALPHA": values}))


def test_cells_take_the_nearest_searched_size():
  sweep = _sweep(
    axes={
      "method": ["standard", "dss"],
      "TRAIN_FRACTION": [0.01, 0.1, 0.3, 1.0],
      "seed": [0],
    },
    also=[{"TRAIN_FRACTION": [0.03], "ALPHA": [0.2]}],
    search_at={"TRAIN_FRACTION": [0.01, 1.0]},
  )
  rates = {0.01: 0.5, 1.0: 0.6}
  found = [
    rate_search.Winner(
      place,
      {RATE: rates[place["TRAIN_FRACTION"]] + (place["method"] == "dss")},
      0.9,
      False,
      1,
    )
    for place in rate_search.places(sweep)
  ]
  chosen = {
    tuple(axes.values())[:2]: rate_search.chosen_for(sweep, axes, found)[RATE]
    for axes in cells.grid(sweep)
  }
  assert chosen == {
    ("standard", 0.01): 0.5,
    ("standard", 0.1): 0.5,  # halfway on a logarithmic scale: the first one
    ("standard", 0.3): 0.6,
    ("standard", 1.0): 0.6,
    ("dss", 0.01): 1.5,
    ("dss", 0.1): 1.5,
    ("dss", 0.3): 1.6,
    ("dss", 1.0): 1.6,
    ("standard", 0.03): 0.5,
    ("dss", 0.03): 1.5,
  }
  with pytest.raises(UserError, match="nothing about method 'other'"):
    rate_search.chosen_for(sweep, {"method": "other"}, found)


# ------------------------------------------------------------ as a sweep


@pytest.fixture
def searching(tmp_path):
  return small_sweeps.write(tmp_path / "tiny.gin", **SEARCH)


def test_the_search_widens_for_all_and_the_grid_takes_its_winners(
  searching, sweeper, monkeypatch
):
  best = {"standard": 0.02, "dss": 0.16}
  monkeypatch.setenv("FAKE_BEST", json.dumps(best))
  status, said = sweeper(searching)
  assert status == 0
  # 0.02 is standard's best and an edge: the first widening adds 0.01 below as
  # well as 0.08 above, the second one 0.16, the third one 0.32.
  tried = {0.01, 0.02, 0.04, 0.08, 0.16, 0.32}
  rows = sweeper.results()
  for method in best:
    trials = [
      row
      for row in rows
      if row["stage"] == "search" and row["method"] == method
    ]
    assert {row["axes"][RATE] for row in trials} == tried
    assert len(trials) == len(tried) * 2
    assert {row["seed"] for row in trials} == {100, 101}
    assert {row["split"] for row in trials} == {"validation"}
  final = [row for row in rows if row["stage"] == "final"]
  assert {(row["method"], row["axes"][RATE]) for row in final} == {
    *best.items()
  }
  assert {row["seed"] for row in final} == {0, 1}
  assert "all methods get 0.01, 0.02, 0.04, 0.08, 0.16" in said
  winners = sweeper.grid()["winners"]
  assert [winner["chosen"] for winner in winners] == [
    {RATE: 0.02},
    {RATE: 0.16},
  ]
  assert not any(winner["is_at_edge"] for winner in winners)
  starts = sweeper.starts()
  assert sweeper(searching)[0] == 0
  assert sweeper.starts() == starts == 6 * 2 * 2 + 4


def test_a_search_ends_at_an_edge_if_it_must(tmp_path, sweeper, monkeypatch):
  monkeypatch.setenv("FAKE_BEST", json.dumps({"dss": 10.0, "standard": 0.02}))
  file = small_sweeps.write(
    tmp_path / "tiny.gin", **(SEARCH | {"max_widenings": 1})
  )
  status, said = sweeper(file)
  assert status == 0
  assert f"search, dss: {RATE}=0.08" in said
  assert "at the edge of what was tried" in said
  assert [winner["is_at_edge"] for winner in sweeper.grid()["winners"]] == [
    False,
    True,
  ]


def test_diverged_trials_count_and_cannot_win(searching, sweeper, monkeypatch):
  monkeypatch.setenv("FAKE_BEST", json.dumps({"dss": 0.04, "standard": 0.03}))
  monkeypatch.setenv("FAKE_FAILURE", json.dumps({"standard 100": "diverge"}))
  status, said = sweeper(searching)
  assert status == 2  # of standard, all settings have diverged with a seed
  assert "no setting of the search worked for standard: all" in said


def test_a_crashed_trial_fails_the_sweep_and_the_others_go_on(
  searching, sweeper, monkeypatch
):
  monkeypatch.setenv("FAKE_FAILURE", json.dumps({"dss 1": "crash"}))
  monkeypatch.setenv("FAKE_BEST", json.dumps({"dss": 0.03, "standard": 0.03}))
  status, said = sweeper(searching, "--retries=0")
  assert status == 1
  assert "dss seed=1" in said
  final = [row for row in sweeper.results() if row["stage"] == "final"]
  assert len(final) == 3 * 2


def test_a_shard_of_the_grid_asks_for_the_search_first(
  searching, sweeper, monkeypatch
):
  monkeypatch.setenv("FAKE_BEST", json.dumps({"dss": 0.08, "standard": 0.04}))
  status, said = sweeper(searching, "--shard=0/2")
  assert status == 2
  assert "the search lacks 8 of 8 trials" in said
  assert "run the stage 'search' first" in said
  assert "(--stage)" in said
  for shard in ("0/2", "1/2"):
    status, said = sweeper(searching, "--stage=search", f"--shard={shard}")
    assert status == 0
  assert "the search is not complete" in said  # it is to be widened
  assert sweeper(searching, "--stage=search")[0] == 0
  assert not [r for r in sweeper.results() if r["stage"] == "final"]
  for shard in ("0/2", "1/2"):
    assert sweeper(searching, f"--shard={shard}")[0] == 0
  assert len([r for r in sweeper.results() if r["stage"] == "final"]) == 8


def test_dry_run_and_print_train_nothing(searching, sweeper, monkeypatch):
  status, said = sweeper(searching, "--dry_run")
  assert status == 0
  assert "grid: 4 cells, whose settings the search has yet to choose" in said
  assert "search: 8 cells, 0 done, 8 to do" in said
  assert "time unknown before the first cell is done" in said
  status, said = sweeper(searching, "--print")
  lines = said.splitlines()
  assert len(lines) == 9
  assert all(line.startswith("dss-jax train --gin_file=") for line in lines[:8])
  assert lines[8].startswith("these are the trials of the search")
  assert not list(sweeper.output_dir.glob("*"))
  assert sweeper(searching)[0] == 0
  starts = sweeper.starts()
  status, said = sweeper(searching, "--dry_run")
  assert "grid: 4 cells, 4 done, 0 to do" in said
  assert sweeper(searching, "--print") == (0, "")
  assert sweeper.starts() == starts
