"""Token arrays: a materialised Task or Mixture, the sampler's food.

The examples of one sub-task lie end to end in flat arrays with offsets
(`TokenArrays`); a Task or a Mixture is a tuple of those with its rates
(`ExampleSet`). Tokens are final: EOS appended, truncated to the feature
lengths. On disk they are plain memory-mapped `.npy` files (`array_folders`),
so a corpus larger than memory costs no memory, and every process of a host
shares the same pages.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dss_jax.base.errors import UserError
from dss_jax.data.tokens import array_folders

FORMAT = "dss_jax.token_arrays"
VERSION = 1

_ARRAY_DTYPES = {
  "inputs": np.int32,
  "input_offsets": np.int64,
  "targets": np.int32,
  "target_offsets": np.int64,
  "record_ids": np.int32,
  "weights": np.float32,
}


@dataclasses.dataclass(frozen=True, eq=False)
class TokenArrays:
  """The examples of one sub-task.

  Attributes:
    name: the sub-task's name, such as "label" or "rationale".
    inputs: [total_input_tokens] int32, the examples' input ids end to end.
    input_offsets: [num_examples + 1] int64; example i's inputs are
      `inputs[input_offsets[i]:input_offsets[i + 1]]`.
    targets: [total_target_tokens] int32.
    target_offsets: [num_examples + 1] int64.
    record_ids: [num_examples] int32, the position of the example's record in
      its split. Several examples may share one: alternatives (the rationales
      of a record); the sampler takes one of them per epoch.
    weights: [num_examples] float32, the examples' weights in the loss.

  Raises:
    ValueError: wrong dtypes, offsets that do not fit the tokens, or an example
      without input or target tokens.
  """

  name: str
  inputs: np.ndarray
  input_offsets: np.ndarray
  targets: np.ndarray
  target_offsets: np.ndarray
  record_ids: np.ndarray
  weights: np.ndarray

  def __post_init__(self):
    for field, dtype in _ARRAY_DTYPES.items():
      array = getattr(self, field)
      if array.dtype != dtype or array.ndim != 1:
        raise ValueError(
          f"{self.name}.{field}: {array.dtype} of {array.ndim} dimensions;"
          f" expected {np.dtype(dtype)} of 1"
        )
    if len(self.weights) != len(self.record_ids):
      raise ValueError(
        f"{self.name}: {len(self.record_ids)} record ids but"
        f" {len(self.weights)} weights"
      )
    for side in ("input", "target"):
      tokens = getattr(self, side + "s")
      offsets = getattr(self, side + "_offsets")
      if len(offsets) != len(self.record_ids) + 1:
        raise ValueError(
          f"{self.name}: {len(self.record_ids)} record ids but"
          f" {len(offsets)} {side} offsets (one more expected)"
        )
      if offsets[0] != 0 or offsets[-1] != len(tokens):
        raise ValueError(
          f"{self.name}: {side} offsets run from {offsets[0]} to"
          f" {offsets[-1]}, the tokens from 0 to {len(tokens)}"
        )
      lengths = np.diff(offsets)
      if lengths.size and lengths.min() < 1:
        raise ValueError(
          f"{self.name}: example {int(lengths.argmin())} has no {side} tokens"
        )

  @classmethod
  def from_lists(
    cls,
    name: str,
    inputs: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    record_ids: Sequence[int] | np.ndarray | None = None,
    weights: Sequence[float] | np.ndarray | None = None,
  ) -> TokenArrays:
    """Builds token arrays from one list of ids per example.

    Args:
      name: the sub-task's name.
      inputs: input ids of each example, EOS included.
      targets: target ids of each example, EOS included.
      record_ids: one per example; by default each example is its own record.
      weights: one per example, 1.0 by default.
    """
    if len(inputs) != len(targets):
      raise ValueError(
        f"{name}: {len(inputs)} inputs but {len(targets)} targets"
      )
    if record_ids is None:
      record_ids = range(len(inputs))
    if weights is None:
      weights = np.ones(len(inputs), np.float32)
    return cls(
      name,
      *_ragged(inputs),
      *_ragged(targets),
      record_ids=np.asarray(record_ids, np.int32).reshape(-1),
      weights=np.asarray(weights, np.float32).reshape(-1),
    )

  def __len__(self) -> int:
    return len(self.record_ids)

  @property
  def input_lengths(self) -> np.ndarray:
    """[num_examples] int64, tokens."""
    return np.diff(self.input_offsets)

  @property
  def target_lengths(self) -> np.ndarray:
    """[num_examples] int64, tokens."""
    return np.diff(self.target_offsets)

  def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(input ids, target ids) of one example, both [length] int32."""
    start, end = self.input_offsets[index : index + 2]
    inputs = self.inputs[start:end]
    start, end = self.target_offsets[index : index + 2]
    return inputs, self.targets[start:end]


def _ragged(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
  """Lists of ids -> ([total] int32, [n + 1] int64 offsets)."""
  offsets = np.zeros(len(rows) + 1, np.int64)
  np.cumsum([len(row) for row in rows], out=offsets[1:])
  tokens = np.fromiter(
    (token for row in rows for token in row), np.int32, int(offsets[-1])
  )
  return tokens, offsets


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleSet:
  """A materialised Task or Mixture.

  Attributes:
    subtasks: the examples, by sub-task. Batches number sub-tasks by their
      position here, from 1.
    rates: how often to draw from each sub-task, relative to each other.
    paired: whether a record's examples stay together in a batch, one of each
      sub-task; rates then play no part.
    num_records: records in the split; record ids are below it.
    fingerprint: identifies data, sub-tasks and vocabulary.
    vocabulary: the vocabulary's `name`.
    task_name: the registered name, such as "cqa_dss".
    split: "train", "validation" or "test".
    left_out: sub-task -> reason -> how often a record or rationale gave no
      example, as far as it is known.
    cut: sub-task -> "inputs" and "targets" -> how many are cut, of those
      sub-tasks where it is known.
    same_labels: pairs of labels of different spelling that count as the same
      answer, as far as they are known.

  Raises:
    ValueError: fields that do not fit together.
  """

  subtasks: tuple[TokenArrays, ...]
  rates: tuple[float, ...]
  paired: bool
  num_records: int
  fingerprint: str
  vocabulary: str
  task_name: str
  split: str
  left_out: Mapping[str, Mapping[str, int]] = dataclasses.field(
    default_factory=dict
  )
  cut: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
  same_labels: Sequence[tuple[str, str]] = ()

  def __post_init__(self):
    if not self.subtasks or len(self.rates) != len(self.subtasks):
      raise ValueError(
        f"{self.task_name}: {len(self.subtasks)} sub-tasks and"
        f" {len(self.rates)} rates; expected as many, at least one"
      )
    if not all(0 <= rate < float("inf") for rate in self.rates):
      raise ValueError(f"{self.task_name}: rates {self.rates} must be >= 0")
    for subtask in self.subtasks:
      ids = subtask.record_ids
      if ids.size and not 0 <= ids.min() <= ids.max() < self.num_records:
        raise ValueError(
          f"{self.task_name}/{subtask.name}: record ids {ids.min()} to"
          f" {ids.max()} with {self.num_records} records"
        )

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes the set to `folder`, atomically, replacing what was there."""
    with array_folders.create(folder) as writer:
      for i, subtask in enumerate(self.subtasks):
        for field in _ARRAY_DTYPES:
          writer.add(_file(i, field), getattr(subtask, field))
      writer.finish(
        {
          "format": FORMAT,
          "version": VERSION,
          "fingerprint": self.fingerprint,
          "task_name": self.task_name,
          "split": self.split,
          "vocabulary": self.vocabulary,
          "num_records": self.num_records,
          "paired": self.paired,
          "rates": list(self.rates),
          "left_out": {k: dict(v) for k, v in self.left_out.items()},
          "cut": {k: dict(v) for k, v in self.cut.items()},
          "same_labels": [list(pair) for pair in self.same_labels],
          "subtasks": [subtask.name for subtask in self.subtasks],
        }
      )

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike[str],
    *,
    fingerprint: str | None = None,
  ) -> ExampleSet:
    """Opens a set that `save` wrote, memory-mapped and checked.

    Args:
      folder: where it lies.
      fingerprint: if given, the fingerprint that the set must have.

    Raises:
      UserError: the folder is absent, damaged, or of another fingerprint.
    """
    opened = array_folders.open_folder(folder, format=FORMAT, version=VERSION)
    header = opened.header
    found = header.get("fingerprint")
    if fingerprint is not None and found != fingerprint:
      raise UserError(
        f"{folder} was made from other data, sub-tasks or vocabulary:"
        f" fingerprint {found!r}, expected {fingerprint!r}; delete the folder"
        " and write it again"
      )
    arrays = {name: opened.read(name) for name in header["arrays"]}
    try:
      return cls._from_parts(header, arrays)
    except Exception as error:  # whatever values of other kinds lead to
      raise array_folders.damaged(
        folder, f"{type(error).__name__}: {error}"
      ) from error

  @classmethod
  def _from_parts(
    cls, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
  ) -> ExampleSet:
    """The set from a checked folder's header and arrays."""
    return cls(
      subtasks=tuple(
        TokenArrays(
          str(name),
          **{field: arrays[_file(i, field)] for field in _ARRAY_DTYPES},
        )
        for i, name in enumerate(header["subtasks"])
      ),
      rates=tuple(float(rate) for rate in header["rates"]),
      paired=bool(header["paired"]),
      num_records=int(header["num_records"]),
      fingerprint=str(header["fingerprint"]),
      vocabulary=str(header["vocabulary"]),
      task_name=str(header["task_name"]),
      split=str(header["split"]),
      left_out=_counts(header.get("left_out", {})),
      cut=_counts(header.get("cut", {})),
      same_labels=[
        (str(first), str(second))
        for first, second in header.get("same_labels", ())
      ],
    )

  def statistics(self) -> dict[str, dict[str, dict[str, float]]]:
    """Lengths in tokens: sub-task -> "inputs"/"targets" -> mean, p50, ..."""
    return {
      subtask.name: {
        "inputs": _length_statistics(subtask.input_lengths),
        "targets": _length_statistics(subtask.target_lengths),
      }
      for subtask in self.subtasks
    }


def _counts(value: Mapping[str, Any]) -> dict[str, dict[str, int]]:
  """Counts by sub-task, as a header has them."""
  return {
    str(subtask): {str(k): int(v) for k, v in counts.items()}
    for subtask, counts in value.items()
  }


def _file(subtask: int, field: str) -> str:
  # By position: a sub-task's name may hold characters a file's may not.
  return f"subtask_{subtask}.{field}"


def _length_statistics(lengths: np.ndarray) -> dict[str, float]:
  """n, total, mean, p50, p95, max of lengths in tokens; zeros for none."""
  if not lengths.size:
    return dict.fromkeys(("n", "total", "mean", "p50", "p95", "max"), 0)
  return {
    "n": int(lengths.size),
    "total": int(lengths.sum()),
    "mean": float(lengths.mean()),
    "p50": float(np.percentile(lengths, 50)),
    "p95": float(np.percentile(lengths, 95)),
    "max": int(lengths.max()),
  }
