"""Records into several files at once, whole or not at all."""

import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Rationale, Record, read_records
from dss_jax.rationales import record_writers

RECORDS = [
  Record(
    f"r{i}",
    f"input {i}",
    "yes" if i % 2 else None,
    tuple(
      Rationale(f"why {j}", "yes", "big", 0.5, extra={"tokens": j})
      for j in range(i)
    ),
    meta={"choosing": {"votes": [["yes", 1.0]]}},
    extra={"page": i},
  )
  for i in range(4)
]


def test_every_format_at_once(tmp_path):
  paths = [
    tmp_path / f"train{suffix}"
    for suffix in (".jsonl", ".parquet", ".array_record", ".csv")
  ]
  assert record_writers.write_records_to(paths, iter(RECORDS)) == 4
  for path in paths[:3]:
    assert read_records(path) == (RECORDS, [])
  read, _ = read_records(paths[3])
  assert [r.rationales for r in read] == [r.rationales for r in RECORDS]


def test_all_files_or_none(tmp_path):
  paths = [tmp_path / "a.jsonl", tmp_path / "a.parquet"]
  paths[0].write_text("old\n")
  with pytest.raises(UserError, match="id 'r0' appears twice"):
    record_writers.write_records_to(paths, [*RECORDS, RECORDS[0]])

  def interrupted():
    yield from RECORDS
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    record_writers.write_records_to(paths, interrupted())
  assert paths[0].read_text() == "old\n"
  assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ([], "no file to write records to"),
    (["a.jsonl", "./a.jsonl"], "named twice"),
    (["a.txt"], r"unknown suffix '\.txt'; allowed: \.jsonl, .*\.array_record"),
    (["no/a.jsonl"], r"cannot write .*no/a\.jsonl: no folder"),
  ],
)
def test_what_cannot_be_opened(tmp_path, names, message):
  with pytest.raises(UserError, match=message):
    record_writers.write_records_to(
      [tmp_path / name for name in names], RECORDS
    )
  assert list(tmp_path.iterdir()) == []
