"""Runs by their folder, and runs that are stopped; nothing is trained."""

import signal

import pytest

from dss_jax import main
from dss_jax.base.stop_requests import StoppedError
from dss_jax.cli import gin_config
from dss_jax.training import train

FILES = [
  "models/taxonli.gin",
  "runs/taxonli.gin",
  "data/taxonli.gin",
  "methods/dss.gin",
]
FLAGS = ["train", *(f"--gin_file={name}" for name in FILES)]


@pytest.fixture
def trained(monkeypatch):
  """The configurations that training was called with."""
  calls = []
  monkeypatch.setattr(train, "train", lambda config, **_: calls.append(config))
  return calls


@pytest.fixture
def run(tmp_path):
  """The folder of a run of 7 steps."""
  folder = tmp_path / "a run"
  folder.mkdir()
  gin_config.parse(FILES, [f"MODEL_DIR = {str(folder)!r}", "TRAIN_STEPS = 7"])
  gin_config.instance("train.train")
  (folder / "config.gin").write_text(gin_config.operative_config())
  return folder


@pytest.mark.parametrize("name", ["new", "5"])
def test_a_new_run_lies_where_the_flag_says(
  trained, tmp_path, monkeypatch, name
):
  monkeypatch.chdir(tmp_path)
  argv = [*FLAGS, "--gin.TRAIN_STEPS=3", f"--model_dir={name}"]
  assert main.main(argv) == 0
  (config,) = trained
  assert (config.model_dir, config.total_steps) == (name, 3)


def test_a_run_resumes_as_it_was_configured(trained, run):
  assert main.main(["train", f"--model_dir={run}"]) == 0
  (config,) = trained
  assert (config.model_dir, config.total_steps) == (str(run), 7)
  assert config.train_dataset_cfg.mixture_or_task_name == "taxonli_dss"


def test_what_is_changed_wins_over_the_runs_configuration(
  trained, run, tmp_path
):
  moved = run.rename(tmp_path / "moved")
  changes = ["--gin.TRAIN_STEPS=9", "--gin.network.T5Config.dtype=bfloat16"]
  assert main.main(["train", f"--model_dir={moved}", *changes]) == 0
  (config,) = trained
  assert (config.model_dir, config.total_steps) == (str(moved), 9)
  assert config.model.config.dtype == "bfloat16"


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (
      ["--gin.MODEL_DIR=x", "--model_dir=y"],
      "--model_dir is 'y', and MODEL_DIR is bound to 'x'",
    ),
    (
      ["--gin_bindings=DATA_DIR = 'x'", "--data_dir=y", "--model_dir=z"],
      "--data_dir is 'y', and DATA_DIR is bound to 'x'",
    ),
  ],
)
def test_a_folder_is_not_given_twice(trained, capsys, flags, said):
  assert main.main([*FLAGS, "--gin.TRAIN_STEPS=3", *flags]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line == f"dss-jax train: {said}: leave out one of them"
  assert trained == []


def test_a_folder_may_be_given_twice_alike_and_win_over_a_file(
  trained, tmp_path
):
  path = tmp_path / "mine.gin"
  path.write_text("MODEL_DIR = 'of the file'\n")
  flags = ["--gin.TRAIN_STEPS=3", "--gin.MODEL_DIR=x", "--model_dir=x"]
  assert main.main([*FLAGS, f"--gin_file={path}", *flags]) == 0
  assert trained[0].model_dir == "x"


def test_a_folder_without_a_run_is_refused(trained, tmp_path, capsys):
  assert main.main(["train", f"--model_dir={tmp_path}"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "there is no run in" in line
  assert "--gin_file=models/" in line
  assert trained == []


@pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_says_how_to_continue(
  monkeypatch, run, capsys, number, status
):
  def stop(config, **_):
    raise StoppedError("step 3 of 7 is saved", number)

  monkeypatch.setattr(train, "train", stop)
  assert main.main(["train", f"--model_dir={run}"]) == status
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    "dss-jax train: stopped: step 3 of 7 is saved; continue with: dss-jax"
    f" train --model_dir='{run}'"
  )
