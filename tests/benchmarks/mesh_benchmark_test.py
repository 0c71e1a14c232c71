"""The benchmarks of meshes and TPU slices print and write what they found."""

import json
import os
import subprocess
import sys

import pytest

from dss_jax.planning import byte_sizes, collectives, tpu_topology


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
  mesh = {"replica": 1, "data": 1, "model": 1}
  assert found["by_policy"][0]["mesh"] == mesh
  traffic = found["by_mesh"][0]["collectives"]
  assert traffic["all-reduce"]["bytes"] > 0 == traffic["all-gather"]["bytes"]
  assert ended.stdout.count("\n|") >= 5
  row = ended.stdout.splitlines()[-1]
  assert row.startswith("| 1 x 8 x 1 | none | 1 |")
  parameters = found["by_mesh"][0]["bytes"]["parameters"]
  assert f"| {byte_sizes.shown(parameters)} |" in row


@pytest.mark.slow
@pytest.mark.tpu_compiler
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation")
@pytest.mark.skipif(
  not tpu_topology.has_compiler(),
  reason="the TPU compiler is not installed (pip install libtpu)",
)
def test_a_slice_is_compiled_once(
  load_benchmark, tmp_path, monkeypatch, capsys
):
  module = load_benchmark("tpu_slices")
  file = tmp_path / "slices.json"
  arguments = ["--smoke", "--json", str(file)]
  module.main(arguments)
  (row,) = json.loads(file.read_text(encoding="utf-8"))["slices"]
  sizes = row["bytes"]
  assert 0 < sizes["temporaries"] < sizes["in_all"] < sizes["device_memory"]
  assert row["gathered_of_batch"] == 0
  assert row["collectives"]["all-gather"]["bytes"] > 0
  assert set(row["kernels"]) == {"row_attention", "row_attention_gradient"}
  printed = capsys.readouterr().out
  monkeypatch.delattr(module, "compiled")  # the next time nothing is
  module.main(arguments)
  again = capsys.readouterr().out
  assert "| toy | v5e:2x2 | 2 | 20 | kernels |" in again
  assert printed.endswith(again)


def test_what_would_be_a_gathered_batch(load_benchmark):
  gathered = load_benchmark("tpu_slices").gathered_of_batch

  def traffic(kind, *shapes):
    return collectives.Traffic(
      (collectives.Collective(kind, shapes, 4, 1, ""),)
    )

  weights = ("bf16", (1, 1024, 2816))
  assert not list(gathered(traffic("all-gather", weights), 320))
  for batch in (("s32", (64, 256)), ("bf16", (320, 256, 1024))):
    assert list(gathered(traffic("all-gather", weights, batch), 320))
    assert not list(gathered(traffic("all-reduce", batch), 320))
