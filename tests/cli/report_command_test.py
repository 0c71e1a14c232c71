"""`dss-jax report` from the command line."""

import csv

import made_runs

from dss_jax.cli import command_line
from dss_jax.datasets.records import Rationale, Record, write_records


def test_a_report_of_runs(tmp_path, capsys):
  for seed in (0, 1):
    for method in ("dss", "standard"):
      made_runs.make_run(
        tmp_path / f"runs/{method}{seed}", method=method, seed=seed
      )
  out = tmp_path / "out"
  # A file without answers ends nothing, and is named.
  records = tmp_path / "records.jsonl"
  write_records(records, [Record("a", "b", "c", (Rationale("why"),))])
  flags = ["report", str(tmp_path / "runs"), f"--output_dir={out}"]
  assert command_line.main([*flags, f"--teacher={records}"]) == 0
  printed = capsys.readouterr().out
  assert str(out) in printed
  assert "none of its stored answers has a label" in " ".join(printed.split())
  with open(out / "tables/comparisons.csv", encoding="utf-8") as file:
    [row] = csv.DictReader(file)
  assert row["method"] == "distilling step-by-step"
  assert row["against"] == "fine-tuning"


def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys):
  assert command_line.main(["report", str(tmp_path / "none")]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "no such folder" in error


def test_two_runs_are_compared(tmp_path, capsys):
  for name, accuracy in (("a", 0.9), ("b", 0.5)):
    made_runs.make_run(tmp_path / name, test=accuracy)
  flags = ["report", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]
  assert command_line.main(flags) == 0
  out = capsys.readouterr().out
  assert "McNemar's exact test: p = " in out
  assert "only A is right" in out
  assert command_line.main([*flags, str(tmp_path)]) == 2
  assert command_line.main(["report"]) == 2
  assert "--compare" in capsys.readouterr().err
