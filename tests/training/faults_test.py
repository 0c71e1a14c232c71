"""What goes wrong around a run: crashes while saving, full disks, damaged files.

Each has an outcome that docs/launching/README.md names, and none of them costs
a step that was saved.
"""

import contextlib
import dataclasses
import io
import pathlib
import shutil
import subprocess
import sys
import threading

import command_line
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from dss_jax.base import named_trees
from dss_jax.base.errors import UserError
from dss_jax.data.feeding import batch_files, training_data
from dss_jax.training import evaluation, train
from dss_jax.training.checkpoints import Checkpoints, SaveOptions

# ------------------------------------------------------------ killed while saving

_WRITES = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove")


class Moments:
  """Copies of a folder, one before each of Python's operations on its files.

  A process that is killed leaves just what such a copy holds: what it has
  written is the system's, not its own.
  """

  def __init__(self, folder: pathlib.Path, copies: pathlib.Path):
    self._folder = folder
    self._copies = copies
    self._lock = threading.Lock()
    self._within = threading.local()
    self.found: list[pathlib.Path] = []
    self.is_on = True
    sys.addaudithook(self._before)

  def _before(self, event: str, arguments: tuple) -> None:
    if not self.is_on or event not in _WRITES:
      return
    path = arguments[0]
    if (
      not isinstance(path, str)
      or not path.startswith(str(self._folder))
      or getattr(self._within, "copying", False)
    ):
      return
    self._within.copying = True
    try:
      with self._lock:
        self._copy()
    finally:
      self._within.copying = False

  def _copy(self) -> None:
    copy = self._copies / str(len(self.found))
    # What other threads delete meanwhile is gone, as after a kill a little later.
    with contextlib.suppress(shutil.Error):
      shutil.copytree(self._folder, copy)
    self.found.append(copy)


def _state(step: int) -> dict:
  return {"params": {"w": np.full((40, 3), step, np.float32)}}


@pytest.mark.parametrize(
  "steps", [(1, 2, 3), pytest.param((1, 2, 2), marks=pytest.mark.thorough)]
)
def test_killed_while_saving_it_has_all_that_was_saved(tmp_path, steps):
  """At any moment there is a checkpoint, whole, and the newest never goes."""
  folder = tmp_path / "run"
  with Checkpoints(folder, SaveOptions(keep=1)) as saved:
    saved.save(1, _state(1), {"best_step": None, "save": 0})
  moments = Moments(folder / "checkpoints", tmp_path / "copies")
  with Checkpoints(folder, SaveOptions(keep=1)) as saved:
    for number, step in enumerate(steps[1:], 1):
      saved.save(step, _state(step), {"best_step": None, "save": number})
      saved.wait()
  moments.is_on = False
  assert len(moments.found) > 20
  newest = (1, 0)
  for copy in moments.found:
    left = tmp_path / "left"
    (left / "checkpoints").parent.mkdir()
    copy.rename(left / "checkpoints")
    with Checkpoints(left, SaveOptions(keep=1)) as saved:
      for step in saved.steps():
        loop, tree = saved.loop_state(step), saved.restore_numpy(step)
        assert named_trees.tree_hash(tree) == named_trees.tree_hash(
          _state(step)
        )
      assert (step, loop["save"]) >= newest
      newest = (step, loop["save"])
      # And it goes on from there.
      saved.save(9, _state(9), {"best_step": None})
      saved.wait()
      assert saved.steps() == [9]
    assert [path.name for path in (left / "checkpoints").iterdir()] == ["9"]
    shutil.rmtree(left)


# ------------------------------------------------------------------ full disks

_FULL_FLAGS = (
  "--gin.TRAIN_STEPS=12",
  "--gin.CHECKPOINT_PERIOD=1",
  "--gin.CHECKPOINTS_KEPT=None",
  "--gin.EVAL_PERIOD=None",
  "--gin.EVAL_STEPS=0",
  "--gin.RECORDS_PER_BATCH=8",
)


def _command(folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
  flags = command_line.train_flags(folder, *_FULL_FLAGS)
  return subprocess.run(
    [sys.executable, "-m", "dss_jax.main", *flags],
    env=command_line.environment(),
    stderr=subprocess.PIPE,
    text=True,
    timeout=600,
  )


@pytest.fixture
def disk(tmp_path):
  """Mounts a disk of its own, of a size that can be changed."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mounted = False

  def mount(size: int) -> pathlib.Path:
    nonlocal mounted
    options = f"{'remount,' if mounted else ''}size={size}"
    done = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
      capture_output=True,
      text=True,
    )
    if done.returncode:
      pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    mounted = True
    return folder

  yield mount
  if mounted:
    subprocess.run(["umount", str(folder)], check=True)


def _bytes_on_disk(folder: pathlib.Path) -> int:
  return sum(-(-p.lstat().st_size // 4096) * 4096 for p in folder.rglob("*"))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(tmp_path, disk):
  whole = tmp_path / "whole"
  done = _command(whole)
  assert done.returncode == 0, done.stderr

  run = disk(_bytes_on_disk(whole) // 2) / "run"
  done = _command(run)
  assert done.returncode == 1, done.stderr
  said = [x for x in done.stderr.splitlines() if x.startswith("dss-jax train:")]
  assert len(said) == 1, done.stderr
  assert "No space left" in said[0]
  assert "make room" in said[0]
  assert "Traceback" not in done.stderr
  with Checkpoints(run, read_only=True) as saved:
    steps = saved.steps()
    assert steps == [*range(1, len(steps) + 1)]
    assert 1 <= len(steps) < 12
    saved.restore_numpy(steps[-1])

  disk(2 * _bytes_on_disk(whole))
  done = _command(run)
  assert done.returncode == 0, done.stderr
  assert small_runs.fingerprint(run) == small_runs.fingerprint(whole)
  with Checkpoints(run, read_only=True) as saved:
    assert saved.steps() == [*range(1, 13)]


# --------------------------------------------------------------- damaged files


def _config(folder: pathlib.Path, **changes):
  return small_runs.config(
    folder,
    save_cfg=SaveOptions(period=2),
    evaluation_cfg=evaluation.EvaluationConfig(batch_size=16, loss_batches=0),
    stats_period=1,
    **changes,
  )


def _train(config) -> train.TrainResult:
  return train.train(config, stream=io.StringIO())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
  """A run of 8 steps that nothing happened to."""
  folder = tmp_path_factory.mktemp("finished")
  _train(_config(folder))
  return folder


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_continues(
  finished, tmp_path
):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  newest = folder / "checkpoints" / "8"
  numbers = max(
    (newest / "state").rglob("d/*"), key=lambda path: path.stat().st_size
  )
  numbers.write_bytes(numbers.read_bytes()[:-1] + b"\xa5")
  with pytest.raises(
    UserError, match=r"checkpoints/8 is damaged.*delete that folder to continue"
  ) as error:
    _train(_config(folder))
  assert "\n" not in str(error.value)
  # The run decides nothing: the folder is as it was.
  assert newest.is_dir()
  with Checkpoints(folder, read_only=True) as saved:
    assert saved.steps() == [6, 8]

  shutil.rmtree(newest)
  _train(_config(folder))
  assert small_runs.fingerprint(folder) == small_runs.fingerprint(finished)


def test_an_unreadable_shard_ends_the_run_where_it_is(finished, tmp_path):
  """The steps saved before it stay; with the shard mended, it goes on."""
  config = _config(tmp_path / "run")
  packed = training_data.load_packed(
    config.train_dataset_cfg, small_runs.VOCABULARY, seed=config.random_seed
  )
  files = tmp_path / "files"
  batch_files.write_batches(files, packed, range(8), shard_bytes=1)
  dataset = dataclasses.replace(
    config.train_dataset_cfg, batch_files=str(files)
  )
  config = dataclasses.replace(config, train_dataset_cfg=dataset)
  shard = files / "decoder_target_tokens.00005.npy"
  content = shard.read_bytes()
  shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.raises(UserError, match=rf"{shard.name}.*CRC-32 differs"):
    _train(config)
  with Checkpoints(config.folder, read_only=True) as saved:
    assert saved.steps() == [2, 4]

  shard.write_bytes(content)
  _train(config)
  assert small_runs.fingerprint(config.folder) == small_runs.fingerprint(
    finished
  )


# ------------------------------------------------------------------- divergence


def test_a_run_that_diverges_keeps_a_checkpoint_from_before(finished, tmp_path):
  """However often it would have saved what it had become."""

  def rate(step):
    return jnp.where(step < 5, 0.05, jnp.inf)

  config = _config(tmp_path, max_nonfinite_steps=4, total_steps=20)
  config = dataclasses.replace(config, save_cfg=SaveOptions(period=1))
  diverging = dataclasses.replace(config, learning_rate_fn=rate)
  with pytest.raises(FloatingPointError, match="4 steps in a row"):
    _train(diverging)
  with Checkpoints(tmp_path) as saved:
    # Step 6 made the parameters infinite, and the later ones changed nothing.
    assert saved.steps() == [5, 6]
    with pytest.raises(UserError, match="not finite"):
      saved.restore_numpy(6)
  with pytest.raises(UserError, match=r"checkpoints/6 is damaged.*not finite"):
    _train(diverging)

  shutil.rmtree(tmp_path / "checkpoints" / "6")
  _train(dataclasses.replace(config, total_steps=8))
  again, whole = (
    small_runs.fingerprint(folder) for folder in (tmp_path, finished)
  )
  assert again == whole
