"""Runs are found wherever they lie; what cannot be used is named."""

import json

import made_runs
import numpy as np
import pytest

from dss_jax.base.errors import UserError
from dss_jax.experiments.report import finished_runs


def _rewrite(path, change):
  """Changes each JSON line of a file."""
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  path.write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


def _reason(folder):
  """Why the only run there is left out."""
  runs, [left_out] = finished_runs.find([folder])
  assert runs == []
  return f"{left_out.kind}: {left_out.reason}"


def test_a_run_is_read_as_it_was_written(tmp_path):
  made_runs.make_run(tmp_path / "a", seed=3, test=0.7, rate=0.02)
  [run], left_out = finished_runs.find([tmp_path / "a"])
  assert left_out == []
  assert (run.seed, run.metric, run.parameters) == (3, "accuracy", 6560)
  assert run.test.correct.shape == (60,)
  assert run.test.correct.mean() == pytest.approx(run.entry["value"])
  assert run.entry["split"] == "test"
  assert run.validation is not None
  assert run.validation.ids[:2] == ("validation-0", "validation-1")
  # test-2 before test-10
  assert run.test.ids[10] == "test-10"
  assert run.settings["BASE_LEARNING_RATE"] == "0.02"
  # A value that stands on the next line.
  assert run.settings["DataOptions.taxonli_control"] == "'none'"
  right = [
    a == b for a, b in zip(run.test.targets, run.test.predictions, strict=True)
  ]
  assert np.array_equal(run.test.correct, right)


def test_runs_are_found_in_folders_of_folders_each_once(tmp_path):
  for name in ("x/a", "x/y/b", "c"):
    made_runs.make_run(tmp_path / name)
  (tmp_path / "x/a/checkpoints/5").mkdir(parents=True)
  (tmp_path / "x/a/checkpoints/5/run.json").write_text("{}")
  found = finished_runs.run_folders([tmp_path, tmp_path / "x", tmp_path / "c"])
  assert [str(f.relative_to(tmp_path)) for f in found] == ["c", "x/a", "x/y/b"]


def test_the_folder_of_a_sweep_stands_for_its_cells(tmp_path):
  """Those of other sweeps lie beside them; some have not begun."""
  for name in ("1a", "2b", "3c"):
    made_runs.make_run(
      tmp_path / "cells" / name, cell={"axes": {}, "stage": "final"}
    )
  sweep = tmp_path / "mine"
  sweep.mkdir()
  names = ("1a", "3c", "4d", "../../x")
  cells = [{"cell": name, "stage": "final"} for name in names]
  (sweep / "grid.json").write_text(json.dumps({"cells": [*cells, 3]}))
  found = finished_runs.run_folders([sweep])
  assert [f.name for f in found] == ["1a", "3c", "4d"]
  _, [left_out] = finished_runs.find([sweep])
  assert (left_out.folder.name, left_out.kind) == ("4d", "not finished")
  assert len(finished_runs.run_folders([tmp_path / "cells"])) == 3
  assert len(finished_runs.run_folders([tmp_path])) == 4
  (sweep / "grid.json").write_text("[")
  with pytest.raises(UserError, match=r"grid.json is damaged"):
    finished_runs.find([sweep])


def test_a_run_that_diverged_is_named(tmp_path):
  folder = made_runs.make_run(tmp_path / "a")
  (folder / "results.jsonl").unlink()
  (folder / "diverged.json").write_text('{"reason": "loss is not finite"}')
  assert _reason(folder) == "diverged: it diverged: loss is not finite"


def test_what_holds_no_run_is_refused(tmp_path):
  with pytest.raises(UserError, match="no such folder"):
    finished_runs.find([tmp_path / "nothing"])
  with pytest.raises(UserError, match="holds no run"):
    finished_runs.find([tmp_path])
  with pytest.raises(UserError, match="is no run"):
    finished_runs.read_run(tmp_path)


def test_runs_of_a_search_and_unfinished_ones_are_left_out(tmp_path):
  made_runs.make_run(tmp_path / "s", cell={"axes": {}, "stage": "search"})
  assert _reason(tmp_path / "s").startswith("search: a run of a search")
  folder = made_runs.make_run(tmp_path / "u")
  (folder / "results.jsonl").unlink()
  assert _reason(folder).startswith("not finished: ")
  with pytest.raises(UserError, match="not finished"):
    finished_runs.read_run(folder)


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"value": float("nan")}, "not a number: its accuracy is not a number"),
    ({"value": 0.123}, "contradictory: its results.jsonl says accuracy 0.1230"),
    ({"value": 10**400}, "unreadable: results.jsonl: value is over 5e+18"),
    (
      {"tokens_seen": 10**400},
      "unreadable: results.jsonl: tokens_seen is over",
    ),
    ({"value": "high"}, "unreadable: results.jsonl: value is 'high'"),
    ({"n": 61}, "contradictory: 100.jsonl has 60 answers"),
    ({"seed": None}, "unreadable: results.jsonl: seed is None"),
    ({"task": "../../etc"}, "unreadable: '../../etc-test' is no task's name"),
    ({"metric": "bleu"}, "no metric of single answers: its metric bleu"),
    ({"checkpoint_step": 7}, "no answers: "),
  ],
)
def test_results_that_cannot_be_used_are_named(tmp_path, change, reason):
  folder = made_runs.make_run(tmp_path / "a")
  _rewrite(
    folder / "results.jsonl",
    lambda entry: entry | (change if entry["split"] == "test" else {}),
  )
  assert _reason(folder).startswith(reason)


def test_damage_costs_one_run_only(tmp_path):
  made_runs.make_run(tmp_path / "a")
  made_runs.make_run(tmp_path / "b")
  made_runs.make_run(tmp_path / "c")
  made_runs.make_run(tmp_path / "d")
  (tmp_path / "b/results.jsonl").write_text("{]\n")
  (tmp_path / "c/run.json").write_text("[" * 100_000)
  _rewrite(
    tmp_path / "d/eval/taxonli_label-test/100.jsonl",
    lambda item: item | {"correct": 1},
  )
  runs, left_out = finished_runs.find([tmp_path])
  assert [run.folder.name for run in runs] == ["a"]
  assert [each.folder.name for each in left_out] == ["b", "c", "d"]
  assert "is damaged" in left_out[0].reason
  assert "correct is not a boolean" in left_out[2].reason


def test_runs_of_other_versions_can_be_read(tmp_path):
  """Without ids, a config.gin, or fields that came later."""
  folder = made_runs.make_run(tmp_path / "a", config="")
  for split in ("", "-test"):
    _rewrite(
      folder / f"eval/taxonli_label{split}/100.jsonl",
      lambda item: {k: v for k, v in item.items() if k not in ("id", "output")},
    )
  _rewrite(
    folder / "results.jsonl",
    lambda entry: (
      {k: v for k, v in entry.items() if k != "rationale_source"}
      | {"something_new": [1]}
    ),
  )
  (folder / "run.json").write_text('{"dss_jax": "9"}')
  [run], left_out = finished_runs.find([folder])
  assert left_out == []
  assert run.test.ids[1] == "000000001"
  assert (run.parameters, run.settings) == (None, {})


def test_predictions_may_be_anything(tmp_path):
  texts = ("</script>", "</table>", "word " * 100_000, "\\end{table}&%$", "")
  folder = made_runs.make_run(
    tmp_path / "a", test=lambda target, i: texts[i % len(texts)]
  )
  [run], _ = finished_runs.find([folder])
  assert set(run.test.predictions) == set(texts)
  _rewrite(
    folder / "eval/taxonli_label-test/100.jsonl",
    lambda item: item | {"prediction": None},
  )
  [run], _ = finished_runs.find([folder])
  assert set(run.test.predictions) == {"null"}
