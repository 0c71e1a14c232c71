"""A distillation's folder: names, shares, and what may change between starts."""

import json
import subprocess
import sys
from typing import Any

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record, write_records
from dss_jax.experiments.distill import project as project_lib
from dss_jax.experiments.distill.project import DistillOptions, Project


def _project(folder, **changes):
  options: dict[str, Any] = {
    "input": "in/My Tickets.csv",
    "output_dir": str(folder),
    "model": "m",
  }
  return Project.of(DistillOptions(**options | changes))


@pytest.mark.parametrize(
  ("file", "name"),
  [
    ("in/My Tickets (2).csv", "my_tickets_2"),
    ("svamp.jsonl", "own_svamp"),
    ("2024.csv", "own_2024"),
    ("...", "table"),
    ("日本.csv", "日本"),
  ],
)
def test_the_table_names_the_dataset(tmp_path, file, name):
  assert _project(tmp_path, input=file).dataset == name


def test_shares_are_bounded_in_records():
  assert project_lib.held_out_shares(600, 600) == {
    "validation": 0.15,
    "test": 0.2,
  }
  shares = project_lib.held_out_shares(100_000, 100_000)
  assert shares == {"validation": 0.01, "test": 0.02}


@pytest.mark.parametrize(
  ("records", "labels", "message"),
  [(49, 49, "at least 50"), (600, 590, "10 of 600 records have no label")],
)
def test_tables_in_which_nothing_can_be_measured(records, labels, message):
  with pytest.raises(UserError, match=message):
    project_lib.held_out_shares(records, labels)


def test_a_folder_holds_one_distillation(tmp_path):
  project = _project(tmp_path, field_mapping=("input=text",), max_cost=1.0)
  assert project.read_state() == {}
  project.write_state({"agreed": True})
  again = _project(
    tmp_path, field_mapping=("input=text",), max_cost=5.0, yes=True
  )
  assert again.read_state()["agreed"] is True
  other = _project(tmp_path, field_mapping=("input=text",), seeds=5)
  with pytest.raises(UserError, match="seeds 3, now it is 5"):
    other.read_state()
  project.state_file.write_text("{")
  with pytest.raises(UserError, match="delete it"):
    project.read_state()


def test_the_module_registers_the_records(tmp_path):
  project = _project(tmp_path)
  labels = ["a'b", 'c"d\\']
  for split in project_lib.SPLITS:
    project.records(split).parent.mkdir(exist_ok=True)
    records = [
      Record(f"{split}-{i}", f"{split} {i}", labels[i]) for i in (0, 1)
    ]
    write_records(project.records(split), records)
  module = tmp_path / f"{project.module}.py"
  module.write_text(project_lib.module_text(project, labels))
  found = subprocess.run(
    [
      sys.executable,
      "-c",
      f"import json, {project.module}; from dss_jax import datasets;"
      f"print(json.dumps([datasets.get({project.dataset!r}).labels,"
      f" [r.input for r in datasets.load_split({project.dataset!r},"
      " 'validation')]]))",
    ],
    cwd=tmp_path,
    env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
    capture_output=True,
    check=True,
  )
  assert json.loads(found.stdout) == [labels, ["validation 0", "validation 1"]]
