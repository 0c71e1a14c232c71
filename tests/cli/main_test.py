"""The command line: what it prints and with which status it ends."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import command_line
import jax
import pytest

from dss_jax import main
from dss_jax.cli import failures

RUN = [
  *command_line.GIN_FILES,
  *command_line.SMALL,
  # Random generators take long to compile.
  "--gin.network.T5Config.dropout_rate=0.0",
]


def _train_flags(folder: pathlib.Path, *more: str) -> list[str]:
  return [
    "train",
    *RUN,
    f"--gin.MODEL_DIR={folder}",
    "--gin.TRAIN_STEPS=2",
    *more,
  ]


def _use_one_device(patched: pytest.MonkeyPatch) -> None:
  """Programs for one device compile in half the time."""
  one = jax.devices()[:1]
  patched.setattr(jax, "devices", lambda *_: one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
  """A run of two steps, made by the command line."""
  folder = tmp_path_factory.mktemp("trained") / "run"
  # One name will do where several are allowed.
  flags = _train_flags(
    folder,
    "--gin.EVAL_TASKS=taxonli_label",
    "--gin.evaluation.EvaluationConfig.loss_batches=0",
  )
  with pytest.MonkeyPatch.context() as patched:
    _use_one_device(patched)
    assert main.main(flags) == 0
  return folder


@pytest.mark.parametrize(
  "mode", [[], ["train"], ["eval"], ["data"], ["quickstart"], ["checkpoints"]]
)
def test_help_says_what_there_is_and_ends_with_0(mode, capsys):
  with pytest.raises(SystemExit) as ended:
    main.main([*mode, "--help"])
  assert ended.value.code == 0
  text = capsys.readouterr().out
  assert "usage: dss-jax" in text
  assert len(text.splitlines()) > 5


def test_no_mode_shows_the_help_and_ends_with_2(capsys):
  assert main.main([]) == 2
  assert "train" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [["train"], ["eval"], ["data", "show"]])
def test_help_fits_a_terminal(mode, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  with pytest.raises(SystemExit):
    main.main([*mode, "--help"])
  text = capsys.readouterr().out
  assert max(map(len, text.splitlines())) <= 80
  assert "_GIN_FLAG" not in text


@pytest.mark.parametrize(
  ("argv", "prog", "said"),
  [
    (["tran"], "dss-jax", "'tran'"),
    (["train", "--gin_fil=x"], "dss-jax train", "--gin_fil=x"),
    (["checkpoints", "x", "--gin.A=1"], "dss-jax checkpoints", "--gin.A=1"),
    (["data", "show", "--task=a", "--x"], "dss-jax data show", "--x"),
    (["data", "stats", "--limit=x"], "dss-jax data stats", "--limit"),
    (["quickstart", "--seeds=x"], "dss-jax quickstart", "--seeds"),
  ],
)
def test_unknown_arguments_end_with_2_and_one_line(argv, prog, said, capsys):
  with pytest.raises(SystemExit) as ended:
    main.main(argv)
  assert ended.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"{prog}: ")
  assert line.endswith(f"see `{prog} --help`")
  assert said in line


@pytest.mark.parametrize("argv", [[], ["x", "--model_dir=x"]])
def test_checkpoints_are_named_once(argv, capsys):
  assert main.main(["checkpoints", *argv]) == 2
  assert capsys.readouterr().err == (
    "dss-jax checkpoints: give either --model_dir or PATH\n"
  )


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_modes_and_flags(shell, capsys):
  pytest.importorskip("shtab")
  with pytest.raises(SystemExit) as ended:
    main.main([f"--print_completion={shell}"])
  assert ended.value.code == 0
  script = capsys.readouterr().out
  for word in ("quickstart", "--records_per_batch", "--gin_search_paths"):
    assert word in script


def _mistakes(folder: pathlib.Path, trained: pathlib.Path):
  """Wrong command lines, and what the one line about each must say."""
  train = _train_flags(folder)

  def processes(address: str, *, count: int, index: int) -> list[str]:
    return [
      *train,
      f"--coordinator_address={address}",
      f"--process_count={count}",
      f"--process_index={index}",
    ]

  return {
    "unknown dataset": ([*train, "--gin.DATASET=taxonly"], "taxonli"),
    "unknown method": ([*train, "--gin.METHOD=ds"], "standard"),
    "unknown task": (
      [*train, "--gin.MIXTURE_OR_TASK_NAME=nobody_knows"],
      "nobody_knows",
    ),
    "no data": (
      [*train, "--gin.DATASET=svamp", "--data_dir=/nowhere"],
      "/nowhere",
    ),
    "no gin file": (["train", "--gin_file=modls/base.gin"], "models/"),
    "wrong gin name": ([*train, "--gin.TRAIN_STEP=3"], "TRAIN_STEPS"),
    "no vocabulary": ([*train, "--gin.VOCABULARY=t5"], "'bytes'"),
    "vocabulary too large": (
      [*train, "--gin.VOCABULARY=bytes:100"],
      "network.T5Config.vocab_size",
    ),
    "wrong parameter": ([*train, "--gin.network.T5Config.emb=3"], "emb_dim"),
    "no parentheses": (
      [*train, "--gin.OPTIMIZER=@optimizers.AdamW"],
      "parentheses",
    ),
    "wrong value": ([*train, "--gin.TRAIN_STEPS=few"], "TRAIN_STEPS"),
    "wrong seed": ([*train, "--gin.RANDOM_SEED=x"], "RANDOM_SEED is 'x'"),
    "negative seed": ([*train, "--gin.RANDOM_SEED=-1"], "random_seed is -1"),
    "alpha is no number": ([*train, "--gin.ALPHA=half"], "ALPHA"),
    "z-loss is no number": ([*train, "--gin.Z_LOSS=x"], "Z_LOSS"),
    "rate is no number": (
      [*train, "--gin.BASE_LEARNING_RATE=fast"],
      "BASE_LEARNING_RATE is 'fast'",
    ),
    "negative rate": (
      [*train, "--gin.BASE_LEARNING_RATE=-1"],
      "base_learning_rate is -1",
    ),
    "lengths are no mapping": (
      [*train, "--gin.TASK_FEATURE_LENGTHS=48"],
      "TASK_FEATURE_LENGTHS is 48",
    ),
    "not a binding": (
      [*train, "--gin_bindings=hello"],
      "'hello'",
    ),
    "folder cannot be made": (
      _train_flags(pathlib.Path("/proc/no_such_folder")),
      "--model_dir",
    ),
    "wrong evaluation task": (
      [*train, "--gin.EVAL_TASKS=taxonli_lable"],
      "taxonli_label",
    ),
    "half of the coordinator": (
      [*train, "--process_count=2"],
      "--coordinator_address and --process_index are not given",
    ),
    "coordinator without a port": (
      processes("10.0.0.1", count=2, index=0),
      "--coordinator_address is '10.0.0.1'",
    ),
    "no processes": (
      processes("10.0.0.1:1234", count=0, index=0),
      "process_count is 0; it must be 1 or more (--process_count)",
    ),
    "a process too many": (
      processes("10.0.0.1:1234", count=2, index=2),
      "process_index is 2; it must be from 0 to 1 (--process_index)",
    ),
    "batch and devices": (
      [*train, "--gin.BATCH_SIZE=12", "--gin.RECORDS_PER_BATCH=None"],
      "BATCH_SIZE",
    ),
    "no checkpoint": (["eval", f"--model_dir={folder}"], "config.gin"),
    "wrong checkpoint": (
      ["eval", f"--model_dir={trained}", "--checkpoint=7"],
      "'best'",
    ),
    "wrong split": (["eval", f"--model_dir={trained}", "--split=dev"], "test"),
    "another model": (
      [
        *_train_flags(folder, "--gin.network.T5Config.mlp_dim=24"),
        f"--gin.INITIAL_CHECKPOINT_PATH={trained}",
      ],
      "mlp",
    ),
    "another model's folder": (
      _train_flags(trained, "--gin.network.T5Config.mlp_dim=24"),
      "--model_dir",
    ),
    "no module": ([*train, "--module=no_such_module"], "no_such_module"),
    "no run": (["checkpoints", str(folder)], "the folder of a training run"),
    "not a number": ([*train, "--gin.ALPHA=half"], "losses.Objective.alpha"),
    "no name of a module": ([*train, "--module=../x"], "../x"),
    "no test split": (
      [*train, "--gin.evaluation.EvaluationConfig.test_split=tset"],
      "test_split",
    ),
    "no window": ([*train, "--profile_steps=5"], "--profile_steps"),
    "window after the end": (
      [*train, "--profile_steps=3:5"],
      "the run ends with step 2",
    ),
    "no window in gin": (
      [*train, "--gin.train.train.profile_steps=a:b"],
      "profile_steps is 'a:b'",
    ),
    "no such metric": (
      [*train, "--gin.evaluation.EvaluationConfig.metric=f1"],
      "accuracy",
    ),
    "no beam": (
      [*train, "--gin.decoding.DecodeOptions.num_beams=0"],
      "num_beams",
    ),
    "batch without bounds": (
      [*train, "--gin.RECORDS_PER_BATCH=100000000000"],
      "RECORDS_PER_BATCH",
    ),
    "seed below 0": ([*train, "--gin.RANDOM_SEED=-1"], "RANDOM_SEED"),
    "no loss batches": (
      [*train, "--gin.EVAL_STEPS=-1"],
      "loss_batches is -1; it must be 0 or more, or None (--gin.EVAL_STEPS)",
    ),
    "no folder": ([*train, "--gin.MODEL_DIR="], "--model_dir"),
    "a file for a folder": (
      [*train, f"--gin.MODEL_DIR={trained / 'run.json'}"],
      "--model_dir",
    ),
    "no initial checkpoint": (
      [*train, "--gin.INITIAL_CHECKPOINT_PATH="],
      "INITIAL_CHECKPOINT_PATH",
    ),
  }


@pytest.mark.parametrize(
  "name", list(_mistakes(pathlib.Path(), pathlib.Path()))
)
def test_mistakes_are_reported_in_one_line(name, trained, tmp_path, capsys):
  argv, expected = _mistakes(tmp_path / "run", trained)[name]
  capsys.readouterr()
  assert main.main(argv) == 2
  error = capsys.readouterr().err
  lines = [line for line in error.splitlines() if line.startswith("dss-jax ")]
  assert len(lines) == 1
  assert expected in lines[0]
  assert "Traceback" not in error


def test_a_missing_cluster_is_reported_in_one_line(
  tmp_path, capsys, monkeypatch
):
  def initialize(*_, **__):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  assert main.main([*_train_flags(tmp_path / "run"), "--multiprocess"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("dss-jax train: --multiprocess: JAX does not find")


@pytest.mark.slow
def test_a_failing_disk_is_reported_in_one_line(tmp_path, capsys, monkeypatch):
  """A file system that is full when the first file of the run is written."""

  def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  _use_one_device(monkeypatch)
  monkeypatch.setattr(os, "fsync", full)
  assert main.main(_train_flags(tmp_path / "run")) == 1
  (line,) = [
    line
    for line in capsys.readouterr().err.splitlines()
    if line.startswith("dss-jax ")
  ]
  assert "No space left" in line
  assert str(tmp_path) in line


def test_a_full_device_is_reported_in_one_line(tmp_path, capsys, monkeypatch):
  from dss_jax.training import train

  def full(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\n...")

  monkeypatch.setattr(train, "train", full)
  assert main.main(_train_flags(tmp_path / "run")) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert "RECORDS_PER_BATCH" in line
  # What the user can lower depends on the mode.
  for mode, flag in (("infer", "--batch_size"), ("serve", "--max_batch")):
    assert failures.exit_status(full, mode, debug=False) == 1
    assert flag in capsys.readouterr().err


BEFORE_TRAINING = """
import sys

from jax._src import xla_bridge

from dss_jax import main
from dss_jax.training import cpu_memory, train

student = []


def keep(config):
  assert not xla_bridge.backends_are_initialized()
  student.append(config)


def begin(config, *, watchdog_seconds):
  assert student == [config.model.config]
  assert watchdog_seconds == 900.0
  print("trains")


cpu_memory.keep, train.train = keep, begin
sys.exit(main.main(sys.argv[1:]))
"""


def test_freed_memory_is_kept_before_devices_are_looked_for(tmp_path):
  argv = _train_flags(tmp_path / "run")
  done = subprocess.run(
    [sys.executable, "-c", BEFORE_TRAINING, *argv],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.stdout == "trains\n", done.stderr


def test_debug_shows_the_traceback(tmp_path):
  with pytest.raises(ValueError, match="holds no checkpoint"):
    main.main(["checkpoints", str(tmp_path), "--debug"])


@pytest.mark.slow
def test_eval_scores_a_run_again(trained, capsys, tmp_path, monkeypatch):
  _use_one_device(monkeypatch)
  monkeypatch.setenv("HOME", str(tmp_path))
  capsys.readouterr()
  status = main.main(
    [
      "eval",
      f"--model_dir={trained}",
      "--task=taxonli_rationale",
      "--json",
      "--output_dir=~",  # which shells leave as it is here
      "--split=validation",
    ]
  )
  assert status == 0
  scores = json.loads(capsys.readouterr().out)
  assert scores["checkpoint_step"] == 2
  (task,) = scores["tasks"]
  assert task["task"] == "taxonli_rationale"
  assert set(task) >= {"bleu", "rouge1", "rouge2", "rougeL"}
  assert (tmp_path / "eval" / "taxonli_rationale" / "2.jsonl").exists()
  assert main.main(["eval", f"--model_dir={trained}"]) == 0
  text = capsys.readouterr().out
  assert "accuracy" in text
  assert f"predictions: {trained}/eval/" in text


def test_checkpoints_are_listed_and_hashed(trained, capsys, monkeypatch):
  monkeypatch.setenv("HOME", str(trained))
  assert main.main(["checkpoints", "--model_dir=~", "--hash"]) == 0
  text = capsys.readouterr().out
  assert "step 2: best, latest" in text
  for name in ("params", "opt_state", "loop", "metrics"):
    assert f"{name} " in text


@pytest.mark.slow
def test_a_module_of_another_project_registers_its_tasks(
  tmp_path, monkeypatch, one_device
):
  """Without TensorFlow: a dataset made known to dss_jax.datasets."""
  (tmp_path / "tickets.jsonl").write_text(
    "".join(
      json.dumps(
        {
          "id": str(i),
          "input": f"ticket {i}",
          "label": "a" if i % 2 else "b",
          "rationales": [{"text": f"because {i}"}],
        }
      )
      + "\n"
      for i in range(24)
    )
  )
  (tmp_path / "my_tickets.py").write_text(
    "from dss_jax import datasets\n"
    f"files = dict.fromkeys(('train', 'test'), {str(tmp_path)!r}"
    " + '/tickets.jsonl')\n"
    "datasets.register(datasets.DatasetSpec("
    "'tickets', datasets.RecordFiles(files), source_splits=tuple(files)))\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  status = main.main(
    [
      *_train_flags(tmp_path / "run", "--module=my_tickets"),
      "--gin.DATASET=tickets",
      "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}",
    ]
  )
  assert status == 0
