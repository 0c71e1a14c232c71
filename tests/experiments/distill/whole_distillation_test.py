"""`dss-jax distill` from a table to an exported student, killed on the way."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import environment
from family_teacher import FamilyTeacher

from dss_jax import datasets

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

# What shows that a step is under way.
_KILLED_AT = ("records/ledger.sqlite", "vocabulary.model", "runs/cells")
_ROWS = 200


def _command(folder, url, *flags):
  return [
    *(sys.executable, "-m", "dss_jax.main", "distill", "--yes"),
    *(f"--input={folder / 'things.csv'}", "--field_mapping"),
    *("input=text", "label=count", "--model=m", f"--base_url={url}"),
    *(f"--output_dir={folder / 'out'}", "--minutes=0.1", "--seeds=2"),
    *flags,
  ]


def test_killed_three_times_it_ends_at_the_student(tmp_path):
  records = datasets.load_split("kinds", "train")[:_ROWS]
  with (tmp_path / "things.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["text", "count"])
    writer.writerows([record.input, record.label] for record in records)
  log = tmp_path / "answers.jsonl"
  teacher = FamilyTeacher("kinds", log=log)
  command = _command(tmp_path, teacher.base_url)
  try:
    for name in _KILLED_AT:
      process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
      )
      while not (tmp_path / "out" / name).exists():
        assert process.poll() is None
        time.sleep(0.05)
      time.sleep(1)
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    done = subprocess.run(
      command, env=environment(), capture_output=True, text=True, check=False
    )
  finally:
    teacher.close()
  assert done.returncode == 0, done.stderr[-3000:]
  # Nobody was asked again but what was under way when it was killed.
  answered = [
    json.loads(line)["question"] for line in log.read_text().splitlines()
  ]
  assert set(answered) == {record.input for record in records}
  assert len(answered) <= _ROWS + 8 * len(_KILLED_AT)
  assert "on things" in done.stdout
  assert "What to try next" in done.stdout
  out = tmp_path / "out"
  assert (out / "report" / "report.html").stat().st_size > 10_000
  asked = subprocess.run(
    [
      *(sys.executable, "-m", "dss_jax.main", "infer", "--input_format=text"),
      f"--model_dir={out / 'student'}",
    ],
    env=environment(),
    input=records[0].input + "\n",
    capture_output=True,
    text=True,
    check=True,
  )
  assert json.loads(asked.stdout)["label"] in ("one", "two", "three")
  # The same command once more has nothing to do but to say it again.
  again = subprocess.run(
    command, env=environment(), capture_output=True, text=True, check=True
  )
  assert "$ dss-jax extract" not in again.stdout
  assert "$ dss-jax sweep" not in again.stdout
