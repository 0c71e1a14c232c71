"""ASDiv's XML: what it gives, and what is refused."""

import json

import pytest

from dss_jax import datasets
from dss_jax.base.errors import UserError
from dss_jax.datasets import DataOptions, asdiv_xml
from dss_jax.datasets.records import MissingFileError


def _load(folder):
  return datasets.load_source_split(
    "asdiv", "train", options=DataOptions(data_dir=str(folder))
  )


def test_problems_become_records_without_gold_labels(fixtures):
  records = _load(fixtures / "release")
  assert [record.id for record in records] == [f"train-{i}" for i in range(6)]
  second = records[1]
  assert second.input == (
    "Ida asked 8 guests to tea, but 2 couldn't come & each of the others eats"
    " 3 buns,\nhow many buns are eaten?"
  )
  assert second.label is None
  assert second.meta == {
    "answer": "18 (buns)",
    "formula": "(8-2)*3=18",
    "source_id": "nluds-0002",
  }
  assert second.rationales[0].label == "((8 - 2) * 3)"
  assert records[3].rationales[0].status == "no_marker"


def test_the_official_codes_json_gives_the_same(fixtures, tmp_path):
  """Its loader reads Body, Question, Formula and Answer, one object a line."""
  xml = fixtures / "release" / "asdiv" / "ASDiv.xml"
  (tmp_path / "asdiv").mkdir()
  lines = [json.dumps(entry) for entry in asdiv_xml.entries(xml)]
  (tmp_path / "asdiv" / "asdiv_train.json").write_text("\n".join(lines))
  theirs = _load(tmp_path)
  ours = _load(fixtures / "release")
  assert [(r.id, r.input, r.label) for r in theirs] == [
    (r.id, r.input, r.label) for r in ours
  ]
  assert not any(record.rationales for record in theirs)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<x><Problem><Body>&b;</Body></Problem></x>"""
FOREIGN = """<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>
<x><Problem><Body>&a;</Body></Problem></x>"""


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (BOMB, "a document type .* is not allowed"),
    (FOREIGN, "a document type .* is not allowed"),
    ("<x><Problem>", r"not XML \("),
    ("<x>&foo;</x>", r"not XML \("),
    ('<?xml version="1.0" encoding="nonsense"?><x/>', r"not XML \("),
    ("", r"not XML \("),
    ("<corpus/>", "no <Problem> in <corpus>"),
    ("<x><Problem ID='1'><Body>b</Body></Problem></x>", "'Question'"),
  ],
)
def test_files_that_are_something_else(tmp_path, text, message):
  (tmp_path / "asdiv").mkdir()
  path = tmp_path / "asdiv" / "ASDiv.xml"
  path.write_text(text)
  with pytest.raises(UserError, match=message) as raised:
    _load(tmp_path)
  assert str(path) in str(raised.value)


def test_too_large_a_file_and_none(tmp_path, monkeypatch):
  path = tmp_path / "ASDiv.xml"
  with pytest.raises(MissingFileError, match="is missing"):
    list(asdiv_xml.entries(path))
  path.write_text("<x><Problem/></x>")
  assert list(asdiv_xml.entries(path)) == [{}]
  monkeypatch.setattr(asdiv_xml, "MAX_BYTES", 5)
  with pytest.raises(UserError, match="17 bytes, at most 5"):
    list(asdiv_xml.entries(path))
