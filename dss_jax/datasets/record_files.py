"""Your own data as a dataset: files of records, lists, callables, folders.

`RecordFiles` is the `load` of a dataset that a module registers.

A folder of records takes the place of any dataset's own source:

    dss-jax train ... --gin.DATASET=cqa --data_dir=FOLDER \\
      --gin.data.DataOptions.source=records

reads

    FOLDER/train.jsonl
    FOLDER/test.jsonl
    FOLDER/validation.jsonl   optional: else it is cut from the training data

and scores with the dataset's own metrics: so rationales that somebody has
just extracted are trained on. Any format of `dss_jax.datasets.records` will do,
and FOLDER may hold one such folder per dataset, named after it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dss_jax.base.errors import UserError
from dss_jax.datasets.dataset_spec import SPLITS
from dss_jax.datasets.options import DataOptions
from dss_jax.datasets.records import (
  READ_SUFFIXES,
  SUFFIXES,
  Record,
  read_records,
)

# The data of one split: a file of records, the records, or what returns them.
SplitData = (
  str | os.PathLike[str] | Iterable[Record] | Callable[[], Iterable[Record]]
)
# Record field -> key of a file; see `dss_jax.datasets.records`.
Mapped = Mapping[str, str | Sequence[str]]


@dataclasses.dataclass(frozen=True)
class RecordFiles:
  """Loads a dataset from files of records: the `load` of your own dataset.

    register(DatasetSpec("mine", RecordFiles({"train": "train.jsonl"}),
                         source_splits=("train",)))

  Attributes:
    data: split -> file; or records, or a callable that returns them.
    field_mapping: for files: record field -> key of the files, or one such
      mapping per split.
    skip_malformed: for files: whether lines that cannot be used are left out,
      with their number logged, instead of being an error.
  """

  data: Mapping[str, SplitData]
  field_mapping: Mapped | Mapping[str, Mapped] | None = None
  skip_malformed: bool = False
  # What iterables gave: they can be read only once.
  _read: dict[str, list[Record]] = dataclasses.field(
    default_factory=dict, compare=False, repr=False
  )

  def __call__(self, split: str, options: DataOptions) -> list[Record]:
    """The records of `split`.

    Raises:
      UserError: if there are none, or a file has lines that cannot be used, or
        an item is no record, or two records have one id.
    """
    del options  # nothing of it changes what a file of records says
    if split not in self.data:
      raise UserError(
        f"no data for split {split!r}; there are: {', '.join(self.data)}"
      )
    found: Any = self.data[split]
    if isinstance(found, str | os.PathLike):
      mapping = _mapping_of(split, self.field_mapping)
      return read_file(found, mapping, self.skip_malformed)
    if callable(found):
      made: Any = found()
      return _checked(made, split)
    if split not in self._read:
      self._read[split] = _checked(found, split)
    return self._read[split]


def _mapping_of(split: str, field_mapping: Mapping[str, Any] | None) -> Any:
  """The field mapping of a split, where there is one for each."""
  if not field_mapping:
    return None
  per_split = [isinstance(value, Mapping) for value in field_mapping.values()]
  if not any(per_split):
    return field_mapping
  if not all(per_split) or set(field_mapping) - set(SPLITS):
    raise UserError(
      f"field_mapping has {', '.join(map(repr, field_mapping))}; it must map"
      " record fields to keys, or each split to such a mapping",
      fields="field_mapping",
    )
  return field_mapping.get(split)


def _checked(records: Iterable[Any], split: str) -> list[Record]:
  """The records as a list, each a Record with an id of its own."""
  checked = list(records)
  ids = set()
  for position, record in enumerate(checked):
    if not isinstance(record, Record):
      raise UserError(
        f"item {position} of split {split!r} is a {type(record).__name__};"
        " a source gives dss_jax.datasets.records.Record objects."
      )
    if record.id in ids:
      raise UserError(
        f"two records of split {split!r} have the id {record.id!r}; ids must"
        " be unique."
      )
    ids.add(record.id)
  return checked


def read_file(
  path: str | os.PathLike[str],
  field_mapping: Mapped | None = None,
  skip_malformed: bool = False,
) -> list[Record]:
  """The records of a file whose lines can all be used.

  Args:
    path: of any format of `dss_jax.datasets.records`.
    field_mapping: record field -> key of the file.
    skip_malformed: leave out what cannot be used, and log it.

  Raises:
    UserError: if the file cannot be read, or a line cannot be used.
  """
  records, problems = read_records(path, field_mapping=field_mapping)
  if not problems:
    return records
  counted = f"{len(problems)} of {len(records) + len(problems)} lines of {path}"
  if not skip_malformed:
    raise UserError(
      f"{counted} cannot be used; the first: {problems[0]} (mend the file, or"
      " leave these lines out: skip_malformed of the dataset, or of `dss-jax"
      " data convert`)"
    )
  # Late: logging is needed on this path only.
  import logging

  logging.getLogger(__name__).warning(
    "%s are left out; the first: %s", counted, problems[0]
  )
  return records


# --- a folder of records -------------------------------------------------------


def folder_splits(dataset: str, options: DataOptions) -> tuple[str, ...]:
  """The splits that the folder has files for.

  Raises:
    UserError: if there is no folder, or two files are for one split.
  """
  folder = _folder(dataset, options)
  return tuple(split for split in SPLITS if _file(folder, split))


def load_from_folder(
  dataset: str, split: str, options: DataOptions
) -> list[Record]:
  """The records of a split's file.

  Raises:
    UserError: if there is none, or it has lines that cannot be used.
  """
  folder = _folder(dataset, options)
  path = _file(folder, split)
  if path is None:
    without = ("EvaluationConfig.test_split",) if split == "test" else ()
    raise UserError(
      f"no file of {split} records in {folder}: {split}.jsonl is missing, or"
      f" {split} with another suffix of {', '.join(SUFFIXES)}"
      f"{', unless test_split is None' if without else ''}",
      fields=("DataOptions.data_dir", *without),
    )
  records = read_file(path)
  if not records:
    raise UserError(f"{path} holds no records", fields="DataOptions.data_dir")
  return records


def _folder(dataset: str, options: DataOptions) -> pathlib.Path:
  root = options.data_folder(
    f"dataset {dataset!r} is read from files of records"
  )
  for folder in (root / dataset, root):
    if folder.is_dir() and any(_file(folder, split) for split in SPLITS):
      return folder
  if not root.is_dir():
    raise UserError(
      f"data_dir is {str(root)!r}, which does not exist; it must be a folder of"
      " train.jsonl, test.jsonl, ...",
      fields="DataOptions.data_dir",
    )
  return root


def _file(folder: pathlib.Path, split: str) -> pathlib.Path | None:
  paths = (folder / f"{split}{suffix}" for suffix in READ_SUFFIXES)
  found = [path for path in paths if path.is_file()]
  if len(found) > 1:
    raise UserError(
      f"{folder} holds {' and '.join(path.name for path in found)}: keep one"
      f" file of {split} records"
    )
  return found[0] if found else None
