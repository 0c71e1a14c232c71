"""The benchmarks of whole runs: start-up, and where steps' time goes."""

import json

import command_line
import pytest


@pytest.mark.slow
@pytest.mark.thorough
def test_the_phases_of_a_start_are_printed(
  load_benchmark, tmp_path, monkeypatch
):
  module = load_benchmark("startup")
  # For the processes that it starts.
  monkeypatch.setenv("XLA_FLAGS", command_line.environment()["XLA_FLAGS"])
  file = tmp_path / "startup.json"
  module.main(
    [
      "--repeats=1",
      "--caches",
      "cold",
      "--json",
      str(file),
      "--",
      *command_line.SMALL,
    ]
  )
  found = json.loads(file.read_text(encoding="utf-8"))
  (run,) = found["cold"]
  assert set(run) == set(module.PHASES)
  for phase in ("imports", "data", "parameters", "trace", "compile"):
    assert run[phase] > 0, phase
  assert len(found["help_s"]) == 1


@pytest.mark.slow
def test_the_time_of_steps_is_printed(load_benchmark, tmp_path, one_device):
  module = load_benchmark("step_breakdown")
  file = tmp_path / "steps.json"
  flags = [
    *module.RUN,
    *command_line.SMALL,
    "--gin.EVAL_PERIOD=12",
    "--gin.STATS_PERIOD=4",
  ]
  sizes = ["--steps=24", "--turns=1", "--turn_steps=4"]
  module.benchmark([*sizes, "--json", str(file), "--", *flags])
  found = json.loads(file.read_text(encoding="utf-8"))
  assert found["evaluations"] == 2
  assert found["recompilations"] == 0
  assert found["ms_per_step"]["step"] > 0
  assert sum(found["shares"].values()) == pytest.approx(1)
  assert {len(each) for each in found["seconds_a_step"].values()} == {1}


@pytest.mark.slow
@pytest.mark.thorough
def test_students_an_hour_are_printed(load_benchmark, tmp_path, monkeypatch):
  for name, value in command_line.environment().items():
    monkeypatch.setenv(name, value)
  module = load_benchmark("many_students")
  file = tmp_path / "students.json"
  sizes = ["--students=2", "--steps=2", "--turns=1", "--json", str(file)]
  flags = [
    *command_line.GIN_FILES,
    *command_line.SMALL,
    "--gin.network.T5Config.dropout_rate=0.0",
  ]
  module.benchmark([*sizes, "--", *flags])
  found = json.loads(file.read_text(encoding="utf-8"))
  for way in ("together", "a command each"):
    (seconds,) = found["ways"][way]["wall_s"]
    assert found["students_per_hour"][way] == pytest.approx(7200 / seconds)


def test_a_mistake_is_reported_in_one_line(load_benchmark, tmp_path):
  prepare, measuring = load_benchmark("prepare"), load_benchmark("measuring")
  missing = str(tmp_path / "missing")
  with pytest.raises(SystemExit, match=f"{missing}[^\\n]*$"):
    measuring.run(lambda: prepare.main(["--data_dir", missing]))
