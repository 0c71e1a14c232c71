"""Records: checks, and files of every kind in and out."""

import json
import math
import os
import stat

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import (
  Problem,
  Rationale,
  Record,
  read_records,
  write_records,
)

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".array_record")

RECORDS = [
  Record("a", "Is a poodle a dog?", "yes", (Rationale("A poodle is a dog."),)),
  Record(
    "b",
    'Quotes "here", commas, too\nand a second line',
    None,
    (
      Rationale("first", "yes", "palm", 0.5, "ok"),
      Rationale("", None, "gpt", 1.0, "no_marker"),
    ),
    meta={"page": 3},
  ),
  Record("c", "naïve 日本語 🙂\r\nwindows line", "non", extra={"tag": "x"}),
]


def _write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


# --- the record itself -------------------------------------------------------


@pytest.mark.parametrize(
  ("fields", "reason"),
  [
    ({"id": ""}, "id is empty"),
    ({"id": 3}, "id must be text, got int"),
    ({"id": "x" * 1025}, "1025 characters"),
    ({"input": " \n"}, "input is empty"),
    ({"input": None}, "input must be text, got NoneType"),
    ({"input": "a\0b"}, "NUL"),
    ({"input": "a\ud800b"}, "not valid UTF-8"),
    ({"input": "x" * ((1 << 20) + 1)}, "at most 1048576"),
    ({"label": 1}, "label must be text"),
    ({"rationales": ("text",)}, "must hold Rationale objects, got str"),
    ({"rationales": (Rationale("r"),) * 1025}, "at most 1024"),
    ({"meta": ["a"]}, "meta must be a mapping"),
    ({"extra": {"label": "a"}}, "'label', which is a record field"),
  ],
)
def test_a_record_refuses(fields, reason):
  with pytest.raises(UserError, match=r".") as error:
    Record(**{"id": "a", "input": "b", **fields})
  assert reason in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "weight",
  [-1, -1e-9, math.nan, math.inf, 1e39, 10**400, True, "1", None],
)
def test_weights_are_finite_and_not_negative(weight):
  with pytest.raises(UserError, match="rationale weight must be"):
    Rationale("r", weight=weight)


def test_weights_become_floats():
  weight = Rationale("r", weight=2).weight
  assert weight == 2.0
  assert isinstance(weight, float)


# --- round trips -------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix):
  path = tmp_path / f"records{suffix}"
  assert write_records(path, RECORDS) == 3
  records, problems = read_records(path)
  assert problems == []
  assert records == RECORDS


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_records_round_trip(tmp_path, suffix):
  path = tmp_path / f"empty{suffix}"
  write_records(path, [])
  assert read_records(path) == ([], [])


def test_single_rationales_are_flat_columns_a_person_can_read(tmp_path):
  path = tmp_path / "records.csv"
  write_records(path, [RECORDS[0]])
  header, row = path.read_text().splitlines()
  assert header == (
    "id,input,label,rationale,rationale_label,rationale_source,"
    "rationale_weight,rationale_status"
  )
  assert row == "a,Is a poodle a dog?,yes,A poodle is a dog.,,,1.0,ok"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".array_record"])
def test_unknown_keys_keep_their_values_and_types(tmp_path, suffix):
  records = [
    Record("a", "i", extra={"n": 1, "mixed": "x", "list": [1, {"k": None}]}),
    Record("b", "i", extra={"n": -(2**62), "mixed": 2.5, "none": None}),
    Record("c", "i", extra={"big": 10**30, "flag": True, "f": 0.1}),
    Record("d", "i", rationales=(Rationale("r", extra={"tokens": 7}),)),
  ]
  path = tmp_path / f"records{suffix}"
  write_records(path, records)
  assert read_records(path)[0] == records


_CHARACTERS = st.characters(
  blacklist_categories=["Cs"], blacklist_characters="\0"
)
_TEXT = st.text(_CHARACTERS, max_size=20)
_NAMES = st.sampled_from(["k1", "k2", "größe"])
_JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-(2**70), 2**70)
  | st.floats(allow_nan=False, allow_infinity=False)
  | _TEXT,
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3)
  ),
  max_leaves=5,
)
_RATIONALE = st.builds(
  Rationale,
  _TEXT,
  label=st.none() | _TEXT,
  source=_TEXT,
  weight=st.floats(0, 1e30),
  status=_TEXT,
  extra=st.dictionaries(_NAMES, _JSON, max_size=1),
)
_RECORD = st.builds(
  Record,
  id=_TEXT.filter(bool),
  input=_TEXT.filter(lambda text: bool(text.strip())),
  label=st.none() | _TEXT,
  rationales=st.lists(_RATIONALE, max_size=3),
  meta=st.dictionaries(_TEXT, _JSON, max_size=2),
  extra=st.dictionaries(_NAMES, _JSON, max_size=2),
)
_UNIQUE_RECORDS = st.lists(_RECORD, max_size=4, unique_by=lambda r: r.id)
_quick = hypothesis.settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture,
    hypothesis.HealthCheck.too_slow,
  ],
)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".array_record"])
@_quick
@hypothesis.given(records=_UNIQUE_RECORDS)
def test_any_records_round_trip(tmp_path, suffix, records):
  path = tmp_path / f"records{suffix}"
  write_records(path, records)
  again, problems = read_records(path)
  assert problems == []
  assert again == records


@_quick
@hypothesis.given(
  texts=st.lists(
    st.tuples(_TEXT.filter(lambda text: bool(text.strip())), _TEXT, _TEXT),
    max_size=4,
  )
)
def test_any_text_survives_a_table(tmp_path, texts):
  records = [
    Record(f"r{i}", a, b or None, (Rationale(c),))
    for i, (a, b, c) in enumerate(texts)
  ]
  for suffix in (".csv", ".tsv"):
    path = tmp_path / f"records{suffix}"
    write_records(path, records)
    assert read_records(path) == (records, [])


# --- reading what is not as it should be -------------------------------------


def test_bad_lines_are_reported_with_file_line_and_reason(tmp_path):
  path = _write(
    tmp_path / "bad.jsonl",
    b'\xef\xbb\xbf{"id": "a", "input": "fine"}\n'
    b"\n"
    b"{not json}\n"
    b'["a", "list"]\n'
    b'{"id": "b"}\n'
    b'{"id": "a", "input": "again"}\n'
    b'{"id": "c", "input": "\xff"}\n'
    b'{"id": "d", "input": "nul \\u0000"}\n'
    b'{"id": "e", "input": "half \\ud83d"}\n'
    b'{"id": "f", "input": "x", "rationales": [{"text": "r", "weight": -1}]}\n'
    b'{"id": "g", "input": "x", "rationales": [{"label": "r"}]}\n'
    b'{"id": "h", "input": "x", "id": "twice"}\n'
    b'{"id": "i", "input": "x", "score": NaN}\n'
    b'{"id": "j", "input": "x", "score": 1e999}\n'
    b'{"id": "k", "input": "x", "label": 0.5}\n'
    b'{"id": "l", "input": "x", "label": 1}\r\n'
    b'{"id": 17, "input": "\\ud83d\\ude42"}',
  )
  records, problems = read_records(path)
  assert [(r.id, r.input, r.label) for r in records] == [
    ("a", "fine", None),
    ("i", "x", None),
    ("j", "x", None),
    ("l", "x", "1"),
    ("17", "🙂", None),
  ]
  assert {problem.file for problem in problems} == {str(path)}
  assert [(problem.line, problem.reason) for problem in problems] == [
      (3, "not JSON: Expecting property name enclosed in double quotes at"
          " character 1"),
      (4, "not a JSON object but list"),
      (5, "no input (key 'input'); keys: id"),
      (6, "id 'a' appears twice, first in line 1"),
      (7, "not valid UTF-8 (byte 22): save the file as UTF-8"),
      (8, "input contains a NUL character"),
      (9, "not valid UTF-8: half of a surrogate pair (\\ud800-\\udfff)"),
      (10, "rationale weight must be finite and at least 0, got -1"),
      (11, "a rationale has no 'text'"),
      (12, "not usable JSON: key 'id' appears twice"),
      (15, "label must be text, a whole number, a truth value or null, got"
           " float 0.5: write it as text"),
  ]  # fmt: skip
  assert str(problems[0]).startswith(f"{path}:3: not JSON")


def test_rows_of_a_table_are_reported_too(tmp_path):
  path = _write(
    tmp_path / "bad.csv",
    b"id,input,label,rationale,rationale_weight,n\n"
    b"a,fine,yes,because,0.5,1\n"
    b"b,too few\n"
    b"c,bad \xff byte,yes,,,\n"
    b'd,"un"quoted,yes,,,\n'
    b"e,,yes,,,\n"
    b"f,weighty,yes,r,heavy,\n"
    b'g,"two\nlines",no,,,\n'
    b"a,again,no,,,\n"
    b'h,"never closed,no,,,\n',
  )
  records, problems = read_records(path)
  assert [record.id for record in records] == ["a", "g", "h"]
  assert records[2].input == '"never closed'
  assert records[0].rationales == (Rationale("because", weight=0.5),)
  assert records[0].extra == {"n": "1"}
  assert records[1].rationales == ()
  assert [(problem.line, problem.reason) for problem in problems] == [
    (3, "the number of cells is 2, the header has 6"),
    (4, "not valid UTF-8 (byte 6): save the file as UTF-8"),
    (
      5,
      "not a table row: a quotation mark opens a cell that is never closed, or"
      " text follows one that closes it (within quotation marks, one is"
      " written twice)",
    ),
    (6, "no input (key 'input'); keys: id, label"),
    (7, "rationale weight must be a number, got 'heavy'"),
    (10, "id 'a' appears twice, first in line 2"),
  ]


def test_every_line_is_a_record_or_a_problem(tmp_path):
  lines = [json.dumps({"input": f"i{i}"}) for i in range(50)]
  lines[::7] = ["broken"] * len(lines[::7])
  path = _write(tmp_path / "mixed.jsonl", "\n".join(lines))
  records, problems = read_records(path)
  assert len(records) + len(problems) == 50
  assert len(problems) == 8
  assert records[0].id == "line-2"  # rows without an id are named by their line


def test_long_lines_cost_no_memory_and_are_reported(tmp_path, monkeypatch):
  monkeypatch.setattr("dss_jax.datasets.records.text_files.MAX_LINE_BYTES", 100)
  long = "x" * 1000
  path = _write(
    tmp_path / "long.jsonl",
    f'{{"input": "{long}"}}\n{{"input": "short"}}\n{{"input": "{long}"}}',
  )
  records, problems = read_records(path)
  assert [record.input for record in records] == ["short"]
  assert [(p.line, p.reason) for p in problems] == [
    (1, "line has 1014 bytes, at most 100 are allowed"),
    (3, "line has 1013 bytes, at most 100 are allowed"),
  ]
  path = _write(tmp_path / "long.csv", f"input\nshort\n{long}\nlast\n")
  records, problems = read_records(path)
  assert [record.input for record in records] == ["short", "last"]
  assert [(p.line, p.reason) for p in problems] == [
    (3, "line has 1001 bytes, at most 100 are allowed")
  ]


@pytest.mark.parametrize(
  "line",
  [
    '{"input": "x", "deep": ' + "[" * 100 + "]" * 100 + "}",
    '{"input": "x", "deep": ' + '{"a":' * 5000 + "1" + "}" * 5001,
    '{"input": "x", "deep": ' + "[" * 100_000,
    '{"input": "x", "digits": ' + "9" * 5000 + "}",
  ],
)
def test_hostile_json_is_a_problem_and_not_a_crash(tmp_path, line):
  records, problems = read_records(_write(tmp_path / "a.jsonl", line))
  assert records == []
  assert len(problems) == 1


def test_reading_stops_after_many_malformed_lines(tmp_path):
  path = _write(tmp_path / "noise.jsonl", b"noise\n" * 30)
  with pytest.raises(UserError, match="more than 20 lines cannot be used") as e:
    read_records(path, max_problems=20)
  assert "noise.jsonl:1: not JSON" in str(e.value)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("missing.jsonl", None, "no such file"),
    ("file.xlsx", b"", "unknown suffix '.xlsx'; allowed: .jsonl"),
    ("file", b"", "unknown suffix ''"),
    ("a.json", b"[1, 2", "not JSON"),
    ("a.json", b'["\xff"]', "not valid UTF-8"),
    ("a.csv", b"", "no header line"),
    ("a.csv", b"id,id\n", "column 'id' appears twice"),
    ("a.csv", b"id,input,\0\n", "unreadable name"),
    ("a.csv", b"id,\xff\n", "the header is not valid UTF-8"),
    ("a.csv", b'id,"input" "\n', "the header is not a table row"),
    ("a.parquet", b"PAR1 not really PAR1", "not a readable Parquet file"),
    ("a.parquet", b"", "not a readable Parquet file"),
    ("a.array_record", b"not one", "not a readable ArrayRecord file"),
  ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError) as error:
    read_records(path)
  assert message in str(error.value)
  assert name in str(error.value)


def test_a_folder_is_not_a_file(tmp_path):
  folder = tmp_path / "folder.jsonl"
  folder.mkdir()
  with pytest.raises(UserError, match="cannot read"):
    read_records(folder)


@_quick
@hypothesis.given(content=st.binary(max_size=200))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_bytes_crash_the_reader(tmp_path, suffix, content):
  path = _write(tmp_path / f"noise{suffix}", content)
  try:
    records, problems = read_records(path)
  except UserError as error:
    assert "\n" not in str(error)  # noqa: PT017
    return
  assert all(isinstance(record, Record) for record in records)
  assert all(isinstance(problem, Problem) for problem in problems)


_RAW_KEYS = st.sampled_from(
    ["id", "input", "label", "rationales", "rationale", "meta", "weight",
     "rationale_weight", "text", "other"]
)  # fmt: skip


@_quick
@hypothesis.given(
  rows=st.lists(
    st.dictionaries(
      _RAW_KEYS,
      st.recursive(
        _JSON,
        lambda inner: st.lists(st.dictionaries(_RAW_KEYS, inner)),
        max_leaves=4,
      ),
    ),
    max_size=5,
  )
)
@pytest.mark.slow
def test_no_json_values_crash_the_reader(tmp_path, rows):
  # One object without an input may hold all records in a list.
  hypothesis.assume(len(rows) != 1 or rows[0].get("input") is not None)
  path = tmp_path / "rows.jsonl"
  _write(path, "\n".join(json.dumps(row) for row in rows))
  records, problems = read_records(path)
  assert len(records) + len(problems) == len(rows)
  write_records(path, records)
  assert read_records(path) == (records, [])


# --- field mapping -----------------------------------------------------------


def test_a_field_mapping_reads_somebody_elses_file(tmp_path):
  path = _write(
    tmp_path / "theirs.csv",
    "qid,question,answer,explanation,label\n7,Why?,So.,It is so.,gold\n",
  )
  records, problems = read_records(
    path,
    field_mapping={
      "id": "qid",
      "input": "question",
      "label": "answer",
      "rationale": "explanation",
    },
  )
  assert problems == []
  assert records == [
      Record("7", "Why?", "So.", (Rationale("It is so."),),
             extra={"original_label": "gold"})
  ]  # fmt: skip


def test_templates_and_several_rationale_columns(tmp_path):
  path = _write(
    tmp_path / "nli.jsonl",
    '{"premise": "P.", "hypothesis": "H.", "e1": "one", "e2": "", "e3": "x"}\n'
    '{"premise": "P.", "hypothesis": null}\n',
  )
  records, problems = read_records(
    path,
    field_mapping={
      "input": "{premise}</s>{hypothesis}",
      "rationale": ["e1", "e2", "e3"],
    },
  )
  assert records[0].input == "P.</s>H."
  assert [r.text for r in records[0].rationales] == ["one", "x"]
  assert records[0].extra == {}
  assert [p.reason for p in problems] == [
    "input: key 'hypothesis' is missing or null"
  ]


def test_a_template_reaches_nothing_but_keys(tmp_path):
  path = _write(tmp_path / "a.jsonl", '{"a": "text"}\n')
  _, problems = read_records(
    path, field_mapping={"input": "{a.__class__}{0}{a!r}"}
  )
  assert "'a.__class__' is missing" in problems[0].reason


@pytest.mark.parametrize(
  ("mapping", "message"),
  [
    ({"question": "input"}, "'question' is no field of a record"),
    ({"input": 3}, "must name a key"),
    ({"input": ["a", "b"]}, "must name a key"),
    ({"rationale": []}, "must name a key"),
  ],
)
def test_wrong_mappings(tmp_path, mapping, message):
  path = _write(tmp_path / "a.jsonl", "{}")
  with pytest.raises(UserError, match=message):
    read_records(path, field_mapping=mapping)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_mapped_column_that_is_not_there(tmp_path, suffix):
  path = tmp_path / f"a{suffix}"
  write_records(path, RECORDS[:1])
  with pytest.raises(UserError, match=r"no column 'question'.*columns: id,"):
    read_records(path, field_mapping={"input": "question"})


def test_flat_and_listed_rationales_exclude_each_other(tmp_path):
  path = _write(
    tmp_path / "a.jsonl",
    '{"input": "x", "rationale": "r", "rationales": [{"text": "s"}]}\n'
    '{"input": "x", "rationale": ["r", "s"], "rationale_source": "me"}\n'
    '{"input": "x", "rationales": ["r", {"text": "s", "weight": null}]}\n'
    '{"input": "x", "rationales": {"text": "s"}}\n',
  )
  records, problems = read_records(path)
  assert records[0].rationales == (
    Rationale("r", source="me"),
    Rationale("s", source="me"),
  )
  assert records[1].rationales == (Rationale("r"), Rationale("s"))
  assert [p.reason for p in problems] == [
    "both 'rationales' and 'rationale' are given",
    "rationales must be a list, got dict",
  ]


def test_parquet_of_other_tools(tmp_path):
  import datetime
  import decimal

  import pyarrow as pa
  import pyarrow.parquet as pq

  path = tmp_path / "theirs.parquet"
  table = pa.table(
    {
      "id": [1, 2, 3],
      "input": ["a", "b", "c"],
      "score": [0.5, math.nan, math.inf],
      "when": [datetime.datetime(2023, 5, 3)] * 3,
      "price": [decimal.Decimal("1.50")] * 3,
      "rationale": ["r", None, "s"],
      "rationale_weight": [math.nan, 1.0, 1.0],
    }
  )
  pq.write_table(table, path)
  records, problems = read_records(path)
  assert [record.id for record in records] == ["2", "3"]
  # What JSON lacks is null: NaN, as pandas writes a missing number, and
  # infinity.
  assert records[0].extra == records[1].extra
  assert records[0].extra == {
    "score": None,
    "when": "2023-05-03T00:00:00",
    "price": "1.50",
  }
  # A flat weight without a text still makes an (empty) rationale.
  assert records[0].rationales == (Rationale(""),)
  assert [(p.line, p.reason) for p in problems] == [
    (1, "rationale weight must be finite and at least 0, got nan"),
  ]


# --- writing -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file(tmp_path, suffix):
  path = tmp_path / f"records{suffix}"
  write_records(path, RECORDS)
  before = path.read_bytes()
  bad = Record("z", "i", meta={"set": {1, 2}}, extra={"bytes": b"x"})
  with pytest.raises(UserError, match="cannot be written as JSON"):
    write_records(path, [*RECORDS, bad])
  with pytest.raises(UserError, match="id 'a' appears twice"):
    write_records(path, [RECORDS[0], RECORDS[0]])
  assert path.read_bytes() == before
  assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_writing_to_nowhere(tmp_path):
  with pytest.raises(UserError, match=r"cannot write .*no-such-folder"):
    write_records(tmp_path / "no-such-folder" / "a.jsonl", RECORDS)
  folder = tmp_path / "folder.jsonl"
  folder.mkdir()
  with pytest.raises(UserError, match="cannot write"):
    write_records(folder, RECORDS)
  assert list(tmp_path.iterdir()) == [folder]


def test_files_are_written_with_the_usual_permissions(tmp_path):
  path = tmp_path / "a.jsonl"
  write_records(path, RECORDS)
  umask = os.umask(0)
  os.umask(umask)
  assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
