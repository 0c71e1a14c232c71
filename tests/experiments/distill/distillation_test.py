"""`dss-jax distill` up to the large model: what it asks, does once, and stops."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from command_line import environment
from loopback_teacher import Loopback

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record, read_records, write_records
from dss_jax.experiments.distill import distillation
from dss_jax.experiments.distill.commands import Commands, hashes
from dss_jax.experiments.distill.project import (
  SPLITS,
  DistillOptions,
  Project,
)

SAYS_NOTHING_OF_USE = "I would rather not say."


@pytest.fixture
def table(tmp_path) -> pathlib.Path:
  """Sixty questions of the family `kinds`, without rationales."""
  options = datasets.DataOptions(generated_num_train=60)
  records = datasets.load_split("kinds", "train", options=options)
  path = tmp_path / "things.csv"
  with path.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["text", "count"])
    writer.writerows([record.input, record.label] for record in records)
  return path


def _start(
  table: pathlib.Path, loopback: Loopback, *flags: str
) -> subprocess.Popen[str]:
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "dss_jax.main", "distill", f"--input={table}"),
      *("--field_mapping", "input=text", "label=count", "--model=m"),
      f"--base_url={loopback.base_url}",
      f"--output_dir={table.parent / 'out'}",
      *flags,
    ],
    env=environment(),
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _run(table, loopback, *flags) -> tuple[int, str]:
  process = _start(table, loopback, *flags)
  output, _ = process.communicate(timeout=240)
  return process.returncode, output


def test_nobody_is_asked_before_the_user_agrees(table, loopback):
  status, output = _run(table, loopback)
  assert status == 2
  assert "60 requests to m; no table has its price" in output
  assert "yes (--yes)" in output
  assert not loopback.bodies
  folder = table.parent / "out"
  assert "labels = [" in (folder / "prompt.toml").read_text()
  commands = (folder / "commands.sh").read_text()
  assert "dss-jax data convert" in commands
  # A prompt that the user has changed stays, and what was done is not repeated.
  prompt = folder / "prompt.toml"
  prompt.write_text(prompt.read_text().replace("Decide", "Tell"))
  loopback.answer = lambda body, times: SAYS_NOTHING_OF_USE
  status, output = _run(table, loopback, "--yes")
  assert status == 2
  assert "$ dss-jax data convert" not in output
  # Half of the few validation records, which are asked about first.
  assert "fewer than min_yield" in output
  assert "the same command continues" in output
  asked = len(loopback.bodies)
  assert 0 < asked < 10
  assert "Tell which" in loopback.bodies[0]["messages"][0]["content"]
  # Another prompt asks everything anew, so the user is asked anew.
  prompt.write_text(prompt.read_text().replace("Tell", "Say"))
  status, output = _run(table, loopback)
  assert status == 2
  assert "60 requests to m" in output
  assert "yes (--yes)" in output
  assert len(loopback.bodies) == asked
  status, output = _run(table, loopback, "--yes", "--seeds=5")
  assert status == 2
  assert "seeds 3, now it is 5" in output


@pytest.mark.parametrize(
  "number",
  [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)],
)
def test_a_signal_reaches_the_command_under_way(table, loopback, number):
  def answer(body, times):
    time.sleep(0.3)
    return "It is so. So the answer is two."

  loopback.answer = answer
  process = _start(table, loopback, "--yes")
  while len(loopback.bodies) < 9:
    assert process.poll() is None
    time.sleep(0.05)
  os.kill(process.pid, number)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 128 + number
  assert "dss-jax extract" in output
  assert "the same command continues here" in output
  asked = len(loopback.bodies)
  assert asked < 60


@pytest.mark.thorough
def test_held_out_records_are_asked_about_first(table, loopback):
  """The cost that is allowed ends within them, and nothing can be trained."""
  loopback.answer = lambda body, times: "It is so. So the answer is two."
  flags = ("--yes", "--partial", "--model=gpt-4.1-mini", "--concurrency=1")
  status, output = _run(table, loopback, *flags, "--max_cost=0.001")
  assert status == 2, output
  assert "has answered nothing about the training records" in output
  assert "max_cost" in output.splitlines()[-1]
  records = table.parent / "out/data/validation.jsonl"
  held_out = {record.input for record in read_records(records)[0]}
  asked = len(loopback.bodies)
  assert asked > 0
  for body in loopback.bodies[: len(held_out)]:
    assert any(text in body["messages"][-1]["content"] for text in held_out)


# ------------------------------------------------------- without any command


def _project(folder: pathlib.Path, **options) -> Project:
  """A project whose table is cut into splits already."""
  (folder / "t.csv").write_text("text,label\n")
  project = Project.of(
    DistillOptions(str(folder / "t.csv"), str(folder / "out"), "m", **options)
  )
  for split in SPLITS:
    project.table(split).parent.mkdir(parents=True, exist_ok=True)
    labels = ["a", "b"] * 10 + ["rare"] * (split == "test")
    write_records(
      project.table(split),
      [Record(f"{split}-{i}", f"{split} {i}", x) for i, x in enumerate(labels)],
    )
  return project


def test_unreadable_first_answers_may_be_allowed(tmp_path):
  strict, lenient = (
    distillation._extraction(_project(tmp_path, **options), "test")
    for options in ({}, {"min_yield": 0.0})
  )
  assert lenient == [*strict, "--min_yield=0.0"]


def test_a_label_may_be_in_one_split_alone(tmp_path):
  project = _project(tmp_path, vocabulary="taxonli")
  distillation._prepare_training(
    project, Commands(project, {}), project.table("train")
  )
  module = (project.folder / f"{project.module}.py").read_text()
  assert "labels=('a', 'b', 'rare')" in module


def test_another_table_is_refused_once_the_model_was_asked(tmp_path):
  project = _project(tmp_path)
  file = pathlib.Path(project.options.input)
  state = {"agreed": {"prompt.toml": "x"}, "table": hashes([file])}
  file.write_text("text,label\na,b\n")
  with pytest.raises(
    UserError, match=r"t\.csv has changed since the model was"
  ):
    distillation._cut_table(project, Commands(project, state), state)


def test_other_records_are_not_mixed_with_runs_of_the_first(tmp_path):
  """More answers came after a distillation with some of them."""
  project = _project(tmp_path)
  state = {"steps": 100}
  distillation._check_records(project, state)
  project.runs_folder.mkdir()
  distillation._check_records(project, state)
  project.records("train").parent.mkdir()
  write_records(project.records("train"), [Record("1", "x", "a")])
  with pytest.raises(UserError, match="delete that folder to train on these"):
    distillation._check_records(project, state)
  project.runs_folder.rmdir()
  distillation._check_records(project, state)
  assert "steps" not in state  # there may be more records
  project.runs_folder.mkdir()
  distillation._check_records(project, state)
