"""The quickstart: a fair comparison, printed to fit a terminal."""

import math
import re
import time

import pytest

from dss_jax import main
from dss_jax.experiments import quickstart


def test_both_methods_see_as_many_tokens_and_look_as_often(tmp_path):
  steps = quickstart._equal_token_steps(quickstart.DSS_STEPS)
  # docs/taxonli.md names it.
  assert steps == 3200
  for method, total in (("dss", quickstart.DSS_STEPS), ("standard", steps)):
    run = quickstart.Run(method, 0, total, tmp_path)
    (period,) = (
      int(flag.partition("=")[2])
      for flag in run.flags()
      if flag.startswith("--gin.EVAL_PERIOD=")
    )
    assert math.ceil(total / period) == quickstart.NUM_EVALUATIONS


@pytest.mark.parametrize(
  "flag", ["--seeds=0", "--steps=0", "--steps=-5", "--steps=11"]
)
def test_numbers_out_of_range_are_refused(flag, capsys):
  assert main.main(["quickstart", flag]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  name, _, value = flag.partition("=")
  allowed = {"--seeds": 1, "--steps": quickstart.NUM_EVALUATIONS}[name]
  assert line.endswith(
    f"{name[2:]} is {value}; it must be {allowed} or more ({name})"
  )


def _without_times(text):
  left = re.sub(r" \(about \d+ min left for all runs\)", "", text)
  return left.partition("took")[0]


def test_it_says_how_long_all_of_it_takes(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(quickstart, "_equal_token_steps", lambda steps: 2 * steps)
  monkeypatch.setattr(quickstart, "_show", lambda *args, **kwargs: None)
  clock = iter(range(0, 10_000, 120))  # two minutes from one look to the next
  monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
  quickstart.compare(tmp_path, lambda flags: 0, num_seeds=2)
  printed = capsys.readouterr().out
  assert "All of it takes about 4 min on two CPU\ncores" in printed
  runs = [line for line in printed.splitlines() if line.startswith("[")]
  found = [re.findall(r"about (\d+) min left", line) for line in runs]
  assert found == [[], ["6"], ["4"], ["2"]]


@pytest.mark.slow
def test_it_ends_with_a_table_curves_and_the_command(
  tmp_path, capsys, monkeypatch, one_device
):
  pytest.importorskip("matplotlib")
  pytest.importorskip("plotext")
  monkeypatch.setenv("COLUMNS", "80")
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
  metrics = (folder / "dss_12_0" / "metrics.jsonl").read_text()
  assert main.main(argv) == 0
  again = capsys.readouterr().out
  assert _without_times(again) == _without_times(text)
  assert (folder / "dss_12_0" / "metrics.jsonl").read_text() == metrics
