"""Records -> files, each of them whole or not at all."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Sequence

import apache_beam as beam

from dss_jax.base import checks
from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record, json_lines
from dss_jax.rationales import ledger_shards, record_writers
from dss_jax.rationales.beam_pipeline import beam_files, elements


class WriteRecords(beam.PTransform):
  """Records into files, each of them whole or not at all.

  Args:
    paths: one for each format that is wanted, with suffixes of
      `record_writers.SUFFIXES`, in any of Beam's file systems.
    num_shards: number of files of each format; with more than one, "train.jsonl"
      stands for "train-00000-of-00004.jsonl" and so on.

  Raises:
    UserError: an unknown suffix; files of another number of shards are there;
      in the pipeline, an id that appears twice.
  """

  def __init__(self, paths: Sequence[str], *, num_shards: int = 1):
    super().__init__()
    if not paths:
      raise UserError("no file to write records to", fields="output")
    checks.in_range("output_shards", num_shards, 1, ledger_shards.MAX_SHARDS)
    for path in paths:
      stem, suffix = os.path.splitext(path)
      record_writers.check_suffix(path)
      found = set(beam_files.matching([f"{stem}-?????-of-?????{suffix}"]))
      others = found - {
        _sharded(path, i, num_shards) for i in range(num_shards)
      }
      if others:
        raise UserError(
          f"{min(others)} is there already, of another number of shards: remove"
          " those files, or change output_shards or output",
          fields=("output_shards", "output"),
        )
    self._paths = tuple(paths)
    self._num_shards = num_shards

  def expand(self, pcoll):
    lines = pcoll | "ById" >> beam.Map(
      _by_id, self._num_shards
    ).with_output_types(tuple[int, bytes])
    # Files without records are written as well.
    empty = pcoll.pipeline | "Empty" >> beam.Create(
      [(shard, b"") for shard in range(self._num_shards)]
    ).with_output_types(tuple[int, bytes])
    return (
      (lines, empty)
      | beam.Flatten()
      | "Files" >> beam.GroupByKey()
      | "Write" >> beam.ParDo(_WriteShard(self._paths, self._num_shards))
    )


def _by_id(record: Record, num_shards: int) -> tuple[int, bytes]:
  shard = ledger_shards.shard_of(record.id, num_shards)
  return shard, json_lines.dumps(record)


def _sharded(path: str, shard: int, num_shards: int) -> str:
  if num_shards == 1:
    return path
  stem, suffix = os.path.splitext(path)
  return f"{stem}-{shard:05d}-of-{num_shards:05d}{suffix}"


class _WriteShard(beam.DoFn):
  """Writes one file of each format."""

  def __init__(self, paths: tuple[str, ...], num_shards: int):
    self._paths = paths
    self._num_shards = num_shards

  def process(self, element):
    shard, lines = element
    with tempfile.TemporaryDirectory(prefix="dss_jax-write-") as folder:
      local = [
        pathlib.Path(folder, f"{i}{os.path.splitext(path)[1]}")
        for i, path in enumerate(self._paths)
      ]
      records = (elements.as_record(line) for line in lines if line)
      elements.count("written", record_writers.write_records_to(local, records))
      for local_path, path in zip(local, self._paths):
        target = _sharded(path, shard, self._num_shards)
        with local_path.open("rb") as file:
          beam_files.put(file, target)
        yield target
