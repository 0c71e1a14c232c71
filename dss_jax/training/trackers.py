"""Where else a run's curves go: Weights & Biases, MLflow, Trackio.

A run always writes metrics.jsonl and TensorBoard's events into its folder; these
are for those who look elsewhere. Each is bound in gin and needs its package:

    TRACKERS = [@trackers.Wandb(), @trackers.Mlflow()]
    trackers.Wandb.project = 'tickets'

A tracker that fails while a run trains is given up with a line, and the run
continues: its own files have all that was measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from dss_jax.base import atomic_files, checks, plain_files, strict_json
from dss_jax.base.errors import UserError, damaged_file, one_line

# In the run's folder: tracker -> the name of the run there, to resume it.
RUNS_FILE = "trackers.json"
WANDB_MODES = ("online", "offline")


class TrackedRun(Protocol):
  """A run as a tracker has it."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one point to each of the named curves."""
    ...

  def write_samples(
    self, step: int, name: str, samples: Sequence[Mapping[str, Any]]
  ) -> None:
    """Adds a table of some predictions."""
    ...

  def close(self) -> None:
    """Ends the run there, as one that may continue later."""
    ...


class Tracker(Protocol):
  """Opens a run at some service or in some folder."""

  @property
  def name(self) -> str:
    """Of the service."""
    ...

  def open(
    self, folder: pathlib.Path, run_id: str, config: Mapping[str, Any]
  ) -> TrackedRun:
    """Begins or continues a run.

    Args:
      folder: of the run.
      run_id: names the run for good.
      config: what the run is made of, for its page.

    Raises:
      UserError: the package is not installed.
    """
    ...


def _package(name: str) -> Any:
  """A tracker's package.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"the tracker needs the package {name} ({one_line(error)}): pip install"
      f" {name}, or leave the tracker out",
      fields="TrainConfig.trackers",
    ) from None


@dataclasses.dataclass(frozen=True)
class Wandb:
  """Weights & Biases.

  Attributes:
    project: the project there.
    run_name: of the run; None takes the folder's.
    group: of runs, such as a sweep's name.
    mode: "online", or "offline" to write into the run's folder, for `wandb
      sync`.
  """

  project: str = "dss_jax"
  run_name: str | None = None
  group: str | None = None
  mode: str = "online"

  def __post_init__(self):
    checks.one_of("Wandb.mode", self.mode, WANDB_MODES)

  @property
  def name(self) -> str:
    return "wandb"

  def open(
    self, folder: pathlib.Path, run_id: str, config: Mapping[str, Any]
  ) -> TrackedRun:
    wandb = _package("wandb")
    run = wandb.init(
      project=self.project,
      name=self.run_name or folder.name,
      group=self.group,
      dir=str(folder),
      id=run_id,
      resume="allow",
      # One process may train several students, each a run.
      reinit="create_new",
      mode=self.mode,
      config=dict(config),
    )
    return _WandbRun(wandb, run)


@dataclasses.dataclass(frozen=True)
class _WandbRun:
  wandb: Any
  run: Any

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self.run.log(dict(values), step=step)

  def write_samples(
    self, step: int, name: str, samples: Sequence[Mapping[str, Any]]
  ) -> None:
    columns = list(samples[0])
    rows = [[str(sample[column]) for column in columns] for sample in samples]
    table = self.wandb.Table(columns=columns, data=rows)
    self.run.log({name: table}, step=step)

  def close(self) -> None:
    self.run.finish()


@dataclasses.dataclass(frozen=True)
class Mlflow:
  """MLflow: a server, or a file of its own.

  Attributes:
    experiment: the experiment there.
    run_name: of the run; None takes the folder's.
    tracking_uri: such as http://127.0.0.1:5000, or sqlite:///mlflow.db; None
      takes MLFLOW_TRACKING_URI, or MLflow's default.
  """

  experiment: str = "dss_jax"
  run_name: str | None = None
  tracking_uri: str | None = None

  @property
  def name(self) -> str:
    return "mlflow"

  def open(
    self, folder: pathlib.Path, run_id: str, config: Mapping[str, Any]
  ) -> TrackedRun:
    # A server that does not answer must not hold the run up for long.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    mlflow = _package("mlflow")
    client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
    experiment = client.get_experiment_by_name(self.experiment)
    experiment_id = (
      experiment.experiment_id
      if experiment
      else client.create_experiment(self.experiment)
    )
    # MLflow names runs itself; ours is kept as a tag.
    found = client.search_runs(
      [experiment_id], f"tags.`dss_jax.run_id` = '{run_id}'", max_results=1
    )
    if found:
      run = found[0].info.run_id
      client.update_run(run, status="RUNNING")
      return _MlflowRun(mlflow, client, run)
    run = client.create_run(
      experiment_id,
      run_name=self.run_name or folder.name,
      tags={"dss_jax.run_id": run_id},
    ).info.run_id
    for name, value in config.items():
      client.log_param(run, name, one_line(value, longest=500))
    return _MlflowRun(mlflow, client, run)


@dataclasses.dataclass(frozen=True)
class _MlflowRun:
  mlflow: Any
  client: Any
  run: str

  def write(self, step: int, values: Mapping[str, float]) -> None:
    now = int(1000 * time.time())
    metrics = [
      self.mlflow.entities.Metric(name, value, now, step)
      for name, value in values.items()
    ]
    self.client.log_batch(self.run, metrics=metrics)

  def write_samples(
    self, step: int, name: str, samples: Sequence[Mapping[str, Any]]
  ) -> None:
    text = json.dumps(list(samples), ensure_ascii=False, indent=2)
    self.client.log_text(self.run, text, f"{name}/{step}.json")

  def close(self) -> None:
    self.client.set_terminated(self.run)


@dataclasses.dataclass(frozen=True)
class Trackio:
  """Trackio, whose dashboard runs on this machine or in a Hugging Face Space.

  Attributes:
    project: the project there.
    run_name: of the run; None takes the folder's.
    space_id: a Space to write to; None writes to this machine.
    private: whether only its owner sees a Space that is made here. It gets the
      configuration, and inputs of the data beside predictions.
  """

  project: str = "dss_jax"
  run_name: str | None = None
  space_id: str | None = None
  private: bool = True

  @property
  def name(self) -> str:
    return "trackio"

  def open(
    self, folder: pathlib.Path, run_id: str, config: Mapping[str, Any]
  ) -> TrackedRun:
    trackio = _package("trackio")
    run = trackio.init(
      project=self.project,
      name=f"{self.run_name or folder.name}-{run_id[:6]}",
      space_id=self.space_id,
      private=self.private if self.space_id else None,
      resume="allow",
      config=dict(config),
    )
    return _TrackioRun(trackio, run)


@dataclasses.dataclass(frozen=True)
class _TrackioRun:
  trackio: Any
  run: Any

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self.run.log(dict(values), step=step)

  def write_samples(
    self, step: int, name: str, samples: Sequence[Mapping[str, Any]]
  ) -> None:
    table = self.trackio.Table(data=[dict(sample) for sample in samples])
    self.run.log({name: table}, step=step)

  def close(self) -> None:
    self.run.finish()


class Trackers:
  """The trackers of a run, none of which can stop it.

  Args:
    trackers: those to open.
    folder: of the run.
    config: what the run is made of, for their pages.
    say: prints a line for the user.

  Raises:
    UserError: a package is not installed.
  """

  def __init__(
    self,
    trackers: Sequence[Tracker],
    folder: pathlib.Path,
    config: Mapping[str, Any],
    say: Callable[[str], None],
  ):
    self._say = say
    self._open: dict[str, TrackedRun] = {}
    if not trackers:
      return
    names = [tracker.name for tracker in trackers]
    if twice := [name for name in names if names.count(name) > 1]:
      raise UserError(
        f"trackers has {twice[0]} twice; one of each is allowed",
        fields="TrainConfig.trackers",
      )
    ids = _run_ids(folder, names)
    for tracker in trackers:
      with self._tolerated(tracker.name, UserError):
        self._open[tracker.name] = tracker.open(
          folder, ids[tracker.name], config
        )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one point to each of the named curves."""
    for name, run in [*self._open.items()]:
      with self._tolerated(name):
        run.write(step, values)

  def write_samples(
    self, step: int, name: str, samples: Sequence[Mapping[str, Any]]
  ) -> None:
    """Adds some predictions, each with the same keys."""
    for tracker, run in [*self._open.items()] if samples else ():
      with self._tolerated(tracker):
        run.write_samples(step, name, samples)

  def close(self) -> None:
    """Ends the runs there; they may continue later."""
    for name, run in [*self._open.items()]:
      with self._tolerated(name):
        run.close()
    self._open.clear()

  @contextlib.contextmanager
  def _tolerated(self, name: str, *raised: type[Exception]) -> Iterator[None]:
    """Gives a tracker up that fails, with a line, but for what is `raised`."""
    try:
      yield
    except raised:
      raise
    except Exception as error:  # whatever a client of a service may raise
      self._open.pop(name, None)
      self._say(
        f"{name} gets no more of this run: {one_line(error)}; the folder has all"
        " of it"
      )


def _run_ids(folder: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
  """The run's name at each tracker, made at the first start."""
  path = folder / RUNS_FILE
  ids: dict[str, str] = {}
  if path.exists():
    with damaged_file(path, "delete it"):
      ids = dict(strict_json.loads(plain_files.read_text(path)))
  if set(names) - ids.keys():
    ids = {name: uuid.uuid4().hex for name in names} | ids
    os.makedirs(folder, exist_ok=True)
    atomic_files.write_atomically(path, json.dumps(ids, indent=2) + "\n")
  return ids
