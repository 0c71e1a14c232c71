"""Files of records in the place of a dataset's own source.

    dss-jax train ... --gin.DATASET=cqa --data_dir=FOLDER \\
      --gin.data.DataOptions.source=records

reads

    FOLDER/train.jsonl
    FOLDER/test.jsonl
    FOLDER/validation.jsonl   optional: else it is cut from the training data

and scores with the dataset's own metrics: so rationales that somebody has
just extracted are trained on. Any format of `dss_jax.datasets.records` will do, and
FOLDER may hold one such folder per dataset, named after it.
"""

from __future__ import annotations

import pathlib

from dss_jax.base.errors import UserError
from dss_jax.datasets.options import DataOptions
from dss_jax.datasets.records import SUFFIXES, Record, read_records

_SPLITS = ("train", "validation", "test")


def splits(dataset: str, options: DataOptions) -> tuple[str, ...]:
  """The splits that the folder has files for.

  Raises:
    UserError: if there is no folder, or two files are for one split.
  """
  folder = _folder(dataset, options)
  return tuple(split for split in _SPLITS if _file(folder, split))


def load(dataset: str, split: str, options: DataOptions) -> list[Record]:
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
  records, problems = read_records(path)
  if problems:
    raise UserError(
      f"{len(problems)} of {len(records) + len(problems)} lines of {path}"
      f" cannot be used; the first: {problems[0]} (mend the file: `dss-jax data"
      " convert` leaves them out where skip_malformed is set)"
    )
  if not records:
    raise UserError(f"{path} holds no records", fields="DataOptions.data_dir")
  return records


def _folder(dataset: str, options: DataOptions) -> pathlib.Path:
  root = options.data_folder(
    f"dataset {dataset!r} is read from files of records"
  )
  for folder in (root / dataset, root):
    if folder.is_dir() and any(_file(folder, split) for split in _SPLITS):
      return folder
  if not root.is_dir():
    raise UserError(
      f"data_dir is {str(root)!r}, which does not exist; it must be a folder of"
      " train.jsonl, test.jsonl, ...",
      fields="DataOptions.data_dir",
    )
  return root


def _file(folder: pathlib.Path, split: str) -> pathlib.Path | None:
  paths = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
  found = [path for path in paths if path.is_file()]
  if len(found) > 1:
    raise UserError(
      f"{folder} holds {' and '.join(path.name for path in found)}: keep one"
      f" file of {split} records"
    )
  return found[0] if found else None
