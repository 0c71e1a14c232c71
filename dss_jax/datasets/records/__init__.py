"""Records: one schema for everything the student learns from, in and out.

records, problems = read_records("mine.csv", field_mapping={"input": "question"})
write_records("mine.jsonl", records)

Files that are too large for memory are read by `iter_records` and written by
`open_writer`, record by record.
"""

from dss_jax.datasets.records.field_mapping import (
  FLAT_FIELDS,
  MAPPABLE_FIELDS,
  FieldMapping,
)
from dss_jax.datasets.records.files import (
  READ_SUFFIXES,
  SUFFIXES,
  MissingFileError,
  Problem,
  atomic_file,
  atomic_path,
  iter_entries,
  iter_records,
  kind_of,
  open_writer,
  read_records,
  text_entries,
  write_records,
)
from dss_jax.datasets.records.record import (
  MAX_FIELD_CHARS,
  MAX_RATIONALES,
  RATIONALE_FIELDS,
  RECORD_FIELDS,
  Rationale,
  Record,
  rationale_from_dict,
)
from dss_jax.datasets.records.seen import SeenTexts

__all__ = [
  "FLAT_FIELDS",
  "MAPPABLE_FIELDS",
  "MAX_FIELD_CHARS",
  "MAX_RATIONALES",
  "RATIONALE_FIELDS",
  "READ_SUFFIXES",
  "RECORD_FIELDS",
  "SUFFIXES",
  "FieldMapping",
  "MissingFileError",
  "Problem",
  "Rationale",
  "Record",
  "SeenTexts",
  "atomic_file",
  "atomic_path",
  "iter_entries",
  "iter_records",
  "kind_of",
  "open_writer",
  "rationale_from_dict",
  "read_records",
  "text_entries",
  "write_records",
]
