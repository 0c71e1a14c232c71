"""Every packaged method trains on the released data, and is reported."""

import json
import pathlib

import command_line
import pytest
import small_sweeps

from dss_jax import main
from dss_jax.datasets.records import Rationale, Record, write_records

pytestmark = [pytest.mark.shared, pytest.mark.thorough]

# Of PaLM's released answers, counted by other programs: training and test split.
TEACHERS = {
  ("svamp", "palm, official parser"): (73.25, 74.00),
  ("svamp", "palm, tolerant parser"): (73.25, 74.00),
  ("cqa", "palm, official parser"): (74.26, 77.23),
  ("cqa", "palm, tolerant parser"): (76.82, 79.36),
}
# With one rationale a record they are runs of `dss`, which the report notices.
REPEATED = {"self_consistency"}


def test_all_methods_on_both_released_datasets(
  shared_data, repository, tmp_path, monkeypatch
):
  for name, value in command_line.environment().items():
    monkeypatch.setenv(name, value)
  methods = sorted(
    path.stem for path in (repository / "gin" / "methods").glob("*.gin")
  )
  extra = tmp_path / "extra.jsonl"
  write_records(
    extra,
    [
      Record(str(i), f"{i} and one?", None, (Rationale("so", f"({i})", "m"),))
      for i in range(4)
    ],
  )
  file = small_sweeps.write(
    tmp_path / "all.gin",
    gin_files=["runs/train.gin"],
    bindings={
      "DATA_DIR": str(shared_data / "dss_release"),
      "TASK_FEATURE_LENGTHS": {"inputs": 256, "targets": 48},
      "RECORDS_PER_BATCH": 4,
      "EVAL_STEPS": 1,
      "network.T5Config.vocab_size": 384,
      "DROPOUT_RATE": 0.0,
    },
    axes={
      "student": ["t5_1_1/tiny"],
      "data": ["svamp", "cqa"],
      "method": methods,
    },
    per_value={
      "method": {
        "extra_records": {"EXTRA_RECORDS": str(extra)},
        # Its targets end with the label, which must not be cut off.
        "rationale_then_label": {
          "TASK_FEATURE_LENGTHS": {"inputs": 256, "targets": 384}
        },
        # Of the other teacher there are no completions here.
        "several_teachers": {
          "TEACHERS": ("palm",),
          "data.DataOptions.rationale_source": "palm",
        },
      }
    },
    budget="steps",
    steps=2,
    looks=1,
  )
  out = tmp_path / "out"
  assert main.main(["sweep", str(file), f"--output_dir={out}"]) == 0
  rows = [
    json.loads(line)
    for line in (out / "all" / "results.jsonl").read_text().splitlines()
  ]
  done = {(row["axes"]["data"], row["axes"]["method"]) for row in rows}
  assert done == {(data, m) for data in ("svamp", "cqa") for m in methods}
  labels = {row["axes"]["method"]: row["label_source"] for row in rows}
  assert labels.pop("extra_records") == "gold+teacher"
  assert set(labels.values()) == {"gold"}

  report = tmp_path / "report"
  assert main.main(["report", str(out / "all"), f"--output_dir={report}"]) == 0
  tables = json.loads((report / "report.json").read_text())["tables"]
  found = {
    (row[0], row[1]): (round(100 * row[2], 2), round(100 * row[6], 2))
    for row in tables["teachers"]["rows"]
  }
  assert found == TEACHERS
  left_out = {
    json.loads((pathlib.Path(row[0]) / "cell.json").read_text())["axes"][
      "method"
    ]
    for row in tables.get("left_out", {"rows": []})["rows"]
  }
  assert left_out == REPEATED
  assert len(tables["runs"]["rows"]) == 2 * (len(methods) - len(REPEATED))
