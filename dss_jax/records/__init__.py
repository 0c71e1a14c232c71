"""Records: one schema for everything the student learns from, in and out.

records, problems = read_records("mine.csv", field_mapping={"input": "question"})
write_records("mine.jsonl", records)
"""

from dss_jax.records.field_mapping import (
  FLAT_FIELDS,
  MAPPABLE_FIELDS,
  FieldMapping,
)
from dss_jax.records.files import (
  Problem,
  atomic_file,
  iter_rows,
  read_records,
  write_records,
)
from dss_jax.records.record import (
  MAX_FIELD_CHARS,
  MAX_RATIONALES,
  RATIONALE_FIELDS,
  RECORD_FIELDS,
  Rationale,
  Record,
  rationale_from_dict,
)

__all__ = [
  "FLAT_FIELDS",
  "MAPPABLE_FIELDS",
  "MAX_FIELD_CHARS",
  "MAX_RATIONALES",
  "RATIONALE_FIELDS",
  "RECORD_FIELDS",
  "FieldMapping",
  "Problem",
  "Rationale",
  "Record",
  "atomic_file",
  "iter_rows",
  "rationale_from_dict",
  "read_records",
  "write_records",
]
