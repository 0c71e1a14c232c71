"""The attention benchmark runs, agrees with itself and writes what it says."""

import importlib.util
import json
import sys


def test_smoke(repository, tmp_path, monkeypatch):
  path = repository / "benchmarks" / "attention.py"
  spec = importlib.util.spec_from_file_location("attention_benchmark", path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  monkeypatch.setitem(sys.modules, spec.name, module)  # for its dataclasses
  spec.loader.exec_module(module)
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
