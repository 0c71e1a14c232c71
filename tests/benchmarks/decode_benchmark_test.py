"""The decode benchmark's two sides say the same."""

import json

import pytest


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_both_sides_write_the_same(load_benchmark, tmp_path, monkeypatch):
  pytest.importorskip("torch")
  pytest.importorskip("transformers", minversion="5.0")
  monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
  module = load_benchmark("decode")
  file = tmp_path / "decode.json"
  arguments = (
    "--smoke --kinds labels --ways batches --batch_sizes 4 --repeats 1"
  )
  module.main([*arguments.split(), "--examples=8", "--json", str(file)])
  rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
  assert [row["kind"] for row in rows] == ["labels"]
  for row in rows:
    assert row["identical"] == row["examples"] == 8
    assert len(row["ours"]["wall_s"]) == len(row["theirs"]["wall_s"]) == 1
