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
    (["a.txt"], r"unknown suffix '\.txt'; allowed: \.jsonl, .*\.tfrecord"),
    (["no/a.jsonl"], r"cannot write .*no/a\.jsonl: no folder"),
  ],
)
def test_what_cannot_be_opened(tmp_path, names, message):
  with pytest.raises(UserError, match=message):
    record_writers.write_records_to(
      [tmp_path / name for name in names], RECORDS
    )
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # imports TensorFlow
def test_tfrecords_round_trip_and_feed_seqio(tmp_path):
  seqio = pytest.importorskip("seqio")
  import tensorflow as tf

  from dss_jax.data import tasks
  from dss_jax.datasets import external

  path = tmp_path / "train.tfrecord"
  assert record_writers.write_records_to([path], RECORDS) == 4
  assert list(external.read_tfrecords(path)) == RECORDS
  with pytest.raises(UserError, match="'r0' appears twice"):
    record_writers.write_records_to([path], [RECORDS[0], RECORDS[0]])
  assert list(external.read_tfrecords(path)) == RECORDS

  @seqio.map_over_dataset
  def to_texts(row):
    return {"inputs": row["input"], "targets": row["rationale_text"][0]}

  vocabulary = seqio.ByteVocabulary()
  task = seqio.Task(
    "from_tfrecords",
    source=tasks.tfrecord_source(
      {"train": str(path)}, num_input_examples={"train": 4}
    ),
    preprocessors=[
      lambda rows: rows.filter(lambda row: tf.size(row["rationale_text"]) > 0),
      to_texts,
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features=dict.fromkeys(
      ("inputs", "targets"), seqio.Feature(vocabulary)
    ),
  )
  (first, *_) = task.source.get_dataset("train", shuffle=False)
  assert first["label"].numpy() == b""
  found = task.get_dataset(split="train", shuffle=False)
  assert [vocabulary.decode(e["inputs"].tolist()) for e in found.as_numpy_iterator()] == ["input 1", "input 2", "input 3"]  # fmt: skip
  content = path.read_bytes()
  path.write_bytes(content[:-3])
  with pytest.raises(UserError, match="not a readable TFRecord file"):
    list(external.read_tfrecords(path))
