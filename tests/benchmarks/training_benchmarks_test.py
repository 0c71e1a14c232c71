"""The benchmarks of training: the same ids and losses, reported as they are."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from dss_jax.data.feeding.batch_files import BatchFiles

SIDE = """
import time

class Side:
  def __init__(self, start):
    self.total = start
  def add(self, number):
    print("not an answer")
    self.total += number
    return {"total": self.total}
  def fail(self):
    raise ValueError("of purpose\\nand more")
  def sleep(self):
    time.sleep(60)
"""


@pytest.fixture
def prepared(load_benchmark, tmp_path):
  """Batch files of random records, few enough that some come twice."""
  prepare = load_benchmark("prepare")
  examples = prepare.example_set(None, "", **prepare.SMOKE_EXAMPLES)
  folder = prepare.write(tmp_path, examples, steps=3, **prepare.SMOKE_BATCHES)
  return prepare, examples, folder


def test_records_of_a_batch_are_those_of_the_examples(prepared):
  prepare, examples, folder = prepared
  label, rationale = examples.subtasks
  files = BatchFiles(folder)
  for step in files.steps:
    records = prepare.records_of(files[step])
    assert records
    for found in records:
      for subtask, pair in ((label, found.label), (rationale, found.rationale)):
        inputs, targets = subtask.example(found.record)
        assert pair == (inputs.tolist(), targets.tolist())
  assert prepare.found(folder.parent, 6) == [folder]
  assert prepare.found(folder.parent, 64) == []


def test_their_batches_hold_our_records_in_equal_numbers(prepared):
  prepare, _, folder = prepared
  files = BatchFiles(folder)
  stream = [r.record for s in files.steps for r in prepare.records_of(files[s])]
  batches = list(prepare.batches_of_records(files))
  assert {len(batch) for batch in batches} == {6}
  found = [record.record for batch in batches for record in batch]
  assert found == stream[: len(found)]
  assert len(stream) - len(found) < 6


def test_padded_rows(load_benchmark):
  padded = load_benchmark("prepare").padded
  rows = [[5, 1], [7, 8, 1]]
  assert padded(rows, 0).tolist() == [[5, 1, 0], [7, 8, 1]]
  assert padded(rows, -100, 2).tolist() == [[5, 1, -100, -100], [7, 8, 1, -100]]


def test_a_worker_answers_fails_and_is_not_waited_for(load_benchmark, tmp_path):
  workers = load_benchmark("workers")
  (tmp_path / "side_of_test.py").write_text(SIDE, encoding="utf-8")
  path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

  def start():
    return workers.Worker(
      "side_of_test",
      {"start": 1},
      name="side",
      environment={"PYTHONPATH": path},
    )

  with start() as worker:
    assert worker.ask("add", number=2) == {"total": 3}
    with pytest.raises(workers.WorkerError, match=r"ValueError: of purpose$"):
      worker.ask("fail")
    assert worker.ask("add", number=1) == {"total": 4}
    with pytest.raises(workers.WorkerError, match="longer than 0 s to sleep"):
      worker.ask("sleep", seconds=0.1)
  with start() as worker:
    worker._process.kill()
    with pytest.raises(workers.WorkerError, match="side ended"):
      worker.ask("add", number=1)


def test_a_call_keeps_what_failed_and_leaves_out_what_has_no_time(
  load_benchmark, tmp_path
):
  gpu = load_benchmark("gpu")
  error = sys.modules["workers"].WorkerError

  def out_of_memory():
    raise error("RESOURCE_EXHAUSTED")

  args = types.SimpleNamespace(
    seconds=60, batches=tmp_path, out=tmp_path, smoke=False
  )
  call = gpu.Call("quick", args, {})
  call.add("large", out_of_memory)
  # No batches were prepared: an error that nobody foresaw.
  call.add("base", lambda: call.train(gpu.ours("base", 64)))
  call.add("small", lambda: {"value": 1})
  call._end -= 50
  call.add("late", lambda: {"value": 2})
  report = json.loads((tmp_path / "quick.json").read_text(encoding="utf-8"))
  large, base, small, late = report["cases"]
  assert large["failed"] == "RESOURCE_EXHAUSTED"
  assert base["failed"]
  assert small["value"] == 1
  assert late["left_out"]
  assert "value" not in late
  assert report["versions"]["jax"]


def test_turns_and_tables(load_benchmark):
  measuring = load_benchmark("measuring")
  assert "".join(measuring.turns("ab", 3)) == "abbaab"
  lines = measuring.table(("a", "b"), [("long", 1), ("x", 22)]).split("\n")
  assert lines == ["a      b", "long   1", "x     22"]
  assert measuring.spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0 to 3.0)"
  records = measuring.timed_turns({"a": lambda: None}, 2)
  assert len(records["a"]["wall_s"]) == len(records["a"]["cpu_s"]) == 2


def test_a_summary_is_of_medians(load_benchmark):
  sides = load_benchmark("sides")
  turns = {}
  for wall in (1.0, 2.0, 4.0):
    answer = {"wall_s": [wall], "cpu_s": [2 * wall], "records": 8}
    answer |= {"tokens": 80, "flops": 1e3, "padding": 0.25}
    sides.add_turn(turns, answer)
  summary = sides.summary(turns, 2)
  assert summary["records_per_s"] == 4
  assert summary["records_per_cpu_s"] == 2
  assert summary["tokens_per_s"] == 40
  assert summary["step_s"] == 1
  assert summary["padding"] == 0.25


@pytest.mark.parametrize(
  ("name", "file"),
  [("bench", "bench")]
  + [(size, f"t5_1_1/{size}") for size in ("small", "base", "large", "xl")],
)
def test_students_have_the_sizes_of_the_model_files(
  load_benchmark, repository, name, file
):
  text = (repository / "gin" / "models" / f"{file}.gin").read_text("utf-8")
  network = text.partition("\nnetwork.T5Config:\n")[2]
  sizes = re.findall(r"^  (\w+) = (\d+)\b", network, re.MULTILINE)
  assert "num_heads" in dict(sizes)
  assert "mlp_dim" in dict(sizes)
  config = load_benchmark("students").STUDENTS[name]
  for setting, value in sizes:
    assert getattr(config, setting) == int(value), setting


@pytest.mark.hf
@pytest.mark.slow
def test_both_libraries_compute_the_same_losses(
  load_benchmark, tmp_path, capsys
):
  pytest.importorskip("torch")
  pytest.importorskip("transformers", minversion="5.0")
  file = tmp_path / "train.json"
  load_benchmark("train").main(["--smoke", "--json", str(file)])
  assert "ours / official" in capsys.readouterr().out
  found = json.loads(file.read_text(encoding="utf-8"))
  losses = found["losses"]
  np.testing.assert_allclose(losses["ours"], losses["official"], rtol=1e-5)
  assert losses["ours"][0] != losses["ours"][1]
  ours, theirs = (found["sides"][name] for name in ("ours", "official"))
  assert ours["parameters"] == theirs["parameters"]
  assert ours["program_memory"]["temp"] > 0
  for side in (ours, theirs):
    assert len(side["turns"]["wall_s"]) == 2
    # Both train on as many records, of as many tokens each, about.
    assert sum(side["turns"]["records"]) == pytest.approx(24, abs=4)
    assert side["summary"]["flops_per_s"] > 0


@pytest.mark.hf
@pytest.mark.slow
def test_the_recipe_at_its_best_has_the_same_losses(prepared, load_benchmark):
  pytest.importorskip("torch")
  pytest.importorskip("transformers", minversion="5.0")
  _, _, folder = prepared
  recipe = load_benchmark("recipe_training")

  def losses(**options):
    side = recipe.Side(
      "toy", str(folder), model={"dropout_rate": 0.0}, **options
    )
    return side.losses(2)["losses"]

  official = losses()
  assert len(set(official)) == 2
  for options in (
    {"one_forward": True},
    {"num_microbatches": 2, "pad_to": 32},
  ):
    np.testing.assert_allclose(losses(**options), official, rtol=1e-5)
  bf16 = losses(dtype="bfloat16", one_forward=True, num_microbatches=3)
  np.testing.assert_allclose(bf16, official, rtol=2e-2)


def test_what_is_asked_of_a_gpu_first(load_benchmark):
  """Both students and batches, and Hugging Face's best form beside the base."""
  gpu = load_benchmark("gpu")
  cases = [case for case in gpu.quick() if isinstance(case, gpu.Case)]
  asked = {(case.side, case.student, case.records) for case in cases}
  ours = {("ours", s, n) for s in ("base", "large") for n in (64, 512)}
  assert asked == ours | {("compiled", "base", 64)}
  assert gpu.SECONDS["quick"] < 6 * 60
  assert gpu.SECONDS["more"] < 4 * 60


@pytest.mark.slow
@pytest.mark.thorough
def test_the_gpu_suite_runs_in_small_without_tensorflow(repository, tmp_path):
  """Nor does it need Hugging Face: those cases then say so, and others run."""
  theirs = {"losses", "decode", "official toy 6 num_microbatches=2"}
  if importlib.util.find_spec("torch"):
    theirs = set()
  for name in ("tensorflow", "seqio", "gin"):
    barred = f"raise ImportError('{name} is barred here')"
    (tmp_path / f"{name}.py").write_text(barred, encoding="utf-8")
  out = tmp_path / "out"
  done = subprocess.run(
    [repository / "benchmarks" / "gpu.sh", "--smoke", "--out", out],
    env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  parts = [
    json.loads((out / f"{call}.json").read_text(encoding="utf-8"))["cases"]
    for call in ("quick", "more")
  ]
  failed = {
    case["name"] for cases in parts for case in cases if "failed" in case
  }
  assert failed == {"ours toy 6 dtype=float99"} | theirs  # and the others ran
  timed = [
    case["name"] for cases in parts for case in cases if "summary" in case
  ]
  sides = ["ours"] if theirs else ["ours", "official"]
  assert [name.split()[0] for name in timed] == sides
  (losses,) = [case for case in parts[1] if case["name"] == "losses"]
  assert theirs or losses["difference"] < 1e-5
  for name in {"attention", "components", "decode"} - theirs:
    assert (out / f"{name}.json").exists()
