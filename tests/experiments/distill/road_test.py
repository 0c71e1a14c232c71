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
  assert "of the first 20 answers" in output
  assert "the same command continues" in output
  assert len(loopback.bodies) == 20
  assert "Tell which" in loopback.bodies[0]["messages"][0]["content"]
  status, output = _run(table, loopback, "--yes", "--seeds=5")
  assert status == 2
  assert "seeds 3, now it is 5" in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
