"""Files and datasets -> records, on workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from dss_jax import datasets
from dss_jax.base import user_modules
from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions
from dss_jax.datasets.records import (
  FieldMapping,
  Record,
  SeenTexts,
  iter_entries,
)
from dss_jax.rationales.beam_pipeline import beam_files, elements


class ReadRecords(beam.PTransform):
  """Files of records, of the kinds that `records.iter_records` reads.

  A file is read by one worker; several files, by several.

  Args:
    pattern: a path, perhaps with `*`, in any of Beam's file systems.
    field_mapping: record field -> key of the file.
    skip_malformed: leave out lines that are no record, rather than fail; the
      metric `malformed_lines` counts them.
    limit: most records to read; for one file only.

  Raises:
    UserError: when it is applied: nothing matches.
  """

  def __init__(
    self,
    pattern: str,
    *,
    field_mapping: Mapping[str, Any] | FieldMapping | None = None,
    skip_malformed: bool = False,
    limit: int | None = None,
  ):
    super().__init__()
    self._pattern = pattern
    self._mapping = FieldMapping.parse(field_mapping)
    self._skip_malformed = skip_malformed
    self._limit = limit

  def expand(self, pcoll):
    paths = beam_files.matching([self._pattern])
    if not paths:
      raise UserError(f"no such file: {self._pattern}", fields="input")
    if self._limit is not None and len(paths) > 1:
      raise UserError(
        f"limit is for one file, and {self._pattern} matches {len(paths)}",
        fields="limit",
      )
    return (
      pcoll
      | "Files" >> beam.Create(paths)
      | "Deal" >> beam.Reshuffle()
      | "Read"
      >> beam.FlatMap(
        _read_file,
        self._mapping,
        len(paths) > 1,
        self._skip_malformed,
        self._limit,
      ).with_output_types(Record)
    )


def _read_file(
  path: str,
  mapping: FieldMapping,
  is_one_of_many: bool,
  skip_malformed: bool,
  limit: int | None,
) -> Iterator[Record]:
  """The records of a file; records without an id are named by their lines."""
  prefix = f"{path.rpartition('/')[2]}:" if is_one_of_many else ""
  seen = SeenTexts()
  number = 0
  with beam_files.local_copy(path) as local:
    for line, fields in iter_entries(local, mapping):
      if number == limit:
        return
      try:
        if isinstance(fields, UserError):
          raise fields
        record = mapping.record(fields, default_id=f"{prefix}line-{line}")
        if seen.add(record.id) is not None:
          raise UserError(f"id {record.id[:64]!r} appears twice")
      except UserError as error:
        if not skip_malformed:
          raise UserError(
            f"{path}:{line}: {error}; correct it, or set skip_malformed",
            fields="skip_malformed",
          ) from None
        elements.count("malformed_lines")
        continue
      number += 1
      yield record


class ReadDataset(beam.PTransform):
  """A registered dataset's records, read on a worker.

  Args:
    dataset: the dataset's name.
    split: split of its source.
    options: how and from where it is read; a folder is the worker's.
    modules: modules to import before, for datasets that they register.
    limit: most records to read.
  """

  def __init__(
    self,
    dataset: str,
    split: str,
    options: DataOptions,
    *,
    modules: Sequence[str] = (),
    limit: int | None = None,
  ):
    super().__init__()
    self._arguments = (dataset, options, tuple(modules), limit)
    self._split = split

  def expand(self, pcoll):
    return (
      pcoll
      | "Split" >> beam.Create([self._split])
      | "Load"
      >> beam.FlatMap(_load_split, *self._arguments).with_output_types(Record)
    )


def _load_split(
  split: str,
  dataset: str,
  options: DataOptions,
  modules: Sequence[str],
  limit: int | None,
) -> Sequence[Record]:
  user_modules.import_modules(modules)
  return datasets.load_source_split(dataset, split, options=options)[:limit]
