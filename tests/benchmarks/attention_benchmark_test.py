"""The attention benchmark runs, agrees with itself and writes what it says."""

import json


def test_smoke(load_benchmark, tmp_path):
  module = load_benchmark("attention")
  file = tmp_path / "attention.json"
  module.main(["--smoke", "--json", str(file)])
  results = json.loads(file.read_text(encoding="utf-8"))
  rows = results["rows"]
  assert [row["implementation"] for row in rows] == ["xla", "triton", "flash"]
  for row in rows:
    assert row["disagreement"] is None
    assert len(row["ms"]) == 2
    assert row["tflops"] > 0
  assert results["versions"]["jax"]
