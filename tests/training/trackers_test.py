"""Trackers: what arrives at each, how a run continues there, and what fails."""

import json
import pathlib

import pytest
from command_line import train_flags

from dss_jax.base.errors import UserError
from dss_jax.cli import command_line, gin_config
from dss_jax.training import run_directory, trackers

SAMPLES = [{"input": "x </s> y", "target": "a", "prediction": "b"}]


class _Recorder:
  """A tracker of a test's own; every call is kept."""

  name = "recorder"

  def __init__(self, fails_at=None):
    self.calls, self.ids, self._fails_at = [], [], fails_at

  def open(self, folder, run_id, config):
    self.ids.append(run_id)
    self.config = config
    return self

  def _note(self, *call):
    if call[0] == self._fails_at:
      raise ConnectionError("the service\nis gone")
    self.calls.append(call)

  def write(self, step, values):
    self._note("write", step, dict(values))

  def write_samples(self, step, name, samples):
    self._note("samples", step, name, list(samples))

  def close(self):
    self._note("close")


def test_a_run_is_continued_under_its_name(tmp_path):
  recorder = _Recorder()
  for _ in range(2):
    opened = trackers.Trackers([recorder], tmp_path, {"seed": 1}, print)
    opened.write(3, {"train/loss": 1.5})
    opened.close()
  assert recorder.ids[0] == recorder.ids[1]
  assert recorder.calls == [("write", 3, {"train/loss": 1.5}), ("close",)] * 2


@pytest.mark.parametrize("fails_at", ["write", "samples", "close"])
def test_a_tracker_that_fails_is_given_up_with_a_line(tmp_path, fails_at):
  failing, other = _Recorder(fails_at), _Recorder()
  other.name = "other"
  lines = []
  opened = trackers.Trackers([failing, other], tmp_path, {}, lines.append)
  for step in (1, 2):
    opened.write(step, {"loss": 1.0})
    opened.write_samples(step, "task", SAMPLES)
  opened.close()
  assert len(other.calls) == 5
  assert len(lines) == 1
  assert lines[0].startswith(
    "recorder gets no more of this run: the service is"
  )


def test_each_tracker_is_there_once(tmp_path):
  with pytest.raises(UserError, match="recorder twice"):
    trackers.Trackers([_Recorder(), _Recorder()], tmp_path, {}, print)


def test_a_package_that_is_not_there_is_named(tmp_path):
  class Missing(_Recorder):
    def open(self, folder, run_id, config):
      return trackers._package("no_such_tracker")

  with pytest.raises(UserError, match="pip install no_such_tracker"):
    trackers.Trackers([Missing()], tmp_path, {}, print)


def test_what_a_run_measures_arrives(tmp_path, one_device, monkeypatch):
  recorder = _Recorder()
  monkeypatch.setattr(trackers.Wandb, "open", recorder.open)
  flags = train_flags(
    tmp_path / "run",
    "--gin.TRACKERS=[@trackers.Wandb()]",
    "--gin.evaluation.EvaluationConfig.samples=1",
  )
  assert command_line.main(flags) == 0
  gin_config.clear()
  written = {
    k for call in recorder.calls if call[0] == "write" for k in call[2]
  }
  assert {"train/loss", "train/label/loss", "timing/tokens_per_s"} <= written
  assert "eval/taxonli_label/validation/accuracy" in written
  (samples,) = [call for call in recorder.calls if call[0] == "samples"]
  assert samples[1:3] == (2, "predictions/taxonli_label")
  (shown,) = samples[3]
  path = tmp_path / "run" / "eval" / "taxonli_label" / "2.jsonl"
  first = run_directory.read_jsonl(path)[0]
  assert shown == {name: first[name] for name in shown}
  assert recorder.calls[-1] == ("close",)
  assert recorder.config["task"] == "taxonli_dss"
  events = next((tmp_path / "run").glob("events.out.*")).read_bytes()
  assert b"predictions/taxonli_label" in events
  assert json.dumps(first["input"])[1:-1].encode() in events


@pytest.mark.parametrize("value", ["[@trackers.Mlflow]", "@trackers.Mlflow()"])
def test_what_is_no_list_of_objects_is_refused(tmp_path, capsys, value):
  flags = train_flags(tmp_path / "run", f"--gin.TRACKERS={value}")
  assert command_line.main(flags) == 2
  gin_config.clear()
  assert "with brackets and parentheses" in capsys.readouterr().err


# ------------------------------------------------- the packages, where they are


def _two_starts(tracker: trackers.Tracker, folder: pathlib.Path) -> None:
  """A run that is stopped after step 2 and continued from there."""
  for steps in ((1, 2), (2, 3)):
    opened = trackers.Trackers([tracker], folder, {"seed": 7}, pytest.fail)
    for step in steps:
      opened.write(step, {"train/loss": 1.0 / step})
    opened.write_samples(steps[-1], "predictions/task", SAMPLES)
    opened.close()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_one_run_with_all_steps(tmp_path, monkeypatch):
  mlflow = pytest.importorskip("mlflow")
  monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts
  uri = f"sqlite:///{tmp_path}/mlflow.db"
  (tmp_path / "run").mkdir()
  _two_starts(trackers.Mlflow(tracking_uri=uri), tmp_path / "run")
  client = mlflow.MlflowClient(tracking_uri=uri)
  experiment = client.get_experiment_by_name("dss_jax")
  (run,) = client.search_runs([experiment.experiment_id])
  history = client.get_metric_history(run.info.run_id, "train/loss")
  assert {point.step: point.value for point in history} == {
    1: 1,
    2: 0.5,
    3: 1 / 3,
  }
  assert run.data.params["seed"] == "7"
  assert run.info.status == "FINISHED"


@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline_runs_of_one_name(tmp_path):
  pytest.importorskip("wandb")
  folder = tmp_path / "run"
  folder.mkdir()
  _two_starts(trackers.Wandb(mode="offline"), folder)
  name = json.loads((folder / trackers.RUNS_FILE).read_text())["wandb"]
  files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
  assert files
  assert all(name in file.name for file in files)
  assert any(b"train/loss" in file.read_bytes() for file in files)


@pytest.mark.filterwarnings("ignore")
def test_trackio_has_one_run(tmp_path, monkeypatch):
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
  pytest.importorskip("trackio")
  folder = tmp_path / "run"
  folder.mkdir()
  _two_starts(trackers.Trackio(), folder)
  assert list((tmp_path / "trackio").glob("dss_jax*"))


@pytest.mark.filterwarnings("ignore")
def test_runs_of_one_process_are_kept_apart_by_wandb(tmp_path):
  pytest.importorskip("wandb")
  opened = []
  for name in ("first", "second"):
    (tmp_path / name).mkdir()
    tracker = trackers.Wandb(mode="offline")
    opened.append(tracker.open(tmp_path / name, f"id{name}", {}))
  for run in opened:
    run.write(1, {"train/loss": 1.5})
    run.close()
  files = sorted(tmp_path.glob("*/wandb/offline-run-*/run-*.wandb"))
  assert [file.parts[-4] for file in files] == ["first", "second"]
