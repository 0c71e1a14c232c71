"""Checkpoints: the train state and the loop's own memory, by Orbax.

A checkpoint holds everything that the rest of a run depends on, so a run
killed at any moment and started again ends as if it had not been:

  checkpoints/<step>/state   parameters, optimizer state, step (arrays)
  checkpoints/<step>/loop    what the loop remembers: best step, patience, ...
  checkpoints/<step>/base    the base that adapters belong to, where a run
                             trains adapters
  checkpoints/<step>/checksums.json   of the files of all these

Which step is the best, `train_state.LoopState` decides; which are kept is
decided here. What is read is compared with its checksums first, and parameters
must be finite: a damaged checkpoint is refused, never answers.

Saving is asynchronous. A save cut short leaves no checkpoint behind, only a
temporary folder that the next start removes, and a checkpoint that is deleted
or replaced is never seen half (`outgoing_checkpoints`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from dss_jax.base import (
  checks,
  file_checksums,
  named_trees,
  plain_files,
  value_types,
)
from dss_jax.base.errors import (
  StorageError,
  UserError,
  damaged_file,
  lost_process,
  one_line,
)
from dss_jax.pretrained import mismatch, t5x_checkpoints
from dss_jax.pretrained.files import bounds
from dss_jax.training import outgoing_checkpoints

PyTree = Any
FOLDER = "checkpoints"
_SECONDS_WITHOUT_OTHERS = 5.0
# What a checkpoint of adapters says about their base.
_BASE: dict[str, Any] = {
  "path": str,
  "sha256": str,
  "rank": int,
  "alpha": float,
  "targets": str,
  "also_train": list[str],
}


@dataclasses.dataclass(frozen=True)
class SaveOptions:
  """When checkpoints are written and which are kept.

  Attributes:
    period: steps between checkpoints. The step at which an evaluation is the
      best so far, and the last step, are saved too.
    keep: how many of the newest to keep; None keeps all. The best one by the
      validation metric is always kept.
    asynchronous: whether to write while training continues.
  """

  period: int = 1000
  keep: int | None = 2
  asynchronous: bool = True

  def __post_init__(self):
    checks.in_range("SaveOptions.period", self.period, 1)
    checks.in_range("SaveOptions.keep", self.keep, 1, or_none=True)


class _NewestAndBest(checkpoint_managers.PreservationPolicy):
  """Keeps the newest `keep` checkpoints and the one marked as best."""

  def __init__(self, keep: int | None):
    self.keep = keep
    self.best_step: int | None = None

  def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
    del context
    first_kept = 0 if self.keep is None else len(checkpoints) - self.keep
    return [
      index >= first_kept or checkpoint.step == self.best_step
      for index, checkpoint in enumerate(checkpoints)
    ]


class _WithChecksums(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """A step's folder that gets its checksums just before it gets its name.

  So a checkpoint has them or does not exist.
  """

  async def finalize(self, *args: Any, **options: Any) -> None:
    # Orbax takes this class for the folders of items too.
    if self.get_final().name.isdigit():
      folder = pathlib.Path(self.get())
      await asyncio.to_thread(file_checksums.write, folder)
    await super().finalize(*args, **options)


def _is_news(record: logging.LogRecord) -> bool:
  """Whether asyncio says more than that one more write of a save has failed.

  Orbax waits for the first of a save's writes to fail. That one is raised, and
  asyncio would print the traceback of each of the others.
  """
  trace = record.exc_info[2] if record.exc_info else None
  files = [frame.filename for frame in traceback.extract_tb(trace)]
  return not any("orbax" in pathlib.Path(file).parts for file in files)


logging.getLogger("asyncio").addFilter(_is_news)


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, which does not ask JAX whether the run is to stop.

  It asks with the number of a step, and the loop with how often it has asked
  (`train._StopAgreement`). JAX takes all of these for one count: processes would
  agree to stop at a number that the loop is never at, and so not stop.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class Checkpoints:
  """The checkpoints of one run, in `<model_dir>/checkpoints`."""

  def __init__(
    self,
    model_dir: str | pathlib.Path,
    options: SaveOptions | None = None,
    *,
    read_only: bool = False,
  ):
    """Opens the folder, making it unless `read_only`.

    Raises:
      UserError: where `read_only` and there is no checkpoint folder.
    """
    options = options or SaveOptions()
    self.options = options
    self._read_only = read_only
    self.folder = pathlib.Path(model_dir).absolute() / FOLDER
    if read_only and not self.folder.is_dir():
      raise UserError(
        f"there are no checkpoints in model_dir {str(model_dir)!r}; it must be"
        " the folder of a finished or running training",
        fields="TrainConfig.model_dir",
      )
    self._policy = _NewestAndBest(options.keep)
    self._compared: set[tuple[int, str]] = set()
    # Orbax looks at all checkpoints first.
    with damaged_file(
      self.folder, "delete the folder of the step that it is in"
    ):
      plain_files.check_folder(self.folder)
      if not read_only and jax.process_index() == 0 and self.folder.is_dir():
        # Others wait for it where Orbax makes the folder.
        outgoing_checkpoints.put_back(self.folder)
      self._manager = _Manager(
        self.folder,
        item_names=("state", "loop", "base"),
        options=ocp.CheckpointManagerOptions(
          create=not read_only,
          read_only=read_only,
          cleanup_tmp_directories=not read_only,
          todelete_subdir=None if read_only else outgoing_checkpoints.FOLDER,
          enable_async_checkpointing=options.asynchronous,
          preservation_policy=self._policy,
          temporary_path_class=_WithChecksums,
          # The loop decides when; the manager saves whenever it is asked.
          should_save_fn=lambda *_: True,
        ),
      )

  # ---------------------------------------------------------- what there is

  def steps(self) -> list[int]:
    """The steps that have a complete checkpoint, ascending."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """The newest step that has a complete checkpoint."""
    return self._manager.latest_step()

  def resolve_step(self, step: int | str = "best") -> int:
    """Turns `best`, `latest` or a number into a step that exists.

    `best` falls back to the latest where no evaluation has been made.

    Raises:
      UserError: where there is no such checkpoint.
    """
    steps = self.steps()
    if not steps:
      raise UserError(f"{self.folder} holds no complete checkpoint")
    if step == "latest":
      return steps[-1]
    if step == "best":
      best = self.loop_state(steps[-1]).get("best_step")
      return best if best in steps else steps[-1]
    try:
      number = int(step)
    except ValueError:
      number = None
    if number not in steps:
      raise UserError(
        f"no checkpoint of step {step!r} in {self.folder}; there are"
        f" {', '.join(map(str, steps))}, 'best' and 'latest'"
      )
    return number

  def loop_state(self, step: int) -> dict[str, Any]:
    """What the loop remembered at `step`.

    Raises:
      UserError: where the checkpoint is damaged.
    """
    with self._reading(step, "loop"):
      return self._read_json(step, "loop")

  def base(self, step: int) -> dict[str, Any] | None:
    """The base of the adapters saved at `step`; None where all was trained.

    Raises:
      UserError: where the checkpoint is damaged.
    """
    if not (self.folder / str(step) / "base").is_dir():
      return None
    with self._reading(step, "base"):
      base = self._read_json(step, "base")
      for name, hint in _BASE.items():
        if not value_types.matches(base.get(name), hint):
          raise ValueError(f"the {name} of its base is {base.get(name)!r}")
      return base

  def _read_json(self, step: int, item: str) -> dict[str, Any]:
    args = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
    return dict(self._manager.restore(step, args=args)[item])

  def param_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters saved at `step`, by their paths."""
    with self._reading(step, "state"):
      return named_trees.shapes(self._metadata(step)["params"])

  def _metadata(self, step: int) -> PyTree:
    return ocp.PyTreeCheckpointHandler().metadata(self._arrays(step)).tree

  def _arrays(self, step: int) -> epath.Path:
    return epath.Path(self.folder) / str(step) / "state"

  # ------------------------------------------------------------------- saving

  def save(
    self,
    step: int,
    state: PyTree,
    loop_state: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts saving; returns once the arrays are copied off the device.

    Args:
      step: updates made so far, which is also the position in the data. Its
        checkpoint is replaced, if it has one.
      state: the train state.
      loop_state: JSON values; `best_step` says which checkpoint to keep.
      base: JSON values about the base of adapters; None without adapters.

    Raises:
      StorageError: where this checkpoint, or the one before, cannot be
        written.
    """
    self._policy.best_step = loop_state.get("best_step")
    self.wait()
    if step in self.steps():  # Orbax would refuse
      with self._writing():
        self._manager.delete(step)
    items = {
      "state": ocp.args.PyTreeSave(_as_tree(state)),
      "loop": ocp.args.JsonSave(dict(loop_state)),
    }
    if base is not None:
      items["base"] = ocp.args.JsonSave(dict(base))
    with self._writing():
      self._manager.save(step, args=ocp.args.Composite(**items))

  def wait(self) -> None:
    """Waits until the checkpoints are on disk.

    Raises:
      StorageError: where one cannot be written.
    """
    with self._writing():
      self._manager.wait_until_finished()
      self._delete_outgoing()

  def _delete_outgoing(self) -> None:
    if not self._read_only and jax.process_index() == 0:
      outgoing_checkpoints.delete(self.folder)

  def close(self) -> None:
    # Orbax waits for its thread that removes temporary folders only before a
    # save; a process that ended sooner would print that thread's traceback.
    wait = getattr(self._manager, "_maybe_await_cleanup_tmp_directory", None)
    with self._writing():
      if wait is not None:
        wait()
      self._manager.close()
      self._delete_outgoing()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Turns a failed save into one line; Orbax raises what its parts raise."""
    try:
      yield
    except StorageError:
      raise
    except Exception as error:
      if lost_process(error):
        raise
      # The folder is named already, and a long one would leave no room.
      text = str(getattr(error, "strerror", None) or error)
      reason = one_line(text.replace(str(self.folder), "..."), longest=600)
      raise StorageError(
        f"a checkpoint could not be written to {self.folder} ({reason}): make"
        " room, or mend what the reason names, and start the run again; it"
        " continues from its last checkpoint"
      ) from error

  @contextlib.contextmanager
  def _reading(self, step: int, item: str) -> Iterator[None]:
    """Turns what a damaged checkpoint raises into one line.

    The item's files are compared with their checksums, by each process a share
    of them; one that finds damage ends the others.
    """
    try:
      if (step, item) not in self._compared:
        file_checksums.check(
          self.folder / str(step),
          item,
          jax.process_index(),
          jax.process_count(),
        )
        self._compared.add((step, item))
      yield
    except UserError:
      raise
    except Exception as error:  # whatever the parsers make of damaged bytes
      reason = one_line(str(error) or type(error).__name__)
      raise UserError(
        f"the checkpoint {self.folder / str(step)} is damaged ({reason}):"
        " delete that folder to continue from the one before, or from the start"
      ) from error

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(
    self, _: object, error: BaseException | None, *more: object
  ) -> None:
    if not lost_process(error):
      self.close()
      return
    # A save in progress waits for the other processes until JAX gives up.
    closing = threading.Thread(target=self._try_to_close, daemon=True)
    closing.start()
    closing.join(_SECONDS_WITHOUT_OTHERS)

  def _try_to_close(self) -> None:
    # What it raises follows from the error that is reported.
    with contextlib.suppress(Exception):
      self.close()

  # ---------------------------------------------------------------- restoring

  def restore(self, step: int, like: PyTree) -> PyTree:
    """The train state saved at `step`.

    Args:
      step: a step that has a checkpoint.
      like: a train state of `jax.ShapeDtypeStruct` leaves (with shardings, on
        which the arrays are placed directly) or of arrays.

    Raises:
      UserError: where the checkpoint belongs to another model or optimizer.
    """
    tree = _as_tree(like)
    self._check_same(step, tree)
    return dataclasses.replace(like, **self._restore(step, tree))

  def restore_params(self, step: int, like: PyTree) -> PyTree:
    """Only the parameters saved at `step`; `like` as in `restore`."""
    self._check_same(step, {"params": like}, only="params")
    return self._restore(step, {"params": like}, partial=True)["params"]

  def _restore(
    self, step: int, tree: PyTree, *, partial: bool = False
  ) -> PyTree:
    restore_args = ocp.checkpoint_utils.construct_restore_args(tree)
    with self._reading(step, "state"):
      found = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeRestore(
            item=tree, restore_args=restore_args, partial_restore=partial
          )
        ),
      )["state"]
      _check_finite(found["params"])
      return found

  def restore_numpy(self, step: int) -> dict[str, Any]:
    """The whole saved tree as host arrays in dicts, whatever its structure.

    What holds no array, such as a momentum that is not kept, is left out.

    Raises:
      UserError: where the checkpoint is damaged, or its parameters are not
        finite.
    """
    with self._reading(step, "state"):
      found = t5x_checkpoints.open_state(
        pathlib.Path(self._arrays(step)), bounds.Budget()
      )
      tree = named_trees.nested({k: v.whole() for k, v in found.items()})
      _check_finite(tree["params"])
      return tree

  def _check_same(
    self, step: int, wanted: PyTree, only: str | None = None
  ) -> None:
    """Compares names and shapes before anything is read."""
    with self._reading(step, "state"):
      saved = named_trees.shapes(self._metadata(step))
    if only:
      saved = {k: v for k, v in saved.items() if k.startswith(f"{only}/")}
    mismatch.check(
      saved,
      named_trees.shapes(wanted),
      f"the checkpoint of step {step} in {self.folder} belongs to another"
      " model or optimizer",
      columns=("checkpoint", "run"),
      remedy="use the configuration that it was trained with, or another"
      " model_dir",
      fields=("TrainConfig.model_dir",),
    )


def _check_finite(params: PyTree) -> None:
  """Raises ValueError for the first array that this process sees to be wrong."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    shards = [leaf]
    if isinstance(leaf, jax.Array):
      # Copies on other devices are not looked at.
      shards = [s.data for s in leaf.addressable_shards if s.replica_id == 0]
    if not all(np.isfinite(np.asarray(shard)).all() for shard in shards):
      raise ValueError(
        f"{named_trees.path_name(path)} has values that are not finite"
      )


def _as_tree(state: PyTree) -> PyTree:
  """A train state as a dictionary, the form it has on disk."""
  if dataclasses.is_dataclass(state):
    return {
      field.name: getattr(state, field.name)
      for field in dataclasses.fields(state)
    }
  return state
