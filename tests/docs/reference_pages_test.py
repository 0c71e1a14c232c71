"""The reference pages have what there is."""

import json
import re
import sqlite3

import made_runs
import pytest

from dss_jax.datasets.records import record
from dss_jax.rationales import ledger_schema


@pytest.fixture(scope="module")
def page(repository) -> str:
  return (repository / "docs" / "reference" / "files.md").read_text()


def _section(page: str, title: str) -> str:
  """A section up to the next heading of its level or a higher one."""
  marks, _, _ = title.partition(" ")
  _, _, rest = page.partition(f"\n{title}\n")
  assert rest, title
  return re.split(rf"\n#{{1,{len(marks)}}} ", rest)[0]


def _keys(text: str) -> set[str]:
  """What stands in code in the first column of a text's tables."""
  cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
  return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_records(page):
  fields, rationale = _section(page, "## A record").split("A rationale:")
  assert _keys(fields) == set(record.RECORD_FIELDS)
  assert _keys(rationale) == set(record.RATIONALE_FIELDS)


def test_the_ledger(page):
  """Every column, and no other."""
  text = _section(page, "### `ledger.sqlite`")
  db = sqlite3.connect(":memory:")
  ledger_schema.create(db)
  for table in ("attempts", "outcomes"):
    found = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    _, _, columns = text.partition(f"| column of `{table}` |")
    columns, _, _ = columns.partition("\n\n")
    assert _keys(columns) == found
  [query] = re.findall(r'"(SELECT .*?)"', text)
  assert db.execute(query).fetchall() == []
  db.close()


def test_results_and_predictions(page, tmp_path):
  run = made_runs.make_run(tmp_path / "run")
  entry = json.loads((run / "results.jsonl").read_text().splitlines()[0])
  assert _keys(_section(page, "### `results.jsonl`")) == set(entry)
  [path] = (run / "eval" / "taxonli_label").glob("*.jsonl")
  [row] = [
    line
    for line in _section(page, "## A run's folder").splitlines()
    if line.startswith("| `eval/TASK/STEP.jsonl`")
  ]
  for key in json.loads(path.read_text().splitlines()[0]):
    assert f"`{key}`" in row
  machine = json.loads((run / "run.json").read_text())
  assert set(machine) <= _keys(_section(page, "### `run.json`"))
