"""Records into files, one by one: several formats at once, whole or not at all.

  with open_writers(["out/train.jsonl", "out/train.parquet"]) as write:
    for record in records:
      write(record)

The formats are those of `dss_jax.datasets.records`. Only .csv and .tsv are held
in memory, and one row group of Parquet.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from dss_jax.base.errors import UserError
from dss_jax.datasets import records
from dss_jax.datasets.records import Record

PathLike = str | os.PathLike[str]
Write = Callable[[Record], None]

SUFFIXES = records.SUFFIXES


@contextlib.contextmanager
def open_writers(paths: Sequence[PathLike]) -> Iterator[Write]:
  """A function that writes one record to each of the files.

  The files take the place of older ones after the block; if it raises, none
  of them is touched.

  Args:
    paths: files with suffixes of SUFFIXES, in folders that exist.

  Raises:
    UserError: an unknown suffix, a path named twice, a folder that cannot be
      written to, a package that is missing; and from the block, a record whose
      id was there before, or that cannot be written.
  """
  check_paths(paths)
  with contextlib.ExitStack() as stack:
    writers = [stack.enter_context(records.open_writer(path)) for path in paths]

    def write(record: Record):
      for writer in writers:
        writer(record)

    yield write


def check_paths(paths: Sequence[PathLike]) -> None:
  """Raises UserError for what `open_writers` would not open."""
  if not paths:
    raise UserError("no file to write records to", fields="output")
  if len({os.path.abspath(path) for path in paths}) != len(paths):
    raise UserError("a file is named twice", fields="output")
  for path in map(pathlib.Path, paths):
    check_suffix(path)
    if not path.parent.is_dir():
      raise UserError(
        f"cannot write {path}: no folder {path.parent}", fields="output"
      )


def check_suffix(path: PathLike) -> None:
  """Raises UserError unless the suffix is one of SUFFIXES."""
  suffix = pathlib.Path(path).suffix
  if suffix.lower() not in SUFFIXES:
    raise UserError(
      f"{path}: unknown suffix {suffix!r}; allowed: {', '.join(SUFFIXES)}",
      fields="output",
    )


def write_records_to(
  paths: Sequence[PathLike], written: Iterable[Record]
) -> int:
  """Writes records to all files, see `open_writers`; returns their number."""
  count = 0
  with open_writers(paths) as write:
    for record in written:
      write(record)
      count += 1
  return count
