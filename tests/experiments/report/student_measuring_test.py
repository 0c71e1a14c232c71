"""Students of real runs are measured, and the page shows what was found."""

import dataclasses
import json
import re

import command_line
import made_runs
import pytest
import small_runs
import small_sweeps

from dss_jax import main
from dss_jax.base.standalone_page import cut
from dss_jax.datasets import DataOptions
from dss_jax.experiments.report import (
  finished_runs,
  measured_students,
  report_content,
  student_measuring,
)


def test_the_best_student_of_each_method_and_size_is_chosen(tmp_path):
  for seed, validation in ((0, 0.6), (1, 0.9), (2, 0.75)):
    for examples in (100, 500):
      made_runs.make_run(
        tmp_path / f"dss{examples}_{seed}",
        seed=seed,
        examples=examples,
        validation=validation,
        test=1.5 - validation,
      )
  made_runs.make_run(tmp_path / "standard", method="standard", seed=1)
  made_runs.make_run(tmp_path / "wide", width=16)
  content = report_content.build([tmp_path])
  chosen = [run.folder.name for run in student_measuring.chosen(content)]
  # The most records, then validation, whatever the test split says.
  assert sorted(chosen) == ["dss500_1", "standard", "wide"]


def test_what_cannot_be_measured_is_told(tmp_path):
  """A run whose data have changed: no process is started for it."""
  folder = made_runs.make_run(tmp_path / "run", items=12)
  content = report_content.build([folder])

  def reader(folder):
    config = small_runs.config(folder)
    data = DataOptions(taxonli_num_test=4, taxonli_num_train=8)
    return dataclasses.replace(
      config,
      train_dataset_cfg=dataclasses.replace(
        config.train_dataset_cfg, data=data
      ),
    )

  said: list[str] = []
  student_measuring.measure(content, 5, reader, said.append)
  assert "measuring 1 students" in said[0]
  assert "is not measured" in said[1]
  assert "of its 12 test items are no longer in the data" in said[1]
  assert not (folder / "measured").exists()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  """Two real runs, of fine-tuning and of distilling step-by-step."""
  folder = tmp_path_factory.mktemp("swept")
  file = small_sweeps.write(
    folder / "tiny.gin", axes={"method": ["standard", "dss"], "seed": [0]}
  )
  with pytest.MonkeyPatch.context() as patch:
    for name, value in command_line.environment().items():
      patch.setenv(name, value)
    assert (
      main.main(["sweep", str(file), f"--output_dir={folder / 'out'}"]) == 0
    )
    yield folder / "out" / "tiny"


def _data(page: str):
  found = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
  assert found
  return json.loads(found[1])


@pytest.mark.slow
@pytest.mark.thorough
def test_measured_students_are_on_the_page(swept, tmp_path, capfd):
  """Their time, memory and rationales; measured once, and never unasked."""
  plain = ["report", str(swept), f"--output_dir={tmp_path / 'plain'}"]
  assert main.main(plain) == 0
  page = (tmp_path / "plain" / "report.html").read_text()
  assert "Nobody measured them" in page
  assert not list(swept.parent.rglob("measured"))

  asked = ["report", str(swept), f"--output_dir={tmp_path / 'out'}"]
  assert main.main([*asked, "--measure=6", "--hourly_price=1"]) == 0
  said = capfd.readouterr().err
  assert "measuring 2 students" in said
  # Labels of both, rationales of the one that was taught them.
  assert said.count("$ dss-jax infer") == 3
  assert "one request alone: " in said
  page = (tmp_path / "out" / "report.html").read_text()
  assert "Nobody measured them" not in page
  numbers = json.loads((tmp_path / "out" / "report.json").read_text())
  costs = numbers["tables"]["costs"]
  assert [row[:3] for row in costs["rows"]] == [
    [f"{name}, 64 records, {student}, seed 0", "student", 6]
    for name, student in (
      (name, row[1])
      for row in numbers["tables"]["settings"]["rows"]
      for name in [row[4]]
    )
  ]
  for row in costs["rows"]:
    assert all(value > 0 for value in row[4:9])

  runs = finished_runs.find([swept])[0]
  [dss] = [run for run in runs if run.entry["method"] == "dss"]
  reasons = measured_students.rationales(dss)
  assert len(reasons) == 6
  data = _data(page)
  shown = {
    item["id"]: item["explained"]
    for item in data["records"]
    if item["explained"]
  }
  assert shown == {
    item: [[1, 0, cut(text, 1500)]] for item, text in reasons.items()
  }

  # Later reports show it without being asked; asked again, nothing is redone.
  before = {
    path: path.stat().st_mtime_ns
    for path in swept.parent.rglob("measured/*/*.infer.json")
  }
  assert len(before) == 3
  assert main.main([*asked, "--measure=6"]) == 0
  assert main.main(plain) == 0
  assert (
    "Nobody measured" not in (tmp_path / "plain" / "report.html").read_text()
  )
  assert before == {path: path.stat().st_mtime_ns for path in before}
