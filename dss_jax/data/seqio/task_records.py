"""What the SeqIO source of a Task reads: flat records, without TensorFlow.

Several Tasks of a dataset share its records, so they are kept in memory once
they have been read. Flat records carry a fingerprint, so that a cache made of
them can be distinguished from one that today's options would make.
"""

import dataclasses
import functools
import hashlib
import json
import os
from typing import Any

import numpy as np

from dss_jax import datasets
from dss_jax.data.pairs import flat_records, task_options
from dss_jax.data.tokens import tokenization
from dss_jax.datasets.records import Record

# Changes when the same records would be flattened differently.
FLATTENING_VERSION = 2

_INT_FIELDS = (
  "record",
  "has_label",
  "unreadable",
  "rationale_index",
  "usable",
  "represents",
  "agrees",
)
_TEXT_FIELDS = ("id", "input", "label", "rationale")

SPLIT_CODES = {split: code for code, split in enumerate(flat_records.SPLITS)}


@dataclasses.dataclass(frozen=True)
class TaskRecords:
  """Which flat records a Task is made of: all that its source depends on."""

  dataset: str
  label_source: str
  rationale_source: str | None
  pinned: datasets.DataOptions | None

  def read_options(self) -> datasets.DataOptions:
    """The options that decide how the source is read, and only those."""
    current = task_options.current().data
    chosen = self.pinned or current
    default = datasets.DataOptions()
    return dataclasses.replace(
      chosen,
      data_dir=chosen.data_dir
      or current.data_dir
      or os.environ.get(datasets.DATA_DIR_VARIABLE),
      split_policy=default.split_policy,
      train_fraction=default.train_fraction,
      split_seed=default.split_seed,
      max_records=default.max_records,
    )

  def records(self, split: str) -> list[Record]:
    return _source_records(self.dataset, split, self.read_options())

  def fingerprint(self, split: str, *, with_data: bool) -> str:
    """`DEFINITION` or `DEFINITION-DATA`: what was asked for, what was read."""
    read = dataclasses.asdict(self.read_options())
    del read["data_dir"]  # where the data lies does not change it
    if self.dataset != "taxonli":
      read = {k: v for k, v in read.items() if not k.startswith("taxonli_")}
    defined = [
      FLATTENING_VERSION,
      self.dataset,
      self.label_source,
      self.rationale_source,
      split,
      read,
    ]
    parts = [json.dumps(defined, sort_keys=True)]
    if with_data:
      parts.append(tokenization.records_digest(self.records(split)))
    return "-".join(
      hashlib.sha256(part.encode()).hexdigest()[:12] for part in parts
    )

  def arrays(self, split: str) -> dict[str, np.ndarray]:
    """The flat records of a source split, one array per feature."""
    columns: dict[str, list[Any]] = {
      name: [] for name in (*_INT_FIELDS, *_TEXT_FIELDS, "weight")
    }
    for flat_record in flat_records.flatten(
      self.records(split),
      split,
      agrees=tokenization.agreement(self.dataset),
      label_source=self.label_source,
      rationale_source=self.rationale_source,
    ):
      for name, column in columns.items():
        column.append(getattr(flat_record, name))
    count = len(columns["id"])
    # No tf.bool: protobuf 7 refuses booleans in a cached example.
    arrays: dict[str, np.ndarray] = {
      name: np.array(columns[name], np.int32) for name in _INT_FIELDS
    }
    for name in _TEXT_FIELDS:
      texts = [text.encode() for text in columns[name]]
      arrays[name] = np.array(texts, object)
    arrays["weight"] = np.array(columns["weight"], np.float32)
    arrays["split"] = np.full(count, SPLIT_CODES[split], np.int32)
    fingerprint = self.fingerprint(split, with_data=True).encode()
    arrays["fingerprint"] = np.full(count, fingerprint, object)
    return arrays


@functools.lru_cache(maxsize=8)
def _source_records(
  dataset: str, split: str, read_options: datasets.DataOptions
) -> list[Record]:
  """The records a split is cut from: the Tasks of a dataset share them."""
  source_split = split
  spec = datasets.get(dataset)
  if split == "validation" and split not in datasets.source_splits(
    spec, read_options
  ):
    source_split = "train"
  if source_split == "train":
    return datasets.load_training_source(dataset, read_options)
  return datasets.load_source_split(dataset, source_split, options=read_options)


def forget_loaded_records() -> None:
  """Reads files anew next time, for sessions in which they change."""
  _source_records.cache_clear()
