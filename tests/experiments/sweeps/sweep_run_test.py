"""Sweeps run: shared, changed, interrupted, failing. Training is faked."""

import fcntl
import json
import os
import pathlib
import random
import resource
import shlex
import signal
import subprocess
import sys
import time

import command_line
import pytest
import small_sweeps

from dss_jax import main
from dss_jax.experiments.sweeps import cell_process, sweep_progress


@pytest.fixture
def tiny(tmp_path):
  """Writes the sweep `tiny`, with some fields changed."""
  return lambda **changes: small_sweeps.write(tmp_path / "tiny.gin", **changes)


def test_it_trains_each_cell_and_collects_the_results(tiny, sweeper):
  status, said = sweeper(tiny(), "--workers=2")
  assert status == 0
  assert "[4/4]" in said
  rows = sweeper.results()
  # In the order of the grid, not in that of ending.
  assert [(row["axes"]["method"], row["axes"]["seed"]) for row in rows] == [
    (method, seed)
    for method in ("standard", "dss")
    for seed in (0, 1)
    for _ in ("validation", "test")
  ]
  assert {row["stage"] for row in rows} == {"final"}
  assert not {"wall_s", "config_sha"} & {key for row in rows for key in row}
  cells = [entry["cell"] for entry in sweeper.grid()["cells"]]
  assert [row["cell"] for row in rows[::2]] == cells
  for name in cells:
    folder = sweeper.output_dir / "cells" / name
    described = json.loads((folder / "cell.json").read_text())
    assert described["bindings"]["RANDOM_SEED"] == str(
      described["axes"]["seed"]
    )


def test_started_again_it_trains_nothing(tiny, sweeper):
  assert sweeper(tiny())[0] == 0
  before = (sweeper.output_dir / "tiny" / "results.jsonl").read_bytes()
  status, said = sweeper(tiny())
  assert (status, sweeper.starts()) == (0, 4)
  assert "changed" not in said
  after = (sweeper.output_dir / "tiny" / "results.jsonl").read_bytes()
  assert after == before


def test_sweeps_share_the_cells_they_have_in_common(tiny, sweeper, tmp_path):
  assert sweeper(tiny())[0] == 0
  # Written in another way, with one seed more and one less.
  other = small_sweeps.write(
    tmp_path / "other.gin",
    gin_files=[],
    axes={
      "student": ["models/taxonli.gin"],
      "RANDOM_SEED": [1, 2],
      "data": ["taxonli"],
      "method": ["dss"],
    },
    bindings=small_sweeps.SMALL_BINDINGS,
  )
  text = other.read_text().replace(
    "sweep.Sweep.gin_files = []", "sweep.Sweep.gin_files = ['runs/taxonli.gin']"
  )
  other.write_text(
    text + "sweep.Sweep.binds = {'RANDOM_SEED': ['RANDOM_SEED',"
    " 'data.DataOptions.split_seed', 'data.DataOptions.taxonli_seed',"
    " 'data.DataOptions.generated_seed']}\n"
  )
  status, said = sweeper(other)
  assert status == 0
  assert sweeper.starts() == 5
  assert "[2/2]" in said
  assert [row["seed"] for row in sweeper.results("other")] == [1, 1, 2, 2]


def test_a_changed_grid_is_told(tiny, sweeper):
  assert sweeper(tiny())[0] == 0
  status, said = sweeper(
    tiny(axes={"method": ["standard", "dss"], "seed": [1, 2, 3]})
  )
  assert status == 0
  assert "the grid has changed: 4 cells are new, 2 are no longer part" in said
  assert len(sweeper.results()) == 12
  assert sweeper.starts() == 8


def test_crashes_are_tried_again_and_then_told(tiny, sweeper, monkeypatch):
  failures = {
    "standard 0": "crash",
    "standard 1": "crash once",
    "dss 0": "killed",
  }
  monkeypatch.setenv("FAKE_FAILURE", json.dumps(failures))
  status, said = sweeper(tiny(), "--retries=2", "--workers=1")
  assert status == 1
  assert sweeper.starts() == 3 + 2 + 3 + 1
  assert (
    "standard seed=0: crashed after 3 attempts: some library: aborted" in said
  )
  assert "standard seed=1: some library: aborted; tried again" in said
  assert "dss seed=0: crashed after 3 attempts: killed by SIGKILL" in said
  assert "2 of 4 cells have no results" in said
  assert [row["seed"] for row in sweeper.results()] == [1, 1, 1, 1]
  # What has gone wrong may be mended: started again, they are tried again.
  monkeypatch.setenv("FAKE_FAILURE", "{}")
  assert sweeper(tiny())[0] == 0
  assert sweeper.starts() == 9 + 2


def test_wrong_configurations_and_divergence_are_not_tried_again(
  tiny, sweeper, monkeypatch
):
  failures = {"standard 0": "refuse", "dss 0": "diverge"}
  monkeypatch.setenv("FAKE_FAILURE", json.dumps(failures))
  status, said = sweeper(tiny())
  assert (status, sweeper.starts()) == (1, 4)
  assert "standard seed=0: refused: dss-jax train: DATASET is 'x'" in said
  assert "dss seed=0: diverged: dss-jax train: loss or gradient" in said
  # A run that diverged would do so again.
  monkeypatch.setenv("FAKE_FAILURE", "{}")
  status, said = sweeper(tiny())
  assert (status, sweeper.starts()) == (1, 5)
  assert "1 of 4 cells have no results" in said


def test_a_mistake_in_a_cell_is_told_before_any_is_trained(tiny, sweeper):
  status, said = sweeper(
    tiny(axes={"method": ["dss"], "ALPHA": [0.5, "half"]}, budget="steps")
  )
  assert (status, sweeper.starts()) == (2, 0)
  assert "ALPHA is 'half'" in said
  status, said = sweeper(tiny(axes={"method": ["ds"]}, budget="steps"))
  assert (status, sweeper.starts()) == (2, 0)
  assert "methods/dss.gin" in said


def test_shards_train_every_cell_once(tiny, sweeper):
  trained = []
  for shard in ("0/3", "1/3", "2/3"):
    before = sweeper.starts()
    assert sweeper(tiny(), f"--shard={shard}")[0] == 0
    trained.append(sweeper.starts() - before)
  assert trained == [2, 1, 1]
  assert len(sweeper.results()) == 8
  assert sweeper(tiny())[0] == 0
  assert sweeper.starts() == 4


@pytest.mark.parametrize("shard", ["3/3", "1", "-1/2", "a/b", "0/0"])
def test_impossible_shards_are_refused(shard, tiny, sweeper):
  status, said = sweeper(tiny(), f"--shard={shard}")
  assert status == 2
  assert "it must be I/N" in said


# ------------------------------------------------- several in one program

TOGETHER = {"axes": {
  "method": ["standard", "dss"],
  "BASE_LEARNING_RATE": [0.01, 0.02, 0.04],
  "data.DataOptions.taxonli_num_train": [32, 64],
  "seed": [0],
}, "budget": "steps"}  # fmt: skip


def _programs(sweeper) -> list[list[pathlib.Path]]:
  """The folders of the cells of each program that trained several."""
  files = sorted(sweeper.output_dir.glob("cells/*/together.txt"))
  return [
    [
      pathlib.Path(word.removeprefix("--gin.MODEL_DIR="))
      for line in file.read_text().splitlines()
      for word in shlex.split(line)
      if word.startswith("--gin.MODEL_DIR=")
    ]
    for file in files
  ]


def _axes(folder: pathlib.Path) -> dict:
  return json.loads((folder / "cell.json").read_text())["axes"]


def test_cells_of_one_shape_are_trained_together(tiny, sweeper, tmp_path):
  """Those that differ in rates alone; the results are those of any sweep."""
  file = tiny(**TOGETHER)
  assert sweeper(file, "--workers=1", "--students_per_program=2")[0] == 0
  found = sweeper.results()
  programs = _programs(sweeper)
  assert [len(folders) for folders in programs] == [2, 2, 2, 2]
  for folders in programs:
    first, second = map(_axes, folders)
    assert first.pop("BASE_LEARNING_RATE") != second.pop("BASE_LEARNING_RATE")
    assert first == second
  assert sweeper.starts() == 12
  # Alone they give the same rows.
  sweeper.output_dir = tmp_path / "alone"
  assert sweeper(file, "--workers=1")[0] == 0
  assert not _programs(sweeper)
  assert sweeper.results() == found


def test_what_does_not_fit_together_is_told_and_trained_alone(
  tiny, sweeper, monkeypatch
):
  monkeypatch.setenv("FAKE_REFUSAL", "batch_size of the run in 'x' is 8")
  status, said = sweeper(tiny(**TOGETHER), "--students_per_program=8")
  assert status == 0
  why = (
    "with 2 others in one program: dss-jax train: batch_size of the run in 'x'"
    " is 8; each is trained alone"
  )
  assert said.count(why) == 4
  assert sweeper.starts() == 12
  assert len(sweeper.results()) == 24


def test_one_that_fails_among_others_is_tried_alone(tiny, sweeper, monkeypatch):
  monkeypatch.setenv("FAKE_FAILURE", json.dumps({"dss 1": "diverge"}))
  file = tiny(axes={"method": ["dss"], "seed": [0, 1, 2]})
  status, said = sweeper(file, "--students_per_program=3")
  assert status == 1
  assert "with 2 others in one program: dss-jax train: loss or grad" in said
  assert "dss seed=1: diverged" in said
  assert [row["seed"] for row in sweeper.results()] == [0, 0, 2, 2]


def test_only_local_workers_train_several_together(tiny, sweeper):
  status, said = sweeper(tiny(), "--students_per_program=2", "--engine=ray")
  assert status == 2
  assert "students_per_program is 2, which is for the engine" in said


def test_a_cell_at_work_elsewhere_is_waited_for(tiny, sweeper, monkeypatch):
  """Another process holds the cell's lock, then ends without results."""
  file = tiny(axes={"method": ["dss"], "seed": [0, 1]})
  status, _ = sweeper(file, "--print")
  assert status == 0
  main.main(["sweep", str(file), f"--output_dir={sweeper.output_dir}"])
  first = sweeper.grid()["cells"][0]["cell"]
  folder = sweeper.output_dir / "cells" / first
  (folder / "results.jsonl").unlink()
  starts = sweeper.starts()
  with open(folder / ".cell_lock", "a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    note = sweep_progress.SweepProgress.note

    def note_and_release(self, cell, event):
      note(self, cell, event)
      if event.ended.how == cell_process.ELSEWHERE:
        fcntl.flock(lock, fcntl.LOCK_UN)

    monkeypatch.setattr(sweep_progress.SweepProgress, "note", note_and_release)
    status, said = sweeper(file)
  assert status == 0
  assert said.count("another process is at it, and is waited for") == 1
  assert sweeper.starts() == starts + 1
  assert len(sweeper.results()) == 4


def test_a_full_disk_has_its_line(tiny, sweeper):
  """The sweep's own files reach the limit of a file's size."""
  file = tiny()
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
  try:
    status = main.main(
      ["sweep", str(file), f"--output_dir={sweeper.output_dir}"]
    )
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert status == 1
  said = sweeper._capsys.readouterr().err.splitlines()[-1]
  assert said.startswith("dss-jax sweep: cannot write ")
  assert said.endswith("make room, and start again")
  assert sweeper(file)[0] == 0


SEARCH = {
  "budget": "steps",
  "search": {"BASE_LEARNING_RATE": [0.02, 0.04]},
  "search_seeds": [9],
  "max_widenings": 0,
}


def test_cells_look_for_gin_files_where_the_sweep_does(
  tiny, sweeper, tmp_path, monkeypatch
):
  folder = tmp_path / "mine"
  folder.mkdir()
  (folder / "longer.gin").write_text("STATS_PERIOD = 20\n")
  file = tiny(
    gin_files=["longer.gin", *small_sweeps.FIELDS["gin_files"]],
    axes={"method": ["dss"], "seed": [0]},
  )
  flag = f"--gin_search_paths={folder}"
  status, said = sweeper(file, flag, "--print")
  assert (status, said.count(flag)) == (0, 1)
  assert sweeper(file, flag)[0] == 0
  [cell] = sweeper.output_dir.glob("cells/*/cell.json")
  assert flag in json.loads(cell.read_text())["flags"]


def test_a_trial_that_was_given_up_is_given_up_for_everybody(
  tiny, sweeper, monkeypatch
):
  """Shards, printed commands and later starts take the search for complete."""
  file = tiny(axes={"method": ["standard", "dss"], "seed": [0]}, **SEARCH)
  failures = {"dss 9 0.04": "crash", "standard 9 0.02": "refuse"}
  monkeypatch.setenv("FAKE_FAILURE", json.dumps(failures))
  status, said = sweeper(file, "--stage=search", "--retries=1")
  assert (status, sweeper.starts()) == (0, 2 + 2 + 1)
  assert said.count("given up; delete") == 2
  status, said = sweeper(file, "--print")
  assert (status, said.count("dss-jax train")) == (0, 2)
  for shard in ("0/2", "1/2"):
    assert sweeper(file, f"--shard={shard}")[0] == 0
  assert sweeper.starts() == 5 + 2
  winners = sweeper.grid()["winners"]
  assert [w["chosen"]["BASE_LEARNING_RATE"] for w in winners] == [0.04, 0.02]
  # Deleted, they are tried again.
  monkeypatch.setenv("FAKE_FAILURE", "{}")
  for path in sweeper.output_dir.glob("cells/*/failed.json"):
    path.unlink()
  assert sweeper(file, "--stage=search")[0] == 0
  assert sweeper.starts() == 7 + 2


def test_a_search_in_which_nothing_worked_may_be_tried_again(
  tiny, sweeper, monkeypatch
):
  """The machine may have been at fault."""
  file = tiny(axes={"method": ["dss"], "seed": [0]}, **SEARCH)
  monkeypatch.setenv("FAKE_FAILURE", json.dumps({"dss 9": "crash"}))
  status, said = sweeper(file, "--retries=0")
  assert status == 2
  assert "no setting of the search worked for dss: all trials failed" in said
  monkeypatch.setenv("FAKE_FAILURE", "{}")
  assert sweeper(file)[0] == 0
  assert sweeper.starts() == 2 + 2 + 1


def test_results_stay_while_a_sweep_that_grew_searches_again(tiny, sweeper):
  axes = {"method": ["standard"], "seed": [0, 1]}
  assert sweeper(tiny(axes=axes, **SEARCH))[0] == 0
  assert len(sweeper.results()) == 2 + 4
  more = tiny(axes=axes | {"method": ["standard", "dss"]}, **SEARCH)
  status, said = sweeper(more, "--stage=search")
  assert status == 0
  assert "the grid has changed: 2 cells are new, 0 are no" in said  # trials
  final = [row for row in sweeper.results() if row["stage"] == "final"]
  assert {row["method"] for row in final} == {"standard"}
  assert len(final) == 4
  status, said = sweeper(more)
  assert "the grid has changed: 2 cells are new, 0 are no longer" in said
  assert len(sweeper.results()) == 4 + 8


def test_the_grid_is_read_before_the_search_is_trained(tiny, sweeper):
  also = [{"method": ["dss"], "ALPHA": ["half"]}]
  status, said = sweeper(tiny(axes={"method": ["dss"]}, also=also, **SEARCH))
  assert (status, sweeper.starts()) == (2, 0)
  assert "ALPHA is 'half'" in said
  also = [{"method": ["standard"]}]
  status, said = sweeper(tiny(axes={"method": ["dss"]}, also=also, **SEARCH))
  assert (status, sweeper.starts()) == (2, 0)
  assert "search says nothing about method 'standard'" in said


@pytest.mark.parametrize(
  ("name", "value", "said"),
  [
    ("train.train.total_steps", 6, "total_steps is 6 where the sweep binds"),
    ("train.train.eval_period", 3, "eval_period is 3 where the sweep binds"),
    ("train.train.model_dir", "x", "a sweep gives each cell a folder"),
  ],
)
def test_full_names_cannot_pass_by_what_a_sweep_binds(
  name, value, said, tiny, sweeper
):
  axes = {"method": ["dss"], name: [value]}
  status, output = sweeper(tiny(axes=axes, budget="steps"))
  assert (status, sweeper.starts()) == (2, 0)
  assert said in output


def test_the_period_of_checkpoints_may_be_an_axis(tiny, sweeper):
  axes = {"method": ["dss"], "seed": [0], "CHECKPOINT_PERIOD": [1, 2]}
  assert sweeper(tiny(axes=axes, budget="steps"))[0] == 0
  assert sweeper.starts() == 2


def test_cells_of_printed_commands_are_described_when_collected(tiny, sweeper):
  """A report tells cells apart, and leaves searches out, by it."""
  file = tiny(axes={"method": ["dss"], "seed": [0]})
  assert sweeper(file)[0] == 0
  [path] = sweeper.output_dir.glob("cells/*/cell.json")
  described = path.read_bytes()
  path.unlink()
  assert sweeper(file)[0] == 0
  assert (path.read_bytes(), sweeper.starts()) == (described, 1)


def test_presets_are_named(capsys):
  assert main.main(["sweep", "--preset=foo"]) == 2
  said = capsys.readouterr().err
  assert "--preset is 'foo'; it must be one of claim, small" in said


def test_several_teachers_may_have_other_prefixes_in_another_cell(
  tiny, sweeper
):
  axes = {
    "method": ["several_teachers"],
    "seed": [0],
    "data.several_teachers.prefixes": [
      {"palm": "explain: "},
      {"palm": "because: "},
    ],
  }
  bindings = small_sweeps.SMALL_BINDINGS | {"TEACHERS": ("palm", "gpt-neox")}
  status, said = sweeper(tiny(axes=axes, bindings=bindings, budget="steps"))
  assert status == 0, said
  assert sweeper.starts() == 2


# ------------------------------------------------------------ interrupted

_DRIVER = """
import sys
from dss_jax.experiments.sweeps import cell_process
cell_process.COMMAND = (sys.executable, {fake!r})
from dss_jax import main
sys.exit(main.main(sys.argv[1:]))
"""


def _start(
  file: pathlib.Path, output_dir: pathlib.Path, *more: str, fake: bool = True
) -> subprocess.Popen[str]:
  driver = _DRIVER.format(fake=str(small_sweeps.FAKE_TRAINING))
  return subprocess.Popen(
    [
      sys.executable,
      *(("-c", driver) if fake else ("-m", "dss_jax.main")),
      "sweep",
      str(file),
      f"--output_dir={output_dir}",
      *more,
    ],
    env=command_line.environment(FAKE_SECONDS="0.3"),
    stderr=subprocess.PIPE,
    text=True,
  )


def _wait_for_starts(output_dir: pathlib.Path, number: int) -> None:
  deadline = time.monotonic() + 60
  while len(list(output_dir.glob("cells/*/starts"))) < number:
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _killed_sweep(file, output_dir, kills, draw):
  """Results of a sweep that is killed at random moments of its cells."""
  number = len(list(output_dir.glob("cells/*/results.jsonl")))
  for _ in range(kills):
    process = _start(file, output_dir)
    _wait_for_starts(output_dir, min(number + 1, 8))
    time.sleep(draw.uniform(0.0, 0.5))
    process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
    process.communicate(timeout=60)
    number = len(list(output_dir.glob("cells/*/starts")))
  process = _start(file, output_dir)
  _, said = process.communicate(timeout=120)
  assert process.returncode == 0, said
  return (output_dir / "tiny" / "results.jsonl").read_bytes()


@pytest.mark.parametrize(
  "kills", [2, pytest.param(10, marks=pytest.mark.thorough)]
)
def test_killed_at_random_it_ends_with_the_same_bytes(
  kills, tiny, tmp_path, sweeper
):
  file = tiny(axes={"method": ["standard", "dss"], "seed": [0, 1, 2, 3]})
  assert sweeper(file)[0] == 0
  undisturbed = (sweeper.output_dir / "tiny" / "results.jsonl").read_bytes()
  draw = random.Random(kills)
  killed = _killed_sweep(file, tmp_path / "killed", kills, draw)
  assert killed == undisturbed


@pytest.mark.thorough
def test_real_training_killed_ten_times_ends_with_the_same_bytes(tmp_path):
  """Cells resume from their checkpoints, wherever they were killed."""
  file = small_sweeps.write(tmp_path / "tiny.gin", steps=48, looks=6)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  process = _start(file, whole, fake=False)
  _, said = process.communicate(timeout=900)
  assert process.returncode == 0, said
  draw = random.Random(0)
  for _ in range(10):
    before = _lines(killed)
    process = _start(file, killed, fake=False)
    # It gets somewhere each time, and a draw says how far.
    while _lines(killed) < before + draw.randint(1, 12):
      if process.poll() is not None:
        break
      time.sleep(0.05)
    # The cells with it, or the sweep alone: they go on, and are waited for.
    if draw.random() < 0.5:
      process.send_signal(signal.SIGTERM)
    else:
      process.kill()
    process.communicate(timeout=120)
  process = _start(file, killed, fake=False)
  _, said = process.communicate(timeout=900)
  assert process.returncode == 0, said
  found = (killed / "tiny" / "results.jsonl").read_bytes()
  assert found == (whole / "tiny" / "results.jsonl").read_bytes()


def _lines(output_dir: pathlib.Path) -> int:
  """How much the cells have written of their training."""
  files = output_dir.glob("cells/*/metrics.jsonl")
  return sum(len(file.read_bytes().splitlines()) for file in files)


def test_told_to_stop_it_stops_its_cells_and_says_how_to_continue(
  tiny, tmp_path
):
  output_dir = tmp_path / "out"
  process = _start(tiny(), output_dir, "--workers=2")
  _wait_for_starts(output_dir, 1)
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate(timeout=60)
  assert process.returncode == 143
  assert "continue with: dss-jax sweep" in said
  # What is done so far can be looked at.
  done = len(list(output_dir.glob("cells/*/results.jsonl")))
  rows = (output_dir / "tiny" / "results.jsonl").read_text().splitlines()
  assert len(rows) == 2 * done
  pids = [
    int(pid)
    for path in output_dir.glob("cells/*/starts")
    for pid in path.read_text().split()
  ]
  assert pids
  for pid in pids:
    with pytest.raises(ProcessLookupError):
      os.kill(pid, 0)


# ------------------------------------------------------------ real training


@pytest.mark.slow
def test_a_real_sweep_is_as_good_as_runs_by_hand(tmp_path, capsys, monkeypatch):
  """One cell by the sweep, and the printed command of it elsewhere."""
  for name, value in command_line.environment().items():
    monkeypatch.setenv(name, value)
  file = small_sweeps.write(
    tmp_path / "tiny.gin", axes={"method": ["dss"], "seed": [3]}
  )
  argv = ["sweep", str(file), f"--output_dir={tmp_path / 'out'}"]
  assert main.main([*argv, "--print"]) == 0
  (command,) = capsys.readouterr().out.splitlines()
  assert main.main(argv) == 0, capsys.readouterr().err
  text = (tmp_path / "out" / "tiny" / "results.jsonl").read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  assert {row["split"] for row in rows} == {"validation", "test"}
  assert {row["steps"] for row in rows} == {4}
  words = command.replace(str(tmp_path / "out"), str(tmp_path / "hand")).split()
  # In a process of its own, which has one device as the cell has.
  subprocess.run(
    [sys.executable, "-m", "dss_jax.main", *words[1:]],
    env=command_line.environment(),
    check=True,
  )
  (by_hand,) = (tmp_path / "hand" / "cells").glob("*/results.jsonl")
  expected = [json.loads(line) for line in by_hand.read_text().splitlines()]
  for row, other in zip(rows, expected, strict=True):
    assert {key: row[key] for key in row.keys() & other.keys()} == {
      key: other[key] for key in row.keys() & other.keys()
    }


@pytest.mark.slow
@pytest.mark.thorough
def test_real_cells_trained_together_are_those_trained_alone(tmp_path):
  """Their numbers but for rounding, and their files."""
  file = small_sweeps.write(
    tmp_path / "tiny.gin",
    axes={"method": ["dss"], "BASE_LEARNING_RATE": [0.01, 0.04]},
    budget="steps",
  )
  rows = []
  for name, flags in (("alone", []), ("both", ["--students_per_program=2"])):
    process = _start(file, tmp_path / name, "--workers=1", *flags, fake=False)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "trained alone" not in said
    text = (tmp_path / name / "tiny" / "results.jsonl").read_text()
    rows.append([json.loads(line) for line in text.splitlines()])
  assert len(list((tmp_path / "both").rglob("together.txt"))) == 1
  alone, both = rows
  assert len(both) == len(alone) == 4
  for row, other in zip(alone, both, strict=True):
    # 16 items: one that rounding decides may differ.
    assert row.pop("value") == pytest.approx(other.pop("value"), abs=0.07)
    assert row == other
  for cell in (tmp_path / "alone" / "cells").iterdir():
    other = tmp_path / "both" / "cells" / cell.name
    text = (other / "config.gin").read_text().replace(str(other), str(cell))
    assert text == (cell / "config.gin").read_text()
    assert "checkpoint of step" in (other / "train.log").read_text()
