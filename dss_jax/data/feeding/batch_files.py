"""Batches written to files, and read back at any step.

    write_batches(folder, packed_batches, steps=range(1000))
    batches = BatchFiles(folder, fingerprint=..., shape=...)
    batch = batches[17]

A folder of plain arrays (`array_folders`): each feature in shards of
[steps, rows, length], and a header with the batch's shape, the vocabulary and
the fingerprint of the examples. Reading needs neither the data nor a packer,
and a run trained from files is the run trained from the data. Appears whole or
not at all; every shard is checked against its checksum when it is first used.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.data.feeding.batches import Batches, HostRows, PackedBatches
from dss_jax.data.packing.packed_features import FEATURES
from dss_jax.data.packing.packing_plans import MAX_COUNT, BatchShape
from dss_jax.data.tokens import array_folders

FORMAT = "dss_jax.batches"
VERSION = 1

# Of one feature's shard: few files, yet little to hold while writing.
_SHARD_BYTES = 64 << 20
_MAX_STEP = 2**53
# Shards that stay open, of one set of features each.
_OPEN_SHARDS = 4


def write_batches(
  folder: str | os.PathLike[str],
  batches: PackedBatches,
  steps: range,
  *,
  shard_bytes: int = _SHARD_BYTES,
) -> None:
  """Writes the batches of some consecutive steps, atomically.

  Args:
    folder: where to; an existing folder is replaced.
    batches: what to write: all rows of each batch, so not a host's slice.
    steps: consecutive steps.
    shard_bytes: size of one feature's shard, about.

  Raises:
    ValueError: `steps` are none or not consecutive, or `batches` hold only
      some of the rows.
  """
  if not len(steps) or steps.step != 1:
    raise ValueError(f"{steps}: consecutive steps are needed, at least one")
  specs = batches.feature_specs
  step_bytes = max(
    spec.dtype.itemsize * int(np.prod(spec.shape)) for spec in specs.values()
  )
  shard_steps = max(1, min(len(steps), shard_bytes // step_bytes))
  with array_folders.create(folder) as writer:
    for shard, first in enumerate(range(steps.start, steps.stop, shard_steps)):
      part = [
        batches[step]
        for step in range(first, min(first + shard_steps, steps.stop))
      ]
      for name, spec in specs.items():
        if part[0][name].shape != spec.shape:
          raise ValueError(
            f"{name}: {part[0][name].shape}, expected {spec.shape}: write"
            " whole batches, not a host's rows"
          )
        writer.add(_file(name, shard), np.stack([b[name] for b in part]))
    example_set = batches.example_set
    writer.finish(
      {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": example_set.fingerprint,
        "task_name": example_set.task_name,
        "split": example_set.split,
        "vocabulary": example_set.vocabulary,
        "subtasks": [subtask.name for subtask in example_set.subtasks],
        "paired": example_set.paired,
        "seed": batches.seed,
        "shape": dataclasses.asdict(batches.shape),
        "first_step": steps.start,
        "num_records": example_set.num_records,
        "num_steps": len(steps),
        "shard_steps": shard_steps,
      }
    )


class _Header(NamedTuple):
  """The checked entries of the header that reading needs."""

  shape: BatchShape
  fingerprint: str
  task_name: str
  split: str
  seed: int
  num_records: int
  vocabulary: str
  subtasks: tuple[str, ...]
  steps: range
  shard_steps: int


class BatchFiles(Batches):
  """Batches from a folder; `batches[step]` for any step in `steps`.

  Attributes:
    shape: the global batch.
    feature_specs: name -> shape and dtype of the global batch's features.
    steps: the steps that the folder holds.
    fingerprint: of the examples the batches were made from.
    task_name: the task that those are of.
    split: its split.
    seed: of the batches' order.
    num_records: records of the split.
    vocabulary: the vocabulary's name.
    subtask_names: names of the sub-tasks, in the order of their ids.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    *,
    fingerprint: str | None = None,
    vocabulary: str | None = None,
    shape: BatchShape | None = None,
    host_rows: HostRows = slice(None),
  ):
    """Opens the folder.

    Args:
      folder: where `write_batches` wrote.
      fingerprint: if given, what the examples' fingerprint must be.
      vocabulary: if given, what the vocabulary's name must be.
      shape: if given, what the batches' shape must be.
      host_rows: the rows of the global batch to read (of this host).

    Raises:
      UserError: the folder is absent, damaged, or not of what was expected.
    """
    self._folder = array_folders.open_folder(
      folder, format=FORMAT, version=VERSION
    )
    try:
      header = _check_header(self._folder.header)
    except Exception as error:  # whatever values of other kinds lead to
      raise array_folders.damaged(
        folder, f"{type(error).__name__}: {error}"
      ) from error
    for name, found, expected in (
      ("fingerprint", header.fingerprint, fingerprint),
      ("vocabulary", header.vocabulary, vocabulary),
      ("shape", header.shape, shape),
    ):
      if expected is not None and found != expected:
        raise UserError(
          f"{folder} holds batches of {name} {found!r}, expected"
          f" {expected!r}: write them again, or change the run to match"
        )
    super().__init__(header.shape, host_rows)
    self.fingerprint = header.fingerprint
    self.task_name = header.task_name
    self.split = header.split
    self.seed = header.seed
    self.num_records = header.num_records
    self.vocabulary = header.vocabulary
    self.subtask_names = header.subtasks
    self.steps = header.steps
    self._shard_steps = header.shard_steps
    self._verified: set[str] = set()
    self._shard = functools.lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

  def __len__(self) -> int:
    return len(self.steps)

  def __getitem__(self, step: int, /) -> dict[str, np.ndarray]:
    """This host's rows of batch `step`: name -> [rows, length].

    Raises:
      UserError: the folder does not hold that step, or a shard is damaged.
    """
    if step not in self.steps:
      raise UserError(
        f"{self._folder.path} holds the batches of steps {self.steps.start}"
        f" to {self.steps.stop - 1}, not of step {step}: write more, or lower"
        " total_steps",
        fields="TrainConfig.total_steps",
      )
    shard, place = divmod(step - self.steps.start, self._shard_steps)
    return {
      name: np.array(array[place, self._rows])
      for name, array in self._shard(shard).items()
    }

  def _open_shard(self, shard: int) -> dict[str, np.ndarray]:
    arrays = {}
    first = shard * self._shard_steps
    num_steps = min(self._shard_steps, len(self.steps) - first)
    for name, spec in self.feature_specs.items():
      file = _file(name, shard)
      arrays[name] = array = self._folder.read(
        file, verify=file not in self._verified
      )
      self._verified.add(file)
      expected = ((num_steps, *spec.shape), spec.dtype)
      if (array.shape, array.dtype) != expected:
        raise array_folders.damaged(
          self._folder.path,
          f"{file}: {array.dtype} {array.shape}, expected {expected[1]}"
          f" {expected[0]}",
        )
    return arrays


def _check_header(header: Mapping[str, Any]) -> _Header:
  """The header's entries; raises what values of other kinds lead to."""
  fields = {field.name for field in dataclasses.fields(BatchShape)}
  shape = header["shape"]
  if set(shape) != fields:
    raise ValueError(f"shape has {sorted(shape)}, expected {sorted(fields)}")
  if max(shape.values()) > MAX_COUNT:
    raise ValueError(f"shape has {max(shape.values())}")
  first, num_steps = int(header["first_step"]), int(header["num_steps"])
  shard_steps = int(header["shard_steps"])
  if not (0 <= first <= _MAX_STEP and 1 <= num_steps <= _MAX_STEP) or (
    shard_steps < 1
  ):
    raise ValueError("first_step, num_steps or shard_steps out of range")
  if -(-num_steps // shard_steps) > len(header["arrays"]):
    raise ValueError(f"it lacks most of the arrays of {num_steps} steps")
  missing = [
    _file(name, shard)
    for shard in range(-(-num_steps // shard_steps))
    for name in FEATURES
    if _file(name, shard) not in header["arrays"]
  ]
  if missing:
    raise ValueError(f"{missing[0]} is not among the arrays")
  return _Header(
    shape=BatchShape(**shape),
    fingerprint=str(header["fingerprint"]),
    task_name=str(header["task_name"]),
    split=str(header["split"]),
    seed=int(header["seed"]),
    num_records=int(header["num_records"]),
    vocabulary=str(header["vocabulary"]),
    subtasks=tuple(str(name) for name in header["subtasks"]),
    steps=range(first, first + num_steps),
    shard_steps=shard_steps,
  )


def _file(feature: str, shard: int) -> str:
  return f"{feature}.{shard:05d}"
