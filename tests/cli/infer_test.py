"""`dss-jax infer` on a run: order, scores, pipes, kills."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import command_line
import jax
import pytest

from dss_jax import main
from dss_jax.cli import gin_config, infer_command

RUN = [
  *command_line.GIN_FILES,
  *command_line.SMALL,
  "--gin.evaluation.EvaluationConfig.loss_batches=0",
  "--gin.TRAIN_STEPS=2",
]
NUM_ROWS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A run of two steps and a file of inputs."""
  folder = tmp_path_factory.mktemp("infer")
  with pytest.MonkeyPatch.context() as patched:
    one = jax.devices()[:1]
    patched.setattr(jax, "devices", lambda *_: one)
    assert main.main(["train", *RUN, f"--gin.MODEL_DIR={folder / 'run'}"]) == 0
  gin_config.clear()
  draw = random.Random(1)
  words = [
    "a",
    "cat",
    "is",
    "in",
    "the",
    "red",
    "bus",
    "and",
    "every",
    "dog",
    "likes",
    "some",
    "squares",
  ]
  with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
    for number in range(NUM_ROWS):
      row = {"input": " ".join(draw.choices(words, k=draw.randint(1, 30)))}
      if number % 7 == 3:
        row["label"] = "neutral"
      if number % 50 == 11:
        row = {"question": 1}
      file.write(json.dumps({**row, "number": number}) + "\n")
  return folder


def _flags(folder, *more):
  return [
    "infer",
    f"--model_dir={folder / 'run'}",
    "--checkpoint=latest",
    "--batch_size=8",
    *more,
  ]


def _infer(folder, output, *more, rows="rows.jsonl"):
  return main.main(
    _flags(folder, f"--input={folder / rows}", f"--output={output}", *more)
  )


def _read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_damaged_run_does_not_answer(folder, tmp_path, capsys):
  damaged = tmp_path / "damaged"
  shutil.copytree(folder / "run", damaged / "run")
  files = (damaged / "run" / "checkpoints").glob("*/state/d/*")
  path = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(path.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 160] = b"\xa5" * 160
  path.write_bytes(content)
  shutil.copy(folder / "rows.jsonl", damaged)
  capsys.readouterr()
  assert _infer(damaged, tmp_path / "out.jsonl") == 2
  assert not (tmp_path / "out.jsonl").exists()
  line = capsys.readouterr().err.strip().splitlines()[-1]
  assert "is damaged (state/d/" in line
  assert "has other bytes than were written" in line


@pytest.mark.slow
def test_rows_are_answered_in_their_order(folder, tmp_path, capsys):
  output = tmp_path / "out.jsonl"
  assert _infer(folder, output, "--window=64") == 0
  found = _read(output)
  assert [each.get("number") for each in found] == [
    None if number % 50 == 11 else number for number in range(NUM_ROWS)
  ]
  allowed = {"entailment", "neutral", "contradiction"}
  for row in found:
    if "error" in row:
      assert row["error"] == "no input (key 'input'); keys: question, number"
    else:
      assert row["label"] in allowed
      assert row["label"] == max(
        row["label_scores"], key=row["label_scores"].get
      )
  scored = [each["correct"] for each in found if "correct" in each]
  said = capsys.readouterr().err
  assert f"accuracy {sum(scored) / len(scored):.4f} (n={len(scored)})" in said
  assert "8 with an error" in said
  assert any(each.get("truncated") for each in found)
  # Another window and batch: other shapes, the same answers.
  other = tmp_path / "other.jsonl"
  assert _infer(folder, other, "--window=7", "--batch_size=16") == 0
  assert [each.get("label") for each in _read(other)] == [
    each.get("label") for each in found
  ]
  # Once more, and it is found complete.
  before = output.stat().st_mtime_ns
  assert _infer(folder, output, "--window=64") == 0
  assert "complete already" in capsys.readouterr().err
  assert output.stat().st_mtime_ns == before


def _start(folder, output, *more, first=(), **options) -> Any:
  environment = {**os.environ, "PYTHONPATH": os.getcwd()}
  argv = _flags(folder, f"--output={output}", *more)
  return subprocess.Popen(
    [*first, sys.executable, "-m", "dss_jax.main", *argv],
    env=environment,
    stderr=subprocess.PIPE,
    **options,
  )


def _start_filter(folder, **options) -> Any:
  """From a pipe, a line an input, to a pipe."""
  return _start(
    folder,
    "-",
    "--input_format=text",
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    **options,
  )


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bytes(folder, tmp_path):
  more = ("--window=16", "--outputs=rationale")
  assert _infer(folder, tmp_path / "whole.jsonl", *more) == 0
  output = tmp_path / "out.jsonl"
  partial = tmp_path / "out.jsonl.partial"
  size = (tmp_path / "whole.jsonl").stat().st_size
  draw = random.Random(5)
  for least in (0.05, 0.4):
    process = _start(folder, output, f"--input={folder / 'rows.jsonl'}", *more)
    wanted = size * (least + 0.2 * draw.random())
    while process.poll() is None:
      if partial.exists() and partial.stat().st_size > wanted:
        time.sleep(0.02 * draw.random())
        break
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
  gin_config.clear()
  assert _infer(folder, output, *more) == 0
  assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it(folder):
  process = _start(
    folder,
    "-",
    f"--input={folder / 'rows.jsonl'}",
    "--window=4",
    stdout=subprocess.PIPE,
  )
  assert process.stdout.readline().startswith(b'{"id": "line-1"')
  process.stdout.close()
  said = process.stderr.read()
  process.stderr.close()
  assert process.wait() == 141
  assert b"Traceback" not in said


@pytest.mark.slow
def test_a_pipe_is_answered_while_it_is_open(folder):
  process = _start_filter(folder)
  for number in (1, 2, 3):
    process.stdin.write(b"a cat is red\n")
    process.stdin.flush()
    found = json.loads(process.stdout.readline())
    assert found["id"] == f"line-{number}"
    assert found["label"]
  process.stdin.close()
  assert process.stdout.read() == b""
  assert process.wait() == 0
  process.stdout.close()
  process.stderr.close()


# Shells start what runs in the background with interrupts ignored.
_HEAR_INTERRUPTS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
def test_an_interrupt_ends_it_while_the_pipe_is_silent(folder):
  process = _start_filter(
    folder, first=(sys.executable, "-c", _HEAR_INTERRUPTS)
  )
  process.stdin.write(b"a cat is red\n")
  process.stdin.flush()
  assert process.stdout.readline()
  process.send_signal(signal.SIGINT)
  assert process.wait(60) == 130
  assert process.stderr.read().decode().strip() == "dss-jax infer: stopped"
  for pipe in (process.stdin, process.stdout, process.stderr):
    pipe.close()


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_reported_in_one_line(folder, tmp_path):
  process = _start(
    folder,
    tmp_path / "out.jsonl",
    f"--input={folder / 'rows.jsonl'}",
    "--window=16",
    first=("sh", "-c", 'ulimit -f 40; exec "$@"', "sh"),  # 20 KB
  )
  _, said = process.communicate()
  assert process.returncode == 1
  last = said.decode().strip().splitlines()[-1]
  assert last.startswith("dss-jax infer: cannot write")
  assert "File too large" in last
  assert b"Traceback" not in said
  # With room, it resumes.
  assert _infer(folder, tmp_path / "out.jsonl", "--window=16") == 0
  assert len(_read(tmp_path / "out.jsonl")) == NUM_ROWS


@pytest.mark.slow
def test_files_that_are_small_or_strange(folder, tmp_path, capsys):
  (folder / "one.txt").write_text("a cat is red")
  assert _infer(folder, tmp_path / "one.csv", rows="one.txt") == 0
  header, row = (tmp_path / "one.csv").read_text().splitlines()
  assert header == "id,input,label,label_score,label_scores"
  assert row.startswith("line-1,a cat is red,")
  (folder / "none.jsonl").write_text("")
  assert _infer(folder, tmp_path / "none.jsonl", rows="none.jsonl") == 0
  assert (tmp_path / "none.jsonl").read_text() == ""
  (folder / "wrong.jsonl").write_text('{"question": "a"}\n')
  capsys.readouterr()
  assert _infer(folder, tmp_path / "wrong.jsonl", rows="wrong.jsonl") == 2
  said = capsys.readouterr().err
  assert "none of the 1 records" in said
  assert "--field_mapping" in said
  # The input may not change under a run that is gone on with.
  assert _infer(folder, tmp_path / "x.jsonl", "--limit=5") == 0
  assert _infer(folder, tmp_path / "x.jsonl", "--limit=6") == 2
  assert "limit 5, not 6: set overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_an_input_that_changed_is_noticed(folder, tmp_path, capsys):
  rows = tmp_path / "rows.jsonl"
  lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
  rows.write_text("".join(lines[:64]))
  flags = _flags(folder, f"--input={rows}", f"--output={tmp_path / 'o.jsonl'}")
  from dss_jax.students.bulk import prediction_files

  def stop(self):
    raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(prediction_files.FileOutput, "finish", stop)
    patched.setattr(prediction_files, "_SECONDS_BETWEEN_SAVES", 0.0)
    assert main.main([*flags, "--window=16"]) == 130
  gin_config.clear()
  rows.write_text("".join([lines[1], lines[0], *lines[2:64]]))
  assert main.main([*flags, "--window=16"]) == 2
  assert "has changed since" in capsys.readouterr().err
  gin_config.clear()
  # Rows that were added meanwhile are answered too.
  rows.write_text("".join(lines[:70]))
  assert main.main([*flags, "--window=16"]) == 0
  assert "64 records were answered before" in capsys.readouterr().err
  assert len(_read(tmp_path / "o.jsonl")) == 70


# ----------------------------------------------------------------- wrong flags


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--input=none.jsonl"], "--input: no such file: none.jsonl"),
    (["--output=out.txt"], "unknown suffix '.txt'"),
    (
      ["--batch_size=0"],
      "batch_size is 0; it must be from 1 to 65536 (--batch_size)",
    ),
    (["--window=-1"], "window is -1"),
    (["--temperature=1"], "--temperature is for --samples"),
    (["--outputs=lable"], "outputs is 'lable'"),
    (["--labels=,"], "--labels is ','; it names no label"),
    (["--labels=a,b,a"], "--labels has 'a' twice"),
    (
      ["--samples=2", "--top_p=2"],
      "topp is 2.0",
    ),
    (
      ["--samples=2", "--top_k=-1"],
      "topk is -1",
    ),
    (["--samples=2", "--temperature=nan"], "temperature is nan"),
    (["--model_dir=~none/run"], "the home directory is not known"),
    (["--field_mapping", "inptu=x"], "'inptu' is no field of a record"),
    (["--model_dir=/nonexistent"], "/nonexistent"),
  ],
)
def test_wrong_flags_are_said_in_one_line(flags, message, tmp_path, capsys):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.gin").write_text("")
  with contextlib.redirect_stdout(io.StringIO()):
    assert main.main([*_flags(tmp_path), *flags]) == 2
  said = capsys.readouterr().err
  assert message in said
  assert said.count("\n") == 1


def test_labels_from_a_file(tmp_path):
  path = tmp_path / "labels.txt"
  path.write_text("yes, of course\nno\n\n")
  assert infer_command.read_labels(str(path)) == ("yes, of course", "no")
  # As Windows writes it, and large.
  path.write_bytes(
    "\ufeff".encode() + b"".join(b"%d\r\n" % n for n in range(10**5))
  )
  assert infer_command.read_labels(str(path))[:2] == ("0", "1")
  path.write_bytes(b"\xff")
  with pytest.raises(infer_command.UserError, match="not valid UTF-8"):
    infer_command.read_labels(str(path))
