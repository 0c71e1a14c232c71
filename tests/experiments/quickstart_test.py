"""The quickstart: a fair comparison, printed to fit a terminal."""

import math
import re

import command_line
import pytest

from dss_jax import main
from dss_jax.cli import sweep_command
from dss_jax.experiments import quickstart


def _sweep(*changes: str):
  return sweep_command.read_sweep("sweeps/small.gin", [*changes], [])


def test_both_methods_see_as_many_tokens_and_look_as_often(tmp_path):
  plan = sweep_command.make_plan(_sweep(), tmp_path, [])
  steps = {cell.axes["method"]: cell.steps for cell in plan.final_cells()}
  # docs/taxonli.md names them.
  assert steps == {"dss": quickstart.DSS_STEPS, "standard": 3200}
  for cell in plan.final_cells():
    period = int(cell.bindings["EVAL_PERIOD"])
    assert math.ceil(cell.steps / period) == plan.sweep.looks


@pytest.mark.parametrize(
  "flag", ["--seeds=0", "--steps=0", "--steps=-5", "--steps=11"]
)
def test_numbers_out_of_range_are_refused(flag, capsys):
  assert main.main(["quickstart", flag]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  name, _, value = flag.partition("=")
  allowed = {"--seeds": "1", "--steps": "a whole number, 12"}[name]
  assert line.endswith(
    f"{name[2:]} is {value}; it must be {allowed} or more ({name})"
  )


def _without_times(text):
  return text.partition("took")[0]


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ((), "3 seeds for each method"),
    (("--gin.SEEDS=[0]",), "1 seed for each method"),
  ],
)
def test_it_says_what_is_compared(changes, said):
  text = quickstart.introduction(_sweep(*changes))
  assert said in text
  assert "500 labelled records" in text


@pytest.mark.slow
def test_it_ends_with_a_table_curves_and_the_command(
  tmp_path, capsys, monkeypatch
):
  pytest.importorskip("matplotlib")
  pytest.importorskip("plotext")
  for name, value in command_line.environment(COLUMNS="80").items():
    monkeypatch.setenv(name, value)
  folder = tmp_path / "quick"
  argv = ["quickstart", "--steps=12", "--seeds=1", f"--output_dir={folder}"]
  assert main.main(argv) == 0
  text = capsys.readouterr().out
  assert "500 labelled records, 1 seed for each method" in text
  assert re.search(r"standard fine-tuning +32 .* M +[0-9.]+ % ", text)
  assert re.search(r"distilling step-by-step +12 .* M +[0-9.]+ % ", text)
  assert "million training tokens" in text
  picture = folder / "learning_curves.png"
  assert picture.read_bytes().startswith(b"\x89PNG")
  printed = text.replace(str(folder), "quick")
  assert max(map(len, printed.splitlines())) <= 80
  # Started again it trains nothing, and shows the same.
  files = sorted(folder.glob("cells/*/metrics.jsonl"))
  assert len(files) == 2
  metrics = [file.read_text() for file in files]
  assert main.main(argv) == 0
  again = capsys.readouterr().out
  assert _without_times(again) == _without_times(text)
  assert [file.read_text() for file in files] == metrics


def test_it_fails_where_a_run_fails(tmp_path, capsys, sweeper, monkeypatch):
  monkeypatch.setenv("FAKE_FAILURE", '{"dss 0": "crash"}')
  argv = ["quickstart", "--seeds=1", f"--output_dir={tmp_path}"]
  assert main.main(argv) == 1
  assert "1 of 2 cells have no results" in capsys.readouterr().err
