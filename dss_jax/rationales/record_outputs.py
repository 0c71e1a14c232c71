"""Records into files as they come: several formats at once, whole or not at all.

  with open_outputs(["out/train.jsonl", "out/train.parquet"]) as write:
    for record in records:
      write(record)

.jsonl, .parquet, .array_record, .csv and .tsv read back with
`dss_jax.datasets.records`; .tfrecord is for SeqIO and other readers of TFExamples, and
needs TensorFlow (`data.tasks.tfrecord_source`, `external.read_tfrecords`).
Nothing but .csv and .tsv is held in memory, beyond a row group of Parquet.
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

TFRECORD_SUFFIXES = (".tfrecord", ".tfrecords")
SUFFIXES = (*records.SUFFIXES, *TFRECORD_SUFFIXES)


@contextlib.contextmanager
def open_outputs(paths: Sequence[PathLike]) -> Iterator[Write]:
  """A function that writes one record to each of the files.

  The files take the place of older ones after the block; if it raises, none
  of them is touched.

  Args:
    paths: files with suffixes of SUFFIXES, in folders that exist.

  Raises:
    UserError: an unknown suffix, a path given twice, a folder that cannot be
      written to, a package that is missing; and from the block, a record whose
      id was there before, or that cannot be written.
  """
  check_outputs(paths)
  with contextlib.ExitStack() as stack:
    writers = [stack.enter_context(_open(path)) for path in paths]

    def write(record: Record):
      for each in writers:
        each(record)

    yield write


def check_outputs(paths: Sequence[PathLike]):
  """Raises UserError for what `open_outputs` would not open."""
  if not paths:
    raise UserError("no file to write records to (--output)")
  if len({os.path.abspath(path) for path in paths}) != len(paths):
    raise UserError("a file is given twice (--output)")
  for path in map(pathlib.Path, paths):
    if path.suffix.lower() not in SUFFIXES:
      raise UserError(
        f"{path}: unknown suffix {path.suffix!r}; allowed:"
        f" {', '.join(SUFFIXES)} (--output)"
      )
    if not path.parent.is_dir():
      raise UserError(
        f"cannot write {path}: no folder {path.parent} (--output)"
      )


def write_outputs(paths: Sequence[PathLike], made: Iterable[Record]) -> int:
  """Writes records to all files; the number of records. See `open_outputs`."""
  count = 0
  with open_outputs(paths) as write:
    for record in made:
      write(record)
      count += 1
  return count


def _open(path: PathLike) -> contextlib.AbstractContextManager[Write]:
  if pathlib.Path(path).suffix.lower() not in TFRECORD_SUFFIXES:
    return records.open_writer(path)
  return _open_tfrecord(path)


@contextlib.contextmanager
def _open_tfrecord(path: PathLike) -> Iterator[Write]:
  # Late: the only place here that may import TensorFlow.
  from dss_jax.datasets import external

  seen = records.SeenTexts()
  with (
    records.atomic_path(path) as temporary,
    external.open_tfrecord_writer(temporary) as write_unchecked,
  ):

    def write(record: Record):
      if seen.add(record.id) is not None:
        raise UserError(f"{path}: id {record.id[:64]!r} appears twice")
      write_unchecked(record)

    yield write
