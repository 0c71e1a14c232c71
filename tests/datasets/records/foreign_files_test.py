"""Files as other programs and people write them: read, or refused by name."""

import bz2
import csv
import gzip
import io
import json
import logging
import math

import guards
import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from dss_jax.base.errors import UserError
from dss_jax.datasets.records import (
  Rationale,
  Record,
  field_mapping,
  iter_records,
  read_records,
  text_files,
  write_records,
)


@pytest.fixture(autouse=True)
def notes_are_new():
  field_mapping.note_renamed.cache_clear()


def read(path, content, **arguments):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  records, problems = read_records(path, **arguments)
  return records, [(problem.line, problem.reason) for problem in problems]


def pairs(records):
  return [(record.input, record.label) for record in records]


# --- quotation marks ----------------------------------------------------------


@pytest.mark.parametrize(
  ("rows", "expected"),
  [
    # One that is never closed.
    (['"Open{}yes', "two{}no", "three{}no"],
     [('"Open', "yes"), ("two", "no"), ("three", "no")]),
    # Two rows with one each: the second does not close the first.
    (['"Open{}yes', "two{}no", '"Also{}no', "four{}yes"],
     [('"Open', "yes"), ("two", "no"), ('"Also', "no"), ("four", "yes")]),
    # One, and properly quoted cells after it.
    (['"Open{}yes', 'say ""hi""{}no', '"a ""quoted"" cell"{}no'],
     [('"Open', "yes"), ('say ""hi""', "no"), ('a "quoted" cell', "no")]),
    # Marks within text open nothing.
    (['he said "hi"{}yes', 'a 12" pipe{}no', '"quoted"{}"no"'],
     [('he said "hi"', "yes"), ('a 12" pipe', "no"), ("quoted", "no")]),
    # In the last cell, and in the last line.
    (['one{}"yes', 'two{}no', 'three{}"no'],
     [("one", '"yes'), ("two", "no"), ("three", '"no')]),
    # A closed cell over several lines, and one next to another.
    (['"a', 'b', 'c"{}yes', '"d', 'e"{}"f', 'g"', 'h{}no'],
     [("a\nb\nc", "yes"), ("d\ne", "f\ng"), ("h", "no")]),
  ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_quotation_marks(tmp_path, suffix, line_end, rows, expected):
  delimiter = "," if suffix == ".csv" else "\t"
  lines = [row.format(delimiter) for row in ["input{}label", *rows]]
  content = line_end.join(lines) + line_end
  records, problems = read(tmp_path / f"a{suffix}", content)
  assert problems == []
  found = [
    (input.replace("\r\n", "\n"), str(label).replace("\r\n", "\n"))
    for input, label in pairs(records)
  ]
  assert found == expected


def test_text_after_a_closing_mark(tmp_path):
  rows = 'input{0}label\n"Hi" she said{0}yes\nb{0}no\n"a" b{0}"no" c\n'
  records, problems = read(tmp_path / "a.tsv", rows.format("\t"))
  assert problems == []  # TSV has no quoting
  assert pairs(records)[0] == ('"Hi" she said', "yes")
  assert pairs(records)[2] == ('"a" b', '"no" c')
  records, problems = read(tmp_path / "a.csv", rows.format(","))
  assert pairs(records) == [("b", "no")]
  assert [line for line, _ in problems] == [2, 4]
  assert "a quotation mark opens a cell" in problems[0][1]


def test_a_mark_that_two_rows_may_share_is_never_decided_in_silence(tmp_path):
  # The second mark closes a cell as properly as it ends a measure.
  rows = ['"Open{}yes', "two{}no", 'a pipe of 12"{}no', "four{}yes"]
  content = "\n".join(["input{}label", *rows]).format(*"\t" * 5)
  records, problems = read(tmp_path / "a.tsv", content)
  assert pairs(records) == [("four", "yes")]
  assert [line for line, _ in problems] == [2, 3, 4]  # each line is counted
  assert "opens in line 2 and closes in line 4" in problems[0][1]
  # RFC 4180 reads one row here, as texts do hold commas; but not for long.
  content = "\n".join(["input,label", *rows]).replace("{}", ",")
  records, problems = read(tmp_path / "a.csv", content)
  assert problems == []
  assert pairs(records) == [
    ("Open,yes\ntwo,no\na pipe of 12", "no"),
    ("four", "yes"),
  ]
  rows[1:2] = ["two{}no"] * 9
  content = "\n".join(["input,label", *rows]).replace("{}", ",")
  records, problems = read(tmp_path / "a.csv", content)
  assert pairs(records) == [("four", "yes")]
  assert [line for line, _ in problems] == list(range(2, 13))


@pytest.mark.parametrize(
  ("rows", "lines"),
  [
    # Lines of a cell look like rows, and its own row has a cell too many.
    ('"He came.\nyes, he did\nand left",1,extra', [2, 3, 4]),
    ('"a\n\nq,r\nd",x,y', [2, 4, 5]),
    ('b,"x\ny,z\n",c', [2, 3, 4]),
  ],
)
def test_lines_of_a_quoted_cell_are_never_rows(tmp_path, rows, lines):
  content = f"input,label\n{rows}\nlast,no\n"
  records, problems = read(tmp_path / "a.csv", content)
  assert pairs(records) == [("last", "no")]
  assert [line for line, _ in problems] == lines
  assert {reason for _, reason in problems} == {
    "the number of cells is 3, the header has 2"
  }


def test_stray_marks_cost_no_more_than_the_file(tmp_path, monkeypatch):
  """A mark is looked for once, however many are never closed."""
  looked_at = 0
  original = text_files.read_lines

  def counted(*arguments, **named):
    nonlocal looked_at
    for line in original(*arguments, **named):
      looked_at += 1
      yield line

  monkeypatch.setattr("dss_jax.datasets.records.csv_files.read_lines", counted)
  content = "input,label\n" + '"Open,yes\nb,no\n' * 2000
  records, problems = read(tmp_path / "a.csv", content)
  assert problems == []
  assert len(records) == 4000
  assert looked_at == 4001


def test_a_cell_is_not_looked_for_beyond_a_bound(tmp_path, monkeypatch):
  monkeypatch.setattr("dss_jax.datasets.records.csv_files.MAX_LINE_BYTES", 100)
  content = 'input,label\n"Open,yes\n' + "text,no\n" * 30 + 'end",no\n'
  records, problems = read(tmp_path / "a.csv", content)
  assert problems == []
  assert len(records) == 32


@hypothesis.settings(
  max_examples=150,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
  rows=st.lists(st.text('ab",\t \n', max_size=12), max_size=12),
  suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_every_line_is_in_a_record_or_a_problem(tmp_path, rows, suffix):
  """Whatever marks are where: lines are never lost."""
  delimiter = "," if suffix == ".csv" else "\t"
  lines = "\n".join(rows).split("\n")
  path = tmp_path / f"a{suffix}"
  path.write_text(f"input{delimiter}label\n" + "\n".join(lines))
  expected = sum(bool(line) for line in lines)
  found = 0
  for item in iter_records(path):
    if isinstance(item, Record):
      found += 1 + item.input.count("\n") + (item.label or "").count("\n")
      # Blank lines within a quoted cell are not among the expected.
      cells = f"{item.input}\0{item.label or ''}"
      found -= sum(not line for line in cells.split("\n")[1:-1])
    elif "no input" in item.reason or "input is empty" in item.reason:
      return  # its cells, and so its lines, are not known here
    else:
      found += 1
  assert found <= expected + 1
  if '"' not in "".join(rows):
    assert found == expected


# --- delimiters, encodings, line ends -----------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_of_spreadsheets(tmp_path, delimiter):
  text = f'input{delimiter}label\n"a{delimiter}b"{delimiter}yes\nc{delimiter}no'
  records, problems = read(tmp_path / "a.csv", text)
  assert problems == []
  assert pairs(records) == [(f"a{delimiter}b", "yes"), ("c", "no")]


@pytest.mark.parametrize(
  "header",
  ["input;label, gold", '"input";"label, gold"', "Input;label, gold",
   '"a, b";input', "label, gold|input", "q\tinput, if any"],
)  # fmt: skip
def test_a_delimiter_is_what_makes_the_input_a_column(tmp_path, header):
  delimiter = next(d for d in ";|\t" if d in header)
  content = f"{header}\na{delimiter}b\n"
  mapping = {"input": "q"} if header.startswith("q") else None
  (record,), problems = read(tmp_path / "a.csv", content, field_mapping=mapping)
  assert problems == []
  assert record.input == ("b" if header.strip('"')[0] in "al" else "a")


def test_a_line_that_says_what_the_delimiter_is(tmp_path):
  content = "sep=;\r\ninput;note, if any;label\r\na;b;yes\r\n"
  (record,), problems = read(tmp_path / "a.csv", content)
  assert problems == []
  assert (record.id, record.input, record.label) == ("line-3", "a", "yes")
  assert record.extra == {"note, if any": "b"}


def test_one_column_needs_no_delimiter(tmp_path):
  records, problems = read(tmp_path / "a.csv", "input\na; b\nc | d\n")
  assert problems == []
  assert [record.input for record in records] == ["a; b", "c | d"]


TABLE = 'input,label\nnaïve 日本語 🙂,"two\nlines"\nb,no\n'
LINES = '{"input": "naïve 日本語 🙂", "label": "two\\nlines"}\n{"input": "b"}\n'


@pytest.mark.parametrize(
  "encoding",
  ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
@pytest.mark.parametrize(
  ("suffix", "content"), [(".csv", TABLE), (".jsonl", LINES)]
)
def test_encodings(tmp_path, suffix, content, encoding):
  expected = read(tmp_path / f"plain{suffix}", content)
  assert expected[0][0].label == "two\nlines"
  path = tmp_path / f"a{suffix}"
  assert read(path, content.encode(encoding)) == expected
  assert read(path, (content * 1).encode("utf-16")) == expected


def test_what_only_looks_like_utf_16(tmp_path):
  with pytest.raises(UserError, match="not valid UTF-16"):
    read(tmp_path / "a.csv", b"\xff\xfei\0n\0p\0u\0t\0\n\0\0\xd8a\0")


def test_text_of_old_programs_is_refused_with_a_remedy(tmp_path):
  content = "input,label\nna\xefve,yes\nplain,no\n".encode("latin-1")
  records, problems = read(tmp_path / "a.csv", content)
  assert pairs(records) == [("plain", "no")]
  assert problems == [(2, "not valid UTF-8 (byte 2): save the file as UTF-8")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
  ("suffix", "content"), [(".csv", TABLE), (".jsonl", LINES)]
)
def test_line_ends_of_old_macs(tmp_path, suffix, content, encoding):
  expected = read(tmp_path / f"plain{suffix}", content)
  old = content.replace("\n", "\r").encode(encoding)
  assert read(tmp_path / f"a{suffix}", old) == expected


def test_blank_lines_and_doubled_line_ends(tmp_path):
  content = "\r\r\n\n input,label\r\r\n\r\r\na,yes\r\r\n\n\nb,no\r\r\n"
  records, problems = read(tmp_path / "a.csv", content)
  assert problems == []
  assert pairs(records) == [("a", "yes"), ("b", "no")]


def test_a_carriage_return_of_a_text_is_kept(tmp_path):
  content = 'input,label\r\n"a\rb","c\r\nd"\r\ne\rf,g\r\n'
  records, problems = read(tmp_path / "a.csv", content)
  assert problems == []
  assert pairs(records) == [("a\rb", "c\r\nd"), ("e\rf", "g")]


# --- packed files -------------------------------------------------------------


PACKERS = {
  ".gz": gzip.compress,
  ".bz2": bz2.compress,
  ".zst": lambda content: bytes(pa.compress(content, "zstd")),
}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize(
  ("suffix", "content"),
  [(".csv", TABLE), (".jsonl", LINES), (".ndjson", LINES)],
)
def test_packed_text(tmp_path, packed, suffix, content):
  expected = read(tmp_path / f"plain{suffix}", content)
  path = tmp_path / f"a{suffix}{packed}"
  assert read(path, PACKERS[packed](content.encode())) == expected
  utf_16 = PACKERS[packed](content.encode("utf-16"))
  assert read(path, utf_16) == expected


@pytest.mark.parametrize("packed", PACKERS)
def test_damaged_packed_files(tmp_path, packed):
  content = PACKERS[packed]((LINES * 500).encode())
  path = tmp_path / f"a.jsonl{packed}"
  for damaged in (content[: len(content) // 2], b"no such thing", b"\0" * 99):
    with pytest.raises(
      UserError, match=r"a\.jsonl.* cannot be unpacked: "
    ) as e:
      read(path, damaged)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("packed", PACKERS)
def test_what_unpacks_to_too_much_is_given_up(tmp_path, packed, monkeypatch):
  monkeypatch.setattr(text_files, "MAX_UNPACKED_BYTES", 1000)
  monkeypatch.setattr(text_files, "MAX_UNPACKED_RATIO", 2)
  content = b'{"input": "' + b"x" * 100_000 + b'"}\n'
  with pytest.raises(UserError, match=r"a\.jsonl.* holds more than \d+ bytes"):
    read(tmp_path / f"a.jsonl{packed}", PACKERS[packed](content))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (gzip.compress(LINES.encode(), mtime=0), r"let its name end in \.gz"),
    (bz2.compress(LINES.encode()), r"let its name end in \.bz2"),
    (PACKERS[".zst"](LINES.encode()), r"let its name end in \.zst"),
    (b"\xfd7zXZ\0\0", "xz -d"),
    (b"PK\x03\x04\x14\0\x06\0", "spreadsheet: unpack it, or save it as .csv"),
    (b"PAR1\x15\x04", "end in .parquet"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
  ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_is_no_text_says_so(tmp_path, suffix, content, message):
  with pytest.raises(UserError, match=rf"a\{suffix} is .*{message}"):
    read(tmp_path / f"a{suffix}", content)


@pytest.mark.parametrize(
  "name", ["a.xlsx", "a.jsonl.xz", "a.parquet.gz", "a.gz", "a.pkl", "a"]
)
def test_other_suffixes_name_those_there_are(tmp_path, name):
  with pytest.raises(
    UserError, match=r"\.jsonl.*\.parquet.*\.gz, \.bz2, \.zst"
  ):
    read(tmp_path / name, b"")


# --- names of columns and keys ------------------------------------------------


@pytest.mark.parametrize(
  "names",
  [
    ("Input", "Label", "Rationale"),
    (" input", "label ", "rationale"),
    ("inputs", "labels", "RATIONALE"),
    ("INPUT", "LABELS", "Rationale "),
  ],
)
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_names_that_differ_by_case_space_or_plural(
  tmp_path, caplog, kind, names
):
  row = dict(zip(names, ("a", "yes", "because"), strict=True))
  path = tmp_path / f"a{kind}"
  if kind == ".parquet":
    pq.write_table(pa.Table.from_pylist([row] * 2), path)
  elif kind == ".jsonl":
    path.write_text(f"{json.dumps(row)}\n" * 2)
  else:
    delimiter = "," if kind == ".csv" else "\t"
    lines = [delimiter.join(line) for line in (names, row.values())]
    path.write_text("\n".join([*lines, lines[1]]))
  with caplog.at_level(logging.WARNING):
    records, problems = read_records(path)
  assert problems == []
  for record in records:
    assert (record.input, record.label) == ("a", "yes")
    assert [r.text for r in record.rationales] == ["because"]
    assert record.extra == {}
  # Said once a name; spaces alone are no other name in a table.
  others = [
    n for n in names if n.strip() not in ("input", "label", "rationale")
  ]
  if kind == ".jsonl":
    others = [n for n in names if n not in ("input", "label", "rationale")]
  assert len(caplog.messages) == len(others)
  for name, message in zip(others, caplog.messages, strict=True):
    assert f"{name if kind == '.jsonl' else name.strip()!r}" in message
    assert "is read as the field" in message


def test_spaces_after_commas(tmp_path):
  content = 'input, label, rationale\na b, yes, "because, of"\nc , no, \n'
  records, problems = read(tmp_path / "a.csv", content)
  assert problems == []
  assert pairs(records) == [("a b", "yes"), ("c ", "no")]
  assert records[0].rationales[0].text == "because, of"
  assert records[1].rationales == ()


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_a_field_itself_is_no_other_name(tmp_path, caplog, kind):
  content = "input,label,Label\na,yes,Yes!\n"
  if kind == ".jsonl":
    content = '{"input": "a", "label": "yes", "Label": "Yes!"}'
  (record,), _ = read(tmp_path / f"a{kind}", content)
  assert record.label == "yes"
  assert record.extra == {"Label": "Yes!"}
  assert caplog.messages == []


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_two_names_of_one_field(tmp_path, kind):
  if kind == ".csv":
    with pytest.raises(UserError, match="'Label' and 'labels' may both be the"):
      read(tmp_path / "a.csv", "input,Label,labels\na,yes,no\n")
  else:
    line = '{"input": "a", "Label": "yes", "labels": "no"}'
    _, problems = read(tmp_path / "a.jsonl", line)
    assert "'Label' and 'labels' may both be the label" in problems[0][1]


@pytest.mark.parametrize(
  "extra",
  [
    {"Rationale": "x"}, {"Rationales": "x"}, {"Meta": "hello"}, {"Label": "x"},
    {"Rationale Status": "done"}, {"ID": "p"}, {"Ids": [1, 2]}, {"Inputs": "x"},
    {" foo ": "x"}, {"foo": "x", " foo": "y"}, {"labels": [1]},
  ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
@pytest.mark.parametrize("texts", [(), ("r",), ("r", "s")])
def test_keys_that_pass_through_come_back(tmp_path, extra, suffix, texts):
  if suffix == ".csv":
    extra = {key: str(value) for key, value in extra.items()}
  record = Record("1", "a", "yes", tuple(map(Rationale, texts)), extra=extra)
  path = tmp_path / f"a{suffix}"
  write_records(path, [record])
  assert read_records(path) == ([record], [])


@pytest.mark.parametrize(
  "entry",
  [
    {"labels": ["x"]},
    {"Label": {"x": 1}},
    {"ID": "same"},
    {"Meta": "plain"},
    {"rationales": [{"text": "r"}], "Rationale": "x"},
    {"rationale": "r", "Rationales": "x"},
  ],
)
def test_a_similar_name_never_costs_a_row(tmp_path, entry):
  entry = {"input": "a", **entry}
  path = tmp_path / "a.parquet"
  pq.write_table(pa.Table.from_pylist([entry] * 2), path)
  lines = f"{json.dumps(entry)}\n" * 2
  for records, problems in (
    read(tmp_path / "a.jsonl", lines), read_records(path)):  # fmt: skip
    assert problems == []
    name = list(entry)[-1]
    assert [record.extra[name] for record in records] == [entry[name]] * 2
    assert all(record.label is None for record in records)


@pytest.mark.parametrize("name", ["rationales", "Rationales", "RATIONALE"])
def test_one_rationale_in_plain_words(tmp_path, name):
  for suffix, content in (
    (".jsonl", json.dumps({"input": "a", name: "because x"})),
    (".csv", f"input,{name}\na,because x\n"),
  ):
    (record,), problems = read(tmp_path / f"a{suffix}", content)
    assert problems == []
    assert [r.text for r in record.rationales] == ["because x"]
  _, problems = read(tmp_path / "a.csv", 'input,rationales\na,"[""r"""\n')
  assert "rationales: not JSON" in problems[0][1]


def test_many_columns_of_one_name(tmp_path):
  """Numbering them one by one would take minutes."""
  header = ",".join(["c"] * 4000 + ["input"])
  with guards.cpu_limit(10):
    (record,), problems = read(
      tmp_path / "a.csv", f"{header}\n{'x,' * 4000}a\n"
    )
  assert problems == []
  assert len(record.extra) == 4000


def test_a_name_that_is_no_field(tmp_path):
  content = '{"input": "a", "labels": [1, 2], "Label": "no"}'
  mapping = {"label": None}
  (record,), problems = read(
    tmp_path / "a.jsonl", content, field_mapping=mapping
  )
  assert problems == []
  assert record.label is None
  assert record.extra == {"labels": [1, 2], "Label": "no"}


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_columns_without_names_and_names_used_twice(tmp_path, kind):
  path = tmp_path / f"a{kind}"
  names, cells = ["", "input", "score", "score", ""], ["0", "a", "1", "2", ""]
  if kind == ".csv":
    path.write_text(f"{','.join(names)}\n{','.join(cells)}\n")
  else:
    arrays = [pa.array([cell or None]) for cell in cells]
    pq.write_table(pa.Table.from_arrays(arrays, names=names), path)
  (record,), problems = read_records(path)
  assert problems == []
  assert record.input == "a"
  assert record.extra == {"Unnamed: 0": "0", "score": "1", "score.1": "2"}


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_a_field_that_is_there_twice(tmp_path, kind):
  path = tmp_path / f"a{kind}"
  if kind == ".csv":
    path.write_text("input,input\na,b\n")
  else:
    table = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["input"] * 2)
    pq.write_table(table, path)
  with pytest.raises(UserError, match="column 'input' appears twice"):
    read_records(path)


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet"])
def test_a_table_without_fields_says_which_columns_there_are(tmp_path, kind):
  path = tmp_path / f"a{kind}"
  if kind == ".parquet":
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), path)
  else:
    path.write_text("question,answer\na,b\n".replace(
      ",", "," if kind == ".csv" else "\t"))  # fmt: skip
  with pytest.raises(UserError, match="columns: question, answer") as raised:
    read_records(path)
  assert "no column 'input'" in str(raised.value)
  assert raised.value.fields == ("field_mapping",)


def test_objects_without_fields_say_which_keys_there_are(tmp_path):
  line = json.dumps({"question": "a"} | {f"k{i}": i for i in range(30)})
  _, problems = read(tmp_path / "a.jsonl", line)
  assert "no input (key 'input'); keys: question, k0, k1" in problems[0][1]
  assert problems[0][1].endswith("and 11 more")


def test_a_mapped_key_that_no_object_has(tmp_path):
  content = '{"input": "a", "answer": "yes"}\n' * 1
  with pytest.raises(UserError, match="no entry has the key 'anser'") as raised:
    read(tmp_path / "a.jsonl", content, field_mapping={"label": "anser"})
  assert raised.value.fields == ("field_mapping",)
  content = '{"input": "a", "answer": null}\n'
  records, _ = read(
    tmp_path / "a.jsonl", content, field_mapping={"label": "answer"}
  )
  assert pairs(records) == [("a", None)]
  records, _ = read(
    tmp_path / "a.csv", "input,answer\na,\n", field_mapping={"label": "answer"}
  )
  assert pairs(records) == [("a", None)]


# --- values -------------------------------------------------------------------


@pytest.mark.parametrize(
  ("value", "label"),
  [
    (True, "true"),
    (False, "false"),
    (2, "2"),
    (2.0, "2"),
    (-1.0, "-1"),
    (None, None),
    (math.nan, None),
    ("", ""),
  ],
)
@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_labels_that_are_no_text(tmp_path, kind, value, label):
  path = tmp_path / f"a{kind}"
  row = {"id": 7, "input": "a", "label": value}
  if kind == ".jsonl":
    path.write_text(json.dumps(row))
  else:
    pq.write_table(pa.Table.from_pylist([row]), path)
  (record,), problems = read_records(path)
  assert problems == []
  assert (record.id, record.label) == ("7", label)


@pytest.mark.parametrize("value", [0.5, 2.0**60, math.inf, [1], {"a": 1}])
def test_labels_of_several_spellings(tmp_path, value):
  line = json.dumps({"input": "a", "label": value})
  records, problems = read(tmp_path / "a.jsonl", line)
  assert records == []
  assert "label must be text, a whole number, a truth value" in problems[0][1]


def test_templates_of_numbers(tmp_path):
  content = (
    '{"q": "2+3?", "a": 2, "b": 3.0, "c": true}\n'
    '{"q": "x", "a": 7, "b": null, "c": true}\n'
    '{"q": "x", "a": 7, "c": true}\n'
    '{"q": "x", "a": 7, "b": 0.5, "c": true}\n'
  )
  records, problems = read(
    tmp_path / "a.jsonl",
    content,
    field_mapping={"input": "{q} a={a} b={b} {c}"},
  )
  assert [record.input for record in records] == ["2+3? a=2 b=3 true"]
  assert [reason for _, reason in problems] == [
    "input: key 'b' is missing or null",
    "input: key 'b' is missing or null",
    "input: key 'b' must be text, a whole number, a truth value or null, got"
    " float 0.5: write it as text",
  ]


def test_paths_into_nested_values(tmp_path):
  entry = {
    "doc": {"text": "t", "n": 3},
    "answers": {"text": ["first", "second"]},
    "a.b": "flat",
    "meta": {"label": "yes"},
  }
  mapping = {
    "input": "{doc.text} {doc.n} {a.b}",
    "label": "meta.label",
    "rationale": ["answers.text.1", "answers.text.9", "answers.text.0"],
  }
  line = json.dumps(entry)
  (record,), problems = read(tmp_path / "a.jsonl", line, field_mapping=mapping)
  assert problems == []
  assert (record.input, record.label) == ("t 3 flat", "yes")
  assert [r.text for r in record.rationales] == ["second", "first"]
  assert record.meta == {"label": "yes"}
  path = tmp_path / "a.parquet"
  pq.write_table(pa.Table.from_pylist([entry]), path)
  assert read_records(path, field_mapping=mapping)[0][0].label == "yes"


@pytest.mark.parametrize(
  "path", ["doc.__class__", "doc.0", "list.-1", "list.x"]
)
def test_paths_reach_nothing_else(tmp_path, path):
  line = '{"doc": {"text": "t"}, "list": ["a"]}'
  _, problems = read(tmp_path / "a.jsonl", line, field_mapping={"input": path})
  assert "no input" in problems[0][1]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_lacks_in_keys_nobody_reads(tmp_path, number):
  line = (
    f'{{"input": "a", "score": {number}, "deep": [{{"s": {number}}}],'
    f' "meta": {{"s": {number}}}, "rationales": [{{"text": "r", "s": {number}}}]}}'
  )
  (record,), problems = read(tmp_path / "a.jsonl", line)
  assert problems == []
  assert record.extra == {"score": None, "deep": [{"s": None}]}
  assert record.meta == {"s": None}
  assert record.rationales[0].extra == {"s": None}


def test_numbers_that_json_lacks_in_fields(tmp_path):
  content = (
    '{"input": NaN}\n'
    '{"input": "a", "label": Infinity}\n'
    '{"input": "a", "rationale": "r", "rationale_weight": NaN}\n'
    '{"input": "a", "rationales": [{"text": "r", "weight": Infinity}]}\n'
    '{"id": NaN, "input": "a", "label": NaN, "rationale": NaN}\n'
  )
  (record,), problems = read(tmp_path / "a.jsonl", content)
  assert [line for line, _ in problems] == [1, 2, 3, 4]
  # What pandas writes for a missing text is missing.
  assert (record.id, record.label, record.rationales) == ("line-5", None, ())


def test_columns_of_bytes(tmp_path, caplog):
  table = pa.table(
    {
      "input": [b"a", b"\xff"],
      "label": ["yes", "no"],
      "image": [{"bytes": b"x", "path": "p"}] * 2,
      "raw": [b"\0", None],
    }
  )
  path = tmp_path / "a.parquet"
  pq.write_table(table, path)
  with caplog.at_level(logging.WARNING):
    records, problems = read_records(path)
  assert [(r.input, r.label, r.extra) for r in records] == [("a", "yes", {})]
  assert problems[0].reason == "column 'input' holds bytes that are not UTF-8"
  assert "the columns 'image', 'raw' hold bytes, and are left" in caplog.text


# --- one JSON value -----------------------------------------------------------

ROWS = [{"input": "a", "label": "yes"}, {"input": "b", "label": None}]


@pytest.mark.parametrize(
  "value",
  [
    ROWS,
    {"data": ROWS},
    {"version": "1", "info": {"by": "me"}, "data": ROWS, "tags": ["x"]},
    {"schema": {"fields": [{"name": "input"}]}, "data": ROWS},
    {"features": [{"name": "input"}], "rows": ROWS},
  ],
)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_one_value_holds_all_records(tmp_path, suffix, indent, value):
  text = json.dumps(value, indent=indent)
  for content in (text, f"\n{text}\n"):
    records, problems = read(tmp_path / f"a{suffix}", content)
    assert problems == []
    assert [(r.id, r.input, r.label) for r in records] == [
      ("line-1", "a", "yes"),
      ("line-2", "b", None),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_one_value_is_a_record(tmp_path, indent):
  entry = {"q": "a", "rationales": [{"text": "r"}], "turns": [{"by": "me"}]}
  (record,), problems = read(
    tmp_path / "a.json",
    json.dumps(entry, indent=indent),
    field_mapping={"input": "q"},
  )
  assert problems == []
  assert record.input == "a"
  assert record.rationales[0].text == "r"


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ({"train": ROWS, "test": ROWS}, r"2 lists of records \('train', 'test'\)"),
    ({"input": {"0": "a"}, "label": {"0": "b"}}, "orient='records'"),
    ({"columns": ["input"], "data": [["a"]]}, "orient='records'"),
  ],
)
def test_one_value_that_is_something_else(tmp_path, value, message):
  text = json.dumps(value, indent=1)
  with pytest.raises(UserError, match=message):
    read(tmp_path / "a.json", text)


@pytest.mark.parametrize("first", ['{"input": "a", ', '{"input": "a', "{"])
def test_a_first_line_that_is_cut_is_one_problem(tmp_path, first):
  content = f'{first}\n{{"input": "b"}}\n\n{{"input": "c"}}\n{{"input'
  records, problems = read(tmp_path / "a.jsonl", content)
  assert [record.input for record in records] == ["b", "c"]
  assert [line for line, _ in problems] == [1, 5]
  whole = '{"data": [\n{"input": "b"}\n]}'
  assert len(read(tmp_path / "a.jsonl", whole)[0]) == 1


def test_objects_over_several_lines(tmp_path):
  content = "\n".join(json.dumps(row, indent=2) for row in ROWS)
  with pytest.raises(UserError, match=r"Extra data.*one object a line"):
    read(tmp_path / "a.json", content)


# --- tables of other writers --------------------------------------------------

_CELL = st.text(
  st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
  max_size=12,
)
_ROWS = st.lists(
  st.tuples(_CELL.filter(lambda text: bool(text.strip())), _CELL, _CELL),
  min_size=1,
  max_size=4,
)
_quick = hypothesis.settings(
  max_examples=80,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@_quick
@hypothesis.given(
  rows=_ROWS,
  delimiter=st.sampled_from([",", ";", "\t", "|"]),
  line_end=st.sampled_from(["\n", "\r\n"]),
  quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
  encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_table_of_the_csv_module(
  tmp_path, rows, delimiter, line_end, quoting, encoding
):
  if line_end == "\n":  # the module then does not quote a lone \r
    rows = [tuple(cell.replace("\r", "") for cell in row) for row in rows]
    hypothesis.assume(all(row[0].strip() for row in rows))
  text = io.StringIO(newline="")
  writer = csv.writer(
    text, delimiter=delimiter, lineterminator=line_end, quoting=quoting
  )
  writer.writerow(("input", "label", "note"))
  writer.writerows(rows)
  records, problems = read(tmp_path / "a.csv", text.getvalue().encode(encoding))
  assert problems == []
  found = [(r.input, r.label or "", r.extra.get("note", "")) for r in records]
  assert found == rows


@_quick
@hypothesis.given(rows=_ROWS)
def test_any_table_of_arrow_and_json(tmp_path, rows):
  table = [
    dict(zip(("input", "label", "note"), row, strict=True)) for row in rows
  ]
  pq.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
  expected = read_records(tmp_path / "a.parquet")
  assert [(r.input, r.label, r.extra["note"]) for r in expected[0]] == rows
  for indent, ascii in ((None, False), (2, True)):
    text = json.dumps({"rows": table}, indent=indent, ensure_ascii=ascii)
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert read_records(tmp_path / "a.json") == expected
  lines = "".join(json.dumps(row) + "\n" for row in table)
  (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
  assert read_records(tmp_path / "a.ndjson.gz") == expected


def test_a_header_longer_than_pythons_bound_on_cells(tmp_path):
  path = tmp_path / "long.csv"
  path.write_text(f"input,{'x' * 200_000}\nred,1\n")
  found, problems = read_records(path)
  assert not found
  assert len(problems) == 1
