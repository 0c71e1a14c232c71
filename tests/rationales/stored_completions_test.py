"""Completions of any model, from files, as answers in a ledger."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import Record, read_records
from dss_jax.rationales import extraction, prompt_files, stored_completions
from dss_jax.rationales.extraction_plan import (
  Endpoint,
  ExtractionPlan,
  TeacherPlan,
)
from dss_jax.rationales.ledger import Ledger
from dss_jax.rationales.record_source import RecordSource
from dss_jax.rationales.stored_completions import Added
from dss_jax.rationales.teacher_requests import Sampling

PREMISES = ("A dog runs.</s>An animal runs.", "A cat.</s>A dog.", "x</s>y")
RECORDS = [Record(f"r{i}", text, "neutral") for i, text in enumerate(PREMISES)]
SOURCE = RecordSource.of_records("mine", RECORDS)
SAID = ["R. So the answer is entailment.", "S.\n\n**Answer:** Neutral", "Hm."]


def _plan(samples=1, **fields):
  own = TeacherPlan(
    Endpoint("mine", "my-model"),
    samples=samples,
    sampling=Sampling(temperature=1.0 if samples > 1 else 0.0),
  )
  return ExtractionPlan(prompt_files.load("anli"), (own,), **fields)


def _text(stored):
  return stored.completion and stored.completion.text


def _write(path, content):
  path.write_text(content, encoding="utf-8")
  return path


def _extracted(tmp_path, stored, plan, source=SOURCE):
  with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
    added = stored_completions.add(stored, source, plan, ledger)
  extraction.extract(source, plan, tmp_path / "out", ask=False)
  records, _ = read_records(tmp_path / "out" / "train.jsonl")
  read = [
    [(r.text, r.label, r.status) for r in record.rationales]
    for record in records
  ]
  return added, read


READ = [
  [("R.", "entailment", "ok")],
  [("S.", "neutral", "ok")],
  [("Hm.", None, "no_marker")],
]


def test_texts_in_order_in_every_format(tmp_path):
  rows = [{"text": text} for text in SAID]
  quoted = "\n".join('"' + text.replace('"', '""') + '"' for text in SAID)
  table = pa.table({"response": SAID, "n": [1, 2, 3]})
  pq.write_table(table, tmp_path / "a.parquet")
  files = [
    _write(tmp_path / "a.json", json.dumps(SAID)),
    _write(tmp_path / "b.json", json.dumps(rows)),
    _write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))),
    _write(tmp_path / "a.csv", f"completion\n{quoted}\n"),
    tmp_path / "a.parquet",
  ]
  for number, path in enumerate(files):
    stored = stored_completions.read(path)
    assert [_text(entry) for entry in stored] == SAID, path
    added, read = _extracted(tmp_path / str(number), stored, _plan())
    assert added == Added(answers=3)
    assert read == READ


def test_several_answers_by_id(tmp_path):
  entries = [
    {"id": "r1", "output": SAID[1], "note": "x"},
    {"id": "r0", "output": SAID[0]},
    {"id": "r0", "output": SAID[1], "reasoning_content": "T."},
    {"id": "r2", "output": None},
    {"id": "r9", "output": "?"},
  ]
  path = _write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, entries)))
  stored = stored_completions.read(path)
  assert stored_completions.most_per_record(stored) == 2
  added, read = _extracted(tmp_path, stored, _plan(2))
  assert added == Added(answers=3, blank=1, strangers=1)
  assert read == [
    [("R.", "entailment", "ok"), ("S.", "neutral", "ok")],
    [("S.", "neutral", "ok"), ("", None, "unanswered")],
    [("", None, "unanswered"), ("", None, "unanswered")],
  ]
  plan = _plan(2, rationale_from="reasoning")
  _, read = _extracted(tmp_path, stored, plan)
  assert read[0] == [("", "entailment", "empty"), ("T.", "neutral", "ok")]


@pytest.mark.parametrize("name", ["id", "ID", " Id ", "record_id"])
@pytest.mark.parametrize("kind", [str, int, float])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_ids_as_other_programs_write_them(tmp_path, name, kind, suffix):
  """Whatever their type and spelling, ids decide, and never the order."""
  records = [dataclasses.replace(r, id=str(i)) for i, r in enumerate(RECORDS)]
  source = RecordSource.of_records("mine", records)
  rows = [{name: kind(i), "text": SAID[i]} for i in (2, 0, 1)]
  path = tmp_path / f"a{suffix}"
  if suffix == ".parquet":
    pq.write_table(pa.Table.from_pylist(rows), path)
  elif suffix == ".csv":
    if kind is float:
      pytest.skip("a table of texts holds the text '2.0'")
    lines = [f'{row[name]},"{row["text"]}"' for row in rows]
    _write(path, "\n".join([f"{name},text", *lines]))
  else:
    _write(path, "\n".join(map(json.dumps, rows)))
  stored = stored_completions.read(path)
  added, read = _extracted(tmp_path, stored, _plan(), source)
  assert added == Added(answers=3)
  assert read == READ


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_blank_cells_are_counted(tmp_path, suffix):
  texts = [None, *SAID[1:]]
  rows = [{"id": f"r{i}", "completion": text} for i, text in enumerate(texts)]
  path = tmp_path / f"a{suffix}"
  if suffix == ".parquet":
    pq.write_table(pa.Table.from_pylist(rows), path)
  elif suffix == ".csv":
    lines = [f'{row["id"]},"{row["completion"] or ""}"' for row in rows]
    _write(path, "\n".join(["id,completion", *lines]))
  else:
    del rows[0]["completion"]
    _write(path, "\n".join(map(json.dumps, rows)))
  stored = stored_completions.read(path)
  added, read = _extracted(tmp_path, stored, _plan())
  assert added == Added(answers=2, blank=1)
  assert read == [[("", None, "unanswered")], *READ[1:]]


def test_the_field_that_was_taken_is_named(tmp_path, caplog):
  path = _write(tmp_path / "a.csv", "id,Answer,Completion,text\nr0,a,b,c\n")
  [stored] = stored_completions.read(path)
  assert _text(stored) == "b"
  assert "completions are read from the field 'completion'" in caplog.text
  [stored] = stored_completions.read(path, field="answer")
  assert _text(stored) == "a"


def test_records_that_do_not_fit_or_repeat_are_counted(tmp_path):
  records = [*RECORDS, Record("r3", "no separator"), Record("r4", PREMISES[0])]
  source = RecordSource.of_records("mine", records)
  path = _write(tmp_path / "a.json", json.dumps([*SAID, "a", "b"]))
  stored = stored_completions.read(path)
  added, read = _extracted(tmp_path, stored, _plan(), source)
  assert added == Added(answers=3, misfits=1, repeated=1)
  assert read[3] == [("", None, "unasked")]
  assert read[4] == READ[0]


def test_the_ledger_keeps_what_it_has(tmp_path):
  path = _write(tmp_path / "a.json", json.dumps(SAID))
  for _ in range(2):  # the same file again changes nothing
    _, read = _extracted(tmp_path, stored_completions.read(path), _plan())
    assert read == READ
  path = _write(tmp_path / "a.json", json.dumps(SAID[::-1]))
  with pytest.raises(UserError, match="holds 2 other answers to the same requ"):
    _extracted(tmp_path, stored_completions.read(path), _plan())


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.csv", "q,b\n1,2\n", r"a.csv: no field of completion, .*fields: q, b"),
    ("a.jsonl", '{"q": 1}', r"a.jsonl: no field of .*its fields: q"),
    ("a.jsonl", '{"text": 1}', "1: text is 1; it must be text"),
    ("a.jsonl", '{"text": ["a", "b"]}', "it must be text"),
    ("a.jsonl", "x", "a.jsonl:1: not JSON"),
    ("a.json", "[]", "holds no completions"),
    (
      "a.jsonl",
      '{"text": "a", "id": "1"}\n{"text": "b"}',
      "1 of 2 entries have",
    ),
    (
      "a.json",
      json.dumps(["x" * ((1 << 20) + 1)]),
      "1048577 characters; at mo",
    ),
    ("a.docx", "x", "a.docx"),
    # Which of them is the answer cannot be told; "answer" may be the gold one.
    (
      "a.jsonl",
      '{"text": "a", "output": "b"}',
      "'text', 'output' may all hold",
    ),
    ("a.csv", "question,answer,why\nq,a,r\n", "fields: question, answer, why"),
    # The order would take an unreadable id's place.
    (
      "a.jsonl",
      '{"text": "a", "id": 0.5}',
      "1: id must be text, a whole number",
    ),
    (
      "a.jsonl",
      '{"text": "a", "ID": [1]}',
      "1: id must be text, a whole number",
    ),
    ("a.jsonl", '{"text": "a", "id": "1", "ID": "2"}', "'id' is there twice"),
  ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
  with pytest.raises(UserError, match=message):
    stored_completions.read(_write(tmp_path / name, content))


def test_files_that_do_not_belong_to_the_records(tmp_path):
  def add(stored):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
      stored_completions.add(stored, SOURCE, _plan(), ledger)

  path = _write(tmp_path / "a.json", '["a", "b"]')
  with pytest.raises(
    UserError, match="2 completions and 3 records: without ids"
  ):
    add(stored_completions.read(path))
  path = _write(tmp_path / "a.jsonl", '{"text": "a", "id": "q"}')
  with pytest.raises(
    UserError, match="ids, such as 'q', is a record's of mine"
  ):
    add(stored_completions.read(path))
  with pytest.raises(UserError, match="no such file"):
    stored_completions.read(tmp_path / "none.jsonl")
  path = _write(tmp_path / "a.csv", "text,said\n1,2\n")
  with pytest.raises(
    UserError, match="no field 'told'; its fields: text, said"
  ):
    stored_completions.read(path, field="told")
  [stored] = stored_completions.read(path, field="said")
  assert _text(stored) == "2"
