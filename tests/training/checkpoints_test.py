import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dss_jax.base.errors import UserError
from dss_jax.cli import checkpoints_command, failures
from dss_jax.pretrained import opening
from dss_jax.training import checkpoints as checkpoints_lib
from dss_jax.training.checkpoints import Checkpoints, SaveOptions
from dss_jax.training.train_state import TrainState


def _state(seed: int = 0, width: int = 4) -> TrainState:
  """A sharded state with the awkward parts: empty nodes, scalars, masks."""
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rng = np.random.default_rng(seed)
  params = {
    "encoder": {"layers_0": {"kernel": rng.normal(size=(8, width))}},
    "scale": rng.normal(size=width),
  }
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(1e-3, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
  )
  state = TrainState(jnp.int32(3 + seed), params, tx.init(params))
  split = NamedSharding(mesh, PartitionSpec("data"))
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(
    lambda x: jax.device_put(x, split if x.ndim == 2 else whole), state
  )


def _abstract(state: TrainState) -> TrainState:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  return tmp_path / "run"


def test_restores_what_was_saved_onto_the_same_devices(folder):
  state = _state()
  loop = {"best_step": None, "best_value": 0.1 + 0.2, "stale_evaluations": 2}
  with Checkpoints(folder) as saved:
    saved.save(3, state, loop)
    saved.wait()
    restored = saved.restore(3, _abstract(state))
    assert saved.loop_state(3) == loop
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  kernel = restored.params["encoder"]["layers_0"]["kernel"]
  assert kernel.sharding.spec == PartitionSpec("data")
  assert [s.data.shape for s in kernel.addressable_shards] == [(1, 4)] * 8


def test_only_the_loop_asks_whether_to_stop(folder, monkeypatch):
  """JAX counts the askings: those of saves would count as the loop's."""
  asked = []
  monkeypatch.setattr(
    multihost_utils, "reached_preemption_sync_point", asked.append
  )
  with Checkpoints(folder) as checkpoints:
    for step in (2, 4):
      checkpoints.save(step, _state(step), {})
    checkpoints.wait()
  assert asked == []


def test_keeps_the_newest_and_the_best(folder):
  with Checkpoints(folder, SaveOptions(keep=2)) as saved:
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
      saved.save(step, _state(), {"best_step": best})
    saved.wait()
    assert saved.steps() == [2, 4, 5]
    assert saved.resolve_step("best") == 2
    assert saved.resolve_step("latest") == 5
    assert saved.resolve_step("4") == 4


def test_best_is_the_latest_where_nothing_was_evaluated(folder):
  with Checkpoints(folder) as saved:
    saved.save(7, _state(), {"best_step": None})
    saved.wait()
    assert saved.resolve_step("best") == 7


def test_a_save_cut_short_is_no_checkpoint(folder):
  with Checkpoints(folder) as saved:
    saved.save(1, _state(), {"best_step": None})
    saved.wait()
  # What Orbax leaves behind when it is killed while writing step 2.
  left = folder / "checkpoints" / "2.orbax-checkpoint-tmp"
  left.mkdir()
  (left / "state").mkdir()
  with Checkpoints(folder) as saved:
    assert saved.latest_step() == 1
    deadline = time.monotonic() + 20  # it is removed in the background
    while left.exists() and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not left.exists()


def test_parameters_alone(folder):
  state = _state()
  with Checkpoints(folder) as saved:
    saved.save(3, state, {"best_step": None})
    saved.wait()
    params = saved.restore_params(3, _abstract(state).params)
  jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_another_model_is_refused_in_one_line(folder):
  with Checkpoints(folder) as saved:
    saved.save(3, _state(width=4), {"best_step": None})
    saved.wait()
    with pytest.raises(UserError) as error:
      saved.restore(3, _abstract(_state(width=6)))
    assert "[8, 4] in checkpoint, [8, 6] in run" in str(error.value)
    assert "\n" not in str(error.value)
    other = _abstract(_state())
    other = dataclasses.replace(other, params={"w": other.params["scale"]})
    with pytest.raises(
      UserError, match=r"1 missing, 2 extra; params/w missing"
    ):
      saved.restore(3, other)


def test_missing_checkpoints_are_refused(folder):
  with pytest.raises(UserError, match="there are no checkpoints in"):
    Checkpoints(folder, read_only=True)
  with Checkpoints(folder) as saved:
    with pytest.raises(UserError, match="no complete checkpoint"):
      saved.resolve_step("best")
    saved.save(3, _state(), {"best_step": None})
    saved.wait()
    with pytest.raises(UserError, match="there are 3, 'best' and 'latest'"):
      saved.resolve_step("12")


@pytest.mark.parametrize("options", [{"period": 0}, {"keep": 0}])
def test_options_are_checked(options):
  with pytest.raises(UserError, match="must be 1 or more") as error:
    SaveOptions(**options)
  assert error.value.fields == (f"SaveOptions.{next(iter(options))}",)


def test_closing_waits_for_orbax_to_tidy_up(folder):
  """Else a process that ends soon after prints a thread's traceback."""
  left = folder / "checkpoints" / "2.orbax-checkpoint-tmp"
  left.mkdir(parents=True)
  before = set(threading.enumerate())
  Checkpoints(folder).close()
  tidying = [
    thread
    for thread in set(threading.enumerate()) - before
    if "Signaling" in type(thread).__name__
  ]
  assert not tidying
  assert not left.exists()


def _saved(folder: pathlib.Path) -> TrainState:
  state = _state()
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(3, state, {"best_step": None})
  return state


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_a_lost_process_is_not_waited_for(folder, monkeypatch, kind):
  monkeypatch.setattr(checkpoints_lib, "_SECONDS_WITHOUT_OTHERS", 0.1)
  closing, returns = threading.Event(), threading.Event()

  def close_forever():
    closing.set()
    returns.wait()

  checkpoints = Checkpoints(folder)
  monkeypatch.setattr(checkpoints._manager, "close", close_forever)
  lost = kind("Gloo all-reduce failed: Connection closed by peer")
  with pytest.raises(kind, match="Gloo"), checkpoints:
    raise lost
  assert closing.is_set()
  returns.set()


def test_a_save_that_lacks_another_process_does_not_ask_for_room(
  folder, monkeypatch, capsys
):
  lost = TimeoutError("Timed out while waiting for async_write_complete barrier.")  # fmt: skip

  def wait():
    raise lost

  checkpoints = Checkpoints(folder)
  monkeypatch.setattr(checkpoints._manager, "wait_until_finished", wait)
  with pytest.raises(TimeoutError) as error:
    checkpoints.wait()
  assert error.value is lost
  monkeypatch.undo()
  checkpoints.close()

  # Nor does the command.
  def fail():
    raise lost

  assert failures.exit_status(fail, "train", debug=False) == os.EX_TEMPFAIL
  assert "lost another process of this run" in capsys.readouterr().err


def test_only_the_folder_of_a_step_has_checksums(folder):
  _saved(folder)
  found = [path.parent.name for path in folder.rglob("checksums.json")]
  assert found == ["3"]


def test_a_checkpoint_may_be_replaced(folder):
  state = _state()
  with Checkpoints(folder) as saved:
    saved.save(3, state, {"best_step": None})
    saved.save(3, state, {"best_step": 3})
    saved.wait()
    assert saved.steps() == [3]
    assert saved.loop_state(3) == {"best_step": 3}
  assert [path.name for path in (folder / "checkpoints").iterdir()] == ["3"]


@pytest.mark.parametrize("is_written", [False, True])
def test_a_checkpoint_is_kept_until_it_is_replaced(folder, is_written):
  """As a process leaves them that is killed while it replaces one."""
  _saved(folder)
  path = folder / "checkpoints" / "3"
  outgoing = path.parent / "outgoing" / "3"
  shutil.copytree(path, outgoing)
  if not is_written:
    shutil.rmtree(path)
  with Checkpoints(folder) as checkpoints:
    assert checkpoints.steps() == [3]
    checkpoints.loop_state(3)
  assert [each.name for each in path.parent.iterdir()] == ["3"]


@pytest.mark.parametrize("damaged", ["state/_METADATA", "loop/metadata"])
@pytest.mark.parametrize("content", [None, b"", b"\xff{"])
def test_a_damaged_checkpoint_is_refused_in_one_line(folder, damaged, content):
  like = _abstract(_saved(folder))
  path = folder / "checkpoints" / "3" / damaged
  path.unlink()
  if content is not None:
    path.write_bytes(content)
  with Checkpoints(folder, read_only=True) as checkpoints:

    def read():
      checkpoints.loop_state(3)
      checkpoints.restore(3, like)

    with pytest.raises(UserError, match=r"checkpoints/3 is damaged") as error:
      read()
  assert "\n" not in str(error.value)


def _numbers(folder: pathlib.Path) -> pathlib.Path:
  """The file of a checkpoint that holds the most numbers."""
  files = (folder / "checkpoints" / "3" / "state").rglob("d/*")
  return max(files, key=lambda path: path.stat().st_size)


def _overwrite(path: pathlib.Path, start: int, content: bytes) -> None:
  with path.open("r+b") as file:
    file.seek(start)
    file.write(content)


def _resize(path: pathlib.Path, change: int) -> None:
  with path.open("r+b") as file:
    file.truncate(path.stat().st_size + change)


@pytest.mark.parametrize(
  "damage",
  [
    lambda path: _overwrite(path, path.stat().st_size // 2, b"\xa5" * 160),
    lambda path: _overwrite(path, 0, b"\x00" * 16),
    lambda path: _overwrite(path, path.stat().st_size - 1, b"\xa5"),
    lambda path: _resize(path, -1),
    lambda path: _resize(path, 100),
    lambda path: path.write_bytes(b""),
    lambda path: path.unlink(),
  ],
)
def test_damaged_numbers_are_refused_in_one_line(folder, damage):
  like = _abstract(_saved(folder))
  damage(_numbers(folder))
  for read in (
    lambda saved: saved.restore(3, like),
    lambda saved: saved.restore_params(3, like.params),
    lambda saved: saved.restore_numpy(3),
    lambda saved: opening.open_run_step("run", saved.folder / "3", 3),
  ):
    with (
      Checkpoints(folder, read_only=True) as saved,
      pytest.raises(UserError, match=r"checkpoints/3.*state/.*d/.*") as error,
    ):
      read(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt"])
def test_a_pipe_in_a_checkpoint_is_not_opened(folder, name):
  _saved(folder)
  path = folder / "checkpoints" / "3" / "state" / name
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(UserError, match=f"{name} is no plain file"):
    Checkpoints(folder, read_only=True)


def test_every_byte_of_a_checkpoint_counts(folder):
  like = _abstract(_saved(folder))
  step = folder / "checkpoints" / "3"
  for path in [*(step / "state").rglob("*"), *(step / "loop").rglob("*")]:
    if not path.is_file() or not path.stat().st_size:
      continue
    content = path.read_bytes()
    _overwrite(path, len(content) // 2, bytes([content[len(content) // 2] ^ 1]))
    read = "restore" if "state" in path.parts else "loop_state"
    arguments = (3, like) if read == "restore" else (3,)
    with (
      Checkpoints(folder, read_only=True) as saved,
      pytest.raises(UserError, match=f"{path.name} has other bytes"),
    ):
      getattr(saved, read)(*arguments)
    path.write_bytes(content)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused(folder, value):
  """Runs without checksums, of earlier versions, have this check alone."""
  state = _state()
  scale = state.params["scale"]
  state = state.replace(params=state.params | {"scale": scale.at[2].set(value)})
  with Checkpoints(folder) as saved:
    saved.save(3, state, {})
    saved.wait()
    (saved.folder / "3" / "checksums.json").unlink()
    for read in (
      lambda: saved.restore(3, _abstract(state)),
      lambda: saved.restore_params(3, _abstract(state).params),
      lambda: saved.restore_numpy(3),
    ):
      with pytest.raises(UserError, match="scale has values that are not fin"):
        read()


def test_a_step_that_cannot_be_read_is_refused_in_one_line(folder):
  _saved(folder)
  path = folder / "checkpoints" / "3" / "_CHECKPOINT_METADATA"
  path.write_text('{"init_timestamp_nsecs": "x"}')
  with pytest.raises(UserError, match=r"checkpoints is damaged \(") as error:
    Checkpoints(folder, read_only=True)
  assert "\n" not in str(error.value)


def test_a_checkpoint_without_a_loop_is_refused_in_one_line(folder):
  _saved(folder)
  with pytest.raises(UserError, match=r"checkpoints/3 is damaged") as error:
    checkpoints_command._print_summary(str(folder))
  assert "\n" not in str(error.value)


# Another process, as Orbax's threads then hold up the end of this one.
_REFUSED = """
import functools, pathlib, sys
import numpy as np
from dss_jax.cli import failures, process
from dss_jax.training.checkpoints import Checkpoints

folder = pathlib.Path(sys.argv[1])
state = {"kernel": np.ones(3, np.float32)}

def save_where_a_file_lies():
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(3, state, {})
    checkpoints.wait()
    gone = folder / "checkpoints"
    gone.rename(folder / "moved")
    gone.touch()
    try:
      checkpoints.save(4, state, {})
      checkpoints.wait()
    finally:
      gone.unlink()
      (folder / "moved").rename(gone)

process.end(failures.exit_status(save_where_a_file_lies, "train", debug=False))
"""


@pytest.mark.slow
def test_a_save_that_the_disk_refuses_leaves_the_older_ones(folder):
  done = subprocess.run(
    [sys.executable, "-c", _REFUSED, str(folder)],
    stderr=subprocess.PIPE,
    text=True,
    timeout=100,
  )
  assert done.returncode == 1
  (line,) = [s for s in done.stderr.splitlines() if s.startswith("dss-jax")]
  assert "continues from its last" in line
  with Checkpoints(folder, read_only=True) as checkpoints:
    assert checkpoints.steps() == [3]
