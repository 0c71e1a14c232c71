"""Tables of records: CSV, TSV and Parquet, and text that is packed."""

from __future__ import annotations

import bz2
import gzip

import pyarrow as pa

from dss_jax.datasets import records
from fuzz.records import read_whole
from fuzz.targets import Target, scratch

_RECORDS = (
  records.Record(
    "a1",
    "Is a poodle\nan animal?",
    "yes",
    (records.Rationale('It is a "dog", so yes.', "yes", "palm"),),
    extra={"more": "x,y"},
  ),
  records.Record("a2", "Is a bus?", None),
)
_WORDS = ("input", "label", "rationale", "sep=;", '""', "\r\n", '","', "\t")


def _written(suffix: str) -> bytes:
  path = scratch(f"seed{suffix}")
  records.write_records(path, _RECORDS)
  return path.read_bytes()


def _csv() -> list[bytes]:
  return [
    _written(".csv"),
    b'sep=;\nInput;Label;Why\nWhat is it?;"red; or blue";no\n',
    b'id|input|rationales\n1|two|"[{""text"": ""x""}]"\n',
  ]


def _tsv() -> list[bytes]:
  return [_written(".tsv"), b'id\tinput\n1\ta "quoted" word\n2\t"open\n']


def _zstd() -> bytes:
  sink = pa.BufferOutputStream()
  with pa.CompressedOutputStream(sink, "zstd") as stream:
    stream.write(_written(".tsv"))
  return sink.getvalue().to_pybytes()


TARGETS = {
  "csv": Target(read_whole(".csv"), _csv, _WORDS),
  "tsv": Target(read_whole(".tsv"), _tsv, _WORDS),
  "parquet": Target(
    read_whole(".parquet"), lambda: [_written(".parquet")], max_bytes=1 << 14
  ),
  "gzip": Target(
    read_whole(".jsonl.gz"), lambda: [gzip.compress(_written(".jsonl"))]
  ),
  "bzip2": Target(
    read_whole(".csv.bz2"), lambda: [bz2.compress(_written(".csv"))]
  ),
  "zstd": Target(read_whole(".tsv.zst"), lambda: [_zstd()]),
}
