"""The benchmark of meshes prints and writes what it found."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_smoke(repository, tmp_path):
  file = tmp_path / "mesh.json"
  ended = subprocess.run(
    [
      sys.executable,
      repository / "benchmarks" / "mesh.py",
      "--smoke",
      "--json",
      file,
    ],
    env=os.environ | {"PYTHONPATH": str(repository)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert ended.returncode == 0, ended.stderr
  found = json.loads(file.read_text(encoding="utf-8"))
  assert found["by_policy"][0]["mesh"] == {"data": 1, "model": 1}
  traffic = found["by_mesh"][0]["collectives"]
  assert traffic["all-reduce"]["bytes"] > 0 == traffic["all-gather"]["bytes"]
  assert ended.stdout.count("\n|") >= 5
